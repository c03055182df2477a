//! The suite over all storages of the library: memory, every setup that the registry of the testbed lists for
//! it, and every URL in `LEASEHOLD_TEST_URLS`, separated by spaces.

mod wanted;

use std::process::ExitCode;
use std::thread;

use leasehold::ErrorKind;
use leasehold::storage::{Memory, schema};
use leasehold_conformance::Space;
use leasehold_testbed::registry::{self, Entry, Expected};
use leasehold_testbed::{Error, Setup, Wanted};

use crate::wanted::is_wanted;

fn main() -> ExitCode {
    let shared = Memory::new();
    let memory = Space::new("memory", move || {
        let client = shared.clone();
        async { Ok(client) }
    });
    // Kept until the end, because dropping a setup ends its servers.
    let setups = start();
    let urls = std::env::var("LEASEHOLD_TEST_URLS").unwrap_or_default();
    let spaces = setups.iter().map(|(entry, expected, setup)| space(entry, *expected, &**setup));
    let spaces = [memory].into_iter().chain(spaces).chain(urls.split_whitespace().map(Space::url));
    leasehold_conformance::main(spaces)
}

type Started = (&'static Entry, Expected, Box<dyn Setup>);

/// Starts in parallel the setups that the command line selects, if the storage is compiled.
fn start() -> Vec<Started> {
    let entries = registry::all().filter_map(|entry| Some((entry, entry.suite?)));
    let entries = entries.filter(|(entry, _)| is_wanted(entry.name) && is_compiled(entry));
    thread::scope(|scope| {
        let starting: Vec<_> = entries
            .map(|(entry, expected)| (entry, expected, scope.spawn(|| entry.start(&wanted()))))
            .collect();
        let started = starting.into_iter().map(|(entry, expected, thread)| {
            let setup = thread.join().expect("a setup starts or fails");
            let setup = setup.unwrap_or_else(|error| panic!("{} needs its server: {error}", entry.name));
            (entry, expected, setup)
        });
        started.collect()
    })
}

/// Returns the options: the cases run as a user with the documented rights only.
fn wanted() -> Wanted {
    Wanted::default().least_rights(|url| match schema(url) {
        Ok(Some(statements)) => Ok(statements),
        Ok(None) => Err(Error::new("this storage has no tables")),
        Err(error) => Err(Error::new(error.to_string())),
    })
}

fn is_compiled(entry: &Entry) -> bool {
    let url = format!("{}://h", entry.scheme.unwrap_or_default());
    !matches!(schema(&url), Err(error) if error.kind() == ErrorKind::Unsupported)
}

fn space(entry: &Entry, expected: Expected, setup: &dyn Setup) -> Space {
    let mut space = Space::url(&setup.url()).named(entry.name);
    if !expected.fair {
        space = space.unfair();
    }
    if !expected.push {
        space = space.unprompted();
    }
    space
}
