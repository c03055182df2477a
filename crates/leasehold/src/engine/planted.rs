//! Planted defects, well-known from other lock libraries. A check of locks is run against each of them, and
//! must notice it.
//!
//! Compiled in only with `RUSTFLAGS="--cfg leasehold_planted"`, which no feature can switch on, and inactive
//! until [`wake`] is called. Without it, [`is`] is a constant and costs nothing.

/// A defect. The engine has it wherever it calls [`is`] with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Bug {
    CanceledWaiterStays = 1,
    DeadlineFromReply,
    DropWithoutRelease,
    DropWithoutResolver,
    ExpiredStillListed,
    GhostAcquire,
    IntervalAfterLastTry,
    LateRenewalRevives,
    NoRecheck,
    OwnerPerClient,
}

/// Returns `true` if the engine has that defect.
#[cfg(not(leasehold_planted))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(leasehold_planted)]
pub(crate) use self::awake::is;
#[cfg(leasehold_planted)]
pub use self::awake::wake;

#[cfg(leasehold_planted)]
mod awake {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static AWAKE: AtomicU8 = AtomicU8::new(0);

    /// Returns `true` if the engine has that defect.
    pub(crate) fn is(bug: Bug) -> bool {
        AWAKE.load(Ordering::Relaxed) == bug as u8
    }

    /// Gives every client of this process the defect of that name, and no other. Returns `false` if there is
    /// no such defect.
    pub fn wake(name: &str) -> bool {
        let bug = match name {
            "canceled-waiter-stays" => Bug::CanceledWaiterStays,
            "deadline-from-reply" => Bug::DeadlineFromReply,
            "drop-without-release" => Bug::DropWithoutRelease,
            "drop-without-resolver" => Bug::DropWithoutResolver,
            "expired-still-listed" => Bug::ExpiredStillListed,
            "ghost-acquire" => Bug::GhostAcquire,
            "interval-after-last-try" => Bug::IntervalAfterLastTry,
            "late-renewal-revives" => Bug::LateRenewalRevives,
            "no-recheck" => Bug::NoRecheck,
            "owner-per-client" => Bug::OwnerPerClient,
            _ => return false,
        };
        AWAKE.store(bug as u8, Ordering::Relaxed);
        true
    }
}
