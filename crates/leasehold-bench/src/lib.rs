//! Measurements of Leasehold. Each scenario prints one JSON line; README.md describes the method and its
//! noise.

#![expect(clippy::print_stdout, reason = "the results go to stdout")]

mod child;
mod clock;
mod contestant;
mod counting;
#[cfg(feature = "rivals")]
mod rivals;
mod scenario;
mod server;
mod stats;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::contestant::Contestant;
#[cfg(feature = "rivals")]
pub use self::contestant::outside;
use self::scenario::{contend, crowd, cycles, handover, held};

/// The result of the functions of this crate.
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Runs the program; its arguments say what to measure.
#[must_use]
pub fn main() -> ExitCode {
    match runtime().and_then(|runtime| runtime.block_on(run(Args::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program says what went wrong")]
            {
                eprintln!("leasehold-bench: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The URL of the storage.
    #[arg(long, global = true, default_value = "memory:bench")]
    store: String,
    /// The contestant to measure.
    #[arg(long, global = true, value_enum, default_value = "leasehold")]
    contestant: Contestant,
    /// How long to measure, in seconds.
    #[arg(long, global = true, default_value_t = 5)]
    seconds: u64,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Acquires and releases in one process, with one lock per worker.
    Cycles {
        /// The number of workers.
        #[arg(long, default_value_t = 1)]
        workers: usize,
    },
    /// Lets processes wait for one lock, and measures from a release to the next grant.
    Handover {
        /// The number of processes.
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Lets processes compete for one lock without pause, and measures cycles and handovers.
    Contend {
        /// The number of processes.
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Lets many clients wait for one lock, and counts the calls of the storage for each handover.
    Crowd {
        /// The number of clients in all processes.
        #[arg(long, default_value_t = 500)]
        clients: usize,
        /// The number of processes. A storage that processes cannot share needs 1.
        #[arg(long, default_value_t = 4)]
        processes: usize,
    },
    /// Holds and renews locks, and measures the evenness, the CPU share, and the memory of each.
    Held {
        /// The number of locks.
        #[arg(long, default_value_t = 10_000)]
        locks: usize,
    },
    /// Measures everything beside the rivals on a Redis of its own; ends with one Markdown table per setup.
    #[cfg(feature = "rivals")]
    Redis(rivals::redis::Options),
    /// Measures everything beside the rivals on a PostgreSQL of its own, and its writes; ends with Markdown
    /// tables.
    #[cfg(feature = "rivals")]
    Postgres(rivals::postgres::Options),
    /// Measures everything beside the rival on a MongoDB of its own, and its writes; ends with Markdown tables.
    #[cfg(all(feature = "rivals", feature = "mongodb"))]
    Mongodb(rivals::mongodb::Options),
    /// Measures everything beside the lock service of an etcd of its own; ends with Markdown tables.
    #[cfg(all(feature = "rivals", feature = "etcd"))]
    Etcd(rivals::etcd::Options),
    /// Runs one process of `handover`.
    #[command(hide = true)]
    HandoverWorker {
        #[arg(long)]
        lock: String,
    },
    /// Runs one process of `contend`.
    #[command(hide = true)]
    ContendWorker {
        #[arg(long)]
        lock: String,
        #[arg(long)]
        millis: u64,
    },
    /// Runs one process of `crowd`.
    #[command(hide = true)]
    CrowdWorker {
        #[arg(long)]
        lock: String,
        #[arg(long)]
        clients: usize,
        #[arg(long)]
        millis: u64,
    },
}

async fn run(args: Args) -> Result {
    let Args { store, contestant, seconds, scenario } = args;
    let span = Duration::from_secs(seconds);
    let result = match scenario {
        Scenario::Cycles { workers } => cycles::run(contestant, &store, span, workers).await?,
        Scenario::Handover { processes } => {
            handover::measure(contestant, &store, span, processes).await?.json(contestant, processes)
        }
        Scenario::Contend { processes } => {
            contend::measure(contestant, &store, span, processes).await?.json(contestant, processes)
        }
        Scenario::Crowd { clients, processes } => {
            crowd::measure(&store, span, clients, processes).await?.json()
        }
        Scenario::Held { locks } => held::measure(&store, span, locks).await?,
        #[cfg(feature = "rivals")]
        Scenario::Redis(options) => return rivals::redis::compare(&options, span).await,
        #[cfg(feature = "rivals")]
        Scenario::Postgres(options) => return rivals::postgres::compare(&options, span).await,
        #[cfg(all(feature = "rivals", feature = "mongodb"))]
        Scenario::Mongodb(options) => return rivals::mongodb::compare(&options, span).await,
        #[cfg(all(feature = "rivals", feature = "etcd"))]
        Scenario::Etcd(options) => return rivals::etcd::compare(&options, span).await,
        Scenario::HandoverWorker { lock } => return handover::worker(contestant, &store, &lock).await,
        Scenario::ContendWorker { lock, millis } => {
            return contend::worker(contestant, &store, &lock, Duration::from_millis(millis)).await;
        }
        Scenario::CrowdWorker { lock, clients, millis } => {
            return crowd::worker(&store, &lock, Duration::from_millis(millis), clients).await;
        }
    };
    println!("{result}");
    Ok(())
}
