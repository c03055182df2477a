//! The comparison over Redis: with the crate `rslock`, and with the bare commands as the lower bound.

use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_testbed::Redis;

use super::{Common, Part, Run, versions};
use crate::Result;
use crate::contestant::Contestant::{Leasehold, LeaseholdTask, Raw, Rslock};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// The persistence settings of the server, each measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Persistence::None, Persistence::Always])]
    persistence: Vec<Persistence>,
    /// The parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Persistence {
    /// Nothing is kept.
    None,
    /// Every write is on disk before it is answered (`appendfsync always`).
    Always,
}

pub(crate) async fn compare(options: &Options, span: Duration) -> Result {
    let mut tables = Vec::new();
    for &persistence in &options.persistence {
        let redis = tokio::task::spawn_blocking(move || start(persistence));
        let redis = redis.await??;
        let in_handover = vec![Leasehold, LeaseholdTask, Rslock];
        let in_cycles = vec![Leasehold, LeaseholdTask, Rslock, Raw];
        let mut run = Run::new(&options.common, span, redis.url(), in_cycles, in_handover);
        run.rounds(&options.parts).await?;
        tables.push(format!("{}\n\n{}", describe(&redis, persistence)?, run.table));
        tokio::task::spawn_blocking(move || drop(redis)).await?;
    }
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}

fn start(persistence: Persistence) -> Result<Redis> {
    let options = Redis::options();
    Ok(match persistence {
        Persistence::None => options.volatile().start()?,
        Persistence::Always => options.start()?,
    })
}

/// Returns one line about the server and its persistence, the crates, and the machine.
fn describe(redis: &Redis, persistence: Persistence) -> Result<String> {
    let info = redis.info("server")?;
    let server = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim();
    let persistence = match persistence {
        Persistence::None => "no persistence",
        Persistence::Always => "appendfsync always",
    };
    let (rslock, redis) = (versions::locked("rslock"), versions::locked("redis"));
    Ok(format!(
        "Redis {server} on loopback, {persistence}; rslock {rslock}, redis-rs {redis}, {}",
        versions::ours()?
    ))
}
