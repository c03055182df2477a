use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::broadcast;

use crate::lost::Lost;
use crate::process::Shared;
use crate::storage::{Holder, Name, Owner, Token};

/// An event of a lock of one client. Each one is also a `tracing` event under `leasehold`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A lock was granted.
    Acquired {
        /// The lock.
        name: Name,
        /// Its fencing token.
        token: Token,
        /// The time from the call to the grant.
        waited: Duration,
    },
    /// The lease of another client was ended by this client's `break_lock`.
    Broken {
        /// The lock.
        name: Name,
        /// The owner of that lease.
        owner: Owner,
        /// Its fencing token.
        token: Token,
    },
    /// A claim of a caller that waits was not answered. The caller still waits, and the claim is repeated. Sent once for
    /// each outage.
    ClaimFailed {
        /// The lock.
        name: Name,
        /// The time from the call until now.
        waited: Duration,
    },
    /// A held lock was lost.
    Lost {
        /// The lock.
        name: Name,
        /// Its fencing token.
        token: Token,
        /// The reason.
        lost: Lost,
    },
    /// The reader was slow and missed this many events. The locks were not affected.
    Missed {
        /// The number of events.
        count: u64,
    },
    /// A lock was released by its holder.
    Released {
        /// The lock.
        name: Name,
        /// Its fencing token.
        token: Token,
        /// The time from the grant to the release.
        held: Duration,
    },
    /// A renewal was not answered. The lock is still held, but at risk. Sent once for each outage.
    RenewFailed {
        /// The lock.
        name: Name,
        /// Its fencing token.
        token: Token,
        /// The remaining time of the lease.
        remaining: Duration,
    },
    /// A lease was renewed.
    Renewed {
        /// The lock.
        name: Name,
        /// Its fencing token.
        token: Token,
    },
    /// Another client holds the lock, and the caller waits.
    Waiting {
        /// The lock.
        name: Name,
        /// The holder, if the storage reports it.
        holder: Option<Holder>,
    },
}

impl Event {
    /// Returns the kind of event in words with hyphens: `acquired`, `broken`, `claim-failed`, `lost`, `missed`,
    /// `released`, `renew-failed`, `renewed`, `waiting`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Acquired { .. } => "acquired",
            Self::Broken { .. } => "broken",
            Self::ClaimFailed { .. } => "claim-failed",
            Self::Lost { .. } => "lost",
            Self::Missed { .. } => "missed",
            Self::Released { .. } => "released",
            Self::RenewFailed { .. } => "renew-failed",
            Self::Renewed { .. } => "renewed",
            Self::Waiting { .. } => "waiting",
        }
    }
}

/// The events of one client: a bounded stream that ends when the client is closed.
#[derive(Debug)]
pub struct Events(Buffered<Event>);

impl Events {
    pub(crate) fn new(events: broadcast::Receiver<Event>) -> Self {
        Self(Buffered::new(events))
    }

    /// Waits for the next event. Returns `None` once the client is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().0.poll(cx).map(|next| match next {
            Some(Ok(event)) => Some(event),
            Some(Err(count)) => Some(Event::Missed { count }),
            None => None,
        })
    }
}

/// A change of one lock, as an observer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The lock is held.
    Locked {
        /// The holder.
        holder: Holder,
    },
    /// The lock is free: it was released or broken, or its lease ended.
    Unlocked,
}

impl Change {
    /// Returns the kind of change as one word: `locked`, `unlocked`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Unlocked => "unlocked",
        }
    }
}

/// The changes of one lock by any holder; see [`Locks::observe`](crate::Locks::observe).
pub struct Changes {
    seen: Shared<tokio::sync::mpsc::Receiver<Change>>,
    /// Tells the engine that this observer is dropped.
    leave: Box<dyn Fn() + Send + Sync>,
}

impl Changes {
    pub(crate) fn new(
        seen: tokio::sync::mpsc::Receiver<Change>,
        leave: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { seen: Shared::new(seen), leave: Box::new(leave) }
    }

    /// Waits for the next change. Returns `None` once the client is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future loses no change.
    pub async fn next(&mut self) -> Option<Change> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        // A fork has no engine that sends changes.
        self.get_mut().seen.get().map_or(Poll::Ready(None), |seen| seen.poll_recv(cx))
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        (self.leave)();
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

type Received<T> = (Result<T, broadcast::error::RecvError>, broadcast::Receiver<T>);

/// A broadcast receiver that can be polled. Its `recv` borrows the receiver, so the future owns it and
/// returns it.
struct Buffered<T>(Shared<Next<T>>);

type Next<T> = Pin<Box<dyn Future<Output = Received<T>> + Send + Sync>>;

impl<T: Clone + Send + Sync + 'static> Buffered<T> {
    fn new(receiver: broadcast::Receiver<T>) -> Self {
        Self(Shared::new(Box::pin(Self::receive(receiver))))
    }

    async fn receive(mut receiver: broadcast::Receiver<T>) -> Received<T> {
        (receiver.recv().await, receiver)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, u64>>> {
        let Some(next) = self.0.get() else { return Poll::Ready(None) };
        let (received, receiver) = std::task::ready!(next.as_mut().poll(cx));
        *next = Box::pin(Self::receive(receiver));
        Poll::Ready(match received {
            Ok(item) => Some(Ok(item)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Err(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        })
    }
}

impl<T> std::fmt::Debug for Buffered<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Buffered")
    }
}
