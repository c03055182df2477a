//! The cases, one file per part of the contract.

mod batches;
mod exclusion;
mod expiry;
mod faults;
mod fencing;
mod hints;
mod inspect;
mod labels;
mod list;
mod locks;
mod names;
mod patience;
mod promises;
mod queue;
mod release;
mod renewal;
mod secrets;
mod shares;

use crate::case::Case;

/// Returns every case.
pub fn all() -> Vec<Case> {
    [
        exclusion::CASES,
        shares::CASES,
        expiry::CASES,
        renewal::CASES,
        release::CASES,
        fencing::CASES,
        queue::CASES,
        patience::CASES,
        hints::CASES,
        batches::CASES,
        inspect::CASES,
        list::CASES,
        names::CASES,
        labels::CASES,
        faults::CASES,
        promises::CASES,
        secrets::CASES,
        locks::CASES,
    ]
    .concat()
}

/// Lists the cases of a file: their needs, then their functions.
macro_rules! cases {
    ($group:literal: $($needs:expr => [$($case:ident),+ $(,)?]),+ $(,)?) => {
        pub(super) const CASES: &[$crate::case::Case] = &[$($(
            $crate::case::Case::new($group, stringify!($case), &$needs, |context| Box::pin($case(context))),
        )+)+];
    };
}
use cases;
