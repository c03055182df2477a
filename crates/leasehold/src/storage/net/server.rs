//! One server, with a connection that is opened again when it breaks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::clock::ServerClock;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};

/// Knows how to reach one server, again and again.
pub(in crate::storage) trait Connect: Send + Sync + 'static {
    /// A connection, and what was learnt when it was opened.
    type Link: Link;

    /// Opens a connection; tells `time` what the server's clock shows.
    fn open(&self, time: &ServerClock) -> impl Future<Output = Result<Self::Link>> + Send;

    /// What errors call the server.
    fn name(&self) -> String;
}

/// A connection to a server.
pub(in crate::storage) trait Link: Send + Sync + 'static {
    /// Changes when the server is restarted, or another one answers in its place.
    type Identity: Clone + PartialEq + Send;

    /// Which server, and which life of it.
    fn identity(&self) -> &Self::Identity;

    /// Whether anything may still be begun on it.
    fn is_fit(&self) -> bool;
}

/// One server. Everybody who calls it shares one connection, and the attempt to open another.
pub(in crate::storage) struct Server<C: Connect> {
    connector: C,
    clock: Clock,
    pub(in crate::storage) time: ServerClock,
    state: Mutex<State<C::Link>>,
    /// Told when the server is not the one, or not in the life, that it was before.
    changed: Box<dyn Fn() + Send + Sync>,
}

type Opening<L> = Shared<BoxFuture<'static, Result<Arc<L>>>>;

/// How it stands with the connection.
enum Way<L> {
    Open(Arc<L>),
    /// `overdue` if that takes long, or the last try failed.
    Opening {
        opening: Opening<L>,
        overdue: bool,
    },
    /// The last try failed a moment ago.
    Closed(Error),
}

struct State<L: Link> {
    link: Option<Arc<L>>,
    opening: Option<Opening<L>>,
    overdue: bool,
    seen: Option<L::Identity>,
    failures: u32,
    /// Not before; until then everybody gets the error of the last try.
    next_try: Option<(Moment, Error)>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// With those of the listener, that is less than five connections a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);
/// From then on nobody waits for a connection together with others who do not need it.
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

    /// Returns the connection, or opens one, together with everybody else who asks for it meanwhile.
    ///
    /// After a failed try it fails at once for a while: the caller asks again anyway, and a server that comes back
    /// shall not be met by a storm.
    pub(in crate::storage) async fn link(self: &Arc<Self>) -> Result<Arc<C::Link>> {
        match self.way() {
            Way::Open(link) => Ok(link),
            Way::Opening { opening, .. } => opening.await,
            Way::Closed(error) => Err(error),
        }
    }

    /// Returns the connection, or opens one; fails at once while that takes long or does not succeed: a server that may
    /// be dead shall not hold up what is asked of others together with it.
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

    /// Takes in that this identity was seen; whether it was another one before.
    pub(in crate::storage) fn saw(&self, identity: &<C::Link as Link>::Identity) -> bool {
        let before = self.state().seen.replace(identity.clone());
        let changed = before.is_some_and(|before| before != *identity);
        if changed {
            // What another server's clock showed is worth nothing.
            self.time.forget();
        }
        changed
    }

    /// Opens on a task of its own, which goes on when those who wait for it give up.
    fn open(self: &Arc<Self>) -> Opening<C::Link> {
        let (done, opened) = oneshot::channel();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            // Whose clock it is, is known when it is known which server it is.
            let time = ServerClock::default();
            let opened = server.connector.open(&time).await;
            let _nobody_waits = done.send(server.opened(opened, &time));
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

    /// A password that was right once may be so again, as while it is changed everywhere.
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
