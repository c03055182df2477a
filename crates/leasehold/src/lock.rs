use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::engine::{Handle, Mode, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Guard, unless_lost};
use crate::options::{DEFAULT_INTERVAL, Options, Renewal, Wait};
use crate::storage::Name;

/// One lock by its name, with the options to acquire it. Holds nothing, and may be used any number of times.
///
/// Setters never fail. What they set is checked when the lock is acquired, before anything is sent.
#[must_use = "a Lock holds nothing until `acquire` is awaited"]
#[derive(Clone, Debug)]
pub struct Lock {
    engine: Handle,
    name: String,
    options: Options,
}

impl Lock {
    pub(crate) fn new(engine: Handle, name: &str, options: Options) -> Self {
        Self { engine, name: name.to_owned(), options }
    }

    /// Sets how long the lease lasts if it is not renewed: 100 ms to 24 h, 10 s unless set.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// Sets how long to wait: a [`Duration`] or a [`Wait`]. [`Wait::Forever`] unless set.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.options.wait = wait.into();
        self
    }

    /// Tries `n` more times after the first, 50 ms apart unless [`Lock::interval`] is set.
    pub fn retries(mut self, n: u32) -> Self {
        let interval = match self.options.wait {
            Wait::Attempts { interval, .. } => interval,
            _ => DEFAULT_INTERVAL,
        };
        self.options.wait = Wait::Attempts { attempts: n.saturating_add(1), interval };
        self
    }

    /// Sets the pause between two tries. Without [`Lock::retries`], there are two.
    pub fn interval(mut self, interval: Duration) -> Self {
        let attempts = match self.options.wait {
            Wait::Attempts { attempts, .. } => attempts,
            _ => 2,
        };
        self.options.wait = Wait::Attempts { attempts, interval };
        self
    }

    /// Sets when the lease is renewed: every third of the TTL unless set.
    pub fn renewal(mut self, renewal: Renewal) -> Self {
        self.options.renewal = renewal;
        self
    }

    /// Limits how long the lock is held, whatever the holder does: at least 100 ms. No limit unless set.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.max_hold = Some(max_hold);
        self
    }

    /// Keeps the lock from other clients for at least this time from its grant, however early it is released: at most
    /// the longest TTL of the storage. No minimum unless set.
    ///
    /// This is for a job that several machines start at about the same time. A machine that is late then finds the lock
    /// held, even if the job is over already. A release that comes earlier ends the guard, and leaves the lease until
    /// that time. So does dropping the guard, or closing the client. A shorter TTL, which [`Guard::extend`] may set, ends
    /// no lease before that time.
    ///
    /// The lease is bound to no process. If the process is killed *after* a release, or after
    /// [`Locks::close`](crate::Locks::close), has returned `Ok`, the lock is kept for the rest of the time. If the
    /// process is killed *before* that, during the work or right after a drop, the lease ends with its TTL. So with a
    /// TTL of at least this time, the lock is kept for this time whatever happens. With a shorter one, another client
    /// can take a job over when the process that runs it dies.
    ///
    /// [`Locks::break_lock`](crate::Locks::break_lock) ends the time early. A [`Ticket`](crate::Ticket) knows no minimum: a
    /// lease that is left to its ticket lasts until then, unless a program resumes the ticket and releases the lock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// # use std::time::Duration;
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let nightly = locks.lock("nightly").at_least(Duration::from_secs(300)).max_hold(Duration::from_secs(3600));
    /// assert_eq!(nightly.try_run(async |_| "done").await?, Some("done"));
    /// assert_eq!(nightly.try_run(async |_| "done").await?, None);     // five minutes are not over
    /// # Ok(()) }
    /// ```
    pub fn at_least(mut self, at_least: Duration) -> Self {
        self.options.at_least = Some(at_least);
        self
    }

    /// Sets the text that other clients see of this holder: at most 4 KiB, `program@host:pid` unless set.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.options.label = label.into();
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Returns the name as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Acquires the lock. Waits in the queue for as long as [`Lock::wait`] allows.
    ///
    /// # Errors
    ///
    /// - [`Contended`](ErrorKind::Contended) if another client held it for the whole wait.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    /// - [`Invalid`](ErrorKind::Invalid) if the name or an option is out of bounds; nothing was sent.
    /// - [`Unsupported`](ErrorKind::Unsupported) if the storage refuses the claim, for want of a permission for example.
    /// - [`Closed`](ErrorKind::Closed) if the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future gives up the place in the queue. Nothing stays held, even if the lock is being granted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// # use std::time::Duration;
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let guard = locks.lock("invoice/42").wait(Duration::from_secs(5)).acquire().await?;
    /// println!("write with token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<Guard> {
        let status = self.engine.acquire(self.wanted(Mode::Usual)?).await?;
        let guard = status.map(|status| Guard::new(status, self.engine.clone()));
        guard.ok_or_else(|| Error::new(ErrorKind::Internal, "a wait ended without an answer"))
    }

    /// Tries once. `None` means that another client has the lock, which is an answer and not an error.
    ///
    /// # Errors
    ///
    /// The errors of [`Lock::acquire`], but never [`Contended`](ErrorKind::Contended).
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing held.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let first = locks.lock("nightly").try_acquire().await?;
    /// assert!(first.is_some());
    /// assert!(locks.lock("nightly").try_acquire().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        let mut wanted = self.wanted(Mode::Once)?;
        // It does not wait. A limit of a wait would only cut the time for the answer.
        wanted.options.wait = Wait::Forever;
        let status = self.engine.acquire(wanted).await?;
        Ok(status.map(|status| Guard::new(status, self.engine.clone())))
    }

    /// Acquires the lock, runs `work`, and releases the lock. Drops the work at the moment at which the lock is lost.
    ///
    /// If the work ends and the lock is lost at the same moment, the loss counts. If only the release gets no reply,
    /// the result of the work is returned: the lock was held until the work ended.
    ///
    /// # Errors
    ///
    /// The errors of [`Lock::acquire`], and [`Lost`](ErrorKind::Lost) if the lock was lost before the work ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the work and releases the lock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let sum = locks.lock("report").run(async |guard| guard.token().get() + 1).await?;
    /// assert!(sum > 1);
    /// # Ok(()) }
    /// ```
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T> {
        run_under(self.acquire().await?, work).await
    }

    /// Tries once to acquire the lock. If it is granted, runs `work` and releases the lock, as [`Lock::run`] does.
    /// `None` means that another client has the lock, so the work was skipped, which is an answer and not an error.
    ///
    /// # Errors
    ///
    /// The errors of [`Lock::try_acquire`], and [`Lost`](ErrorKind::Lost) if the lock was lost before the work ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the work and releases the lock.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// match locks.lock("report").try_run(async |guard| guard.token()).await? {
    ///     Some(token) => println!("written with token {token}"),
    ///     None => println!("another machine writes it"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn try_run<T>(&self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<Option<T>> {
        match self.try_acquire().await? {
            Some(guard) => run_under(guard, work).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the lock without a minimum time.
    pub(crate) fn without_minimum(mut self) -> Self {
        self.options.at_least = None;
        self
    }

    pub(crate) fn engine(&self) -> &Handle {
        &self.engine
    }

    /// Checks the name and the options, and returns what the engine needs to acquire the lock.
    pub(crate) fn wanted(&self, mode: Mode) -> Result<Wanted> {
        let name = Name::new(&self.name)?;
        self.options.check(self.engine.limits())?;
        Ok(Wanted { name, options: self.options.clone(), mode })
    }
}

/// Runs `work`, and releases the lock. Drops the work at the moment at which the lock is lost.
async fn run_under<T>(guard: Guard, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T> {
    let name = guard.name().clone();
    let done = match select(pin!(guard.lost_unreleased()), pin!(work(&guard))).await {
        Either::Left((lost, _)) => Err(Error::lost_for(&name, lost)),
        Either::Right((done, _)) => Ok(done),
    }?;
    unless_lost(guard.release().await, done)
}
