//! Selects the setups to start: only those for which the command line asks for cases.

use leasehold_testbed::registry;
use libtest_mimic::Arguments;

/// Returns `true` if the command line may ask for a case of this storage. `redis::queue` asks for one
/// storage, `fencing` for all.
pub(crate) fn is_wanted(space: &str) -> bool {
    let filter = Arguments::from_args().filter.unwrap_or_default();
    let (storage, whole) = filter.split_once("::").map_or((&*filter, false), |(storage, _)| (storage, true));
    let known = storage == "memory" || registry::all().any(|entry| entry.name == storage);
    let other = known && (whole || !space.contains(storage));
    storage == space || !other
}
