//! Which requests a proxy meddles with, and how.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::wait::until;
use crate::{Error, Result};

/// Says what a [`RedisProxy`](super::RedisProxy) does with the next request of a command. Without more it answers
/// nothing instead of the server; the setters choose.
///
/// By default, for one request, and the server does not get it.
#[derive(Clone, Debug)]
pub struct Rule {
    command: String,
    containing: Option<Vec<u8>>,
    skip: u64,
    times: u64,
    pub(super) forward: bool,
    pub(super) act: Act,
}

/// What happens instead of the server's reply.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Silence,
    Reply(Vec<u8>),
    HoldRequest,
    HoldReply,
    Cut,
}

/// Is a rule that a proxy follows: tells what it has done, and lets go what it holds back.
#[derive(Clone, Debug)]
pub struct Armed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rule: Rule,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    seen: u64,
    hits: u64,
    ended: bool,
}

impl Rule {
    /// Begins with a command, such as `evalsha`, or `client tracking`; `*` is any.
    #[must_use]
    pub fn on(command: &str) -> Self {
        Self {
            command: command.to_lowercase(),
            containing: None,
            skip: 0,
            times: 1,
            forward: false,
            act: Act::Silence,
        }
    }

    /// Only those in which one argument contains these bytes, such as a lock's name.
    #[must_use]
    pub fn containing(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.containing = Some(bytes.into());
        self
    }

    /// Lets the first `skip` pass.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Does it `times` times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Does it until [`Armed::end`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Lets the server have the request, and meddles only with its reply: what was asked for is done, and the client
    /// does not learn it.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        self.forward = true;
        self
    }

    /// Answers with an error, such as those in [`states`](super::states).
    #[must_use]
    pub fn error(self, line: &str) -> Self {
        self.bytes(format!("-{line}\r\n"))
    }

    /// Answers with these bytes, such as those in [`hostile`](super::hostile).
    #[must_use]
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.act = Act::Reply(bytes.into());
        self
    }

    /// Answers nothing, nor what comes later on this connection, until [`Armed::end`] ends it.
    #[must_use]
    pub fn silence(mut self) -> Self {
        self.act = Act::Silence;
        self
    }

    /// Ends the connection.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.act = Act::Cut;
        self
    }

    /// Lets the server have the request, and holds its reply back until [`Armed::release`], with all that comes later
    /// on this connection.
    #[must_use]
    pub fn hold_reply(mut self) -> Self {
        self.act = Act::HoldReply;
        self.after_effect()
    }

    /// Holds the request back until [`Armed::release`], with all that comes later on this connection. The server gets
    /// it then, even if the client has gone.
    #[must_use]
    pub fn hold_request(mut self) -> Self {
        self.act = Act::HoldRequest;
        self.after_effect()
    }

    fn matches(&self, words: &[Vec<u8>]) -> bool {
        let named =
            self.command == "*"
                || self.command.split(' ').enumerate().all(|(i, name)| {
                    words.get(i).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
                });
        let contains = |bytes: &Vec<u8>| {
            words.iter().any(|word| bytes.is_empty() || word.windows(bytes.len()).any(|part| part == bytes))
        };
        named && self.containing.as_ref().is_none_or(contains)
    }
}

impl Armed {
    pub(super) fn new(rule: Rule) -> Self {
        Self(Arc::new(Inner { rule, state: Mutex::default(), changed: Condvar::new() }))
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.0.rule
    }

    /// Whether this request is for it. One that is, counts as seen.
    pub(super) fn takes(&self, words: &[Vec<u8>]) -> bool {
        let mut state = self.state();
        if state.ended || !self.0.rule.matches(words) {
            return false;
        }
        let Rule { skip, times, .. } = self.0.rule;
        state.seen += 1;
        state.seen > skip && state.seen - skip <= times
    }

    /// It has done what it says; or is about to, and holds something back.
    pub(super) fn hit(&self) {
        self.state().hits += 1;
        self.0.changed.notify_all();
    }

    /// Waits until it is released.
    pub(super) fn hold(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| !state.ended).unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts how often it was done. A reply counts once it could have been sent: the server has done its part.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// Waits until it was done `n` times.
    ///
    /// # Errors
    ///
    /// If it was not.
    pub fn await_hits(&self, n: u64) -> Result<()> {
        until("the proxy to meddle", || match self.hits() {
            hits if hits >= n => Ok(()),
            hits => Err(Error::new(format!("it did hits=`{hits}`"))),
        })
    }

    /// Lets go what it holds back, and is over.
    pub fn release(&self) {
        self.state().ended = true;
        self.0.changed.notify_all();
    }

    /// Is over: the server answers again.
    pub fn end(&self) {
        self.release();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
