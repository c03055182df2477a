//! The rules of a proxy: which requests they apply to, and what they change.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::wait::until;
use crate::{Error, Result};

/// What a [`RedisProxy`](super::RedisProxy) does with a request. By default, it gives no answer to the next request of
/// the command, and does not forward it to the server. The setters choose something else.
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

/// A rule that is in effect. It reports what it has done, and releases what it holds.
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
    /// Begins a rule for a command, such as `evalsha` or `client tracking`, or for any, `*`.
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

    /// Applies only to requests with an argument that contains these bytes, such as the name of a lock.
    #[must_use]
    pub fn containing(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.containing = Some(bytes.into());
        self
    }

    /// Lets the first `skip` requests pass.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Applies to `times` requests.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Applies until [`Armed::end`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Forwards the request, and changes only the reply: the server executes the command, and the client does not learn
    /// that.
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

    /// Gives no answer, nor any other on this connection, until [`Armed::end`] ends the connection.
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

    /// Forwards the request, and holds its reply and all later ones on this connection until [`Armed::release`].
    #[must_use]
    pub fn hold_reply(mut self) -> Self {
        self.act = Act::HoldReply;
        self.after_effect()
    }

    /// Holds the request and all later ones on this connection until [`Armed::release`]. They are forwarded then, even if
    /// the client is gone.
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

    /// Returns `true` if the rule applies to this request. A request that matches is counted.
    pub(super) fn takes(&self, words: &[Vec<u8>]) -> bool {
        let mut state = self.state();
        if state.ended || !self.0.rule.matches(words) {
            return false;
        }
        let Rule { skip, times, .. } = self.0.rule;
        state.seen += 1;
        state.seen > skip && state.seen - skip <= times
    }

    /// Counts that the rule has been applied, or is about to hold something.
    pub(super) fn hit(&self) {
        self.state().hits += 1;
        self.0.changed.notify_all();
    }

    /// Waits until the rule is released.
    pub(super) fn hold(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| !state.ended).unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns how often the rule was applied. A reply counts once the server has sent it.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// Waits until the rule was applied `n` times.
    ///
    /// # Errors
    ///
    /// If it was not.
    pub fn await_hits(&self, n: u64) -> Result<()> {
        until("the rule to be applied", || match self.hits() {
            hits if hits >= n => Ok(()),
            hits => Err(Error::new(format!("hits=`{hits}`"))),
        })
    }

    /// Ends the rule, and forwards what it holds.
    pub fn release(&self) {
        self.state().ended = true;
        self.0.changed.notify_all();
    }

    /// Ends the rule. The server answers again.
    pub fn end(&self) {
        self.release();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
