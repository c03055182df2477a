//! `torture run URL`: see `scripts/torture`. A run starts the other subcommands itself.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program with a report")]

use std::error::Error;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use leasehold::storage::AnyStorage;
use leasehold::{ErrorKind, Locks};
use leasehold_defects::{Defect, Defective};
use leasehold_torture::clock::{self, bound};
use leasehold_torture::election;
use leasehold_torture::event::{Ev, Event, Log};
use leasehold_torture::run::{self, Options, check, run};
use leasehold_torture::target::disturb;
use leasehold_torture::worker::{Plan, Style, descriptors, watch_stalls, work};
use tokio::sync::watch;

/// Tortures a storage and checks the history.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs workers and a nemesis over a storage, and prints one verdict per check.
    Run(Box<RunArgs>),
    /// Runs an elected service over a storage, and prints for how long each fault left it without a leader.
    Elect(ElectArgs),
    /// Checks an existing history.
    Check {
        /// The directory of the history.
        directory: PathBuf,
        /// Shows tolerated and excused findings, too.
        #[arg(long)]
        everything: bool,
    },
    /// Runs one worker, which reads its plan from standard input and ends at the end of the input.
    #[command(hide = true)]
    Worker {
        url: String,
        #[arg(long)]
        defect: Option<Defect>,
    },
    /// Disturbs a lock file.
    #[command(hide = true)]
    Disturb { fault: String, path: PathBuf, millis: u64 },
}

#[derive(clap::Args)]
struct RunArgs {
    /// The storage: `memory:`, `sqlite:PATH`, or servers that are started, `testbed:NAME`.
    url: String,
    /// The duration in minutes.
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
    /// The duration in seconds; 60 unless set.
    #[arg(long)]
    seconds: Option<u64>,
    /// The seed of the schedule and of the workers; drawn and printed unless set.
    #[arg(long, alias = "replay")]
    seed: Option<u64>,
    /// The number of workers.
    #[arg(long, default_value_t = 5)]
    workers: usize,
    /// The number of tasks that share a worker's client.
    #[arg(long, default_value_t = 1)]
    tasks: u64,
    /// The number of locks.
    #[arg(long, default_value_t = 3)]
    locks: usize,
    /// The TTL in milliseconds; some leases have twice as much.
    #[arg(long, default_value_t = 1_000)]
    ttl_ms: u64,
    /// The only faults to inject, separated by commas; `none` for none.
    #[arg(long)]
    faults: Option<String>,
    /// Injects one fault after the other, without pauses.
    #[arg(long)]
    restless: bool,
    /// The habits of the workers.
    #[arg(long, value_enum, default_value_t)]
    style: Style,
    /// Plants a defect.
    #[arg(long)]
    defect: Option<Defect>,
    /// Stops as soon as one of these checks fails, separated by commas.
    #[arg(long)]
    until: Option<String>,
    /// The directory of the history.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Prints the schedule, too.
    #[arg(long)]
    schedule: bool,
}

#[derive(clap::Args)]
struct ElectArgs {
    /// The storage: `sqlite:PATH`, or servers that are started, `testbed:NAME`.
    url: String,
    /// How often each fault is injected.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The TTL of the leader's lease in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    ttl_ms: u64,
    /// The only faults to inject, separated by commas.
    #[arg(long)]
    faults: Option<String>,
    /// The directory of the history.
    #[arg(long)]
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(args) => torture(&args),
        Command::Elect(args) => elect(args),
        Command::Check { directory, everything } => {
            check(&directory).map_err(Into::into).map(|mut report| {
                report.everything = everything;
                print!("{report}");
                report.passed()
            })
        }
        Command::Worker { url, defect } => worker(&url, defect).map(|()| true),
        Command::Disturb { fault, path, millis } => {
            disturb(&fault, &path, Duration::from_millis(millis)).map_err(Into::into).map(|()| true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error}");
            ExitCode::from(2)
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).collect()
}

fn elect(args: ElectArgs) -> Result<bool, Box<dyn Error>> {
    let options = election::Options {
        url: args.url,
        rounds: args.rounds,
        ttl: Duration::from_millis(args.ttl_ms),
        faults: args.faults.as_deref().map(words),
        directory: args.directory,
        program: std::env::current_exe()?,
    };
    let outcome = election::run(&options)?;
    print!("{outcome}");
    if !outcome.wrong.is_empty() {
        println!("history: {}", outcome.directory.display());
    }
    Ok(outcome.wrong.is_empty())
}

fn torture(args: &RunArgs) -> Result<bool, Box<dyn Error>> {
    let seconds = args.minutes.map(|minutes| minutes * 60).or(args.seconds).unwrap_or(60);
    let seed = args.seed.unwrap_or_else(|| clock::now() % 1_000_000);
    if let Some(defect) = args.defect {
        defect.wake()?;
    }
    let options = Options {
        url: args.url.clone(),
        length: Duration::from_secs(seconds),
        seed,
        workers: args.workers,
        tasks: args.tasks,
        locks: args.locks,
        ttl: Duration::from_millis(args.ttl_ms),
        faults: args.faults.as_deref().map(|text| if text == "none" { Vec::new() } else { words(text) }),
        style: args.style,
        restless: args.restless,
        defect: args.defect,
        until: args.until.as_deref().map(words).unwrap_or_default(),
        directory: args.directory.clone(),
        program: std::env::current_exe()?,
    };
    let run::Outcome { report, directory, scheduled, took } = run(&options)?;
    if args.schedule {
        scheduled.iter().for_each(|fault| println!("{fault}"));
    }
    print!("{report}");
    let failed = report.failed();
    let verdict = if failed.is_empty() {
        "all checks passed".to_owned()
    } else {
        format!("failed: {}", failed.join(" "))
    };
    println!("history: {}", directory.display());
    println!("replay the schedule: {}", replay(args, seed, seconds));
    println!("{verdict} after {took:.1?}");
    Ok(failed.is_empty())
}

fn replay(args: &RunArgs, seed: u64, seconds: u64) -> String {
    let mut line = format!("scripts/torture '{}' --seconds {seconds} --seed {seed}", args.url);
    let mut add = |option: &str, value: String, usual: &str| {
        if value != usual {
            line.push_str(&format!(" --{option} '{value}'"));
        }
    };
    add("workers", args.workers.to_string(), "5");
    add("tasks", args.tasks.to_string(), "1");
    add("locks", args.locks.to_string(), "3");
    add("ttl-ms", args.ttl_ms.to_string(), "1000");
    add("faults", args.faults.clone().unwrap_or_default(), "");
    add("style", format!("{:?}", args.style).to_lowercase(), "mixed");
    if args.restless {
        line.push_str(" --restless");
    }
    line
}

fn worker(url: &str, defect: Option<Defect>) -> Result<(), Box<dyn Error>> {
    let mut lines = io::stdin().lock().lines();
    let plan: Plan = serde_json::from_str(&lines.next().unwrap_or_else(|| Ok(String::new()))?)?;
    drop(lines);
    let log = Arc::new(Log::open(&plan.directory, plan.w)?);
    watch_stalls(&log);
    if let Some(defect) = defect {
        defect.wake()?;
    }
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        // Standard input ends when the run closes it, and also when the run has died.
        io::stdin().lock().lines().for_each(drop);
        stop.send(true)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = descriptors();
    runtime.block_on(async {
        let locks = loop {
            match connect(url, &plan, defect).await {
                // The worker was started during a fault.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                connected => break connected?,
            }
        };
        match plan.style {
            Style::Elected => election::replica::serve(plan, locks, Arc::clone(&log), stopped).await,
            _ => work(plan, locks, Arc::clone(&log), stopped).await,
        }
        Ok::<_, leasehold::Error>(())
    })?;
    // The engine's thread ends on its own.
    let until = clock::now() + bound(3_000);
    while descriptors() > before && clock::now() < until {
        clock::pause(Duration::from_millis(10));
    }
    let v = Some(descriptors().saturating_sub(before));
    log.write(Event { ev: Ev::Left, v, ..Event::default() });
    Ok(())
}

async fn connect(url: &str, plan: &Plan, defect: Option<Defect>) -> leasehold::Result<Locks> {
    // Some storages do not allow a longer TTL than the run's, so it replaces the default.
    let builder = Locks::builder().ttl(Duration::from_millis(plan.ttl_ms));
    match defect {
        None => builder.connect(url).await,
        Some(_) => builder.build(Defective::new(AnyStorage::connect(url).await?, defect)),
    }
}
