//! What is tortured: how its workers run, and what can be done to it. A storage joins by one more of these.

mod memory;
mod slow;
mod sqlite;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::Locks;

pub use self::memory::MemoryTarget;
pub use self::sqlite::{SqliteTarget, disturb};
use crate::planted::Defect;
use crate::worker::Plan;

/// A storage under torture.
///
/// A server that can be killed, stopped and restarted, or reached through links that can be cut, is one whose
/// [`Target::faults`] name that and whose [`Target::strike`] does it; `kill`, `stop` and `break` need nothing.
pub trait Target {
    /// Names what can be done, for the schedule: its order decides what a seed means.
    ///
    /// `kill` and `stop` are done to a worker's process, `break` by an operator; all others by
    /// [`Target::strike`]. A name that begins with `acquire`, `renew` or `hints` delays no clean-up.
    fn faults(&self) -> Vec<&'static str>;

    /// Whether a fault can be done to one worker alone. If not, all are taken to be disturbed by it.
    fn reaches_one(&self, fault: &str) -> bool;

    /// Starts a worker.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>>;

    /// Connects a client that nothing is done to.
    ///
    /// # Errors
    ///
    /// If the storage cannot be reached.
    fn operator(&self) -> impl Future<Output = leasehold::Result<Locks>>;

    /// Begins a fault of this storage's own, to one worker or to all; returns what ends it.
    ///
    /// # Errors
    ///
    /// If it cannot be begun.
    fn strike(&self, fault: &str, on: Option<i64>, span: Duration) -> io::Result<Box<dyn FnOnce()>>;
}

/// A worker that runs.
pub trait Running {
    /// Ends it at once; nothing if it cannot be killed.
    fn kill(&mut self) {}

    /// Stops it.
    fn stop(&mut self) {}

    /// Lets it go on.
    fn go_on(&mut self) {}

    /// Asks it to close its client and end; whether it did.
    fn finish(&mut self, within: Duration) -> bool;
}

/// What a URL names, for a target to be made of it.
#[derive(Clone, Debug)]
pub struct Under {
    /// The URL.
    pub url: String,
    /// This program, which is started again for each worker.
    pub program: PathBuf,
    /// What is planted.
    pub defect: Option<Defect>,
    /// The TTL that faults are measured by.
    pub ttl: Duration,
}
