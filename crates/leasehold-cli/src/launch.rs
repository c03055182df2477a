//! The signals and descriptors that the launcher gave this program. `launch.c` records them before Rust's runtime changes
//! them.

use std::sync::OnceLock;

use rustix::process::Signal;

/// The variable in which `launch.c` records them.
pub(crate) const VARIABLE: &str = "LEASEHOLD_AT_LAUNCH";

/// Returns `true` if the launcher had this signal ignored, as `nohup` does. It stays ignored.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    found()[0] & (1_u64 << (signal.as_raw() - 1)) != 0
}

/// Returns `true` if stdin (0), stdout (1) or stderr (2) was closed.
pub(crate) fn was_closed(descriptor: usize) -> bool {
    found()[1] & (1_u64 << descriptor) != 0
}

/// Returns the sets of ignored signals and of closed descriptors.
fn found() -> [u64; 2] {
    static FOUND: OnceLock<[u64; 2]> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let mut sets = text.split(' ').map(|set| u64::from_str_radix(set, 16).unwrap_or(0));
        [(); 2].map(|()| sets.next().unwrap_or(0))
    })
}
