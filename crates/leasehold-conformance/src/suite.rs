use std::collections::HashMap;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use leasehold::Result;
use leasehold::storage::Storage;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::case::{Case, Verdict, probe};
use crate::cases;
use crate::space::Space;

/// How many cases run in parallel unless `--test-threads` is given. Cases mostly wait.
const AT_A_TIME: usize = 16;

/// Runs every case over one storage, as the `main` of a test program.
///
/// Reads the command line as `cargo test` does: a filter, `--list`, `--exact`, `--test-threads`.
pub fn run<S, C, F>(name: &str, connect: C) -> ExitCode
where
    S: Storage,
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S>> + Send + 'static,
{
    main([Space::new(name, connect)])
}

/// Runs every case over each of several storages, as a test program.
pub fn main(spaces: impl IntoIterator<Item = Space>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let trials = distinct(spaces).iter().flat_map(suite).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Numbers the storages that have the same name, such as two servers of one kind.
fn distinct(spaces: impl IntoIterator<Item = Space>) -> Vec<Space> {
    let mut seen = HashMap::new();
    let number = |space: Space| {
        let times = seen.entry(space.name().to_owned()).or_insert(0);
        *times += 1;
        match *times {
            1 => space,
            n => {
                let name = format!("{}-{n}", space.name());
                space.named(&name)
            }
        }
    };
    spaces.into_iter().map(number).collect()
}

/// Makes one trial per case, named `storage::group::promise`. A storage that cannot be connected to becomes
/// one failing trial.
pub fn suite(space: &Space) -> Vec<Trial> {
    let guarantees = match probe(space) {
        Ok(guarantees) => guarantees,
        Err(error) => {
            let failed = move || Err(Failed::from(error));
            return vec![Trial::test(format!("{}::connects", space.name()), failed)];
        }
    };
    let strict =
        std::env::var_os("LEASEHOLD_TEST_NO_IGNORED").is_some_and(|set| !set.is_empty() && set != "0");
    let trial = |case: Case| {
        let name = format!("{}::{}::{}", space.name(), case.group(), case.name());
        let missing = case.missing(&guarantees);
        if space.is_unfair() && !guarantees.fair && case.needs_order()
            || space.is_unprompted() && !guarantees.push && case.needs_hints()
        {
            return None;
        }
        Some(match missing {
            Some(reason) if strict => {
                Trial::test(name, move || Err(Failed::from(format!("ignored: {reason}"))))
            }
            Some(reason) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
            None => {
                let space = space.clone();
                Trial::test(name, move || match case.run_promised(&space) {
                    Verdict::Failed(text) => Err(Failed::from(text)),
                    _ => Ok(()),
                })
            }
        })
    };
    cases::all().into_iter().filter_map(trial).collect()
}

/// Runs every case over one storage and returns the outcomes, in the order of [`cases`](crate::cases).
pub fn outcomes(space: &Space) -> Vec<(Case, Verdict)> {
    let (cases, promised) = (cases::all(), probe(space));
    let (next, done) = (Mutex::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let i = {
                        let mut next = next.lock().expect("BUG: nothing panics under it");
                        *next += 1;
                        *next - 1
                    };
                    let Some(case) = cases.get(i) else { return };
                    let verdict = case.verdict(space, promised.as_ref());
                    done.lock().expect("BUG: nothing panics under it").push((i, (*case, verdict)));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("BUG: nothing panics under it");
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
