//! Every promise of a [`leasehold::storage::Storage`] as a test case: one small function per clause of the
//! contract, its name a sentence. No case, no promise.
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
//! Each call of the closure makes one more independent client of the same locks. What the storage does not
//! promise shows as *ignored* with the reason, never as passed; with `LEASEHOLD_TEST_NO_IGNORED=1` it fails.
//! `LEASEHOLD_TEST_TIME=3` triples every duration on a slow machine.
//!
//! A program can also look at the verdicts itself:
//!
//! ```
//! use leasehold::storage::Memory;
//! use leasehold_conformance::{Space, Verdict, outcomes};
//!
//! // Memory's only clock is tokio's, so its time can be paused and nothing has to be waited for.
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
//! [`Chaos`] wraps any storage and breaks its calls on demand: for tests of what a program does when a lock
//! is lost.

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
