//! Tortures a storage: workers take locks and use what they protect, a nemesis breaks what it can, all of
//! them write down what they did and saw, and checks find what may not be in such a history.
//!
//! `scripts/torture URL --minutes N --seed S` runs it. A new storage joins by a [`target::Target`].

#![expect(clippy::exhaustive_structs, clippy::exhaustive_enums, reason = "not published")]

pub mod checks;
pub mod clock;
pub mod dice;
pub mod event;
pub mod history;
pub mod nemesis;
pub mod planted;
pub mod report;
pub mod resource;
pub mod run;
pub mod target;
pub mod worker;
