//! A short torture of every storage; all checks pass. `scripts/torture` runs longer ones.
//!
//! Those of servers are listed with their setups in the registry of the testbed.

use std::process::{Command, ExitCode};

use leasehold_testbed::registry::{self, Entry, Torture};
use libtest_mimic::{Arguments, Failed, Trial};

/// How long each run lasts, in seconds. The runs are parallel.
const SECONDS: &str = "40";
/// The same over servers, which are slow to start and to fail over.
const SECONDS_OF_SERVERS: &str = "20";
/// How many runs are started in parallel. They mostly wait.
const AT_A_TIME: usize = 5;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let mut trials = vec![
        Trial::test("memory_with_every_fault_of_its_calls", || torture("memory:", "1", &[])),
        Trial::test("memory_without_a_moment_of_calm", || {
            torture("memory:", "2", &["--restless", "--ttl-ms", "500", "--style", "clingy"])
        }),
        Trial::test("sqlite_with_processes_that_are_killed_and_stopped", || over_a_file("3", &[])),
        Trial::test("sqlite_without_a_moment_of_calm", || over_a_file("4", &["--restless"])),
    ];
    for entry in registry::all() {
        trials.extend(entry.tortures.iter().map(|torture| {
            let name = format!("{}::seed_{}", entry.name, torture.seed);
            Trial::test(name, move || over_servers(entry, torture))
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn over_servers(entry: &Entry, torture: &Torture) -> Result<(), Failed> {
    let query = if torture.options.is_empty() { "" } else { "?" };
    let url = format!("testbed:{}{query}{}", entry.name, torture.options);
    let args = [&["--restless"][..], torture.args].concat();
    run(&url, SECONDS_OF_SERVERS, &torture.seed.to_string(), &args)
}

fn over_a_file(seed: &str, more: &[&str]) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    torture(&format!("sqlite:{}", directory.path().join("locks.db").display()), seed, more)
}

fn torture(url: &str, seed: &str, more: &[&str]) -> Result<(), Failed> {
    run(url, SECONDS, seed, more)
}

fn run(url: &str, seconds: &str, seed: &str, more: &[&str]) -> Result<(), Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    command.args(["run", url, "--seconds", seconds, "--seed", seed, "--schedule"]).args(more);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{url} with seed {seed}:\n{printed}{errors}").into())
}
