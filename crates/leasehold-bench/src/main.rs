//! Measures leasehold. Each scenario prints one JSON line; see README.md for method and noise.

mod scenario;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The storage, as a URL.
    #[arg(long, global = true, default_value = "memory:bench")]
    store: String,
    /// How long to measure, in seconds.
    #[arg(long, global = true, default_value_t = 5)]
    seconds: u64,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Acquire and release in one process, each worker its own lock.
    Cycles {
        /// How many workers.
        #[arg(long, default_value_t = 1)]
        workers: usize,
    },
    /// Processes that want one lock: cycles, and the time from a release to the next grant.
    Handover {
        /// How many processes.
        #[arg(long, default_value_t = 2)]
        processes: usize,
    },
    /// Locks that are held and renewed: calls, CPU share, memory for each.
    Held {
        /// How many locks.
        #[arg(long, default_value_t = 10_000)]
        locks: usize,
    },
    /// One process of `handover`.
    #[command(hide = true)]
    Worker,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { store, seconds, scenario } = Args::parse();
    let seconds = std::time::Duration::from_secs(seconds);
    let result = match scenario {
        Scenario::Cycles { workers } => scenario::cycles(&store, seconds, workers).await,
        Scenario::Handover { processes } => scenario::handover(&store, seconds, processes),
        Scenario::Held { locks } => scenario::held(&store, seconds, locks).await,
        Scenario::Worker => scenario::worker(&store, seconds).await,
    };
    match result {
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
