//! An elected service over every storage: its leaders are killed, stopped and cut off, they resign, and the servers are
//! killed and restarted. Terms grow, no leader acts after the next one has, and there is a leader again after each fault.

use std::process::{Command, ExitCode};

use leasehold_testbed::registry;
use libtest_mimic::{Arguments, Failed, Trial};

/// How many runs are started in parallel. They mostly wait.
const AT_A_TIME: usize = 3;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let mut trials = vec![Trial::test("sqlite", over_a_file)];
    trials.extend(registry::plain().map(|entry| {
        let url = format!("testbed:{}", entry.name);
        Trial::test(entry.name, move || elect(&url))
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn over_a_file() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    elect(&format!("sqlite:{}", directory.path().join("locks.db").display()))
}

fn elect(url: &str) -> Result<(), Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).args(["elect", url]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{url}:\n{printed}{errors}").into())
}
