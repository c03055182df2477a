//! The comparison over etcd: with its own lock service, called by the crate `etcd-client`.
//!
//! All contestants use the same servers, with their data on a disk, and every write is confirmed by a majority.

use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_testbed::Etcd;

use super::{Common, Run, disk, versions};
use crate::Result;
use crate::contestant::Contestant::{EtcdLock, Leasehold, LeaseholdTask};
use crate::contestant::outside;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many members the cluster has, each measured: 1 or 3.
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
}

impl Part {
    const ALL: [Self; 4] = [Self::Cycles, Self::Handover, Self::Crowd, Self::Held];

    /// Returns the part of other comparisons that is the same.
    fn shared(self) -> super::Part {
        match self {
            Self::Cycles => super::Part::Cycles,
            Self::Handover => super::Part::Handover,
            Self::Crowd => super::Part::Crowd,
            Self::Held => super::Part::Held,
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
        let etcd = tokio::task::spawn_blocking(move || start(members)).await??;
        disk::require(&data(&etcd)?)?;
        let (mut in_cycles, mut in_handover) =
            (vec![Leasehold, LeaseholdTask], vec![Leasehold, LeaseholdTask]);
        if outside::driver().is_some() {
            in_cycles.push(EtcdLock);
            in_handover.push(EtcdLock);
        }
        let mut run = Run::new(&options.common, span, etcd.url(), in_cycles, in_handover);
        run.locks = 10_000;
        let parts: Vec<_> = options.parts.iter().map(|part| part.shared()).collect();
        run.rounds(&parts).await?;
        tables.push(format!("{}\n\n{}", line(&etcd)?, run.table));
        tokio::task::spawn_blocking(move || drop(etcd)).await?;
    }
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}

/// Returns the description of the servers on one line.
fn line(etcd: &Etcd) -> Result<String> {
    let fields = etcd.command(&["endpoint", "status", "--write-out=fields"])?;
    let version = fields.lines().find_map(|line| line.strip_prefix("\"Version\" : ")).unwrap_or("?");
    let rival = outside::driver().map(|driver| format!("{}, ", driver.versions())).unwrap_or_default();
    Ok(format!(
        "etcd {} on loopback, members: {}, data on {}; {rival}h2 {}, {}",
        version.trim_matches('"'),
        etcd.members().len(),
        disk::filesystem(&data(etcd)?)?,
        versions::locked("h2"),
        versions::ours()?,
    ))
}

/// Returns the directory in which the server keeps its data.
fn data(etcd: &Etcd) -> Result<String> {
    let pid = etcd.pid().ok_or("the server has ended")?.as_raw_nonzero();
    Ok(std::fs::read_link(format!("/proc/{pid}/cwd"))?.to_string_lossy().into_owned())
}

fn start(members: usize) -> Result<Etcd> {
    let options = Etcd::options();
    Ok(if members == 1 { options.start()? } else { options.start_three()? })
}
