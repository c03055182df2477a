//! Traps: what happens when given bytes are forwarded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::Stopped;
use crate::rules::{ConnId, End, To, Which};

/// A trap, which waits for given bytes in one direction, such as an owner's id, and acts on them or on the
/// reply.
///
/// The bytes are found however they are split over packets. A trap examines what is forwarded after it was
/// armed. It does so on any connection unless [`Trap::only`] says otherwise, and acts once unless
/// [`Trap::times`] says otherwise.
///
/// *The reply* is what the other end sends after the last of the bytes was forwarded to it. If several
/// requests are in flight on a connection, that can be the reply to an earlier one.
#[derive(Clone, Debug)]
#[must_use = "a trap does nothing until it is armed"]
pub struct Trap {
    pub(crate) to: To,
    pub(crate) marker: Arc<Marker>,
    pub(crate) act: Act,
    pub(crate) which: Which,
    pub(crate) times: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Watch,
    /// An action before the last byte of the marker is forwarded.
    Here(Action),
    /// An action before the first byte of the reply is forwarded.
    Reply(Action),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Cut(End),
    Hold,
    Delay(Duration),
}

impl Trap {
    /// Makes a trap that waits for these bytes in a request. By itself it only counts them.
    ///
    /// # Panics
    ///
    /// If there are no bytes.
    pub fn on_request(bytes: impl AsRef<[u8]>) -> Self {
        Self::on(To::Server, bytes.as_ref())
    }

    /// Makes a trap that waits for these bytes in a reply, or in a message that the server sends on its
    /// own.
    ///
    /// # Panics
    ///
    /// If there are no bytes.
    pub fn on_reply(bytes: impl AsRef<[u8]>) -> Self {
        Self::on(To::Client, bytes.as_ref())
    }

    fn on(to: To, bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "a trap needs bytes to wait for");
        Self { to, marker: Arc::new(Marker::new(bytes)), act: Act::Watch, which: Which::All, times: 1 }
    }

    /// Ends the connection before the last of the bytes is forwarded, so the request never arrives.
    pub fn cut(self, end: End) -> Self {
        Self { act: Act::Here(Action::Cut(end)), ..self }
    }

    /// Holds the direction before the last of the bytes, until [`Faults::resume`](crate::Faults::resume).
    pub fn hold(self) -> Self {
        Self { act: Act::Here(Action::Hold), ..self }
    }

    /// Holds the direction before the last of the bytes, for this long.
    pub fn delay(self, by: Duration) -> Self {
        Self { act: Act::Here(Action::Delay(by)), ..self }
    }

    /// Ends the connection before the first byte of the reply is forwarded: the request was executed, but
    /// the client does not get the answer.
    pub fn cut_reply(self, end: End) -> Self {
        Self { act: Act::Reply(Action::Cut(end)), ..self }
    }

    /// Holds the reply and everything after it, until [`Faults::resume`](crate::Faults::resume).
    pub fn hold_reply(self) -> Self {
        Self { act: Act::Reply(Action::Hold), ..self }
    }

    /// Holds the reply and everything after it, for this long after its arrival.
    pub fn delay_reply(self, by: Duration) -> Self {
        Self { act: Act::Reply(Action::Delay(by)), ..self }
    }

    /// Limits the trap to these connections.
    pub fn only(self, which: Which) -> Self {
        Self { which, ..self }
    }

    /// Sets how often the trap acts; the default is once.
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

/// The counts of one trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrapCount {
    /// How often the last of its bytes was forwarded while the trap was waiting for them.
    pub passed: u64,
    /// The connection of the latest time.
    pub passed_on: Option<ConnId>,
    /// How often the trap acted. If the reply never comes, the trap is spent without acting.
    pub sprung: u64,
    /// The connection of the latest time.
    pub sprung_on: Option<ConnId>,
}

/// A handle of an armed trap. Dropping it leaves the trap armed.
#[derive(Clone, Debug)]
pub struct ArmedTrap {
    pub(crate) id: TrapId,
    pub(crate) count: watch::Receiver<TrapCount>,
}

impl ArmedTrap {
    /// Returns the id of the trap, unique within its proxy.
    #[must_use]
    pub fn id(&self) -> TrapId {
        self.id
    }

    /// Returns the current counts.
    #[must_use]
    pub fn count(&self) -> TrapCount {
        *self.count.borrow()
    }

    /// Waits until the bytes were forwarded, and returns the connection.
    ///
    /// # Errors
    ///
    /// If the trap is disarmed or the proxy stops before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn passed(&self) -> Result<ConnId, Stopped> {
        let count = self.wait_for(|count| count.passed > 0).await?;
        Ok(count.passed_on.expect("BUG: it passed nowhere"))
    }

    /// Waits until the trap has acted, and returns the connection.
    ///
    /// # Errors
    ///
    /// If the trap is disarmed or the proxy stops before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn sprung(&self) -> Result<ConnId, Stopped> {
        let count = self.wait_for(|count| count.sprung > 0).await?;
        Ok(count.sprung_on.expect("BUG: it sprang nowhere"))
    }

    /// Waits until the counts satisfy the predicate.
    ///
    /// # Errors
    ///
    /// If the trap is disarmed or the proxy stops before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, wanted: impl FnMut(&TrapCount) -> bool) -> Result<TrapCount, Stopped> {
        self.count.clone().wait_for(wanted).await.map(|count| *count).map_err(|_| Stopped)
    }
}

/// The id of a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrapId(pub(crate) u64);

impl TrapId {
    /// Returns the number. Traps are numbered from 1 in the order in which they were armed.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The bytes to find, with the fallback table of Knuth, Morris and Pratt.
#[derive(Debug)]
pub(crate) struct Marker {
    bytes: Vec<u8>,
    back: Vec<usize>,
}

impl Marker {
    fn new(bytes: &[u8]) -> Self {
        let mut back = vec![0; bytes.len()];
        let mut matched = 0;
        for i in 1..bytes.len() {
            while matched > 0 && bytes[i] != bytes[matched] {
                matched = back[matched - 1];
            }
            if bytes[i] == bytes[matched] {
                matched += 1;
            }
            back[i] = matched;
        }
        Self { bytes: bytes.to_vec(), back }
    }

    /// Returns how many bytes of the marker match after one more byte, given how many matched before.
    pub(crate) fn next(&self, mut matched: usize, byte: u8) -> usize {
        if matched == self.bytes.len() {
            matched = self.back[matched - 1];
        }
        while matched > 0 && byte != self.bytes[matched] {
            matched = self.back[matched - 1];
        }
        if byte == self.bytes[matched] { matched + 1 } else { matched }
    }

    /// Returns the index of the byte that completes the marker.
    pub(crate) fn find(&self, mut matched: usize, bytes: &[u8]) -> Option<usize> {
        bytes.iter().position(|byte| {
            matched = self.next(matched, *byte);
            matched == self.bytes.len()
        })
    }

    pub(crate) fn is_whole(&self, matched: usize) -> bool {
        matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_where_it_ends() {
        let found = |marker: &str, text: &str| Marker::new(marker.as_bytes()).find(0, text.as_bytes());
        assert_eq!(found("abc", "abc"), Some(2));
        assert_eq!(found("aab", "aaaab"), Some(4));
        assert_eq!(found("abab", "abacabab"), Some(7));
        assert_eq!(found("a", "ba"), Some(1));
        assert_eq!(found("abc", "ab"), None);
    }

    #[test]
    fn a_marker_is_found_as_a_plain_search_finds_it() {
        let mut random = crate::random::Random::new(1);
        let mut letters = |most: u64| -> Vec<u8> {
            let length = 1 + random.next() % most;
            (0..length).map(|_| if random.next().is_multiple_of(3) { b'b' } else { b'a' }).collect()
        };
        for _ in 0..2_000 {
            let (marker, text) = (letters(6), letters(40));
            let plain = text.windows(marker.len()).position(|window| window == marker);
            let plain = plain.map(|start| start + marker.len() - 1);
            assert_eq!(Marker::new(&marker).find(0, &text), plain, "{marker:?} in {text:?}");
        }
    }
}
