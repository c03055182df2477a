//! The comparison over PostgreSQL: with the crate `distributed-lock-postgres`, and with one statement per
//! claim.
//!
//! All contestants use the same server, with its data on a disk and durable commits.

mod described;
mod size;

use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_testbed::Postgres;

use super::written::Written;
use super::{Common, Run, disk, written};
use crate::Result;
use crate::contestant::Contestant::{
    Advisory, AdvisoryTry, Leasehold, LeaseholdTask, Statement, StatementEight,
};
use crate::contestant::outside;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// The parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
    /// The number of cycles before the size of the tables is measured.
    #[arg(long, default_value_t = 1_000_000)]
    cycles: usize,
    /// The number of locks that those cycles use in turn.
    #[arg(long, default_value_t = 1000)]
    names: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cycles,
    Handover,
    Crowd,
    Held,
    /// The bytes that each operation writes to the write-ahead log.
    Wal,
    /// The size of the tables.
    Size,
}

impl Part {
    const ALL: [Self; 6] = [Self::Cycles, Self::Handover, Self::Crowd, Self::Held, Self::Wal, Self::Size];

    /// Returns the part of other comparisons that is the same, if there is one.
    fn shared(self) -> Option<super::Part> {
        match self {
            Self::Cycles => Some(super::Part::Cycles),
            Self::Handover => Some(super::Part::Handover),
            Self::Crowd => Some(super::Part::Crowd),
            Self::Held => Some(super::Part::Held),
            Self::Wal | Self::Size => None,
        }
    }
}

pub(crate) async fn compare(options: &Options, span: Duration) -> Result {
    let workers = options.common.workers.iter().copied().max().unwrap_or(0);
    // The rival has one connection per worker, and in `crowd` each client has connections of its own.
    let connections = std::cmp::max(workers, options.common.clients * 2) + 50;
    let postgres = tokio::task::spawn_blocking(move || start(connections)).await??;
    disk::require(&postgres.sql("show data_directory")?)?;

    let mut in_cycles = vec![Leasehold, LeaseholdTask];
    let mut in_handover = vec![Leasehold, LeaseholdTask];
    if outside::driver().is_some() {
        in_cycles.extend([Advisory, AdvisoryTry]);
        in_handover.push(Advisory);
    }
    in_cycles.extend([Statement, StatementEight]);
    let mut run = Run::new(&options.common, span, postgres.url(), in_cycles, in_handover);
    run.locks = 10_000;
    // Counting slows every statement down, so only the statements of `crowd` are counted.
    let (counted, uncounted): (Vec<_>, Vec<_>) =
        options.parts.iter().filter_map(|part| part.shared()).partition(|part| *part == super::Part::Crowd);
    run.rounds(&uncounted).await?;
    if !counted.is_empty() {
        count_statements(&postgres, "top")?;
        run.rounds(&counted).await?;
        count_statements(&postgres, "none")?;
    }
    let mut tables = vec![format!("{}\n\n{}", described::line(&postgres)?, run.table)];
    if options.parts.contains(&Part::Wal) {
        tables.push(wal(&postgres).await?.to_string());
    }
    if options.parts.contains(&Part::Size) {
        tables.push(size::measure(&postgres, options.cycles, options.names).await?.to_string());
    }
    for table in tables {
        println!("\n{table}");
    }
    tokio::task::spawn_blocking(move || drop(postgres)).await?;
    Ok(())
}

/// Measures the bytes that each operation writes to the write-ahead log. After a checkpoint the first change of a
/// page logs the whole page, so everything is measured twice: on pages that have changed since the last checkpoint,
/// and with a checkpoint before each operation.
async fn wal(postgres: &Postgres) -> Result<Written> {
    let mut steps = written::Steps::new(&postgres.url(), "write-ahead log").await?;
    for (batch, column) in [(1, "one claim per statement"), (64, "64 claims per statement")] {
        postgres.sql("checkpoint")?;
        steps.measure(column, batch, || Ok(())).await?;
    }
    for (batch, column) in [(1, "one, after a checkpoint"), (64, "64, after a checkpoint")] {
        steps.measure(column, batch, || postgres.sql("checkpoint").map(drop)).await?;
    }
    Ok(steps.finish())
}

/// Starts a server with PostgreSQL's defaults, because the testbed uses small buffers and an eager
/// autovacuum.
fn start(connections: usize) -> Result<Postgres> {
    let postgres = Postgres::options()
        .setting("max_connections", &connections.to_string())
        .setting("shared_buffers", "128MB")
        .setting("autovacuum_naptime", "1min")
        .setting("fsync", "on")
        .setting("synchronous_commit", "on")
        .setting("pg_stat_statements.track", "none");
    Ok(postgres.start()?)
}

/// Switches the counting of statements on or off, from the next connection on.
fn count_statements(postgres: &Postgres, which: &str) -> Result {
    postgres.sql(&format!("alter database leasehold set pg_stat_statements.track = '{which}'"))?;
    Ok(())
}
