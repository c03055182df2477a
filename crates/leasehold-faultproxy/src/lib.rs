#![doc = include_str!("../README.md")]

mod direction;
mod faults;
mod link;
mod port;
mod proxy;
mod random;
mod record;
mod rules;
mod state;
mod stats;
mod trap;
mod url;
mod wire;

use std::fmt;

pub use crate::faults::Faults;
pub use crate::proxy::Proxy;
pub use crate::rules::{ConnId, End, Flow, PortState, To, Which};
pub use crate::stats::{Connection, Stats};
pub use crate::trap::{ArmedTrap, Trap, TrapCount, TrapId};
pub use crate::wire::Upstream;

/// The error of a wait that cannot end: the proxy has stopped, or the trap was disarmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the proxy has stopped or the trap was disarmed; keep both until the wait is over")
    }
}

impl std::error::Error for Stopped {}
