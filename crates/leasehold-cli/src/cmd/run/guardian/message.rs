//! The protocol between `run` and its guardian: lines to the guardian, and single bytes from it.

use std::fmt;

use leasehold::{Owner, Ticket};
use rustix::process::Pid;

/// A line that `run` writes to the guardian's stdin. Each is shorter than what a pipe takes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// `lease <ticket> <url>`: a lease to release after the death of `run`, once the group has ended. The URL may
    /// contain a password, and no other process reads this pipe.
    Lease { ticket: Ticket, url: String },
    /// `keep <nanoseconds since boot>`: until when the storage keeps the leases, even if they are to be released.
    Keep(u64),
    /// `group <id>`: the process group to end.
    Group(Pid),
    /// `reaped`: the head of the group was reaped. From now on the group exists only while it has members.
    Reaped,
    /// `deadline <nanoseconds since boot>`: when the lease is over, unless it is renewed.
    Deadline(u64),
    /// `lost`: a lock is lost, and `run` acts on it. The leases beside it exist on.
    Lost,
    /// `forget <owner>`: this lease is over.
    Forget(Owner),
    /// `ask`: answer, after all reports.
    Ask,
    /// `ended`: the group must not be signaled any more.
    Ended,
    /// `done`: nothing is left to do.
    Done,
}

/// The byte that reports a request to end. `signal_hook` writes this one.
pub(super) const REQUESTED: u8 = b'X';
/// The byte that answers [`Message::Ask`].
pub(super) const ANSWERED: u8 = b'A';

impl Message {
    /// Reads a line without its end. Returns `None` for a line that is none of these.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match verb {
            "lease" => {
                let (ticket, url) = rest.split_once(' ')?;
                Self::Lease { ticket: ticket.parse().ok()?, url: url.to_owned() }
            }
            "keep" => Self::Keep(rest.parse().ok()?),
            "group" => Self::Group(Pid::from_raw(rest.parse().ok()?)?),
            "reaped" => Self::Reaped,
            "deadline" => Self::Deadline(rest.parse().ok()?),
            "lost" => Self::Lost,
            "forget" => Self::Forget(rest.parse().ok()?),
            "ask" => Self::Ask,
            "ended" => Self::Ended,
            "done" => Self::Done,
            _ => return None,
        })
    }

    /// Returns `true` if this message makes an earlier one obsolete.
    pub(super) fn replaces(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Lease { ticket, .. }, Self::Lease { ticket: other, .. }) => {
                ticket.owner() == other.owner()
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(earlier),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease { ticket, url } => write!(f, "lease {ticket} {url}"),
            Self::Keep(until) => write!(f, "keep {until}"),
            Self::Group(group) => write!(f, "group {}", group.as_raw_nonzero()),
            Self::Reaped => f.write_str("reaped"),
            Self::Deadline(at) => write!(f, "deadline {at}"),
            Self::Lost => f.write_str("lost"),
            Self::Forget(owner) => write!(f, "forget {owner}"),
            Self::Ask => f.write_str("ask"),
            Self::Ended => f.write_str("ended"),
            Self::Done => f.write_str("done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let ticket = "lh1.9f5ee6de2d5f53bd5f2362dd63d252ab.7.1000.lock".parse().expect("a ticket");
        for message in [
            Message::Lease { ticket, url: "redis://:pass word@h/0".to_owned() },
            Message::Keep(0),
            Message::Group(Pid::INIT),
            Message::Reaped,
            Message::Deadline(u64::MAX),
            Message::Lost,
            Message::Forget(Owner::random()),
            Message::Ask,
            Message::Ended,
            Message::Done,
        ] {
            assert_eq!(Message::parse(&message.to_string()), Some(message));
        }
        for line in ["", "x", "keep", "group x", "group 0", "deadline", "lease x y", "forget x"] {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
