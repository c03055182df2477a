//! Traps: what happens when given bytes go by.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::Stopped;
use crate::rules::{ConnId, End, To, Which};

/// Waits for bytes that go by in one direction, such as an owner's id, and does something to them or to the reply.
///
/// The bytes are found however they are split over packets. A trap looks at what is forwarded after it was
/// armed, on any connection unless [`Trap::only`] says otherwise, and works once unless [`Trap::times`] says otherwise.
///
/// *The reply* is what the other end sends after the last of the bytes was forwarded to it. On a connection
/// with several requests under way that can be the reply to an earlier one.
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
    /// Done before the last byte of the marker is forwarded.
    Here(Deed),
    /// Done before the first byte of the reply is forwarded.
    Reply(Deed),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Cut(End),
    Hold,
    Delay(Duration),
}

impl Trap {
    /// Waits for these bytes in a request. Without a further word it only counts them.
    ///
    /// # Panics
    ///
    /// If there are no bytes.
    pub fn on_request(bytes: impl AsRef<[u8]>) -> Self {
        Self::on(To::Server, bytes.as_ref())
    }

    /// Waits for these bytes in a reply, or in a message that the server sends by itself.
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

    /// Ends the connection before the last of the bytes is forwarded: the request never arrives.
    pub fn cut(self, end: End) -> Self {
        Self { act: Act::Here(Deed::Cut(end)), ..self }
    }

    /// Holds the direction from before the last of the bytes on, until [`Faults::resume`](crate::Faults::resume).
    pub fn hold(self) -> Self {
        Self { act: Act::Here(Deed::Hold), ..self }
    }

    /// Holds the direction from before the last of the bytes on, for so long.
    pub fn delay(self, by: Duration) -> Self {
        Self { act: Act::Here(Deed::Delay(by)), ..self }
    }

    /// Ends the connection before the first byte of the reply is forwarded: the request was executed, and the
    /// client does not learn it.
    pub fn cut_reply(self, end: End) -> Self {
        Self { act: Act::Reply(Deed::Cut(end)), ..self }
    }

    /// Holds the reply and what follows, until [`Faults::resume`](crate::Faults::resume).
    pub fn hold_reply(self) -> Self {
        Self { act: Act::Reply(Deed::Hold), ..self }
    }

    /// Holds the reply and what follows, for so long from when it came.
    pub fn delay_reply(self, by: Duration) -> Self {
        Self { act: Act::Reply(Deed::Delay(by)), ..self }
    }

    /// Looks at these connections only.
    pub fn only(self, which: Which) -> Self {
        Self { which, ..self }
    }

    /// Works so many times instead of once.
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }
}

/// Counts what a trap has seen and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TrapCount {
    /// How often the last of its bytes was forwarded while the trap was waiting for them.
    pub passed: u64,
    /// On which connection most recently.
    pub passed_on: Option<ConnId>,
    /// How often it did what it is for. A reply that never comes springs no trap, but the trap is spent.
    pub sprung: u64,
    /// On which connection most recently.
    pub sprung_on: Option<ConnId>,
}

/// Follows a trap that was armed. Dropping it leaves the trap armed.
#[derive(Clone, Debug)]
pub struct ArmedTrap {
    pub(crate) id: TrapId,
    pub(crate) count: watch::Receiver<TrapCount>,
}

impl ArmedTrap {
    /// Names the trap among those of its proxy.
    #[must_use]
    pub fn id(&self) -> TrapId {
        self.id
    }

    /// Returns the counts of now.
    #[must_use]
    pub fn count(&self) -> TrapCount {
        *self.count.borrow()
    }

    /// Waits until the bytes have been forwarded, and returns on which connection.
    ///
    /// # Errors
    ///
    /// If the trap was disarmed or the proxy stopped before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn passed(&self) -> Result<ConnId, Stopped> {
        let count = self.wait_for(|count| count.passed > 0).await?;
        Ok(count.passed_on.expect("BUG: it passed nowhere"))
    }

    /// Waits until the trap has done what it is for, and returns on which connection.
    ///
    /// # Errors
    ///
    /// If the trap was disarmed or the proxy stopped before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn sprung(&self) -> Result<ConnId, Stopped> {
        let count = self.wait_for(|count| count.sprung > 0).await?;
        Ok(count.sprung_on.expect("BUG: it sprang nowhere"))
    }

    /// Waits until the counts are as wanted.
    ///
    /// # Errors
    ///
    /// If the trap was disarmed or the proxy stopped before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, wanted: impl FnMut(&TrapCount) -> bool) -> Result<TrapCount, Stopped> {
        self.count.clone().wait_for(wanted).await.map(|count| *count).map_err(|_| Stopped)
    }
}

/// Names a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrapId(pub(crate) u64);

impl TrapId {
    /// Returns the number: traps are numbered from 1 in the order in which they were armed.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Bytes to find, and how far to fall back when they do not go on (Knuth, Morris and Pratt).
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

    /// How many bytes of the marker are there after one more, given how many were there before.
    pub(crate) fn next(&self, mut matched: usize, byte: u8) -> usize {
        if matched == self.bytes.len() {
            matched = self.back[matched - 1];
        }
        while matched > 0 && byte != self.bytes[matched] {
            matched = self.back[matched - 1];
        }
        if byte == self.bytes[matched] { matched + 1 } else { matched }
    }

    /// The index of the byte that completes the marker.
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
