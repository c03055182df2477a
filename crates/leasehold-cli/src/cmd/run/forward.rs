//! Signals on their way to the command, and the signal that ended it on its way back.

use rustix::process::Signal;

use super::child::Child;
use super::{Job, clock, terminal};
use crate::exit::Exit;
use crate::signals;

impl Job {
    /// Passes a signal on to the command, unless the command gets it in another way, or may get it twice.
    pub(super) fn forward(&mut self, child: &Child, signal: Signal) {
        match signal {
            Signal::CONT => self.terminal.continued(child),
            Signal::TSTP if terminal::is_orphaned() => {}
            Signal::HUP if self.terminal.hung_up_on(child) => child.wake(),
            signal => {
                if signals::FROM_THE_KEYBOARD.contains(&signal) {
                    self.passed_on = Some(signal);
                }
                if self.requests.came(signal, clock::boot_nanos()) {
                    child.pass_on(signal);
                }
            }
        }
    }

    /// Passes on the requests that have waited for the guardian's answer.
    pub(super) fn forward_held(&mut self, child: &Child) {
        self.requests.answered().into_iter().for_each(|signal| child.pass_on(signal));
    }

    /// Returns how this process has to end after the command has ended like this. If a signal from the keyboard has
    /// ended the command, it ends this process, too.
    pub(super) fn seen_from_outside(&mut self, exit: Exit, had_terminal: bool) -> Exit {
        let Exit::Signal(number) = exit else { return exit };
        let mut from_the_keyboard = signals::FROM_THE_KEYBOARD.into_iter();
        match from_the_keyboard.find(|signal| signals::number(*signal) == number) {
            Some(signal) if self.passed_on == Some(signal) => signals::ended_by(signal),
            Some(signal) if had_terminal => {
                self.to_share = Some(signal);
                signals::ended_by(signal)
            }
            _ => exit,
        }
    }
}
