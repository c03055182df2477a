//! The line that shows the holder of the lock while this program waits for it.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use futures_util::FutureExt as _;
use leasehold::{Event, Events, Holder, Locks, Name, Owner};

use crate::cmd::run::terminal;
use crate::environment;
use crate::output::{self, Output, short, warn};
use crate::writing::{ReaderWait, write_all};

/// After this time, a person may wonder why nothing happens.
const LONG: Duration = Duration::from_secs(10);

const DEADLOCK: &str = "this command runs under the same lock; it would wait for itself";

/// Shows the holder of the lock on a terminal, and removes the line when this future is dropped. Without a terminal, prints
/// the holder once, if the wait is long.
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
    let wait = Wait { locks, events, name, holder, waited: Duration::ZERO, outer: environment::held() };
    if io::stderr().is_terminal() { wait.draw().await } else { wait.say().await }
}

struct Wait<'a> {
    locks: &'a Locks,
    events: Events,
    /// The lock that is waited for now: one of several, if there are several.
    name: Name,
    /// The holder that was seen last.
    holder: Option<Holder>,
    waited: Duration,
    /// The owners of the leases under which this command runs.
    outer: Vec<Owner>,
}

impl Wait<'_> {
    async fn draw(mut self) -> Infallible {
        const TICK: Duration = Duration::from_secs(1);
        let (mut said, mut warned) = (false, false);
        let mut line = Line { shown: false };
        loop {
            // The first look may have seen no holder: the lock was between two of them.
            if !warned && self.is_for_itself() {
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
        if !self.is_for_itself() {
            self.sleep(LONG).await;
        }
        let hint = if self.is_for_itself() { format!("; {DEADLOCK}") } else { String::new() };
        warn(&format!("{self}{hint}"));
        std::future::pending().await
    }

    async fn sleep(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        self.waited += time;
        while let Some(Some(event)) = self.events.next().now_or_never() {
            if let Event::Waiting { name, holder } = event {
                (self.name, self.holder) = (name, holder);
            }
        }
        // Only a line that is shown costs the storage this request.
        if let Ok(seen) = self.locks.inspect(self.name.as_str()).await {
            self.holder = seen.into_iter().next();
        }
    }

    /// Returns `true` if the lease is one that this very command runs under.
    fn is_for_itself(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| self.outer.contains(&holder.owner))
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

/// Writes to the terminal, and drops the text if the terminal is halted (Ctrl-S), so that the wait goes on.
fn write(text: &str) {
    let _ = write_all(rustix::stdio::stderr(), text.as_bytes(), ReaderWait::None);
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

/// Returns `true` if this job is in the foreground of the terminal. A job in the background prints one line after a long
/// wait, and does not write over what the foreground shows.
fn in_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stderr());
    foreground.is_ok_and(|group| Some(group) == terminal::own_group())
}

/// Returns how many characters fit on one line, so that the line can be cleared.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 1 => usize::from(size.ws_col) - 1,
        // The width is not known. Each terminal has 80 columns.
        _ => 79,
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
