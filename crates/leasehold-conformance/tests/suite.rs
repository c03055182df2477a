//! The suite over our own storages: memory always, SQLite if it is compiled in, and every URL in
//! `LEASEHOLD_TEST_URLS`, separated by spaces.

use std::process::ExitCode;

use leasehold::storage::Memory;
use leasehold_conformance::Space;

fn main() -> ExitCode {
    let shared = Memory::new();
    let memory = Space::new("memory", move || {
        let client = shared.clone();
        async { Ok(client) }
    });
    let mut spaces = vec![memory];
    #[cfg(feature = "sqlite")]
    let directory = tempfile::tempdir().expect("a directory for the file");
    #[cfg(feature = "sqlite")]
    spaces.push(Space::url(&format!("sqlite:{}", directory.path().join("locks.db").display())));
    let urls = std::env::var("LEASEHOLD_TEST_URLS").unwrap_or_default();
    spaces.extend(urls.split_whitespace().map(Space::url));
    leasehold_conformance::main(spaces)
}
