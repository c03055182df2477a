/// A check of the torture that must catch a defect, and a run in which it does.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TortureCheck {
    /// The name of the check.
    pub check: &'static str,
    /// The run.
    pub run: Run,
}

/// A short run of the torture.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Run {
    /// The storage.
    pub url: &'static str,
    /// The name of the only fault, or `none`.
    pub fault: &'static str,
    /// The TTL in milliseconds.
    pub ttl_ms: u64,
    /// The number of workers.
    pub workers: u64,
    /// The number of tasks that share a worker's client.
    pub tasks: u64,
    /// The number of locks.
    pub locks: u64,
    /// The habits of the workers.
    pub style: &'static str,
}

/// A run over memory without faults.
pub(crate) const CALM: Run =
    Run { url: "memory:", fault: "none", ttl_ms: 400, workers: 4, tasks: 1, locks: 2, style: "mixed" };
/// Worker processes, and a server that a cleanup and its claim reach on two connections.
pub(crate) const REDIS: Run = Run { url: "testbed:redis", ..CALM };
/// The same, with foreign transactions that lock the rows of the storage.
pub(crate) const POSTGRES: Run = Run { url: "testbed:postgres", ..CALM };

/// Names the check that must catch a defect in a run.
pub(crate) const fn check(check: &'static str, run: Run) -> TortureCheck {
    TortureCheck { check, run }
}
