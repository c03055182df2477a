//! Every promise of a [`leasehold::storage::Storage`] as a test case. Each clause of the contract is one
//! small function, and its name is a sentence. A storage promises only what a case checks.
//!
//! Put this into `tests/conformance.rs` of your storage, with `harness = false`:
//!
//! ```no_run
//! # use leasehold::storage::Memory as Acme;
//! fn main() -> std::process::ExitCode {
//!     let shared = Acme::new();
//!     leasehold_conformance::run("acme", move || {
//!         let one_more_client = shared.clone();
//!         async { Ok(one_more_client) }
//!     })
//! }
//! ```
//!
//! Each call of the closure connects one more independent client to the same locks. A promise that the
//! storage does not make is shown as *ignored* with the reason, never as passed. With
//! `LEASEHOLD_TEST_NO_IGNORED=1` it fails. `LEASEHOLD_TEST_TIME=3` triples every duration, for slow
//! machines.
//!
//! A program can also read the verdicts itself:
//!
//! ```
//! use leasehold::storage::Memory;
//! use leasehold_conformance::{Space, Verdict, outcomes};
//!
//! // `Memory` reads tokio's clock only, so its time can be paused and no case takes real time.
//! let space = Space::simulated("memory", || {
//!     let shared = Memory::new();
//!     move || {
//!         let one_more_client = shared.clone();
//!         async { Ok(one_more_client) }
//!     }
//! });
//! for (case, verdict) in outcomes(&space) {
//!     assert_eq!(verdict, Verdict::Passed, "{case:?}");
//! }
//! ```
//!
//! [`Chaos`] wraps any storage and breaks its calls on demand. It tests what a program does when a lock is
//! lost.

mod case;
mod cases;
mod chaos;
mod context;
mod history;
mod space;
mod suite;
mod timing;

pub use libtest_mimic;

pub use crate::case::{Case, Verdict};
pub use crate::cases::all as cases;
pub use crate::chaos::{Chaos, Controls, Fault, HintFault, Verb};
pub use crate::history::{History, Hold};
pub use crate::space::Space;
pub use crate::suite::{main, outcomes, run, suite};
pub use crate::timing::Timing;

/// The code in the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
