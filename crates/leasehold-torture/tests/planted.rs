//! Plants one defect of the catalog after another. The check that its entry names must catch each in time, and
//! all checks must pass the same run without the defect.
//!
//! `PLANTED=NAME` runs one defect. `LEASEHOLD_TEST_SEED` sets the first seed.

#![expect(clippy::print_stdout, reason = "a test program with a table")]

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use leasehold_defects::{CATALOG, Run};
use leasehold_torture::clock;

/// How long a defect may stay unnoticed and a clean run has to pass, in seconds. Faults of servers take
/// longer.
const BUDGET: u64 = 72;
const SERVER_BUDGET: u64 = 150;
/// How many seeds share the budget.
const CHANCES: u64 = 6;
const CLEAN: u64 = 6;
/// How many runs are started in parallel. They mostly wait.
const AT_A_TIME: usize = 5;

fn main() -> ExitCode {
    if !cfg!(leasehold_planted) {
        println!("built without defects; run scripts/test, or set RUSTFLAGS=\"--cfg leasehold_planted\"");
        return ExitCode::FAILURE;
    }
    let only = std::env::var("PLANTED").ok();
    let seed = std::env::var("LEASEHOLD_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rows = CATALOG.iter().filter(|entry| only.as_ref().is_none_or(|only| entry.name == only));
    let rows = rows.flat_map(|entry| {
        let checks = entry.caught.torture.iter();
        checks.map(|check| Row { name: entry.name, check: check.check, run: check.run })
    });
    let start = clock::now();
    let (queue, lines) = (Mutex::new(rows.rev().collect::<Vec<_>>()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(row) = queue.lock().expect("BUG: no holder of the mutex panics").pop() else {
                        return;
                    };
                    let line = row.judge(seed);
                    lines.lock().expect("BUG: no holder of the mutex panics").push(line);
                }
            });
        }
    });
    let mut lines = lines.into_inner().expect("BUG: no holder of the mutex panics");
    lines.sort_by(|a, b| a.text.cmp(&b.text));
    println!("{:<32} {:<12} {:>8}  seed", "defect", "caught by", "after");
    lines.iter().for_each(|line| println!("{}", line.text));
    for wrong in lines.iter().filter_map(|line| line.wrong.as_ref()) {
        println!("\n{wrong}");
    }
    println!("{} defects in {:.0?}", lines.len(), Duration::from_nanos(clock::now() - start));
    let good = !lines.is_empty() && lines.iter().all(|line| line.wrong.is_none());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A defect, the check that must catch it, and a run in which it does.
struct Row {
    name: &'static str,
    check: &'static str,
    run: Run,
}

/// A line of the table, and what is wrong with it, if anything is.
struct Line {
    text: String,
    wrong: Option<String>,
}

impl Row {
    fn judge(&self, seed: u64) -> Line {
        let name = match self.run.url {
            "memory:" => self.name.to_owned(),
            url => format!("{} {url}", self.name),
        };
        let start = clock::now();
        let mut wrong = None;
        let (mut caught, mut used) = (false, seed);
        let budget = if self.run.url == "memory:" { BUDGET } else { SERVER_BUDGET };
        for seed in seed..seed + CHANCES {
            let (_, text) = self.torture(seed, budget / CHANCES, true);
            (caught, used) = (failed(&text).any(|check| check == self.check), seed);
            if caught {
                wrong = None;
                break;
            }
            wrong = Some(format!("{name} was not caught by {} with seed {seed}:\n{text}", self.check));
        }
        let took = Duration::from_nanos(clock::now() - start);
        let by = if caught { self.check } else { "no check" };
        let text = format!("{name:<32} {by:<12} {:>8}  {used}", format!("{took:.1?}"));
        if caught {
            let (passed, clean) = self.torture(used, CLEAN, false);
            if !passed {
                wrong = Some(format!("{name}: the same run fails without the defect:\n{clean}"));
            }
        }
        Line { text, wrong }
    }

    /// Runs the torture. Returns whether all checks passed, and the output.
    fn torture(&self, seed: u64, seconds: u64, planted: bool) -> (bool, String) {
        let directory = tempfile::tempdir().expect("a directory for the history");
        let run = self.run;
        let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
        command.args(["run", run.url, "--restless", "--faults", run.fault]);
        for (option, value) in [
            ("--seed", seed),
            ("--seconds", seconds),
            ("--ttl-ms", run.ttl_ms),
            ("--workers", run.workers),
            ("--tasks", run.tasks),
            ("--locks", run.locks),
        ] {
            command.arg(option).arg(value.to_string());
        }
        if planted {
            command.args(["--defect", self.name, "--until", self.check]);
        }
        command.args(["--style", run.style, "--directory"]).arg(directory.path());
        let output = command.output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }
}

/// Returns the names of the failed checks, from the last line of a run.
fn failed(text: &str) -> impl Iterator<Item = &str> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("failed: ")).unwrap_or_default();
    line.split(' ').take_while(|word| *word != "after")
}
