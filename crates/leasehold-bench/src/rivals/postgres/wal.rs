//! What each operation writes to the write-ahead log, in bytes.
//!
//! After a checkpoint the first change of a page logs the whole page. So everything is measured twice: on pages that
//! have changed since the last checkpoint, and with a checkpoint before each operation.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use futures_core::Stream as _;
use leasehold::storage::{AnyStorage, Claim, Name, Owner, Storage as _};
use leasehold_testbed::Postgres;

use crate::Result;
use crate::server::Server;
use crate::stats::{float, ratio};

/// How many locks each operation is done to.
const LOCKS: usize = 1024;
/// Longer than all of it takes.
const TTL: Duration = Duration::from_secs(600);

/// In the order in which they are done, which brings each to the state that the next one needs.
const STEPS: [(&str, Operation, Who); 10] = [
    ("grant of a new lock", Operation::Acquire, Who::Holder),
    ("renewal", Operation::Renew, Who::Holder),
    ("refusal", Operation::Acquire, Who::Other),
    ("refusal that waits", Operation::Wait, Who::Waiter),
    ("the same again: its heartbeat", Operation::Wait, Who::Waiter),
    ("release while somebody waits", Operation::Release, Who::Holder),
    ("grant to the one who waits", Operation::Wait, Who::Waiter),
    ("release", Operation::Release, Who::Waiter),
    ("grant of a known lock", Operation::Acquire, Who::Holder),
    ("release", Operation::Release, Who::Holder),
];

#[derive(Clone, Copy, Debug)]
enum Operation {
    Acquire,
    Wait,
    Renew,
    Release,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Holder,
    Other,
    Waiter,
}

/// For each step: one claim in a statement, and many.
pub(super) struct Wal(Vec<[f64; 4]>);

/// How many claims are in a statement, and whether a checkpoint comes before each operation.
const COLUMNS: [(usize, bool); 4] = [(1, false), (64, false), (1, true), (64, true)];

impl fmt::Display for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| write-ahead log, bytes each | one claim per statement | 64 claims per statement \
             | one, after a checkpoint | 64, after a checkpoint |\n|---|---|---|---|---|"
        )?;
        for ((what, ..), bytes) in STEPS.iter().zip(&self.0) {
            let cells = bytes.map(|bytes| format!("{bytes:.0}")).join(" | ");
            writeln!(f, "| {what} | {cells} |")?;
        }
        Ok(())
    }
}

pub(super) async fn measure(postgres: &Postgres) -> Result<Wal> {
    let storage = AnyStorage::connect(&postgres.url()).await?;
    let mut server = Server::of(&postgres.url()).await?;
    // Who waits without listening is told nothing.
    let mut hints = Box::pin(storage.hints());
    let listening =
        tokio::spawn(async move { while poll_fn(|cx| hints.as_mut().poll_next(cx)).await.is_some() {} });
    let mut rows = vec![[0.0; 4]; STEPS.len()];
    for (column, (batch, checkpoint)) in COLUMNS.into_iter().enumerate() {
        let names = (0..LOCKS).map(|i| Name::new(format!("wal/{column}/{i}")));
        let names = names.collect::<leasehold::Result<Vec<_>>>()?;
        let owners = [(); 3].map(|()| Owner::random());
        postgres.sql("checkpoint")?;
        for ((_, operation, who), row) in STEPS.into_iter().zip(&mut rows) {
            if checkpoint {
                postgres.sql("checkpoint")?;
            }
            let owner = match who {
                Who::Holder => owners[0],
                Who::Other => owners[1],
                Who::Waiter => owners[2],
            };
            let claims: Vec<_> = names.iter().map(|name| Claim::new(name.clone(), owner, TTL)).collect();
            let before = server.wal_bytes().await?;
            for claims in claims.chunks(batch) {
                call(&storage, operation, claims).await?;
            }
            let bytes = server.wal_bytes().await?.zip(before).map_or(0, |(after, before)| after - before);
            row[column] = ratio(float(bytes), float(u64::try_from(LOCKS)?));
        }
    }
    listening.abort();
    Ok(Wal(rows))
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
