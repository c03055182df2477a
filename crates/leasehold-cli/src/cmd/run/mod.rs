//! `leasehold run NAME… -- CMD…`: takes the locks, runs the command, and releases them. `leasehold elect NAME -- CMD…`
//! does so again after each loss.
//!
//! A [`Job`] is one such run. Its life, and the file for each stage; of several locks, the first one that is lost counts:
//!
//! | Stage | Input | Next stage | Action |
//! |---|---|---|---|
//! | acquire (`start.rs`) | the lock is granted | start | a guardian starts, and learns the lease |
//! | | a refusal, an error, or a signal that ends the program | over | the exit code says which |
//! | start (`start.rs`) | the helper has stopped itself | watch | the guardian learns the group; the helper becomes the command |
//! | | the lock is lost by then | watch | SIGKILL to the helper |
//! | watch (`watch.rs`) | the lock is lost | watch | `--on-lost`: SIGTERM, and SIGKILL after the grace time; or SIGKILL; or a warning |
//! | | the guardian has ended | watch | another one starts; if none can, as on a loss |
//! | | a signal | watch | the command gets it, at most once (`forward.rs`, `requests.rs`, `terminal.rs`) |
//! | | the command has ended | end | |
//! | end (`end.rs`) | the lock was not lost | release | what the command left behind lives on |
//! | | the lock was lost | release | it waits for the rest of the group, until the SIGKILL and a second longer |
//! | release (`release.rs`) | the storage answers | over | |
//! | | no answer, and a signal came a second ago | over | the lease ends with its TTL |
//!
//! If this process is killed at any stage, the kernel kills the command, and the guardian (`guardian/`) ends the rest of
//! its group and releases the lease.

mod child;
pub(crate) mod clock;
mod end;
mod exec;
mod forward;
mod group;
mod guardian;
pub(crate) mod help;
pub(crate) mod helper;
mod losses;
mod procfs;
mod reaper;
mod release;
mod requests;
mod start;
pub(crate) mod terminal;
mod watch;

use std::ffi::OsString;
use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks, Lost, Name};
use rustix::process::Signal;

use self::guardian::Guardian;
pub(crate) use self::reaper::reap_inherited;
use self::requests::Requests;
use self::terminal::Terminal;
use self::watch::Watch;
use crate::args::{Elect, Run};
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::warn;
use crate::session::{self, Context};
use crate::signals::{self, Signals};

pub(crate) async fn run(args: Run, cx: &Context) -> Result<Exit> {
    run_again(args, "run", None, cx).await
}

/// Runs the command in each term of an election: a run that begins again after a loss.
pub(crate) async fn elect(args: Elect, cx: &Context) -> Result<Exit> {
    let restarts = args.restarts;
    run_again(args.term(), "elect", Some(restarts), cx).await
}

/// Runs the command. If there is a number of `restarts`, begins again after as many losses, and waits outages out.
async fn run_again(args: Run, verb: &str, restarts: Option<u32>, cx: &Context) -> Result<Exit> {
    let (names, command) = args.check(verb).map_err(Failure::usage)?;
    if restarts.is_some() && names.len() > 1 {
        return Err(Failure::usage("an election has one name"));
    }
    let environment = Environment::new(args.hide_store, &cx.store, &names)?;
    let mut job = Job {
        args,
        environment,
        name: names.join(", "),
        names,
        command,
        signals: Signals::all()?,
        terminal: Terminal::open(),
        requests: Requests::default(),
        passed_on: None,
        to_share: None,
        is_settled: false,
        lost: None,
    };
    let locks = job.connect(restarts.is_some(), cx).await?;
    session::check_at_least(job.args.at_least, &locks)?;
    let done = match restarts {
        None => job.run(&locks, cx).await,
        Some(restarts) => job.lead(restarts, &locks, cx).await,
    };
    if !job.is_settled {
        session::close(&locks).await;
    }
    if let (Ok(Exit::Interrupted(_)), Some(signal)) = (&done, job.to_share) {
        let _ = rustix::process::kill_current_process_group(signal);
    }
    done
}

/// One `run`.
struct Job {
    args: Run,
    environment: Environment,
    /// The names of the locks, as the caller has ordered them.
    names: Vec<String>,
    /// The same for messages.
    name: String,
    command: Vec<OsString>,
    signals: Signals,
    terminal: Terminal,
    requests: Requests,
    /// The last signal from the keyboard that this process got and passed on.
    passed_on: Option<Signal>,
    /// A signal from the keyboard that only the command got, because it had the terminal. This process shares it with
    /// its own group, which would have got it if the command had run in that group.
    to_share: Option<Signal>,
    /// Whether nothing more is sent to the storage.
    is_settled: bool,
    /// Why the lock of the last run was lost.
    lost: Option<Lost>,
}

/// How the command ended, and what happened before.
struct Outcome {
    exit: Exit,
    lost: Option<Loss>,
    /// Why there was no guardian any more.
    unguarded: Option<Failure>,
}

/// The loss of a lock.
struct Loss {
    name: Name,
    why: Lost,
}

impl Job {
    /// Connects to the storage. If it `waits` an outage out, says so once.
    async fn connect(&mut self, waits: bool, cx: &Context) -> Result<Locks> {
        const LONGEST: Duration = Duration::from_secs(5);
        let mut pause = Duration::from_millis(200);
        let mut was_said = false;
        loop {
            let error = match self.signals.interrupt(Locks::connect(cx.store.url())).await? {
                Err(error) if waits && error.kind() == ErrorKind::Unavailable => error,
                connected => return Ok(connected?),
            };
            if !was_said {
                warn(&format!("{}; trying again until the storage answers", chain(&error)));
                was_said = true;
            }
            self.signals.interrupt(tokio::time::sleep(pause)).await?;
            pause = std::cmp::min(pause * 2, LONGEST);
        }
    }

    async fn run(&mut self, locks: &Locks, cx: &Context) -> Result<Exit> {
        let guards = self.acquire(locks, cx).await?;
        let mut guardian = Guardian::start(self.args.on_lost, self.grace())?;
        if let Ok(url) = cx.store.portable() {
            guardian.leases(guards.iter().map(Guard::ticket), &url, self.args.at_least);
        }
        let events = locks.events();
        let child = self.start(&guards, &mut guardian).await?;
        let mut watch = Watch::new(self, &guards, &mut guardian, child, events);
        let exit = watch.until_the_end().await;
        let outcome = watch.end(exit).await;
        let released = self.release(locks, guards, outcome).await;
        guardian.done();
        guardian.ended().await;
        released
    }

    /// Runs the command in each term, until it ends by itself, or the lock was lost too often.
    async fn lead(&mut self, restarts: u32, locks: &Locks, cx: &Context) -> Result<Exit> {
        let mut losses = 0;
        loop {
            let failure = match self.run(locks, cx).await {
                Err(failure) if signals::ended_so_far().is_none() => failure,
                ended => return ended,
            };
            let mut term_is_over = false;
            match failure.exit {
                // It has led for as long as it wanted.
                Exit::Lost if self.lost == Some(Lost::MaxHold) => term_is_over = true,
                Exit::Lost if losses < restarts => losses += 1,
                // The wait for the lock has retried for half a minute.
                Exit::Unavailable => {}
                _ => return Err(failure),
            }
            if !term_is_over {
                let why = failure.text.as_deref().unwrap_or("the storage did not answer");
                warn(&format!("{why}; standing for election again losses=`{losses}` at_most=`{restarts}`"));
            } else if !cx.output.quiet {
                let name = self.name.escape_debug();
                warn(&format!(
                    "the term is over; the next candidate leads, and this one stands for election again name=`{name}`"
                ));
            }
            (self.requests, self.passed_on, self.to_share) = (Requests::default(), None, None);
            (self.is_settled, self.lost) = (false, None);
        }
    }

    fn grace(&self) -> Duration {
        self.args.grace.unwrap_or(Run::DEFAULT_GRACE)
    }
}
