//! `leasehold run NAME -- CMD…`

mod child;
pub(crate) mod clock;
mod exec;
mod guardian;
mod procfs;
mod reaper;
mod requests;
pub(crate) mod terminal;

use std::ffi::OsString;
use std::pin::Pin;
use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks, Lost, Name};
use rustix::process::{Pid, Signal};
use tokio::time::Sleep;

use self::child::{Change, Child, ourselves};
use self::guardian::{Guardian, Report};
pub(crate) use self::reaper::reap_inherited;
use self::requests::{Action, Requests};
use self::terminal::Terminal;
use crate::args::{OnLost, Run};
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::warn;
use crate::session::{self, Context};
use crate::signals::{self, Signals};
use crate::waiting;

/// What `leasehold run --help` says below the options. A test compares it with what each signal does.
pub(crate) const HELP: &str = "\
Out of reach:
  Processes that leave the command's process group, as daemons and `setsid` do, live on when the lock is lost and when
  `leasehold` dies. So do processes that run as another user, as below `sudo`: `leasehold` says so as soon as it sees
  one; write `sudo leasehold run …` instead. A second process, `lh-guardian`, ends the group when `leasehold` cannot,
  because it was killed or is stopped; it is started again when it ends. If both are killed at once, or `leasehold`
  while the other is stopped, then only the command itself ends, and its children live on.

Signals that are passed on to the command's group:
  HUP INT QUIT ABRT USR1 USR2 ALRM TERM STKFLT XCPU XFSZ VTALRM PROF IO PWR URG WINCH CONT
  TSTP, which stops the whole job if a shell would continue it

Signals without effect:
  PIPE CHLD

Signals that stop `leasehold` but not the command, which then ends with the lease:
  STOP TTIN TTOU

Signals that end `leasehold` and the command's group at once:
  KILL ILL TRAP FPE SYS, and those from 34 to 64
  SEGV BUS, the second time that they are sent: the runtime takes the first for a fault that comes again

What was blocked or ignored when `leasehold` was started is so for the command too. What was ignored has no effect.
Signals 32 and 33 belong to the C library. The same request (HUP INT QUIT TERM) twice within 100 ms is one, as `timeout`
sends it; and it is not passed on if each process was sent it, as by systemd.";

/// Signals that a stopped command would not notice until it is continued.
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
        requests: Requests::default(),
        passed_on: None,
        to_share: None,
        is_settled: false,
    };
    let locks = job.signals.interrupt(Locks::connect(cx.store.url())).await??;
    session::check_at_least(job.args.at_least, &locks)?;
    let done = job.run(&locks, cx).await;
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
    name: String,
    command: Vec<OsString>,
    signals: Signals,
    terminal: Terminal,
    requests: Requests,
    /// The last signal from the keyboard that we got and passed on.
    passed_on: Option<Signal>,
    /// A signal from the keyboard that only the command got, because it had the terminal: ours to share with
    /// those that would have got it without us.
    to_share: Option<Signal>,
    /// Whether the storage is to be told nothing any more.
    is_settled: bool,
}

impl Job {
    async fn run(&mut self, locks: &Locks, cx: &Context) -> Result<Exit> {
        let guard = self.acquire(locks, cx).await?;
        let granted = clock::boot_nanos();
        let mut guardian = Guardian::start(self.args.on_lost, self.grace())?;
        if let Ok(url) = cx.store.anywhere() {
            guardian.lease(&guard.ticket(), &url);
        }
        let outcome = self.supervise(locks, &guard, &mut guardian).await?;
        let ended = self.end(locks, guard, granted, outcome).await;
        guardian.done();
        guardian.ended().await;
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

    /// Runs the command to its end.
    async fn supervise(&mut self, locks: &Locks, guard: &Guard, guardian: &mut Guardian) -> Result<Outcome> {
        let mut events = locks.events();
        let variables = self.environment.within(guard);
        guardian.deadline(guard.remaining());
        // A signal that came during the acquisition means that the command is not wanted any more.
        if let Some(exit) = signals::ended_so_far() {
            return Err(Failure::quiet(exit));
        }
        let mut child = self.start(&variables, guard, guardian).await?;

        let (mut lost, mut unguarded, mut killed) = (None, None, false);
        let mut kill_in = std::pin::pin!(tokio::time::sleep(Duration::MAX));
        let mut look = Look::new();
        let exit = loop {
            tokio::select! {
                biased;
                change = child.change() => match change {
                    Change::Ended(exit) => break exit,
                    Change::Stopped(by) => self.terminal.stopped(&child, by),
                },
                report = guardian.hear() => match report {
                    Report::Requested => self.requests.sent_to_everyone(clock::boot_nanos()),
                    Report::Answered => self.pass_on_held(&child),
                    Report::Gone => if let Err(failure) = guardian.replace() {
                        kill_in.set(tokio::time::sleep(self.on_unguarded(&child, &failure)));
                        unguarded = Some(failure);
                    },
                },
                why = guard.lost(), if lost.is_none() => {
                    lost = Some(why);
                    kill_in.set(tokio::time::sleep(self.on_lost(&child, guardian, why)));
                }
                () = &mut kill_in, if !killed => {
                    child.signal(Signal::KILL);
                    killed = true;
                }
                signal = self.signals.next() => self.came(&child, signal),
                () = until(self.requests.due()) => match self.requests.act(clock::boot_nanos()) {
                    Action::Ask => if !guardian.ask() {
                        self.pass_on_held(&child);
                    },
                    Action::PassOn(signals) => signals.into_iter().for_each(|signal| pass_on(&child, signal)),
                },
                () = look.wait() => if let Some(pid) = child.foreign_process() {
                    look.done();
                    self.warn_foreign(pid);
                },
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
        if (lost.is_some() || unguarded.is_some()) && self.args.on_lost != OnLost::Ignore {
            child.reap();
            guardian.reaped();
            // Its children have the rest of the grace time.
            if !killed {
                tokio::select! {
                    biased;
                    () = child.group_ended() => {}
                    () = kill_in => child.signal(Signal::KILL),
                }
            }
            self.ended_or_warned(&child).await;
            guardian.group_ended();
        } else {
            guardian.group_ended();
            child.reap();
        }
        Ok(Outcome { exit, lost, unguarded })
    }

    /// Starts the command, once the guardian knows which group it has to end.
    async fn start(
        &mut self,
        variables: &[(&str, String)],
        guard: &Guard,
        guardian: &mut Guardian,
    ) -> Result<Child> {
        let mut child = Child::spawn(&self.command, variables)?;
        // Before the command begins: it may outlive this process for a moment, and the lease has to outlive the command.
        let (ready, untied) = tokio::join!(child.ready(), guard.outlive_process());
        ready?;
        match untied {
            Err(error) if error.kind() != ErrorKind::Lost => {
                child.signal(Signal::KILL);
                child.reap();
                return Err(error.into());
            }
            // What is lost is seen below.
            _ => {}
        }
        // Not earlier: the command inherits what is ignored.
        self.signals.add_cont()?;
        guardian.watch()?;
        guardian.group(child.group());
        if guard.is_held() {
            child.start();
        } else {
            child.signal(Signal::KILL);
        }
        Ok(child)
    }

    /// Acts on the loss; returns when to kill.
    fn on_lost(&self, child: &Child, guardian: &mut Guardian, why: Lost) -> Duration {
        guardian.lost();
        match self.args.on_lost {
            OnLost::Term => {
                adopt_orphans();
                // The guardian has done so if this process was stopped when the lease was over.
                if guardian.take_turn() {
                    child.terminate();
                } else {
                    child.signal(Signal::CONT);
                }
                self.grace()
            }
            OnLost::Kill => {
                adopt_orphans();
                child.signal(Signal::KILL);
                Duration::ZERO
            }
            OnLost::Ignore => {
                self.warn_lost(why);
                Duration::MAX
            }
        }
    }

    /// Ends a command that has no guardian and gets none, unless it goes on without a lock too; returns when to kill.
    fn on_unguarded(&self, child: &Child, failure: &Failure) -> Duration {
        let why = failure.text.as_deref().unwrap_or_default();
        if self.args.on_lost == OnLost::Ignore {
            warn(&format!("warning: if this process dies, the command goes on error=`{why}`"));
            return Duration::MAX;
        }
        warn(&format!("the command is ended, because it would outlive this process error=`{why}`"));
        adopt_orphans();
        child.terminate();
        self.grace()
    }

    fn grace(&self) -> Duration {
        self.args.grace.unwrap_or(Run::DEFAULT_GRACE)
    }

    fn warn_lost(&self, why: Lost) {
        let name = self.name.escape_debug();
        warn(&format!(
            "warning: the lock is lost and the command goes on without it name=`{name}` why=`{why}`"
        ));
    }

    fn warn_foreign(&self, pid: Pid) {
        let name = self.name.escape_debug();
        warn(&format!(
            "warning: a process of the command runs as another user; it goes on when the lock is lost, and when this \
             process dies; start `leasehold` as that user, as in `sudo leasehold run` name=`{name}` pid=`{pid}`"
        ));
    }

    /// Waits until the group has ended after its SIGKILL; says so if it does not.
    async fn ended_or_warned(&self, child: &Child) {
        // As long as a process takes to end that has much memory to give back.
        const LONGEST: Duration = Duration::from_secs(1);
        let ended = tokio::time::timeout(LONGEST, child.group_ended()).await.is_ok();
        // A zombie goes on with nothing; it may stay where nothing reaps it.
        if !ended && child::has_running_members(child.group()) {
            let (name, group) = (self.name.escape_debug(), child.group());
            warn(&format!(
                "warning: a process of the command goes on without the lock, and cannot be ended: it runs as another \
                 user, or hangs in the kernel name=`{name}` group=`{group}`"
            ));
        }
    }

    fn came(&mut self, child: &Child, signal: Signal) {
        match signal {
            Signal::CONT => self.terminal.continued(child),
            Signal::TSTP if terminal::is_orphaned() => {}
            Signal::HUP if self.terminal.hung_up_on(child) => child.wake(),
            signal => {
                if signals::FROM_THE_KEYBOARD.contains(&signal) {
                    self.passed_on = Some(signal);
                }
                if self.requests.came(signal, clock::boot_nanos()) {
                    pass_on(child, signal);
                }
            }
        }
    }

    fn pass_on_held(&mut self, child: &Child) {
        self.requests.answered().into_iter().for_each(|signal| pass_on(child, signal));
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
    async fn end(&mut self, locks: &Locks, guard: Guard, granted: u64, outcome: Outcome) -> Result<Exit> {
        let Outcome { exit, lost, unguarded } = outcome;
        let ignore = self.args.on_lost == OnLost::Ignore;
        let name = guard.name().clone();
        if let Some(why) = lost {
            // The lease that was given up is to be released. Any other has ended at the storage, or does with its
            // TTL, whether the storage answers by then or not.
            self.is_settled = why != Lost::MaxHold;
            drop(guard);
            return if ignore { Ok(exit) } else { Err(unfinished(locks, &name, why).await) };
        }
        let ended = match unguarded {
            Some(failure) if !ignore => Err(Failure::quiet(failure.exit)),
            _ => Ok(exit),
        };
        let held = Duration::from_nanos(clock::boot_nanos().saturating_sub(granted));
        let rest = self.args.at_least.unwrap_or_default().saturating_sub(held);
        let give_up =
            async { if rest.is_zero() { guard.release().await } else { leave(locks, guard, rest).await } };
        let Some(given_up) = self.signals.hurry(give_up).await else {
            warn(&format!(
                "warning: the storage has not answered; the lease ends with its ttl name=`{name}`"
            ));
            self.is_settled = true;
            return ended;
        };
        match given_up {
            Err(error) if error.kind() == ErrorKind::Lost && !ignore => match error.lost() {
                Some(why) => Err(unfinished(locks, &name, why).await),
                None => Err(error.into()),
            },
            Err(error) => {
                warn(&format!("warning: {}", chain(&error)));
                self.is_settled = true;
                ended
            }
            Ok(()) => ended,
        }
    }
}

/// How the command ended, and what happened before.
struct Outcome {
    exit: Exit,
    lost: Option<Lost>,
    /// Why there was no guardian any more.
    unguarded: Option<Failure>,
}

/// When to look for processes that cannot be signaled: soon after the start, and then ever less often.
struct Look {
    next: Option<Pin<Box<Sleep>>>,
    pause: Duration,
}

impl Look {
    fn new() -> Self {
        const FIRST: Duration = Duration::from_millis(100);
        Self { next: Some(Box::pin(tokio::time::sleep(FIRST))), pause: FIRST }
    }

    async fn wait(&mut self) {
        const LONGEST: Duration = Duration::from_secs(10);
        match &mut self.next {
            Some(next) => {
                next.as_mut().await;
                self.pause = std::cmp::min(self.pause * 2, LONGEST);
                next.set(tokio::time::sleep(self.pause));
            }
            None => std::future::pending().await,
        }
    }

    fn done(&mut self) {
        self.next = None;
    }
}

/// Waits until this time of the boot clock.
async fn until(due: Option<u64>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_nanos(due.saturating_sub(clock::boot_nanos()))).await,
        None => std::future::pending().await,
    }
}

fn pass_on(child: &Child, signal: Signal) {
    child.signal(signal);
    if ENDS_STOPPED_ONES.contains(&signal) {
        child.wake();
    }
}

/// Becomes the parent of the group's orphans, to reap them: whether the group has ended is seen by its zombies being
/// gone, and not each container has a first process that reaps. Not earlier, so that a daemon sees the parent it expects.
fn adopt_orphans() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
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
