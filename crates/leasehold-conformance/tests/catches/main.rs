//! The suite over storages that are broken on purpose, each by one defect of the catalog. The expected cases must
//! fail, and no others. Without this, a suite that always passes would go unnoticed.

use std::collections::BTreeSet;
use std::process::ExitCode;

use leasehold::storage::Memory;
use leasehold_conformance::{Space, Verdict, outcomes};
use leasehold_defects::{CATALOG, Defect, Defective, Entry, PASSWORD};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    silence();
    let caught = CATALOG.iter().filter(|entry| !entry.caught.cases.is_empty());
    let mut trials: Vec<_> = caught.map(|entry| Trial::test(entry.name, || is_caught(entry))).collect();
    trials.push(Trial::test("a_sound_storage_passes", || fails(None, &[])));
    trials.push(Trial::test(
        "cases_of_promises_that_a_storage_does_not_make_are_ignored_with_a_reason",
        ignored_with_a_reason,
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn is_caught(entry: &Entry) -> Result<(), Failed> {
    fails(Some(entry.defect), entry.caught.cases)
}

/// Runs all cases over a storage with this defect. Exactly the expected ones may fail.
fn fails(defect: Option<Defect>, expected: &[&str]) -> Result<(), Failed> {
    let failed = outcomes(&space(defect, true)).into_iter().filter_map(|(case, verdict)| match verdict {
        Verdict::Failed(text) => Some((format!("{}::{}", case.group(), case.name()), text)),
        _ => None,
    });
    // The cases of `locks` fail as a consequence of broken clauses, so they are not listed.
    let failed: Vec<_> = failed.filter(|(name, _)| !name.starts_with("locks::")).collect();
    let names: BTreeSet<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    if names == expected {
        return Ok(());
    }
    Err(format!("expected were {expected:#?}; it was caught by: {failed:#?}").into())
}

fn ignored_with_a_reason() -> Result<(), Failed> {
    let ignored = outcomes(&space(None, false)).into_iter().filter_map(|(case, verdict)| match verdict {
        Verdict::Ignored(reason) => Some((case.group(), reason)),
        Verdict::Passed => None,
        other => panic!("{case:?}: {other:?}"),
    });
    let ignored: BTreeSet<_> = ignored.collect();
    let expected = [
        ("fencing", "fencing not promised"),
        ("hints", "push not promised"),
        ("inspect", "fair not promised"),
        ("locks", "fair not promised"),
        ("locks", "push not promised"),
        ("queue", "fair not promised"),
    ];
    let expected: BTreeSet<_> = expected.map(|(group, reason)| (group, reason.to_owned())).into();
    assert_eq!(ignored, expected);
    Ok(())
}

fn space(defect: Option<Defect>, promises: bool) -> Space {
    let make = move || {
        let memory = Memory::new();
        let first = Defective::new(memory.clone(), defect);
        let first = if promises { first } else { first.without_promises() };
        move || {
            let client = first.beside(memory.clone());
            async { Ok(client) }
        }
    };
    Space::simulated("broken", make).secret(PASSWORD)
}

/// Keeps expected panics out of the output; the verdicts contain their texts.
fn silence() {
    let usual = std::panic::take_hook();
    let is_case = || {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        leasehold_conformance::cases().iter().any(|case| case.name() == name)
    };
    std::panic::set_hook(Box::new(move |panic| {
        if !is_case() {
            usual(panic);
        }
    }));
}
