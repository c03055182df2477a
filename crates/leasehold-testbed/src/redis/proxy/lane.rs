//! One client's connection, and its own connection to the server. There is a thread for the requests, one for the
//! server's replies, and one for what the client receives. Only the last one waits where a rule requires it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Shared;
use super::rule::{Act, Armed};
use crate::error::Context as _;
use crate::redis::resp;
use crate::{Error, Result};

pub(super) struct Lane {
    client: TcpStream,
    server: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the client expects, in the order of its requests.
    expected: VecDeque<Expected>,
    /// The replies of the server.
    replies: VecDeque<Vec<u8>>,
    ended: bool,
}

enum Expected {
    /// Replies of the server: one for each channel of a subscription, else one.
    Servers { replies: usize, subscription: bool, rule: Option<Armed> },
    /// A reply of a rule, without the server.
    Own(Armed),
}

/// What the client receives next.
struct Next {
    reply: Option<Vec<u8>>,
    rule: Option<Armed>,
}

/// Connects to the server, and begins to forward.
pub(super) fn start(client: TcpStream, port: u16, shared: &Arc<Shared>) -> Result<Arc<Lane>> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("the server does not listen")?;
    for stream in [&client, &server] {
        stream.set_nodelay(true).context("cannot connect")?;
    }
    let lane = Arc::new(Lane { client, server, state: Mutex::default(), changed: Condvar::new() });
    let (requests, shared) = (Arc::clone(&lane), Arc::clone(shared));
    std::thread::spawn(move || {
        if requests.requests(&shared).is_err() {
            requests.end();
        }
        // Only this direction: the server may still have to execute requests of a client that is gone.
        let _ = requests.server.shutdown(Shutdown::Write);
    });
    let replies = Arc::clone(&lane);
    std::thread::spawn(move || {
        let _ = replies.replies();
        // The earlier replies are forwarded first.
        replies.change(|state| state.ended = true);
    });
    let deliveries = Arc::clone(&lane);
    std::thread::spawn(move || {
        let _ = deliveries.deliver();
        deliveries.end();
    });
    Ok(lane)
}

impl Lane {
    /// Ends both connections at once.
    pub(super) fn end(&self) {
        for stream in [&self.client, &self.server] {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.change(|state| state.ended = true);
    }

    /// Forwards requests, until the client closes its side.
    fn requests(&self, shared: &Shared) -> Result<()> {
        let mut read = Vec::new();
        while fill(&self.client, &mut read)? {
            while let Some((words, length)) =
                resp::request(&read).map_err(|_| Error::new("the client does not speak RESP"))?
            {
                let request: Vec<_> = read.drain(..length).collect();
                if !words.is_empty() {
                    self.request(&words, &request, shared.take(&words))?;
                }
            }
        }
        Ok(())
    }

    fn request(&self, words: &[Vec<u8>], request: &[u8], rule: Option<Armed>) -> Result<()> {
        if let Some(rule) = &rule {
            if !rule.rule().forward {
                self.change(|state| state.expected.push_back(Expected::Own(rule.clone())));
                return Ok(());
            }
            if matches!(rule.rule().act, Act::HoldRequest) {
                rule.hit();
                rule.hold();
            }
        }
        let subscription = words[0].to_ascii_lowercase().ends_with(b"subscribe");
        let replies = if subscription { std::cmp::max(words.len() - 1, 1) } else { 1 };
        self.change(|state| state.expected.push_back(Expected::Servers { replies, subscription, rule }));
        (&self.server).write_all(request).context("the server has gone")
    }

    fn replies(&self) -> Result<()> {
        let mut read = Vec::new();
        while fill(&self.server, &mut read)? {
            while let Some(length) =
                resp::reply(&read).map_err(|_| Error::new("the server does not speak RESP"))?
            {
                let reply = read.drain(..length).collect();
                self.change(|state| state.replies.push_back(reply));
            }
        }
        Ok(())
    }

    fn deliver(&self) -> Result<()> {
        while let Some(next) = self.next() {
            match (&next.rule, &next.reply) {
                (Some(rule), reply) => self.apply(rule, reply.as_deref())?,
                (None, Some(reply)) => self.send(reply)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Waits for what the client receives next. Returns `None` at the end.
    fn next(&self) -> Option<Next> {
        let mut state = self.state();
        loop {
            if let Some(Expected::Own(rule)) = state.expected.front() {
                let rule = Some(rule.clone());
                state.expected.pop_front();
                return Some(Next { reply: None, rule });
            }
            if let Some(reply) = state.replies.pop_front() {
                let rule = state.assign(&reply);
                return Some(Next { reply: Some(reply), rule });
            }
            if state.ended {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn apply(&self, rule: &Armed, reply: Option<&[u8]>) -> Result<()> {
        match &rule.rule().act {
            // The request was held, and not the reply.
            Act::HoldRequest => {}
            Act::HoldReply => {
                rule.hit();
                rule.hold();
            }
            Act::Reply(bytes) => {
                rule.hit();
                return self.send(bytes);
            }
            Act::Cut => {
                rule.hit();
                return Err(Error::new("the rule cuts the connection"));
            }
            Act::Silence => {
                rule.hit();
                rule.hold();
                return Err(Error::new("the rule was silent, so a later reply would not be recognized"));
            }
        }
        reply.map_or(Ok(()), |reply| self.send(reply))
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.client).write_all(bytes).context("the client has gone")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Assigns a reply of the server to what is expected, unless it was pushed. Returns the rule that changes it.
    fn assign(&mut self, reply: &[u8]) -> Option<Armed> {
        let Some(Expected::Servers { replies, subscription, rule }) = self.expected.front_mut() else {
            return None;
        };
        let kind = resp::kind(reply);
        let confirms = kind.is_some_and(|kind| kind.ends_with(b"subscribe"));
        let refuses = reply.starts_with(b"-");
        let hint = reply.starts_with(b">") || kind.is_some_and(|kind| kind.ends_with(b"message"));
        if (*subscription && !confirms && !refuses) || (!*subscription && hint) {
            return None;
        }
        // A refused subscription has one reply for all its channels.
        *replies = if refuses { 0 } else { replies.saturating_sub(1) };
        let (last, rule) = (*replies == 0, rule.take());
        if last {
            self.expected.pop_front();
        }
        rule
    }
}

/// Reads what has arrived. Returns `false` at the end.
fn fill(mut stream: &TcpStream, read: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let n = stream.read(&mut buffer).context("the connection has ended")?;
    read.extend_from_slice(&buffer[..n]);
    Ok(n > 0)
}
