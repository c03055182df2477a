//! Schedules that once found something. A change to how schedules are drawn gives a seed another meaning, so
//! what was found in a machine has a test of its own next to it.

use crate::engine::sim;

/// A renewal that shortens was executed a second time after its answer, and after the longer one that followed.
#[test]
fn seed_27843() {
    sim::replay(27843);
}

/// A claim that was executed after the release left a waiter's entry, and the resolver gave up when the lease had
/// ended, though the entry had not.
#[test]
fn seed_20890() {
    sim::replay(20890);
}
