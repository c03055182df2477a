//! One client's connection, and its own to the server. A thread each for the requests, for what the server replies,
//! and for what the client gets, which is the only one that waits where a rule says so.

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
    /// What the client waits for, in the order of its requests.
    owed: VecDeque<Owed>,
    /// What the server has said.
    said: VecDeque<Vec<u8>>,
    ended: bool,
}

enum Owed {
    /// What the server says; so many replies, since a subscription to several channels has one for each.
    Servers { replies: usize, subscription: bool, meddler: Option<Armed> },
    /// What a rule says, and the server does not.
    Own(Armed),
}

/// What the client gets next.
struct Next {
    said: Option<Vec<u8>>,
    meddler: Option<Armed>,
}

/// Connects to the server, and begins to pass on.
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
        // Not the other direction: the server may have something to do for a client that has gone.
        let _ = requests.server.shutdown(Shutdown::Write);
    });
    let replies = Arc::clone(&lane);
    std::thread::spawn(move || {
        let _ = replies.replies();
        // What it has said before goes to the client first.
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

    /// Ends in order when the client has said its last.
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

    fn request(&self, words: &[Vec<u8>], request: &[u8], meddler: Option<Armed>) -> Result<()> {
        if let Some(rule) = &meddler {
            if !rule.rule().forward {
                self.change(|state| state.owed.push_back(Owed::Own(rule.clone())));
                return Ok(());
            }
            if matches!(rule.rule().act, Act::HoldRequest) {
                rule.hit();
                rule.hold();
            }
        }
        let subscription = words[0].to_ascii_lowercase().ends_with(b"subscribe");
        let replies = if subscription { std::cmp::max(words.len() - 1, 1) } else { 1 };
        self.change(|state| state.owed.push_back(Owed::Servers { replies, subscription, meddler }));
        (&self.server).write_all(request).context("the server has gone")
    }

    fn replies(&self) -> Result<()> {
        let mut read = Vec::new();
        while fill(&self.server, &mut read)? {
            while let Some(length) =
                resp::reply(&read).map_err(|_| Error::new("the server does not speak RESP"))?
            {
                let reply = read.drain(..length).collect();
                self.change(|state| state.said.push_back(reply));
            }
        }
        Ok(())
    }

    fn deliver(&self) -> Result<()> {
        while let Some(next) = self.next() {
            match (&next.meddler, &next.said) {
                (Some(rule), said) => self.meddle(rule, said.as_deref())?,
                (None, Some(said)) => self.send(said)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Waits for what the client gets next; none if that was all.
    fn next(&self) -> Option<Next> {
        let mut state = self.state();
        loop {
            if let Some(Owed::Own(rule)) = state.owed.front() {
                let meddler = Some(rule.clone());
                state.owed.pop_front();
                return Some(Next { said: None, meddler });
            }
            if let Some(said) = state.said.pop_front() {
                let meddler = state.pay(&said);
                return Some(Next { said: Some(said), meddler });
            }
            if state.ended {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn meddle(&self, rule: &Armed, said: Option<&[u8]>) -> Result<()> {
        match &rule.rule().act {
            // It was held back on its way there.
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
                return Err(Error::new("the rule says so"));
            }
            Act::Silence => {
                rule.hit();
                rule.hold();
                return Err(Error::new("who was not answered cannot tell what the next answer is for"));
            }
        }
        said.map_or(Ok(()), |said| self.send(said))
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
    /// Takes what the server has said off what is owed, unless nobody asked for it; finds who meddles with it.
    fn pay(&mut self, said: &[u8]) -> Option<Armed> {
        let Some(Owed::Servers { replies, subscription, meddler }) = self.owed.front_mut() else {
            return None;
        };
        let kind = resp::kind(said);
        let confirms = kind.is_some_and(|kind| kind.ends_with(b"subscribe"));
        let refuses = said.starts_with(b"-");
        let hint = said.starts_with(b">") || kind.is_some_and(|kind| kind.ends_with(b"message"));
        if (*subscription && !confirms && !refuses) || (!*subscription && hint) {
            return None;
        }
        // One refusal is for all its channels.
        *replies = if refuses { 0 } else { replies.saturating_sub(1) };
        let (last, meddler) = (*replies == 0, meddler.take());
        if last {
            self.owed.pop_front();
        }
        meddler
    }
}

/// Reads what there is; false at the end.
fn fill(mut stream: &TcpStream, read: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let n = stream.read(&mut buffer).context("the connection has ended")?;
    read.extend_from_slice(&buffer[..n]);
    Ok(n > 0)
}
