//! The signals that are ours to handle: all that are not ignored when the program starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use rustix::process::{Resource, Rlimit, Signal};
use tokio::signal::unix::{self, SignalKind};

use crate::exit::{Exit, Failure, Result};

/// Signals that end a program which does not handle them.
const ENDING: [Signal; 7] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::ALARM];
/// Signals that are only passed on.
const PASSING: [Signal; 3] = [Signal::WINCH, Signal::TSTP, Signal::CONT];

/// Signals that a terminal sends to end a job.
pub(crate) const FROM_THE_KEYBOARD: [Signal; 2] = [Signal::INT, Signal::QUIT];

/// Receives signals, in place of what they do by default.
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
    /// The last ending signal, set inside the handler: known before any runtime was polled.
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Takes over the ending signals, which `interrupt` waits for.
    pub(crate) fn ending() -> Result<Self> {
        Self::new(&ENDING)
    }

    /// Takes over every signal that a command may want to have.
    pub(crate) fn all() -> Result<Self> {
        let all: Vec<_> = ENDING.into_iter().chain(PASSING).collect();
        Self::new(&all)
    }

    fn new(signals: &[Signal]) -> Result<Self> {
        let broken = |error| Failure::system("cannot handle signals", error);
        let ignored = ignored_at_start();
        let last = Arc::new(AtomicUsize::new(0));
        let mut streams = Vec::new();
        for &signal in signals {
            let n = signal.as_raw();
            if ignored & (1_u64 << (n - 1)) != 0 {
                continue;
            }
            if ENDING.contains(&signal) {
                let number = usize::from(number(signal));
                signal_hook::flag::register_usize(n, last.clone(), number).map_err(broken)?;
            }
            streams.push((signal, unix::signal(SignalKind::from_raw(n)).map_err(broken)?));
        }
        Ok(Self { streams, last })
    }

    /// Waits for the next signal. Loses none if it is dropped; equal ones may come as one.
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

    /// Waits for `work`, or for a signal that ends the program.
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

    /// Fails if an ending signal has come, even if nobody has waited for it yet.
    pub(crate) fn none_yet(&self) -> Result<()> {
        match u8::try_from(self.last.load(Ordering::SeqCst)) {
            Ok(0) => Ok(()),
            n => {
                let signal = ENDING.into_iter().find(|signal| n.is_ok_and(|n| n == number(*signal)));
                Err(Failure::quiet(signal.map_or(Exit::Bug, ended_by)))
            }
        }
    }
}

/// How the program ends after a signal that was sent to it. A shell stops its script only if a program died of
/// the Ctrl-C that the shell was sent too; everybody else gets a plain exit code.
pub(crate) fn ended_by(signal: Signal) -> Exit {
    let n = number(signal);
    if FROM_THE_KEYBOARD.contains(&signal) && has_terminal() { Exit::Interrupted(n) } else { Exit::Signal(n) }
}

/// Ends this process by a signal, as if it had never been handled, and leaves no core behind.
pub(crate) fn die_of(number: u8) {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let _ = signal_hook::low_level::emulate_default_handler(number.into());
}

fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// The signal's number, as exit codes count it.
pub(crate) fn number(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or(u8::MAX)
}

/// A set bit for each signal that whoever started us had ignored, as `nohup` does: it stays so.
fn ignored_at_start() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
