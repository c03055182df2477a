//! The signals that this program handles: all those that it can, except those that the launcher had ignored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::Poll;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::signal::unix::{self, SignalKind};

use crate::exit::{Exit, Failure, Result};
use crate::launch::is_ignored;

/// Signals that end a program that does not handle them. Three kinds are missing: those that the processor raises (ILL,
/// BUS, FPE, SEGV and the like), after which a program cannot go on; PIPE, which is about this program's own output; and
/// the real-time signals, which safe Rust cannot send.
pub(crate) const ENDING: &[Signal] = &[
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::ABORT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Signal::STKFLT,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Signal::POWER,
];

/// Returns `true` if this signal ends a program that does not handle it.
pub(crate) fn ends(signal: Signal) -> bool {
    ENDING.contains(&signal)
}

/// Signals that are only passed on. TTIN and TTOU are missing: a handler of TTOU would make this program's own write to
/// a terminal start over and over, and a `run` around this one must see that TTIN has stopped it.
const PASSING: &[Signal] = &[Signal::URG, Signal::WINCH, Signal::TSTP, Signal::CONT];

/// Signals that ask a program to end, and that launchers send in more than one way.
pub(crate) const REQUESTS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Signals that a terminal sends to end a job.
pub(crate) const FROM_THE_KEYBOARD: [Signal; 2] = [Signal::INT, Signal::QUIT];

/// The signals that the launcher had blocked. It is static because it is a property of the process.
static BLOCKED: OnceLock<SigSet> = OnceLock::new();

/// Unblocks every signal for this thread and those that it starts. The command of `run` gets the launcher's mask.
pub(crate) fn unblock_all() {
    if let Ok(blocked) = SigSet::thread_get_mask() {
        BLOCKED.get_or_init(|| blocked);
        let _ = SigSet::empty().thread_set_mask();
    }
}

/// Calls `start` with the signals blocked that the launcher had blocked. The process that it starts inherits them.
pub(crate) fn with_blocked_as_launched<T>(start: impl FnOnce() -> T) -> T {
    let now = SigSet::thread_get_mask();
    if let Some(blocked) = BLOCKED.get() {
        let _ = blocked.thread_set_mask();
    }
    let started = start();
    if let Ok(now) = now {
        let _ = now.thread_set_mask();
    }
    started
}

/// Subscribes to SIGCHLD. If the launcher had it ignored, it would stay ignored otherwise, and the kernel would not tell
/// how a child ended.
pub(crate) fn of_children() -> Result<unix::Signal> {
    unix::signal(SignalKind::child()).map_err(broken)
}

fn broken(error: std::io::Error) -> Failure {
    Failure::system("cannot handle signals", error)
}

/// The signals that this program receives instead of their default actions.
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
}

/// The last signal of `ENDING` that came. The handler sets it, so it is known even while no runtime is polled.
static LAST: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Returns how the program ends because of the last signal of `ENDING` that came.
pub(crate) fn ended_so_far() -> Option<Exit> {
    let last = LAST.load(Ordering::SeqCst);
    let signal = ENDING.iter().find(|signal| usize::from(number(**signal)) == last);
    signal.map(|signal| ended_by(*signal))
}

impl Signals {
    /// Takes over the signals of `ENDING`, for `interrupt`.
    pub(crate) fn ending() -> Result<Self> {
        Self::new(ENDING)
    }

    /// Takes over every signal that may be meant for a command.
    pub(crate) fn all() -> Result<Self> {
        Self::new(&[ENDING, PASSING].concat())
    }

    /// Takes over SIGCONT even if the launcher had it ignored: an ignored SIGCONT continues a process, too. Must be called
    /// after the command was started, which inherits the ignored signals.
    pub(crate) fn add_cont(&mut self) -> Result<()> {
        if is_ignored(Signal::CONT) && !self.streams.iter().any(|(signal, _)| *signal == Signal::CONT) {
            let stream = unix::signal(SignalKind::from_raw(Signal::CONT.as_raw())).map_err(broken)?;
            self.streams.push((Signal::CONT, stream));
        }
        Ok(())
    }

    fn new(signals: &[Signal]) -> Result<Self> {
        let mut streams = Vec::new();
        for &signal in signals {
            let n = signal.as_raw();
            if is_ignored(signal) {
                continue;
            }
            if ENDING.contains(&signal) {
                let number = usize::from(number(signal));
                signal_hook::flag::register_usize(n, LAST.clone(), number).map_err(broken)?;
            }
            streams.push((signal, unix::signal(SignalKind::from_raw(n)).map_err(broken)?));
        }
        Ok(Self { streams })
    }

    /// Waits for the next signal. Loses none if it is dropped. Equal signals may come as one.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (signal, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for `work`. Fails if a signal comes that ends the program.
    pub(crate) async fn interrupt<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let signal = async {
            loop {
                match self.next().await {
                    signal if ENDING.contains(&signal) => return signal,
                    Signal::TSTP => super::cmd::run::terminal::stop_self(),
                    _ => {}
                }
            }
        };
        tokio::select! {
            biased;
            signal = signal => Err(Failure::quiet(ended_by(signal))),
            done = work => Ok(done),
        }
    }

    /// Waits for `work`, the last request to the storage. After a signal that ends the program, waits for at most a
    /// second, and then returns `None`.
    ///
    /// A second signal changes nothing: `timeout` sends the same request to end twice.
    pub(crate) async fn hurry<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            _ = self.interrupt(std::future::pending::<()>()) => {}
        }
        tokio::time::timeout(Duration::from_secs(1), work).await.ok()
    }
}

/// Returns how the program ends after a signal that was sent to it. A shell stops its script only if the program died of
/// the Ctrl-C that the shell got, too. Any other launcher gets a plain exit code.
pub(crate) fn ended_by(signal: Signal) -> Exit {
    let n = number(signal);
    if FROM_THE_KEYBOARD.contains(&signal) && has_terminal() { Exit::Interrupted(n) } else { Exit::Signal(n) }
}

/// Ends this process by a signal, as if it had never handled it, and leaves no core dump. Returns if that is impossible:
/// for the first process of a pid namespace, the kernel ignores signals that are not handled.
pub(crate) fn die_of(number: u8) {
    if rustix::process::getpid() == Pid::INIT {
        return;
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let _ = signal_hook::low_level::emulate_default_handler(number.into());
}

fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Returns the signal's number, as exit codes count it.
pub(crate) fn number(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or(u8::MAX)
}
