//! One server, with one connection that all calls share, and that is opened again when it breaks.
//!
//! | State | Fields | A call gets |
//! |---|---|---|
//! | open | `link` is fit | the connection |
//! | opening | `opening` | the connection when it is open; from [`OVERDUE`] on, [`Server::link_now`] returns an error instead |
//! | closed | `next_try` is in the future | the error of the last attempt |
//! | idle | none of them | the state becomes *opening* |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::clock::ServerClock;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};

/// The way to open connections to one server.
pub(in crate::storage) trait Connect: Send + Sync + 'static {
    /// A connection, and what was learned when it was opened.
    type Link: Link;

    /// Opens a connection. Passes the server's time to `time`.
    fn open(&self, time: &ServerClock) -> impl Future<Output = Result<Self::Link>> + Send;

    /// Returns the name of the server for errors.
    fn name(&self) -> String;
}

/// A connection to a server.
pub(in crate::storage) trait Link: Send + Sync + 'static {
    /// An identity that changes when the server is restarted, or when another one answers in its place.
    type Identity: Clone + PartialEq + Send;

    /// Returns the identity of the server.
    fn identity(&self) -> &Self::Identity;

    /// Returns `true` if a request may still be sent on it.
    fn is_fit(&self) -> bool;
}

/// One server. All calls share one connection, and the attempt to open another.
pub(in crate::storage) struct Server<C: Connect> {
    connector: C,
    clock: Clock,
    pub(in crate::storage) time: ServerClock,
    state: Mutex<State<C::Link>>,
    /// Called when a connection shows another identity than the one before.
    changed: Box<dyn Fn() + Send + Sync>,
}

type Opening<L> = Shared<BoxFuture<'static, Result<Arc<L>>>>;

/// The state of the connection, as a call finds it.
enum Way<L> {
    Open(Arc<L>),
    Opening {
        opening: Opening<L>,
        /// Whether this takes long, or the last attempt failed.
        overdue: bool,
    },
    /// The last attempt failed a moment ago.
    Closed(Error),
}

struct State<L: Link> {
    link: Option<Arc<L>>,
    opening: Option<Opening<L>>,
    /// Whether opening has taken longer than [`OVERDUE`].
    overdue: bool,
    /// The identity of the server when it was last seen.
    seen: Option<L::Identity>,
    /// The number of attempts that failed since the last success.
    failures: u32,
    /// The time of the next attempt. Until then, each call gets the error of the last one.
    next_try: Option<(Moment, Error)>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// With the pauses of the listener, this limits a client to five connections a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// How long a batch for several servers waits for the connection to one of them.
const OVERDUE: Duration = Duration::from_millis(250);

impl<C: Connect> Server<C> {
    pub(in crate::storage) fn new(connector: C, changed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            connector,
            clock: Clock::boot(),
            time: ServerClock::default(),
            state: Mutex::new(State {
                link: None,
                opening: None,
                overdue: false,
                seen: None,
                failures: 0,
                next_try: None,
            }),
            changed: Box::new(changed),
        })
    }

    pub(in crate::storage) fn connector(&self) -> &C {
        &self.connector
    }

    /// Returns the connection, or opens one. Calls that arrive meanwhile wait for the same one.
    ///
    /// After a failed attempt, calls fail at once for a while. The engine repeats them anyway, and a server that comes back
    /// is not flooded with connections.
    pub(in crate::storage) async fn link(self: &Arc<Self>) -> Result<Arc<C::Link>> {
        match self.way() {
            Way::Open(link) => Ok(link),
            Way::Opening { opening, .. } => opening.await,
            Way::Closed(error) => Err(error),
        }
    }

    /// Returns the connection, or opens one. Fails at once while that takes long or does not succeed.
    ///
    /// A server that may be dead must not delay the requests to others in the same batch.
    pub(in crate::storage) async fn link_now(self: &Arc<Self>) -> Result<Arc<C::Link>> {
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
    pub(in crate::storage) fn open_link(&self) -> Option<Arc<C::Link>> {
        self.state().link.as_ref().filter(|link| link.is_fit()).map(Arc::clone)
    }

    fn way(self: &Arc<Self>) -> Way<C::Link> {
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

    /// Records the identity of the server. Returns `true` if it was another one before.
    pub(in crate::storage) fn saw(&self, identity: &<C::Link as Link>::Identity) -> bool {
        let before = self.state().seen.replace(identity.clone());
        let changed = before.is_some_and(|before| before != *identity);
        if changed {
            // The bounds are of another server's clock.
            self.time.forget();
        }
        changed
    }

    /// Opens a connection on a task of its own, which goes on when all callers give up.
    fn open(self: &Arc<Self>) -> Opening<C::Link> {
        let (done, opened) = oneshot::channel();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            // These bounds are used once the server's identity is known.
            let time = ServerClock::default();
            let opened = server.connector.open(&time).await;
            let _callers_gone = done.send(server.opened(opened, &time));
        });
        let gone =
            || Error::new(ErrorKind::Unavailable, "the runtime that connects has ended; connect again");
        opened.map(move |opened| opened.unwrap_or_else(|_| Err(gone()))).boxed().shared()
    }

    fn opened(&self, opened: Result<C::Link>, time: &ServerClock) -> Result<Arc<C::Link>> {
        let link = opened.map(Arc::new).map_err(|error| self.refused(error));
        let is_new = link.as_ref().is_ok_and(|link| self.saw(link.identity()));
        if link.is_ok() {
            self.time.learn_from(time);
        }
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

    /// Makes a wrong password a temporary error, if it was right before.
    ///
    /// It may become right again, as while passwords are changed on several machines.
    fn refused(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Invalid if self.state().seen.is_some() => {
                Error::new(ErrorKind::Unavailable, error.to_string())
            }
            _ => error,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<C::Link>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
