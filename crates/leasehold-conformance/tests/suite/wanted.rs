//! Servers are started only for cases that the command line asks for.

use libtest_mimic::Arguments;

/// What the storages of this suite are called.
const STORAGES: [&str; 8] =
    ["memory", "sqlite", "redis", "redis+sentinel", "redis+cluster", "redis+quorum", "postgres", "pgbouncer"];

/// Whether the command line may ask for a case of this storage: `redis::queue` wants one, `fencing` wants all.
pub(crate) fn wanted(space: &str) -> bool {
    let filter = Arguments::from_args().filter.unwrap_or_default();
    let (storage, whole) = filter.split_once("::").map_or((&*filter, false), |(storage, _)| (storage, true));
    let other = STORAGES.contains(&storage) && (whole || !space.contains(storage));
    storage == space || !other
}
