//! Classic defects of lock libraries, planted on purpose to prove that the tests catch them. A check that never
//! fails would otherwise go unnoticed.
//!
//! [`CATALOG`] is the only list: each defect, where it is planted, and what must catch it. Three tests run over
//! it: `catches` of the conformance suite, `planted` of the torture, and the simulator of the engine.
//!
//! - Defects of a storage are a wrapper over any storage: [`Defective`].
//! - Defects of the engine are compiled into the library with `RUSTFLAGS="--cfg leasehold_planted"` only, and
//!   have no effect until [`Defect::wake`] switches one on. The simulator imitates some of them, and those of a
//!   storage, in the world around the engine.
//! - Defects of a server are planted by the testbed.

mod calls;
mod catalog;
mod defective;
mod run;
mod tokens;

pub use self::catalog::{CATALOG, Caught, Defect, Entry, Place};
pub use self::defective::{Defective, PASSWORD};
pub use self::run::{Run, TortureCheck};
