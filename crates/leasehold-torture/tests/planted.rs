//! Plants one classic defect after another. The check named in its row must catch each in time, and all
//! checks must pass the same run without the defect.
//!
//! `PLANTED=NAME` runs one defect. `LEASEHOLD_TEST_SEED` sets the first seed.

#![expect(clippy::print_stdout, reason = "a test program with a table")]

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use leasehold::storage::Memory;
use leasehold_conformance::{Space, Verdict, outcomes};
use leasehold_torture::clock;
use leasehold_torture::planted::{Defect, Defective};

/// A defect, the check that must catch it, and a run that shows it.
struct Row {
    defect: Defect,
    check: &'static str,
    cell: Cell,
}

/// A short run.
#[derive(Clone, Copy)]
struct Cell {
    url: &'static str,
    /// The name of the only fault, or an empty text for none.
    fault: &'static str,
    ttl_ms: u64,
    workers: u64,
    tasks: u64,
    locks: u64,
    style: &'static str,
}

const CALM: Cell =
    Cell { url: "memory:", fault: "none", ttl_ms: 400, workers: 4, tasks: 1, locks: 2, style: "mixed" };
/// Worker processes, and a server that a cleanup and its claim reach on two connections.
const REDIS: Cell = Cell { url: "testbed:redis", ..CALM };
/// The same, with foreign transactions that lock the rows of the storage.
const POSTGRES: Cell = Cell { url: "testbed:postgres", ..CALM };

#[rustfmt::skip]
const TABLE: [Row; 25] = [
    Row { defect: Defect::CanceledWaiterStays, check: "C6", cell: CALM },
    Row { defect: Defect::DeadlineFromReply, check: "C1", cell: Cell { fault: "acquire slow", ttl_ms: 300, workers: 10, locks: 5, style: "clingy", ..CALM } },
    Row { defect: Defect::DropWithoutRelease, check: "C6", cell: CALM },
    Row { defect: Defect::DropWithoutResolver, check: "C6", cell: CALM },
    Row { defect: Defect::ExpiredStillListed, check: "C10", cell: Cell { ttl_ms: 300, locks: 3, ..CALM } },
    Row { defect: Defect::GhostAcquire, check: "C5", cell: Cell { fault: "acquire ghost", ttl_ms: 3000, workers: 3, locks: 12, style: "hasty", ..CALM } },
    Row { defect: Defect::IntervalAfterLastTry, check: "C11", cell: Cell { ttl_ms: 900, locks: 1, ..CALM } },
    Row { defect: Defect::LateRenewalRevives, check: "C1", cell: Cell { fault: "renew slow", ttl_ms: 300, workers: 6, locks: 6, style: "clingy", ..CALM } },
    Row { defect: Defect::NoRecheck, check: "C6", cell: Cell { fault: "hints drop", workers: 3, locks: 1, ..CALM } },
    Row { defect: Defect::OwnerPerClient, check: "C1", cell: Cell { workers: 2, tasks: 3, locks: 1, ..CALM } },
    Row { defect: Defect::ErrorIsContention, check: "C5", cell: Cell { fault: "acquire fail", workers: 3, locks: 20, ..CALM } },
    Row { defect: Defect::ErrorIsSuccess, check: "C1", cell: Cell { fault: "acquire fail", locks: 1, style: "clingy", ..CALM } },
    Row { defect: Defect::ForgetsHints, check: "C6", cell: Cell { ttl_ms: 4000, workers: 9, locks: 3, style: "orderly", ..CALM } },
    Row { defect: Defect::IgnoresPatience, check: "C5", cell: Cell { fault: "acquire ghost", ttl_ms: 3000, workers: 3, locks: 12, style: "hasty", ..CALM } },
    Row { defect: Defect::IgnoresPatience, check: "C5", cell: Cell { fault: "server stop", ttl_ms: 2000, workers: 5, locks: 16, style: "hasty", ..REDIS } },
    Row { defect: Defect::ErrorIsSuccess, check: "C1", cell: Cell { fault: "link reset", locks: 1, style: "clingy", ..REDIS } },
    Row { defect: Defect::ErrorIsSuccess, check: "C1", cell: Cell { fault: "backends terminated", locks: 1, style: "clingy", ..POSTGRES } },
    Row { defect: Defect::ErrorIsContention, check: "C5", cell: Cell { fault: "server kill", workers: 3, locks: 20, ..POSTGRES } },
    Row { defect: Defect::LeasesUnlogged, check: "C1", cell: Cell { fault: "backend crash", ttl_ms: 5000, workers: 6, locks: 3, style: "clingy", ..POSTGRES } },
    Row { defect: Defect::KeepsEntries, check: "C6", cell: Cell { locks: 1, ..CALM } },
    Row { defect: Defect::ReleasesForAnyOwner, check: "C1", cell: Cell { ttl_ms: 300, workers: 8, locks: 3, style: "clingy", ..CALM } },
    Row { defect: Defect::RenewsAsUpsert, check: "C5", cell: Cell { fault: "renew delay", ttl_ms: 1500, workers: 4, locks: 12, style: "brisk", ..CALM } },
    Row { defect: Defect::ShorterTtlDeletes, check: "C8", cell: Cell { ttl_ms: 600, locks: 1, ..CALM } },
    Row { defect: Defect::TakeoverKeepsDeadline, check: "C1", cell: Cell { ttl_ms: 300, locks: 1, style: "clingy", ..CALM } },
    Row { defect: Defect::TokensRestart, check: "C4", cell: CALM },
];

/// Defects that the conformance suite must catch, too: without load, and by the name of a case.
const CASES: [(Defect, &str); 7] = [
    (Defect::ForgetsHints, "hints::a_release_hints_the_next_waiter"),
    (Defect::IgnoresPatience, "patience::a_claim_that_comes_too_late_is_not_granted"),
    (Defect::KeepsEntries, "queue::release_removes_a_waiters_entry"),
    (Defect::ReleasesForAnyOwner, "release::release_touches_only_its_owner"),
    (Defect::RenewsAsUpsert, "renewal::renew_never_resurrects_what_was_released"),
    (Defect::TakeoverKeepsDeadline, "exclusion::holds_never_overlap"),
    (Defect::TokensRestart, "fencing::tokens_grow_over_releases"),
];

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
    let rows: Vec<_> =
        TABLE.iter().filter(|row| only.as_ref().is_none_or(|only| row.defect.name() == *only)).collect();
    let start = clock::now();
    let (queue, lines) = (Mutex::new(rows.iter().rev().collect::<Vec<_>>()), Mutex::new(Vec::new()));
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
    if only.is_none() {
        lines.extend(CASES.iter().map(|(defect, case)| in_the_suite(*defect, case)));
    }
    lines.sort_by(|a, b| a.text.cmp(&b.text));
    println!("{:<32} {:<52} {:>8}  seed", "defect", "caught by", "after");
    lines.iter().for_each(|line| println!("{}", line.text));
    for wrong in lines.iter().filter_map(|line| line.wrong.as_ref()) {
        println!("\n{wrong}");
    }
    println!("{} in {:.0?}", lines.len(), Duration::from_nanos(clock::now() - start));
    let good = lines.iter().all(|line| line.wrong.is_none());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line of the table, and its fault, if it has one.
struct Line {
    text: String,
    wrong: Option<String>,
}

impl Row {
    fn judge(&self, seed: u64) -> Line {
        let name = match self.cell.url {
            "memory:" => self.defect.name(),
            url => format!("{} {url}", self.defect.name()),
        };
        let start = clock::now();
        let mut wrong = None;
        let (mut caught, mut used) = (false, seed);
        let budget = if self.cell.url == "memory:" { BUDGET } else { SERVER_BUDGET };
        for seed in seed..seed + CHANCES {
            let (_, text) = self.run(seed, budget / CHANCES, true);
            (caught, used) = (failed(&text).any(|check| check == self.check), seed);
            if caught {
                wrong = None;
                break;
            }
            wrong = Some(format!("{name} was not caught by {} with seed {seed}:\n{text}", self.check));
        }
        let took = Duration::from_nanos(clock::now() - start);
        let by = if caught { self.check } else { "no check" };
        let text = format!("{name:<32} {by:<52} {:>8}  {used}", format!("{took:.1?}"));
        if caught {
            let (passed, clean) = self.run(used, CLEAN, false);
            if !passed {
                wrong = Some(format!("{name}: the same run fails without the defect:\n{clean}"));
            }
        }
        Line { text, wrong }
    }

    /// Runs the cell. Returns whether all checks passed, and the output.
    fn run(&self, seed: u64, seconds: u64, planted: bool) -> (bool, String) {
        let directory = tempfile::tempdir().expect("a directory for the history");
        let cell = self.cell;
        let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
        command.args(["run", cell.url, "--restless", "--faults", cell.fault]);
        for (option, value) in [
            ("--seed", seed),
            ("--seconds", seconds),
            ("--ttl-ms", cell.ttl_ms),
            ("--workers", cell.workers),
            ("--tasks", cell.tasks),
            ("--locks", cell.locks),
        ] {
            command.arg(option).arg(value.to_string());
        }
        if planted {
            command.args(["--defect", &self.defect.name(), "--until", self.check]);
        }
        command.args(["--style", cell.style, "--directory"]).arg(directory.path());
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

fn in_the_suite(defect: Defect, case: &str) -> Line {
    let start = clock::now();
    let hook = std::panic::take_hook();
    // The cases are expected to fail.
    std::panic::set_hook(Box::new(|_| {}));
    let space = Space::simulated("defective", move || {
        let first = (Memory::new(), Defective::new(Memory::new(), Some(defect)));
        move || {
            let client = first.1.beside(first.0.clone());
            async { Ok(client) }
        }
    });
    let failed: Vec<_> = outcomes(&space)
        .into_iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
        .map(|(case, _)| format!("{}::{}", case.group(), case.name()))
        .collect();
    std::panic::set_hook(hook);
    let took = Duration::from_nanos(clock::now() - start);
    let caught = failed.iter().find(|name| name.starts_with(case));
    let name = defect.name();
    let by = caught.map_or("no case", String::as_str);
    let text = format!("{name:<32} {by:<52} {:>8}  -", format!("{took:.1?}"));
    let wrong = caught.is_none().then(|| format!("{name} was not caught by {case}; failed were {failed:?}"));
    Line { text, wrong }
}
