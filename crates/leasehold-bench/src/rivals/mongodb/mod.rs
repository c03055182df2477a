//! The comparison over MongoDB: with the crate `distributed-lock-mongo`.
//!
//! All contestants use the same servers, with their data on a disk, and every write is confirmed by a majority in its
//! journal.

mod described;

use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_testbed::MongoDb;

use super::{Common, Run, disk, written};
use crate::Result;
use crate::contestant::Contestant::{Leasehold, LeaseholdTask, Mongo, MongoPool};
use crate::contestant::outside;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many members the replica set has, each measured: 1 or 3.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = members)]
    members: Vec<usize>,
    /// The parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cycles,
    Handover,
    Crowd,
    Held,
    /// The bytes that each operation writes to the oplog.
    Oplog,
}

impl Part {
    const ALL: [Self; 5] = [Self::Cycles, Self::Handover, Self::Crowd, Self::Held, Self::Oplog];

    /// Returns the part of other comparisons that is the same, if there is one.
    fn shared(self) -> Option<super::Part> {
        match self {
            Self::Cycles => Some(super::Part::Cycles),
            Self::Handover => Some(super::Part::Handover),
            Self::Crowd => Some(super::Part::Crowd),
            Self::Held => Some(super::Part::Held),
            Self::Oplog => None,
        }
    }
}

fn members(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3".to_owned()),
    }
}

pub(crate) async fn compare(options: &Options, span: Duration) -> Result {
    let mut tables = Vec::new();
    for &members in &options.members {
        let mongodb = tokio::task::spawn_blocking(move || start(members)).await??;
        disk::require(&described::data(&mongodb)?)?;

        let (mut in_cycles, mut in_handover) =
            (vec![Leasehold, LeaseholdTask], vec![Leasehold, LeaseholdTask]);
        if outside::driver().is_some() {
            in_cycles.extend([Mongo, MongoPool]);
            in_handover.push(Mongo);
        }
        let mut run = Run::new(&options.common, span, mongodb.url(), in_cycles, in_handover);
        run.locks = 10_000;
        let parts: Vec<_> = options.parts.iter().filter_map(|part| part.shared()).collect();
        run.rounds(&parts).await?;
        tables.push(format!("{}\n\n{}", described::line(&mongodb)?, run.table));
        if options.parts.contains(&Part::Oplog) {
            let mut steps = written::Steps::new(&mongodb.url(), "oplog").await?;
            steps.measure("one claim per command", 1, || Ok(())).await?;
            steps.measure("64 claims per command", 64, || Ok(())).await?;
            tables.push(steps.finish().to_string());
        }
        tokio::task::spawn_blocking(move || drop(mongodb)).await?;
    }
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}

fn start(members: usize) -> Result<MongoDb> {
    let options = MongoDb::options();
    Ok(if members == 1 { options.start()? } else { options.start_three()? })
}
