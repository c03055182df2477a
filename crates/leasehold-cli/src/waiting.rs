//! The line that tells who holds the lock, while somebody waits for it.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use leasehold::{Event, Events, Holder, Locks, Name, Owner};

use crate::cmd::run::terminal;
use crate::environment;
use crate::output::{self, Output, short, warn};
use crate::writing::{Patience, write_all};

/// After this, somebody may wonder why nothing happens.
const LONG: Duration = Duration::from_secs(10);

const DEADLOCK: &str = "this command runs under the same lock; it would wait for itself";

/// Shows on a terminal who holds the lock, until it is dropped; then the line is gone. Elsewhere, says it once,
/// if the wait is long.
pub(crate) async fn show(locks: &Locks, mut events: Events, output: Output) -> Infallible {
    if output.quiet {
        return std::future::pending().await;
    }
    let (name, holder) = loop {
        match events.next().await {
            Some(Event::Waiting { name, holder }) => break (name, holder),
            Some(_) => {}
            None => return std::future::pending().await,
        }
    };
    let wait = Wait { locks, name, holder, waited: Duration::ZERO, ours: environment::held() };
    if io::stderr().is_terminal() { wait.draw().await } else { wait.say().await }
}

struct Wait<'a> {
    locks: &'a Locks,
    name: Name,
    /// Who was last seen.
    holder: Option<Holder>,
    waited: Duration,
    /// The leases that this command runs under.
    ours: Vec<Owner>,
}

impl Wait<'_> {
    async fn draw(mut self) -> Infallible {
        const TICK: Duration = Duration::from_secs(1);
        let (mut said, mut warned) = (false, false);
        let mut line = Line { shown: false };
        loop {
            // The first look may have seen nobody: the lock was between two holders.
            if !warned && self.is_for_ourselves() {
                line.clear();
                warn(&format!("{}: {DEADLOCK}", self.what()));
                (said, warned) = (true, true);
            }
            if in_foreground() {
                line.draw(&self.to_string());
            } else if self.waited >= LONG && !said && !line.shown {
                warn(&self.to_string());
                said = true;
            }
            self.sleep(TICK).await;
        }
    }

    async fn say(mut self) -> Infallible {
        if !self.is_for_ourselves() {
            self.sleep(LONG).await;
        }
        let hint = if self.is_for_ourselves() { format!("; {DEADLOCK}") } else { String::new() };
        warn(&format!("{self}{hint}"));
        std::future::pending().await
    }

    async fn sleep(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        self.waited += time;
        // Only a person looking costs the storage this question.
        if let Ok(seen) = self.locks.inspect(self.name.as_str()).await {
            self.holder = seen.into_iter().next();
        }
    }

    /// Returns `true` if the lease is one that this very command runs under.
    fn is_for_ourselves(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| self.ours.contains(&holder.owner))
    }

    fn what(&self) -> String {
        format!("waiting {} for {}", short(self.waited), self.name)
    }
}

/// `waiting 3s for NAME: held by LABEL for 8s`
impl fmt::Display for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.what())?;
        let Some(holder) = &self.holder else {
            return f.write_str("in line");
        };
        write!(f, "held by {}", output::label(holder))?;
        holder.held_for.map_or(Ok(()), |d| write!(f, " for {}", short(d)))
    }
}

struct Line {
    shown: bool,
}

/// A terminal that is halted (Ctrl-S) must not halt the waiting.
fn write(text: &str) {
    let _ = write_all(rustix::stdio::stderr(), text.as_bytes(), Patience::None);
}

impl Line {
    fn draw(&mut self, text: &str) {
        let text: String = format!("leasehold: {text}").chars().take(width()).collect();
        write(&format!("\r\x1b[K{text}"));
        self.shown = true;
    }

    fn clear(&mut self) {
        if self.shown {
            write("\r\x1b[K");
            self.shown = false;
        }
    }
}

/// A job in the background does not write over what the foreground shows, but for one line after a long wait.
fn in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stderr());
    foreground.is_ok_and(|group| Some(group) == terminal::own_group())
}

/// How much fits on one line, so that the line can be cleared.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 1 => usize::from(size.ws_col) - 1,
        // Not known: what every terminal has.
        _ => 79,
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
