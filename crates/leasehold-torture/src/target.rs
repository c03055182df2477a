//! The targets of a torture: how their workers run, and which faults they support. Each storage is one
//! target.

mod memory;
mod process;
mod servers;
mod sqlite;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::Locks;
use leasehold::storage::Tier;
use leasehold_defects::Defect;

pub use self::memory::MemoryTarget;
pub use self::servers::ServersTarget;
pub use self::sqlite::{SqliteTarget, disturb};
use crate::worker::Plan;

/// A storage under torture.
///
/// [`Target::faults`] names the faults of the storage, and [`Target::inject`] injects them. `kill`, `stop`
/// and `break` need no code. Servers join by a line in the table of [`ServersTarget`].
pub trait Target {
    /// Returns the names of the faults, for the schedule. Their order decides what a seed means.
    ///
    /// `kill` and `stop` hit a worker's process, and an operator executes `break`. All others are injected
    /// by [`Target::inject`]. A fault with a name that begins with `acquire`, `renew` or `hints`
    /// delays no cleanup.
    fn faults(&self) -> Vec<&'static str>;

    /// Returns `true` if a fault can hit one worker alone. Otherwise it counts as a fault of all workers.
    fn reaches_one(&self, fault: &str) -> bool;

    /// Starts a worker.
    ///
    /// # Errors
    ///
    /// If the worker cannot be started.
    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>>;

    /// Connects a client that no fault hits.
    ///
    /// # Errors
    ///
    /// If the storage cannot be reached.
    fn operator(&self) -> impl Future<Output = leasehold::Result<Locks>>;

    /// Injects a fault of this storage, and returns the function that ends it.
    ///
    /// # Errors
    ///
    /// If the fault cannot be injected.
    fn inject(&self, injection: &Injection<'_>) -> io::Result<Heal<'_>>;

    /// Returns the lowest tier that promises to survive a fault. Violations below it are only counted and
    /// reported.
    fn needs(&self, _fault: &str) -> Tier {
        Tier::Advisory
    }

    /// Returns for how long a careful storage grants nothing after a fault.
    fn refuses_after(&self, _fault: &str) -> Duration {
        Duration::ZERO
    }

    /// Lists what is left at the servers after every client is closed, without what was there before the
    /// run.
    ///
    /// # Errors
    ///
    /// If the servers cannot be asked.
    fn left(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// A fault to inject.
#[derive(Clone, Copy, Debug)]
pub struct Injection<'a> {
    /// Its name.
    pub fault: &'a str,
    /// The worker that it hits, or `None` for all.
    pub on: Option<i64>,
    /// The lock that it hits, for a fault that hits one.
    pub lock: &'a str,
    /// Its duration.
    pub span: Duration,
}

/// A function that ends a fault, and returns when the target is whole again.
pub type Heal<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

/// A running worker.
pub trait Running {
    /// Kills it. Does nothing if it cannot be killed.
    fn kill(&mut self) {}

    /// Stops it, as SIGSTOP does.
    fn stop(&mut self) {}

    /// Continues it after a stop.
    fn go_on(&mut self) {}

    /// Asks it to close its client and end. Returns `true` if it did.
    fn finish(&mut self, within: Duration) -> bool;
}

/// The parameters from which a target is made.
#[derive(Clone, Debug)]
pub struct Under {
    /// The URL.
    pub url: String,
    /// The path of this program, which is started again for each worker.
    pub program: PathBuf,
    /// The planted defect.
    pub defect: Option<Defect>,
    /// The TTL that determines the durations of faults.
    pub ttl: Duration,
}
