//! The storage that an engine is given: hands every call to the simulator, and waits for its answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};

use crate::error::Result;
use crate::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Name, ReleaseReply,
    RenewReply, Storage, Tier,
};

#[derive(Clone)]
pub(super) struct Wire(Arc<Mutex<State>>);

struct State {
    calls: Vec<Call>,
    hints: Option<mpsc::UnboundedSender<Hint>>,
    /// Subscribed since somebody looked.
    fresh: bool,
    limits: Limits,
    /// How many names were added to and taken from those that are observed.
    watched: (usize, usize),
}

/// A call of an engine that is not answered yet.
pub(super) struct Call {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Answer>,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Acquire(Vec<Claim>),
    Inspect(Name),
    Release(Vec<Claim>),
    Renew(Vec<Claim>),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Acquire(Vec<Result<AcquireReply>>),
    Inspect(Result<Option<Holder>>),
    Release(Vec<Result<ReleaseReply>>),
    Renew(Vec<Result<RenewReply>>),
}

impl Wire {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(State {
            calls: Vec::new(),
            hints: None,
            fresh: false,
            limits,
            watched: (0, 0),
        })))
    }

    /// The calls that were made since the last look.
    pub(super) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Whether hints were subscribed to since the last look.
    pub(super) fn subscribed(&self) -> bool {
        std::mem::take(&mut self.state().fresh)
    }

    /// How many names were added to and taken from those that are observed.
    pub(super) fn watched(&self) -> (usize, usize) {
        self.state().watched
    }

    /// Whether hints are subscribed to.
    pub(super) fn is_listened_to(&self) -> bool {
        self.state().hints.is_some()
    }

    pub(super) fn hint(&self, hint: Hint) {
        if let Some(hints) = &self.state().hints {
            // An engine that has ended needs no hint.
            let _ = hints.send(hint);
        }
    }

    async fn ask(&self, ask: Ask) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.state().calls.push(Call { ask, reply });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Wire {
    fn guarantees(&self) -> Guarantees {
        Guarantees::new(Tier::CrashSafe, LeaseClock::ServerWall)
    }

    fn limits(&self) -> Limits {
        self.state().limits
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        match self.ask(Ask::Acquire(claims.to_vec())).await {
            Answer::Acquire(answers) => answers,
            other => unreachable!("{other:?}"),
        }
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        match self.ask(Ask::Renew(claims.to_vec())).await {
            Answer::Renew(answers) => answers,
            other => unreachable!("{other:?}"),
        }
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        match self.ask(Ask::Release(claims.to_vec())).await {
            Answer::Release(answers) => answers,
            other => unreachable!("{other:?}"),
        }
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        match self.ask(Ask::Inspect(name.clone())).await {
            Answer::Inspect(answer) => answer.map(|holder| holder.into_iter().collect()),
            other => unreachable!("{other:?}"),
        }
    }

    async fn list(&self, _prefix: &str, _after: Option<&Cursor>, _limit: usize) -> Result<Vec<Holder>> {
        Ok(Vec::new())
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        let watched = &mut self.state().watched;
        *watched = (watched.0 + added.len(), watched.1 + removed.len());
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut state = self.state();
        (state.hints, state.fresh) = (Some(tx), true);
        stream::unfold(rx, async |mut rx| rx.recv().await.map(|hint| (hint, rx)))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}
