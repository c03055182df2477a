use std::fmt;
use std::time::Duration;

use crate::all::All;
use crate::election::Election;
use crate::engine::{self, CLOSE_LIMIT, Handle, Home, WeakHandle};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Changes, Events};
use crate::guard::Guard;
use crate::lock::Lock;
use crate::options::{self, Options, Renewal, Wait};
use crate::storage::{AnyStorage, Finding, Guarantees, Holder, Limits, Name, Storage, Tier, registry};
use crate::ticket::Ticket;

/// A client of one storage, which provides locks. Cheap to clone; all clones are the same client.
///
/// Its engine runs on a thread of its own, so a program that blocks its runtime, or has none, keeps its locks. When
/// the last clone and the last [`Guard`] are dropped, the engine finishes its releases in the background, and the
/// thread ends.
///
/// A fork inherits no thread. In a fork, calls fail, guards are [lost](crate::Lost::Forked), and dropping either has no
/// effect. The parent keeps its locks, and the fork needs a client of its own.
#[derive(Clone)]
pub struct Locks {
    engine: Handle,
    defaults: Options,
}

impl Locks {
    /// Connects to the storage that a URL names, with default options.
    ///
    /// | URL | storage |
    /// |---|---|
    /// | `sqlite:` | a file in the platform's state directory, for the processes of this machine |
    /// | `sqlite:PATH` | that file |
    /// | `redis://HOST/0`, `rediss://`, `redis+unix:` | one Redis or Valkey |
    /// | `redis+sentinel://`, `rediss+sentinel://` | a Redis primary that Sentinels watch |
    /// | `redis+cluster://`, `rediss+cluster://` | a Redis Cluster |
    /// | `redis+quorum://A,B,C`, `rediss+quorum://` | a majority of independent Redis servers |
    /// | `postgres://HOST/DATABASE`, `postgresql://` | a PostgreSQL, directly or behind a pooler |
    /// | `mongodb://HOSTS/DATABASE`, `mongodb+srv://` | a MongoDB: a replica set, or a standalone server |
    /// | `etcd://HOSTS`, `etcds://` | an etcd |
    /// | `memory:` | this client alone; `memory:NAME` is shared by the clients of this process |
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid) if the URL is wrong; the text lists what is known.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage cannot be reached.
    /// - [`Unsupported`](ErrorKind::Unsupported) if the feature for that scheme is off, or the storage is not
    ///   fit to keep locks.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing running.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().connect(url).await
    }

    /// Makes a client of a storage value, with default options.
    ///
    /// If the engine's thread cannot be started, each call of the client returns the reason;
    /// [`Builder::build`] returns it at once.
    pub fn new(storage: impl Storage) -> Self {
        let engine = engine::start(AnyStorage::new(storage), Home::Thread).unwrap_or_else(engine::failed);
        let mut defaults = Options::default();
        defaults.ttl = defaults.ttl.clamp(engine.limits().ttl_min, engine.limits().ttl_max);
        Self { engine, defaults }
    }

    /// Returns a reference to this client that does not keep it running.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let weak = locks.downgrade();
    /// let guard = locks.lock("invoice/42").acquire().await?;
    /// drop(locks);
    /// assert!(weak.upgrade().is_some_and(|locks| locks.held().len() == 1));    // the guard keeps it running
    /// drop(guard);
    /// assert!(weak.upgrade().is_none());
    /// # Ok(()) }
    /// ```
    pub fn downgrade(&self) -> WeakLocks {
        WeakLocks { engine: self.engine.downgrade(), defaults: self.defaults.clone() }
    }

    /// Returns a builder, which sets the default options of the locks of a client.
    pub fn builder() -> Builder {
        Builder { defaults: Options::default(), ttl_given: false, home: Home::Thread, required: None }
    }

    /// Returns the lock of that name. Makes no request and cannot fail; an invalid name is an error of `acquire`.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        Lock::new(self.engine.clone(), name.as_ref(), self.defaults.clone())
    }

    /// Returns several locks, which are acquired together: all of them, or none. Makes no request and cannot fail; a
    /// name that occurs twice is an error of `acquire`. No lock at all is never refused.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let accounts = locks.all([locks.lock("account/7"), locks.lock("account/3")]).acquire().await?;
    /// assert_eq!(accounts[0].name().as_str(), "account/7");
    /// accounts.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn all(&self, locks: impl IntoIterator<Item = Lock>) -> All {
        All::new(self.engine.clone(), locks.into_iter().collect())
    }

    /// Returns the election of that name. Makes no request and cannot fail; an invalid name is an error of
    /// [`Election::lead`].
    ///
    /// The election is the lock of the same name: a holder of `lock(name)` keeps all candidates from leading.
    pub fn election(&self, name: impl AsRef<str>) -> Election {
        Election::new(self.lock(name))
    }

    /// Resumes the lease of a ticket: renews it and returns its guard.
    ///
    /// From then on the lease is bound to no process: if this one is killed, the lease ends with its TTL. Two clients
    /// that resume the same ticket get two guards of one lease; the first release ends both.
    ///
    /// Dropping the guard releases the lock, as dropping any guard does. [`Guard::forget`] and
    /// [`Guard::into_ticket`] leave the lease to the ticket instead.
    ///
    /// # Errors
    ///
    /// - [`Lost`](ErrorKind::Lost) if the lease has ended.
    /// - [`Invalid`](ErrorKind::Invalid) if this client has the lease already, or the ticket was changed.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer; the ticket can still be resumed.
    /// - [`Closed`](ErrorKind::Closed) if the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves the lease to the ticket: it ends with its TTL unless it is resumed again.
    pub async fn resume(&self, ticket: Ticket) -> Result<Guard> {
        let options = Options { ttl: ticket.ttl, ..self.defaults.clone() };
        let status = self.engine.resume(ticket, options).await?;
        Ok(Guard::new(status, self.engine.clone()))
    }

    /// Returns every holder of a lock, ordered by token; none if it is free. Changes nothing.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid) if the name is out of bounds.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        self.engine.inspect(Name::new(name)?).await
    }

    /// Lists the holders of all locks whose names begin with `prefix`, ordered by name and token.
    ///
    /// A lock that changes hands while it lasts may be listed twice, with different tokens.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn list(&self, prefix: impl AsRef<str>) -> Result<Vec<Holder>> {
        self.engine.list(prefix.as_ref()).await
    }

    /// Ends the lease of each holder of a lock, and returns those holders; none if the lock was free.
    ///
    /// Only leases that were observed end: if the lock changes hands meanwhile, the new holder keeps it and is not
    /// returned. The guard of an ended lease is lost at once if the storage can notify it, otherwise at its next
    /// renewal. The next holder gets a larger token. The event is [`Event::Broken`](crate::Event).
    ///
    /// # Errors
    ///
    /// - [`Invalid`](ErrorKind::Invalid) if the name is out of bounds.
    /// - [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may or may not break the lock.
    pub async fn break_lock(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        self.engine.break_lock(Name::new(name)?).await
    }

    /// Observes one lock: returns its current state and then every change by any holder, also by expiry.
    ///
    /// A slow reader may see several changes as one, and a very short hold may not be noticed. The last state always
    /// arrives.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) if the name is out of bounds, [`Closed`](ErrorKind::Closed) if the
    /// client was closed.
    pub fn observe(&self, name: impl AsRef<str>) -> Result<Changes> {
        self.engine.observe(Name::new(name)?)
    }

    /// Returns the events of the locks of this client from now on.
    pub fn events(&self) -> Events {
        self.engine.events()
    }

    /// Lists the locks that guards of this client hold now, ordered by name. Makes no request.
    pub fn held(&self) -> Vec<Holder> {
        self.engine.held()
    }

    /// Returns the guarantees of the storage, as probed when it was connected.
    pub fn guarantees(&self) -> Guarantees {
        self.engine.guarantees()
    }

    /// Returns the bounds of what the storage accepts, as probed when it was connected.
    pub fn limits(&self) -> Limits {
        *self.engine.limits()
    }

    /// Returns what the storage reports about its servers or files, and what to change for it to promise more. There
    /// is at least one finding. `leasehold doctor` prints them.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the storage did not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn findings(&self) -> Result<Vec<Finding>> {
        self.engine.findings().await
    }

    /// Ends this client and all its clones: waiting acquisitions fail, held locks are lost and released.
    /// Waits until the storage has confirmed every release, for at most 5 s.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if some leases are left to their TTL.
    ///
    /// # Cancel safety
    ///
    /// The client closes even if this future is dropped.
    pub async fn close(&self) -> Result<()> {
        self.close_within(CLOSE_LIMIT).await
    }

    /// Closes the client as [`Locks::close`] does, but waits for the storage for at most `limit`.
    ///
    /// If a close is in progress already, the earlier of the two limits counts for both callers.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if some leases are left to their TTL.
    ///
    /// # Cancel safety
    ///
    /// The client closes even if this future is dropped, once it has been polled.
    pub async fn close_within(&self, limit: Duration) -> Result<()> {
        self.engine.close(limit).await
    }
}

/// Shows the storage without its secrets.
impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Locks").field(&format_args!("{}", self.engine)).finish()
    }
}

/// A reference to a client that does not keep it running, for hooks and registries that outlive it.
///
/// The engine of a client ends after its last clone and its last guard are dropped. A hook that closes a client when
/// the program ends would keep it running; it keeps this instead.
#[derive(Clone)]
pub struct WeakLocks {
    engine: WeakHandle,
    defaults: Options,
}

impl WeakLocks {
    /// Returns the client while a clone or a guard of it exists. Returns `None` in a fork.
    pub fn upgrade(&self) -> Option<Locks> {
        Some(Locks { engine: self.engine.upgrade()?, defaults: self.defaults.clone() })
    }
}

impl fmt::Debug for WeakLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakLocks")
    }
}

/// A builder of a client: sets the default options of its locks, and connects.
#[must_use = "a Builder does nothing until `connect` or `build`"]
#[derive(Clone, Debug)]
pub struct Builder {
    defaults: Options,
    /// `true` if the caller chose the TTL. Otherwise the bounds of the storage may change it.
    ttl_given: bool,
    home: Home,
    required: Option<Tier>,
}

impl Builder {
    /// Sets [`Lock::ttl`] for every lock. Default: 10 s, or the maximum of the storage if that is less.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.defaults.ttl = ttl;
        self.ttl_given = true;
        self
    }

    /// Sets [`Lock::wait`] for every lock.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.defaults.wait = wait.into();
        self
    }

    /// Sets [`Lock::renewal`] for every lock.
    pub fn renewal(mut self, renewal: Renewal) -> Self {
        self.defaults.renewal = renewal;
        self
    }

    /// Sets [`Lock::max_hold`] for every lock.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.defaults.max_hold = Some(max_hold);
        self
    }

    /// Sets the program that the default label names, where that is not the executable: the script that an interpreter
    /// runs. The label is then `program@host:pid`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::builder().program("nightly.js").connect("memory:").await?;
    /// let guard = locks.lock("invoice/42").acquire().await?;
    /// assert!(locks.held()[0].label.as_deref().is_some_and(|label| label.starts_with("nightly.js@")));
    /// # guard.release().await }
    /// ```
    pub fn program(self, program: impl AsRef<str>) -> Self {
        let label = options::label_of(program.as_ref());
        self.label(label)
    }

    /// Sets [`Lock::label`] for every lock.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.defaults.label = label.into();
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: Options) -> Self {
        self.defaults = options;
        self
    }

    /// Refuses a storage that promises less than `tier`.
    pub fn require(mut self, tier: Tier) -> Self {
        self.required = Some(tier);
        self
    }

    /// Runs the engine as a task of the current tokio runtime instead of a thread of its own.
    ///
    /// This is for tests with paused time, which then need no server and no sleep. A program should keep the default:
    /// an engine on a runtime that is blocked renews no lease.
    pub fn on_current_runtime(mut self) -> Self {
        self.home = Home::CurrentRuntime;
        self
    }

    /// Connects to the storage that a URL names; see [`Locks::connect`].
    ///
    /// # Errors
    ///
    /// The errors of [`Locks::connect`], and [`Unsupported`](ErrorKind::Unsupported) if the storage promises less than
    /// was required.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing running.
    pub async fn connect(self, url: &str) -> Result<Locks> {
        let target = registry::parse(url)?;
        // What no storage allows is refused before anything is sent; what this one does not, in `finish`.
        self.defaults.check(&Limits::default())?;
        let engine = engine::connect(target, self.home).await?;
        self.finish(engine)
    }

    /// Makes a client of a storage value.
    ///
    /// # Errors
    ///
    /// - [`Unsupported`](ErrorKind::Unsupported) if the storage promises less than was required.
    /// - [`Internal`](ErrorKind::Internal) if the engine's thread cannot be started. The text names the resource that
    ///   the system has run out of.
    ///
    /// # Panics
    ///
    /// With [`Builder::on_current_runtime`], outside of a tokio runtime.
    pub fn build(self, storage: impl Storage) -> Result<Locks> {
        let engine = engine::start(AnyStorage::new(storage), self.home)?;
        self.finish(engine)
    }

    /// Checks the options and the guarantees against the storage.
    fn finish(mut self, engine: Handle) -> Result<Locks> {
        let limits = engine.limits();
        if !self.ttl_given {
            self.defaults.ttl = self.defaults.ttl.clamp(limits.ttl_min, limits.ttl_max);
        }
        self.defaults.check(limits)?;
        let has = engine.guarantees().tier;
        if let Some(required) = self.required
            && has < required
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the storage promises less than required; choose another one required=`{required}` has=`{has}`"
                ),
            ));
        }
        Ok(Locks { engine, defaults: self.defaults })
    }
}
