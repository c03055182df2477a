//! What is tortured: how its workers run, and what can be done to it. A storage joins by one more of these.

mod memory;
mod process;
mod servers;
mod sqlite;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::Locks;
use leasehold::storage::Tier;

pub use self::memory::MemoryTarget;
pub use self::servers::ServersTarget;
pub use self::sqlite::{SqliteTarget, disturb};
use crate::planted::Defect;
use crate::worker::Plan;

/// A storage under torture.
///
/// [`Target::faults`] name what can be done to it and [`Target::strike`] does it; `kill`, `stop` and `break` need
/// nothing. Servers join by a line in the table of [`ServersTarget`].
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

    /// Begins a fault of this storage's own; returns what ends it.
    ///
    /// # Errors
    ///
    /// If it cannot be begun.
    fn strike(&self, blow: &Blow<'_>) -> io::Result<Heal<'_>>;

    /// The least tier that promises to survive a fault. Below it, what breaks is counted and reported.
    fn needs(&self, _fault: &str) -> Tier {
        Tier::Advisory
    }

    /// For how long after a fault a storage that is careful grants nothing to anybody.
    fn refuses_after(&self, _fault: &str) -> Duration {
        Duration::ZERO
    }

    /// Lists what is left at the servers, when every client is closed, of what was not there before.
    ///
    /// # Errors
    ///
    /// If they cannot be asked.
    fn left(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// A fault that begins.
#[derive(Clone, Copy, Debug)]
pub struct Blow<'a> {
    /// What.
    pub fault: &'a str,
    /// To which worker; to all if none.
    pub on: Option<i64>,
    /// To which lock, if it is done to one.
    pub lock: &'a str,
    /// For how long.
    pub span: Duration,
}

/// Ends a fault, and returns when what it was done to is whole again.
pub type Heal<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

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
