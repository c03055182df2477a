//! Selects the servers to start: only those for which the command line asks for cases.

use libtest_mimic::Arguments;

/// The names of the storages of this suite.
const STORAGES: [&str; 8] =
    ["memory", "sqlite", "redis", "redis+sentinel", "redis+cluster", "redis+quorum", "postgres", "pgbouncer"];

/// Returns `true` if the command line may ask for a case of this storage. `redis::queue` asks for one
/// storage, `fencing` for all.
pub(crate) fn wanted(space: &str) -> bool {
    let filter = Arguments::from_args().filter.unwrap_or_default();
    let (storage, whole) = filter.split_once("::").map_or((&*filter, false), |(storage, _)| (storage, true));
    let other = STORAGES.contains(&storage) && (whole || !space.contains(storage));
    storage == space || !other
}
