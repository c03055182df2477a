//! The command line of Leasehold: distributed locks from the shell.

#[cfg(not(unix))]
compile_error!(
    "this program needs the process groups and signals of Unix; on other systems, use the library"
);

mod args;
mod cmd;
mod environment;
mod exit;
mod launch;
mod output;
mod refusal;
mod session;
mod signals;
mod stdout;
mod store;
mod store_file;
mod usage;
mod waiting;
mod writing;

use std::ffi::OsString;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Output, report_failure};
use crate::session::Context;
use crate::store::Store;

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', " ");
        report_failure(&format!("this is a bug; please report it: {text}"));
    }));
    stdout::keep_closed();
    let args: Vec<OsString> = std::env::args_os().collect();
    let done = panic::catch_unwind(AssertUnwindSafe(|| match cmd::run::helper::run(&args) {
        Some(exit) => Ok(exit),
        None => run(args),
    }));
    let exit = match done {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            if let Some(text) = &failure.text {
                report_failure(text);
            }
            failure.exit
        }
        Err(_) => Exit::Bug,
    };
    if let Exit::Interrupted(n) = exit {
        signals::die_of(n);
    }
    exit.into()
}

fn run(args: Vec<OsString>) -> Result<Exit> {
    // This comes before any other thread starts.
    signals::unblock_all();
    let cli: Cli = match usage::parse(args)? {
        usage::Parsed::Command(cli) => *cli,
        usage::Parsed::Help(text) => return usage::print(&text),
    };
    log(cli.global.verbose);
    // This needs no storage, and must work where there is none.
    if let Command::Completions(args) = &cli.command {
        return cmd::completions::run(args);
    }
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    let store = Store::find(&cli.global)?;
    // There is one thread: the kernel kills the command of `run` when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::system("cannot start", e))?;
    runtime.block_on(async {
        cmd::run::reap_inherited()?;
        cmd::dispatch(cli.command, &Context { store, output }).await
    })
}

/// Logs to stderr what the library reports, with `-v`.
fn log(verbose: u8) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = match verbose {
        0 => return,
        // The library's events are all below this target, most of them at this level.
        1 => Targets::new().with_target("leasehold", LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::TRACE),
    };
    let log = tracing_subscriber::fmt::layer().with_writer(|| writing::Log);
    let log = log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry().with(log).with(filter).init();
}
