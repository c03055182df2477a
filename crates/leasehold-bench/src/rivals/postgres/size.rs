//! The size of the tables after many cycles over few locks: without other load, and beside an open
//! transaction, which keeps every old version of a row.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leasehold::Locks;
use leasehold_testbed::Postgres;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::Result;
use crate::clock::{nanos, now_ns};
use crate::stats::{float, per_second, ratio};

const WORKERS: usize = 256;
/// How long an idle backend may take to report its statistics.
const REPORTED: Duration = Duration::from_secs(11);
/// PostgreSQL checks once per minute whether a table needs a cleanup.
const CLEANED: Duration = Duration::from_secs(90);

pub(super) struct Sizes(Vec<Size>);

struct Size {
    when: String,
    per_second: Option<f64>,
    /// The sizes of the tables of leases and of the queue, each followed by its indexes.
    bytes: [u64; 4],
    updates: u64,
    hot: u64,
    vacuums: u64,
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| {WORKERS} workers | cycles per second | leases, KiB | their indexes | queue | its indexes \
             | updates of leases | of them HOT | autovacuums |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        for size in &self.0 {
            let speed = size.per_second.map_or_else(|| "–".to_owned(), |speed| format!("{speed:.0}"));
            let kib = size.bytes.map(|bytes| (bytes / 1024).to_string()).join(" | ");
            let hot = ratio(float(size.hot) * 100.0, float(size.updates));
            let (when, updates, vacuums) = (&size.when, size.updates, size.vacuums);
            writeln!(f, "| {when} | {speed} | {kib} | {updates} | {hot:.2} % | {vacuums} |")?;
        }
        Ok(())
    }
}

pub(super) async fn measure(postgres: &Postgres, cycles: usize, names: usize) -> Result<Sizes> {
    // A database of its own has fresh tables.
    let url = postgres.database("size")?;
    let locks = Locks::connect(&url).await?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let mut sizes = Vec::new();

    run(&locks, names, names).await?;
    sizes.push(size(&client, format!("{names} locks, each once"), None).await?);
    let speed = run(&locks, names, cycles).await?;
    sizes.push(size(&client, format!("{cycles} cycles"), Some(speed)).await?);

    let more = cycles / 5;
    let (reader, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    reader.batch_execute("begin isolation level repeatable read; select count(*) from leasehold").await?;
    let speed = run(&locks, names, more).await?;
    sizes.push(size(&client, format!("{more} more beside an open transaction"), Some(speed)).await?);
    reader.batch_execute("commit").await?;
    let speed = run(&locks, names, more).await?;
    sizes.push(size(&client, format!("{more} more after it"), Some(speed)).await?);

    let before = sizes.last().map_or(0, |size| size.vacuums);
    let end = now_ns() + nanos(CLEANED);
    let mut cleaned = size(&client, "after the next autovacuum".to_owned(), None).await?;
    while cleaned.vacuums == before && now_ns() < end {
        cleaned = size(&client, cleaned.when, None).await?;
    }
    sizes.push(cleaned);
    let speed = run(&locks, names, more).await?;
    sizes.push(size(&client, format!("{more} more"), Some(speed)).await?);
    locks.close().await?;
    Ok(Sizes(sizes))
}

/// Runs this many cycles, with all workers in parallel, each over its own names in turn. Returns the cycles
/// per second.
async fn run(locks: &Locks, names: usize, cycles: usize) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(cycles));
    let workers = std::cmp::min(WORKERS, names);
    let start = now_ns();
    let mut all: JoinSet<leasehold::Result<()>> = (0..workers)
        .map(|worker| {
            let (left, locks) = (Arc::clone(&left), locks.clone());
            async move {
                let own: Vec<_> =
                    (worker..names).step_by(workers).map(|i| locks.lock(format!("size/{i}"))).collect();
                for lock in own.iter().cycle() {
                    if left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                        .is_err()
                    {
                        return Ok(());
                    }
                    lock.acquire().await?.release().await?;
                }
                Ok(())
            }
        })
        .collect();
    while let Some(worker) = all.join_next().await {
        worker??;
    }
    Ok(per_second(cycles, now_ns() - start))
}

async fn size(client: &tokio_postgres::Client, when: String, per_second: Option<f64>) -> Result<Size> {
    tokio::time::sleep(REPORTED).await;
    let row = client
        .query_one(
            "select pg_table_size('leasehold'), pg_indexes_size('leasehold'),
                pg_table_size('leasehold_waiters'), pg_indexes_size('leasehold_waiters'),
                n_tup_upd, n_tup_hot_upd, autovacuum_count
            from pg_stat_user_tables where relid = 'leasehold'::regclass",
            &[],
        )
        .await?;
    let number = |at: usize| u64::try_from(row.get::<_, i64>(at));
    Ok(Size {
        when,
        per_second,
        bytes: [number(0)?, number(1)?, number(2)?, number(3)?],
        updates: number(4)?,
        hot: number(5)?,
        vacuums: number(6)?,
    })
}
