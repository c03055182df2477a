//! Torture of a storage: workers acquire locks and use what they protect, while a nemesis injects faults.
//! All of them record their actions and observations, and checks look for violations in that history.
//!
//! `scripts/torture URL --minutes N --seed S` runs it, and `scripts/torture --elect URL` an elected service. A new storage needs a [`target::Target`].

#![expect(clippy::exhaustive_structs, clippy::exhaustive_enums, reason = "not published")]

pub mod checks;
pub mod clock;
pub mod election;
pub mod event;
pub mod history;
pub mod nemesis;
pub mod random;
pub mod report;
pub mod resource;
pub mod run;
pub mod target;
pub mod worker;
