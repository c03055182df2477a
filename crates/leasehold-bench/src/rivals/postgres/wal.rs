//! The bytes that each operation writes to the write-ahead log.
//!
//! After a checkpoint the first change of a page logs the whole page. So everything is measured twice: on
//! pages that have changed since the last checkpoint, and with a checkpoint before each operation.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use futures_core::Stream as _;
use leasehold::storage::{AnyStorage, Claim, Name, Owner, Storage as _};
use leasehold_testbed::Postgres;

use crate::Result;
use crate::server::Server;
use crate::stats::{float, ratio};

/// The number of locks of each operation.
const LOCKS: usize = 1024;
/// Longer than the whole measurement.
const TTL: Duration = Duration::from_secs(600);

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

/// The results of each step, with one claim in a statement and with many.
pub(super) struct Wal(Vec<[f64; 4]>);

/// The number of claims in a statement, and whether a checkpoint comes before each operation.
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
    // A waiter without a subscription gets no hints, so this one subscribes.
    let mut hints = Box::pin(storage.hints());
    let listening =
        tokio::spawn(async move { while poll_fn(|cx| hints.as_mut().poll_next(cx)).await.is_some() {} });
    let mut rows = vec![[0.0; 4]; STEPS.len()];
    for (column, (batch, checkpoint)) in COLUMNS.into_iter().enumerate() {
        let names = (0..LOCKS).map(|i| Name::new(format!("wal/{column}/{i}")));
        let names = names.collect::<leasehold::Result<Vec<_>>>()?;
        let owners = [(); 3].map(|()| Owner::random());
        postgres.sql("checkpoint")?;
        for ((_, operation, client), row) in STEPS.into_iter().zip(&mut rows) {
            if checkpoint {
                postgres.sql("checkpoint")?;
            }
            let owner = match client {
                Client::Holder => owners[0],
                Client::Other => owners[1],
                Client::Waiter => owners[2],
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
