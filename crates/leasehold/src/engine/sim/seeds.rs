//! Schedules that once found a defect. A change to how schedules are drawn gives a seed another meaning, so each defect
//! of a stage also has a test next to that stage.

use crate::engine::sim;

/// A renewal that shortens was executed a second time, after its answer and after a longer renewal.
#[test]
fn seed_27843() {
    sim::replay(27843);
}

/// A claim that was executed after the release left a waiter's entry, and the cleanup gave up when the lease had ended
/// but the entry had not.
#[test]
fn seed_20890() {
    sim::replay(20890);
}
