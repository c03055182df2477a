//! One server, with a connection that is opened again when it breaks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::oneshot;

use super::answers::{Remedy, remedy};
use super::connect::{Connector, Driver, Opened};
use super::facts::{Facts, Identity};
use super::server_clock::ServerClock;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};

/// One server. Everybody who calls it shares one connection, and the attempt to open another.
pub(in crate::storage) struct Server {
    connector: Connector,
    clock: Clock,
    pub(in crate::storage) time: ServerClock,
    state: Mutex<State>,
    /// Told when the server is not the one, or not in the life, that it was before.
    changed: Box<dyn Fn() + Send + Sync>,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Link>>>>;

/// How it stands with the connection.
enum Way {
    Open(Arc<Link>),
    /// `overdue` if that takes long, or the last try failed.
    Opening {
        opening: Opening,
        overdue: bool,
    },
    /// The last try failed a moment ago.
    Closed(Error),
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    opening: Option<Opening>,
    overdue: bool,
    seen: Option<Identity>,
    failures: u32,
    /// Not before; until then everybody gets the error of the last try.
    next_try: Option<(Moment, Error)>,
}

/// A connection to a server.
pub(in crate::storage) struct Link {
    connection: MultiplexedConnection,
    _driver: Driver,
    pub(in crate::storage) facts: Facts,
    /// What errors call the server.
    pub(in crate::storage) place: String,
    clock: Clock,
    /// Nobody shall begin anything on it.
    broken: AtomicBool,
    /// When its server told the facts.
    pub(in crate::storage) opened: Moment,
    /// When the last answer came, in nanoseconds.
    heard: AtomicU64,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// With those of the listener, that is less than five connections a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// From then on nobody waits for a connection together with others who do not need it.
const OVERDUE: Duration = Duration::from_millis(250);

impl Server {
    pub(in crate::storage) fn new(
        connector: Connector,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            connector,
            clock: Clock::boot(),
            time: ServerClock::default(),
            state: Mutex::default(),
            changed: Box::new(changed),
        })
    }

    pub(in crate::storage) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Returns the connection, or opens one, together with everybody else who asks for it meanwhile.
    ///
    /// After a failed try it fails at once for a while: the caller asks again anyway, and a server that comes back
    /// shall not be met by a storm.
    pub(in crate::storage) async fn link(self: &Arc<Self>) -> Result<Arc<Link>> {
        match self.way() {
            Way::Open(link) => Ok(link),
            Way::Opening { opening, .. } => opening.await,
            Way::Closed(error) => Err(error),
        }
    }

    /// Returns the connection, or opens one; fails at once while that takes long or does not succeed: a server that may
    /// be dead shall not hold up what is asked of others together with it.
    pub(in crate::storage) async fn link_now(self: &Arc<Self>) -> Result<Arc<Link>> {
        let opening = match self.way() {
            Way::Open(link) => return Ok(link),
            Way::Closed(error) => return Err(error),
            Way::Opening { opening, overdue } if !overdue => opening,
            Way::Opening { .. } => return Err(self.overdue()),
        };
        match tokio::time::timeout(OVERDUE, opening).await {
            Ok(opened) => opened,
            Err(_) => {
                self.state().overdue = true;
                Err(self.overdue())
            }
        }
    }

    /// Returns the connection, if one is open.
    pub(in crate::storage) fn open_link(&self) -> Option<Arc<Link>> {
        self.state().link.as_ref().filter(|link| link.is_fit()).map(Arc::clone)
    }

    fn way(self: &Arc<Self>) -> Way {
        let mut state = self.state();
        if let Some(link) = state.link.as_ref().filter(|link| link.is_fit()) {
            return Way::Open(Arc::clone(link));
        }
        let overdue = state.overdue || state.failures > 0;
        if let Some(opening) = &state.opening {
            return Way::Opening { opening: opening.clone(), overdue };
        }
        if let Some((at, error)) = &state.next_try
            && self.clock.now() < *at
        {
            return Way::Closed(error.clone());
        }
        state.link = None;
        let opening = self.open();
        state.opening = Some(opening.clone());
        Way::Opening { opening, overdue }
    }

    fn overdue(&self) -> Error {
        let text = "the connection is being opened, which takes long; check the server, and retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.connector.name()))
    }

    pub(in crate::storage) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Takes in that this identity was seen; whether it was another one before.
    pub(in crate::storage) fn saw(&self, identity: &Identity) -> bool {
        let before = self.state().seen.replace(identity.clone());
        before.is_some_and(|before| before != *identity)
    }

    /// Opens on a task of its own, which goes on when those who wait for it give up.
    fn open(self: &Arc<Self>) -> Opening {
        let (done, opened) = oneshot::channel();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let opened = server.connector.open(None).await;
            let _nobody_waits = done.send(server.opened(opened));
        });
        let gone =
            || Error::new(ErrorKind::Unavailable, "the runtime that connects has ended; connect again");
        opened.map(move |opened| opened.unwrap_or_else(|_| Err(gone()))).boxed().shared()
    }

    fn opened(&self, opened: Result<Opened>) -> Result<Arc<Link>> {
        let link = opened.map(|opened| {
            let Opened { connection, driver, facts, place, asked, answered } = opened;
            self.time.learn(asked, answered, facts.time_us);
            Arc::new(Link {
                connection,
                _driver: driver,
                facts,
                place: place.to_string(),
                clock: self.clock.clone(),
                broken: AtomicBool::new(false),
                opened: answered,
                heard: AtomicU64::new(answered.as_nanos()),
            })
        });
        let link = link.map_err(|error| self.refused(error));
        let is_new = link.as_ref().is_ok_and(|link| self.saw(&link.facts.identity));
        let mut state = self.state();
        (state.opening, state.overdue) = (None, false);
        match &link {
            Ok(link) => {
                state.link = Some(Arc::clone(link));
                (state.failures, state.next_try) = (0, None);
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << std::cmp::min(state.failures, 8));
                let pause = std::cmp::min(pause, LONGEST_PAUSE);
                state.failures += 1;
                state.next_try = Some((self.clock.now().after(pause), error.clone()));
            }
        }
        drop(state);
        if is_new {
            (self.changed)();
        }
        link
    }

    /// A password that was right once may be so again, as while it is changed everywhere.
    fn refused(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Invalid if self.state().seen.is_some() => {
                Error::new(ErrorKind::Unavailable, error.to_string())
            }
            _ => error,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Sends a command and waits for its answer.
    pub(in crate::storage) async fn call(&self, command: &Cmd) -> Result<Value, RedisError> {
        let asking = Asking::new(self);
        let answer =
            self.connection.clone().send_packed_command(command).await.and_then(|answer| match answer {
                Value::ServerError(error) => Err(error.into()),
                answer => Ok(answer),
            });
        asking.answered(answer.as_ref().err());
        answer
    }

    /// Sends commands together; each answer may be an error.
    pub(in crate::storage) async fn call_all(&self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let asking = Asking::new(self);
        let answers = self.connection.clone().send_packed_commands(commands, 0, commands.len()).await;
        asking.answered(answers.as_ref().err());
        answers
    }

    /// Takes the connection out of use if an error among the answers to several commands says so.
    pub(in crate::storage) fn heed(&self, error: &RedisError) {
        if matches!(remedy(error), Remedy::Reconnect | Remedy::FindPrimary) {
            self.give_up();
        }
    }

    /// Takes the connection out of use: the next call opens another.
    pub(in crate::storage) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    fn is_fit(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }
}

/// A question under way. One that is dropped, with nothing heard since it was asked, casts doubt on the connection.
struct Asking<'a> {
    link: &'a Link,
    since: Moment,
}

impl<'a> Asking<'a> {
    fn new(link: &'a Link) -> Self {
        Self { link, since: link.clock.now() }
    }

    fn answered(self, error: Option<&RedisError>) {
        self.link.heard.store(self.link.clock.now().as_nanos(), Ordering::Relaxed);
        if let Some(error) = error {
            self.link.heed(error);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.link.heard.load(Ordering::Relaxed) < self.since.as_nanos() {
            self.link.give_up();
        }
    }
}
