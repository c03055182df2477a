//! The suite over all storages of the library: memory always, the others in all their forms if they are
//! compiled in, and every URL in `LEASEHOLD_TEST_URLS`, separated by spaces.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod wanted;

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
    #[cfg(feature = "redis")]
    let redis = redis::Servers::start();
    #[cfg(feature = "redis")]
    spaces.extend(redis.spaces());
    #[cfg(feature = "postgres")]
    let postgres = postgres::Servers::start();
    #[cfg(feature = "postgres")]
    spaces.extend(postgres.spaces());
    let urls = std::env::var("LEASEHOLD_TEST_URLS").unwrap_or_default();
    spaces.extend(urls.split_whitespace().map(Space::url));
    leasehold_conformance::main(spaces)
}
