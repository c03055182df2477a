use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::future::{Either, select};

use crate::error::{ErrorKind, Result};
use crate::event::{Change, Changes};
use crate::guard::{Guard, unless_lost};
use crate::lock::Lock;
use crate::options::Wait;
use crate::storage::{Holder, Name, Token};

/// An election: of all programs that stand for it, at most one leads. Holds nothing, and may be used any number of
/// times.
///
/// An election is the lock of the same name. Its holder leads, a *term* is one hold, and the number of the term is the
/// fencing token, which grows from term to term. A leader that is cut off from the storage is told at its local
/// deadline, before the storage lets another one lead. A leader that is paused is told when it goes on: so let it send
/// its term with each write, and let the resource refuse an older one.
#[must_use = "an Election has no leader until `lead` or `campaign` is awaited"]
#[derive(Clone, Debug)]
pub struct Election {
    lock: Lock,
    /// `true` if a leader goes on after its term: a planted defect.
    #[cfg(test)]
    leads_on: bool,
}

impl Election {
    pub(crate) fn new(lock: Lock) -> Self {
        Self {
            // One that resigns is followed at once.
            lock: lock.without_minimum(),
            #[cfg(test)]
            leads_on: false,
        }
    }

    /// Plants a defect: a leader goes on after its term.
    #[cfg(test)]
    pub(crate) fn leads_on(mut self) -> Self {
        self.leads_on = true;
        self
    }

    /// Sets the text that others see of this program while it leads, such as its address: at most 4 KiB,
    /// `program@host:pid` unless set.
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.lock = self.lock.label(value);
        self
    }

    /// Sets [`Lock::ttl`]: how long it takes at most until another program leads if the leader dies, and how long a
    /// leader that is cut off goes on. 100 ms to 24 h, 10 s unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Sets how long [`Election::campaign`] waits: a [`Duration`] or a [`Wait`]. [`Wait::Forever`] unless set.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.lock = self.lock.wait(wait);
        self
    }

    /// Limits how long a term lasts: at least 100 ms. Then the work is dropped as after a loss, and the next candidate in
    /// line leads. No limit unless set.
    pub fn max_term(mut self, max_term: Duration) -> Self {
        self.lock = self.lock.max_hold(max_term);
        self
    }

    /// Returns the name as it was given.
    pub fn name(&self) -> &str {
        self.lock.name()
    }

    /// Leads whenever it is elected, and runs `work` in each term. Ends with the work.
    ///
    /// Waits in line until this program leads, and runs the work. If the lock is lost, drops the work at that moment,
    /// and waits in line again. If the work ends, resigns and returns its result. Outages of the storage are waited out;
    /// [`Event::ClaimFailed`](crate::Event::ClaimFailed) and [`Event::Lost`](crate::Event::Lost) tell of them.
    ///
    /// # Errors
    ///
    /// - [`Lost`](ErrorKind::Lost) if the work ended and the lock had been lost before it was released.
    /// - [`Invalid`](ErrorKind::Invalid), [`Unsupported`](ErrorKind::Unsupported) and [`Closed`](ErrorKind::Closed) as
    ///   for [`Lock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the work, and resigns or leaves the line.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let election = locks.election("scheduler").value("10.0.0.7:8080");
    /// let served = election.lead(async |term| format!("served in term {}", term.token())).await?;
    /// assert!(served.starts_with("served"));
    /// # Ok(()) }
    /// ```
    ///
    /// The work gets a guard of its own, so that it may hand it to other tasks. When the term is over, however it ended,
    /// that guard holds nothing any more, and [`Guard::lost`] completes. In a task of its own:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// # let locks = leasehold::Locks::connect("memory:").await?;
    /// # let stop = std::sync::Arc::new(tokio::sync::Notify::new());
    /// # stop.notify_one();
    /// let election = locks.election("scheduler");
    /// let leading = tokio::spawn(async move {
    ///     let serve = async |term: std::sync::Arc<leasehold::Guard>| {
    ///         println!("leads in term {}", term.token());
    ///         stop.notified().await;
    ///     };
    ///     election.lead(serve).await
    /// });
    /// leading.await.expect("no panic")?;
    /// # Ok(()) }
    /// ```
    pub async fn lead<T, W: Future<Output = T>>(&self, mut work: impl FnMut(Arc<Guard>) -> W) -> Result<T> {
        loop {
            let term = Term(Arc::new(self.elected().await?));
            // The work is dropped before the term is given up.
            let done = {
                let mut working = pin!(work(Arc::clone(&term.0)));
                match select(pin!(term.0.lost_unreleased()), working.as_mut()).await {
                    #[cfg(test)]
                    Either::Left(_) if self.leads_on => working.await,
                    Either::Left(_) => continue,
                    Either::Right((done, _)) => done,
                }
            };
            return unless_lost(term.0.release_by_ref().await, done);
        }
    }

    /// Waits until this program leads, however long the storage does not answer.
    pub(crate) async fn elected(&self) -> Result<Guard> {
        let lock = self.lock.clone().wait(Wait::Forever);
        loop {
            match lock.acquire().await {
                // It has retried for half a minute, with pauses.
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                other => return other,
            }
        }
    }

    /// Waits until this program leads. Returns the guard of its term: [`Guard::token`] is the number of the term,
    /// [`Guard::lost`] tells when it is over, and [`Guard::release`] resigns, so that the next candidate leads at once.
    ///
    /// # Errors
    ///
    /// The errors of [`Lock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves the line. If this program is being elected, it resigns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let term = locks.election("scheduler").campaign().await?;
    /// println!("leads in term {}", term.token());
    /// term.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn campaign(&self) -> Result<Guard> {
        self.lock.acquire().await
    }

    /// Returns the present leader, or `None` if there is none. Makes one request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let election = locks.election("scheduler").value("10.0.0.7:8080");
    /// assert_eq!(election.leader().await?, None);
    /// let term = election.campaign().await?;
    /// let leader = election.leader().await?.expect("there is one");
    /// assert_eq!((leader.value.as_str(), leader.term), ("10.0.0.7:8080", term.token()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid) if the name is out of bounds.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let holders = self.lock.engine().inspect(Name::new(self.lock.name())?).await?;
        Ok(holders.into_iter().max_by_key(|holder| holder.token).map(Leader::of))
    }

    /// Observes the election: returns the present leader and then every change.
    ///
    /// A slow reader may see several changes as one, and a very short term may not be noticed. The last leader always
    /// arrives.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) if the name is out of bounds, [`Closed`](ErrorKind::Closed) if the client was
    /// closed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let election = locks.election("scheduler").value("10.0.0.7:8080");
    /// let term = election.campaign().await?;
    /// let leader = election.leaders()?.next().await.flatten().expect("there is one");
    /// assert_eq!((leader.value.as_str(), leader.term), ("10.0.0.7:8080", term.token()));
    /// # Ok(()) }
    /// ```
    pub fn leaders(&self) -> Result<Leaders> {
        self.lock.engine().observe(Name::new(self.lock.name())?).map(Leaders)
    }
}

/// A term of this program. It ends when this value is dropped, even if the work has left a guard somewhere.
struct Term(Arc<Guard>);

impl Drop for Term {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A leader, as the storage reported it. The report may be outdated when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it has set with [`Election::value`].
    pub value: String,
    /// The number of its term.
    pub term: Token,
    /// How long it has led, if the storage knows.
    pub leads_for: Option<Duration>,
}

impl Leader {
    fn of(holder: Holder) -> Self {
        let value = holder.label.as_deref().unwrap_or_default().to_owned();
        Self { value, term: holder.token, leads_for: holder.held_for }
    }
}

/// The leaders of an election, from the present one on; see [`Election::leaders`].
#[derive(Debug)]
pub struct Leaders(Changes);

impl Leaders {
    /// Waits for the next change. Returns the leader, or `Some(None)` if there is none any more. Returns `None` once the
    /// client is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future loses no change.
    pub async fn next(&mut self) -> Option<Option<Leader>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Leaders {
    type Item = Option<Leader>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Option<Leader>>> {
        Pin::new(&mut self.0).poll_next(cx).map(|change| {
            change.map(|change| match change {
                Change::Locked { holder } => Some(Leader::of(holder)),
                Change::Unlocked => None,
            })
        })
    }
}
