//! The bytes that each operation writes to the log of a server: the write-ahead log, or the oplog.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream as _;
use leasehold::storage::{AnyStorage, Claim, Name, Owner, ReleaseReply, Storage as _};
use tokio::task::JoinHandle;

use crate::Result;
use crate::server::Server;
use crate::stats::{float, ratio};

/// The number of locks of each operation: few enough that a waiter's claim is still fresh at the release, because an old
/// one is not handed over to.
const LOCKS: usize = 256;
/// Longer than the whole measurement.
const TTL: Duration = Duration::from_secs(600);
/// How often a handover is tried until the storage listens.
const TRIES: usize = 10_000;

/// The operations in their order: each leaves the state that the next one needs.
const STEPS: [(&str, Operation, Client); 10] = [
    ("grant of a new lock", Operation::Acquire, Client::Holder),
    ("renewal", Operation::Renew, Client::Holder),
    ("refusal", Operation::Acquire, Client::Other),
    ("refusal that waits", Operation::Wait, Client::Waiter),
    ("the same again: its heartbeat", Operation::Wait, Client::Waiter),
    ("release while another client waits", Operation::Release, Client::Holder),
    ("grant to the waiter", Operation::Wait, Client::Waiter),
    ("release", Operation::Release, Client::Waiter),
    ("grant of a known lock", Operation::Acquire, Client::Holder),
    ("release", Operation::Release, Client::Holder),
];

#[derive(Clone, Copy, Debug)]
enum Operation {
    Acquire,
    Wait,
    Renew,
    Release,
}

#[derive(Clone, Copy, Debug)]
enum Client {
    Holder,
    Other,
    Waiter,
}

/// The measurement: a storage, and the server whose log is measured.
pub(super) struct Steps {
    storage: Arc<AnyStorage>,
    server: Server,
    listening: JoinHandle<()>,
    written: Written,
}

/// The bytes of each step, in each column.
pub(super) struct Written {
    log: &'static str,
    columns: Vec<(&'static str, Vec<f64>)>,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns.iter().map(|(column, _)| format!(" {column} |")).collect::<String>();
        writeln!(f, "| {}, bytes each |{columns}\n|---|{}", self.log, "---|".repeat(self.columns.len()))?;
        for (step, (what, ..)) in STEPS.iter().enumerate() {
            let cells = self.columns.iter().map(|(_, bytes)| format!("{:.0}", bytes[step]));
            writeln!(f, "| {what} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        Ok(())
    }
}

impl Steps {
    pub(super) async fn new(url: &str, log: &'static str) -> Result<Self> {
        let storage = Arc::new(AnyStorage::connect(url).await?);
        // A waiter without a subscription gets no hints, so this one subscribes.
        let mut hints = Box::pin(storage.hints());
        let listening =
            tokio::spawn(async move { while poll_fn(|cx| hints.as_mut().poll_next(cx)).await.is_some() {} });
        let written = Written { log, columns: Vec::new() };
        let steps = Self { storage, server: Server::of(url).await?, listening, written };
        steps.listens().await?;
        Ok(steps)
    }

    /// Adds a column: all steps with this many claims in a call, and `before` before each.
    pub(super) async fn measure(
        &mut self,
        column: &'static str,
        batch: usize,
        before: impl Fn() -> leasehold_testbed::Result<()>,
    ) -> Result {
        let names = (0..LOCKS).map(|i| Name::new(format!("written/{column}/{i}")));
        let names = names.collect::<leasehold::Result<Vec<_>>>()?;
        let owners = [(); 3].map(|()| Owner::random());
        let mut bytes_each = Vec::new();
        for (_, operation, client) in STEPS {
            before()?;
            let owner = match client {
                Client::Holder => owners[0],
                Client::Other => owners[1],
                Client::Waiter => owners[2],
            };
            let claims: Vec<_> = names.iter().map(|name| Claim::new(name.clone(), owner, TTL)).collect();
            let start = self.server.log_bytes().await?;
            for claims in claims.chunks(batch) {
                call(&self.storage, operation, claims).await?;
            }
            let bytes = self.server.log_bytes().await?.zip(start).map_or(0, |(end, start)| end - start);
            bytes_each.push(ratio(float(bytes), float(u64::try_from(LOCKS)?)));
        }
        self.written.columns.push((column, bytes_each));
        Ok(())
    }

    pub(super) fn finish(self) -> Written {
        self.listening.abort();
        self.written
    }

    /// Waits until a release hands its lock over, which it does only to a client that listens.
    async fn listens(&self) -> Result {
        let name = Name::new("written/listens")?;
        for _ in 0..TRIES {
            let [holder, waiter] =
                [(); 2].map(|()| [Claim::new(name.clone(), Owner::random(), TTL).wait(true)]);
            call(&self.storage, Operation::Acquire, &holder).await?;
            call(&self.storage, Operation::Acquire, &waiter).await?;
            call(&self.storage, Operation::Release, &holder).await?;
            let replies = all(self.storage.release(&waiter).await)?;
            if replies.contains(&ReleaseReply::Released) {
                return Ok(());
            }
        }
        Err("no release hands its lock over".into())
    }
}

async fn call(storage: &AnyStorage, operation: Operation, claims: &[Claim]) -> Result {
    match operation {
        Operation::Acquire => drop(all(storage.acquire(claims).await)?),
        Operation::Wait => {
            let claims: Vec<_> = claims.iter().map(|claim| claim.clone().wait(true)).collect();
            drop(all(storage.acquire(&claims).await)?);
        }
        Operation::Renew => drop(all(storage.renew(claims).await)?),
        Operation::Release => drop(all(storage.release(claims).await)?),
    }
    Ok(())
}

fn all<T>(answers: Vec<leasehold::Result<T>>) -> leasehold::Result<Vec<T>> {
    answers.into_iter().collect()
}
