//! `leasehold run NAME -- CMD…`

mod child;
pub(crate) mod clock;
mod exec;
mod guardian;
pub(crate) mod terminal;

use std::ffi::OsString;
use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks, Lost, Name};
use rustix::process::Signal;

use self::child::{Change, Child, ourselves};
use self::guardian::Guardian;
use self::terminal::Terminal;
use crate::args::{OnLost, Run};
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::complain;
use crate::session::{self, Context};
use crate::signals::{self, Signals};
use crate::waiting;

/// Signals that a stopped command would not notice until somebody continues it.
const ENDS_STOPPED_ONES: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Does the work of a hidden command, which this program starts itself with; `None` if it is not one.
pub(crate) fn helper(args: &[OsString]) -> Option<Exit> {
    match args.get(1)?.to_str()? {
        exec::VERB => Some(exec::main(&args[2..])),
        guardian::VERB => Some(guardian::main(&args[2..])),
        _ => None,
    }
}

pub(crate) async fn run(args: Run, cx: &Context) -> Result<Exit> {
    let (name, command) = args.check().map_err(Failure::usage)?;
    let environment = Environment::new(args.hide_store, &cx.store)?;
    let mut job = Job {
        args,
        environment,
        name,
        command,
        signals: Signals::all()?,
        terminal: Terminal::open(),
        passed_on: None,
        to_share: None,
    };
    let locks = job.signals.interrupt(Locks::connect(cx.store.url())).await??;
    session::check_at_least(job.args.at_least, &locks)?;
    let done = job.run(&locks, cx).await;
    // The command has ended: how it ended counts, not how long the storage takes to hear of it.
    let _ = session::close(&locks, &mut job.signals).await;
    if let (Ok(Exit::Interrupted(_)), Some(signal)) = (&done, job.to_share) {
        let _ = rustix::process::kill_current_process_group(signal);
    }
    done
}

/// One `run`.
struct Job {
    args: Run,
    environment: Environment,
    name: String,
    command: Vec<OsString>,
    signals: Signals,
    terminal: Terminal,
    /// The last signal from the keyboard that we got and passed on.
    passed_on: Option<Signal>,
    /// A signal from the keyboard that only the command got, because it had the terminal: ours to share with
    /// those that would have got it without us.
    to_share: Option<Signal>,
}

impl Job {
    async fn run(&mut self, locks: &Locks, cx: &Context) -> Result<Exit> {
        let guard = self.acquire(locks, cx).await?;
        let granted = clock::boot_nanos();
        let mut guardian = Guardian::start(self.args.on_lost, self.grace())?;
        let (exit, lost) = self.supervise(locks, &guard, &mut guardian).await?;
        let ended = self.end(locks, guard, granted, exit, lost).await;
        gone(&mut guardian).await;
        ended
    }

    async fn acquire(&mut self, locks: &Locks, cx: &Context) -> Result<Guard> {
        let lock = session::lock(locks, &self.name, &self.args.lock);
        let lock = match self.args.max_hold {
            Some(max_hold) => lock.max_hold(max_hold),
            None => lock,
        };
        let acquired = self.signals.interrupt(async {
            tokio::select! {
                guard = lock.acquire() => guard,
                never = waiting::show(locks, locks.events(), cx.output) => match never {},
            }
        });
        Ok(acquired.await??)
    }

    /// Runs the command to its end, and says whether the lock was lost before.
    async fn supervise(
        &mut self,
        locks: &Locks,
        guard: &Guard,
        guardian: &mut Guardian,
    ) -> Result<(Exit, Option<Lost>)> {
        let mut events = locks.events();
        let variables = self.environment.within(guard);
        guardian.deadline(guard.remaining());
        // A signal that came during the acquisition means that the command is not wanted any more.
        self.signals.none_yet()?;
        let mut child = Child::spawn(&self.command, &variables, guardian)?;
        guardian.group(child.group());

        let (mut lost, mut killed) = (None, false);
        let mut kill_in = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        let exit = loop {
            tokio::select! {
                biased;
                change = child.change() => match change {
                    Change::Ended(exit) => break exit,
                    Change::Stopped(by) => self.terminal.stopped(&child, by),
                },
                why = guard.lost(), if lost.is_none() => {
                    lost = Some(why);
                    kill_in.set(tokio::time::sleep(self.on_lost(&child, guardian, why)));
                }
                () = &mut kill_in, if !killed => {
                    child.signal(Signal::KILL);
                    killed = true;
                }
                signal = self.signals.next() => self.pass_on(&child, signal),
                Some(_) = events.next() => if guard.is_held() {
                    guardian.deadline(guard.remaining());
                },
            }
        };
        let exit = self.seen_from_outside(exit, self.terminal.take_back(&child));
        if lost.is_none() && !guard.is_held() {
            let why = guard.lost().await;
            lost = Some(why);
            kill_in.set(tokio::time::sleep(self.on_lost(&child, guardian, why)));
        }
        if lost.is_some() && !killed && self.args.on_lost != OnLost::Ignore {
            // Its children have the rest of the grace time.
            tokio::select! {
                biased;
                () = child.group_ended() => {}
                () = kill_in => child.signal(Signal::KILL),
            }
        }
        guardian.done();
        child.reap();
        Ok((exit, lost))
    }

    /// Acts on the loss; returns when to kill.
    fn on_lost(&self, child: &Child, guardian: &mut Guardian, why: Lost) -> Duration {
        guardian.lost();
        match self.args.on_lost {
            OnLost::Term => {
                child.terminate();
                self.grace()
            }
            OnLost::Kill => {
                child.signal(Signal::KILL);
                Duration::ZERO
            }
            OnLost::Ignore => {
                self.warn_lost(why);
                Duration::MAX
            }
        }
    }

    fn grace(&self) -> Duration {
        self.args.grace.unwrap_or(Run::DEFAULT_GRACE)
    }

    fn warn_lost(&self, why: Lost) {
        let name = self.name.escape_debug();
        complain(&format!(
            "warning: the lock is lost and the command goes on without it name=`{name}` why=`{why}`"
        ));
    }

    fn pass_on(&mut self, child: &Child, signal: Signal) {
        match signal {
            Signal::CONT => self.terminal.continued(child),
            Signal::TSTP if terminal::is_orphaned() => {}
            signal => {
                if signals::FROM_THE_KEYBOARD.contains(&signal) {
                    self.passed_on = Some(signal);
                }
                child.signal(signal);
                if ENDS_STOPPED_ONES.contains(&signal) {
                    child.wake();
                }
            }
        }
    }

    /// If the command died of a signal from the keyboard, so do we.
    fn seen_from_outside(&mut self, exit: Exit, had_terminal: bool) -> Exit {
        let from_the_keyboard = |n| signals::FROM_THE_KEYBOARD.into_iter().find(|s| signals::number(*s) == n);
        let signal = match exit {
            Exit::Signal(n) => from_the_keyboard(n),
            _ => None,
        };
        match signal {
            Some(signal) if self.passed_on == Some(signal) => signals::ended_by(signal),
            Some(signal) if had_terminal => {
                self.to_share = Some(signal);
                signals::ended_by(signal)
            }
            _ => exit,
        }
    }

    /// Gives the lock up, and says how it all ended.
    async fn end(
        &self,
        locks: &Locks,
        guard: Guard,
        granted: u64,
        exit: Exit,
        lost: Option<Lost>,
    ) -> Result<Exit> {
        let ignore = self.args.on_lost == OnLost::Ignore;
        let name = guard.name().clone();
        if let Some(why) = lost {
            drop(guard);
            return if ignore { Ok(exit) } else { Err(unfinished(locks, &name, why).await) };
        }
        let held = Duration::from_nanos(clock::boot_nanos().saturating_sub(granted));
        let rest = self.args.at_least.unwrap_or_default().saturating_sub(held);
        let given_up = if rest.is_zero() { guard.release().await } else { leave(locks, guard, rest).await };
        match given_up {
            Err(error) if error.kind() == ErrorKind::Lost && !ignore => match error.lost() {
                Some(why) => Err(unfinished(locks, &name, why).await),
                None => Err(error.into()),
            },
            Err(error) => {
                complain(&format!("warning: {}", chain(&error)));
                Ok(exit)
            }
            Ok(()) => Ok(exit),
        }
    }
}

/// Says that the lock was lost, and to whom if somebody else ended the lease.
async fn unfinished(locks: &Locks, name: &Name, why: Lost) -> Failure {
    let now = match why {
        Lost::Taken => session::now(locks, name).await,
        _ => String::new(),
    };
    Failure::new(
        Exit::Lost,
        format!(
            "the lock was lost while the command ran; treat its work as unfinished name=`{name}` why=`{why}`{now}"
        ),
    )
}

/// Lets the lease live for `rest`, without us.
async fn leave(locks: &Locks, guard: Guard, rest: Duration) -> leasehold::Result<()> {
    let extended = guard.extend(std::cmp::max(rest, locks.limits().ttl_min)).await;
    guard.forget();
    extended
}

/// Waits for the guardian's end, so that it keeps nothing open that the caller waits for.
async fn gone(guardian: &mut Guardian) {
    const LONGEST: Duration = Duration::from_secs(1);
    let gone = async {
        while !guardian.is_gone() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(LONGEST, gone).await;
}
