//! The same locks for synchronous programs: the same names, and no runtime needed by the caller.
//!
//! Every call parks the thread until the engine, which runs on a thread of its own, has answered. Do not
//! call these from async code: they would block its executor.
//!
//! ```
//! use std::time::Duration;
//! use leasehold::blocking::Locks;
//!
//! let locks = Locks::connect("memory:")?;
//! let guard = locks.lock("invoice/42").wait(Duration::from_secs(5)).acquire()?;
//! println!("write with token {}", guard.token());
//! guard.release()?;
//! # Ok::<(), leasehold::Error>(())
//! ```

use std::time::Duration;

use pollster::block_on;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Event};
use crate::lost::Lost;
use crate::options::{Options, Renewal, Wait};
use crate::storage::{Guarantees, Holder, Limits, Name, Owner, Storage, Tier, Token};
use crate::ticket::Ticket;

/// A client: gives out locks over one storage. See [`leasehold::Locks`](crate::Locks).
#[derive(Clone, Debug)]
pub struct Locks(crate::Locks);

impl Locks {
    /// Connects to the storage that a URL names; see [`leasehold::Locks::connect`](crate::Locks::connect).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect(url: &str) -> Result<Self> {
        block_on(crate::Locks::connect(url)).map(Self)
    }

    /// Uses a storage that is already there, with default options.
    pub fn new(storage: impl Storage) -> Self {
        Self(crate::Locks::new(storage))
    }

    /// Starts to set the options that every lock of a client begins with.
    pub fn builder() -> Builder {
        Builder(crate::Locks::builder())
    }

    /// Names a lock. Sends nothing and cannot fail.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        Lock(self.0.lock(name))
    }

    /// Takes up a lease that was written down; see [`leasehold::Locks::resume`](crate::Locks::resume).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resume(&self, ticket: Ticket) -> Result<Guard> {
        block_on(self.0.resume(ticket)).map(Guard)
    }

    /// Looks at who holds a lock; see [`leasehold::Locks::inspect`](crate::Locks::inspect).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.inspect(name))
    }

    /// Lists the holders of all locks whose names begin with `prefix`, ordered by name.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Locks::list`](crate::Locks::list).
    pub fn list(&self, prefix: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.list(prefix))
    }

    /// Ends the lease of whoever holds a lock now; see
    /// [`leasehold::Locks::break_lock`](crate::Locks::break_lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn break_lock(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.break_lock(name))
    }

    /// Observes one lock: what it is now, and then every change. The iterator blocks for the next one.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Locks::observe`](crate::Locks::observe).
    pub fn observe(&self, name: impl AsRef<str>) -> Result<Changes> {
        self.0.observe(name).map(Changes)
    }

    /// Returns what happens to the locks of this client from now on. The iterator blocks for the next event.
    pub fn events(&self) -> Events {
        Events(self.0.events())
    }

    /// Lists the locks that guards of this client hold now. Asks nobody.
    pub fn held(&self) -> Vec<Holder> {
        self.0.held()
    }

    /// Says what the storage promises, as found when it was connected.
    pub fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    /// Returns the bounds of what the storage accepts.
    pub fn limits(&self) -> Limits {
        self.0.limits()
    }

    /// Ends this client and all its clones; see [`leasehold::Locks::close`](crate::Locks::close).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(&self) -> Result<()> {
        block_on(self.0.close())
    }
}

/// Sets the options that every lock of a client begins with, and connects. See
/// [`leasehold::Builder`](crate::Builder).
#[must_use = "a Builder does nothing until `connect` or `build`"]
#[derive(Clone, Debug)]
pub struct Builder(crate::Builder);

impl Builder {
    /// Sets [`Lock::ttl`] for every lock.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// Sets [`Lock::wait`] for every lock.
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        Self(self.0.wait(wait))
    }

    /// Sets [`Lock::renewal`] for every lock.
    pub fn renewal(self, renewal: Renewal) -> Self {
        Self(self.0.renewal(renewal))
    }

    /// Sets [`Lock::max_hold`] for every lock.
    pub fn max_hold(self, max_hold: Duration) -> Self {
        Self(self.0.max_hold(max_hold))
    }

    /// Sets [`Lock::label`] for every lock.
    pub fn label(self, label: impl Into<String>) -> Self {
        Self(self.0.label(label))
    }

    /// Replaces all options.
    pub fn options(self, options: Options) -> Self {
        Self(self.0.options(options))
    }

    /// Refuses a storage that promises less than `tier`.
    pub fn require(self, tier: Tier) -> Self {
        Self(self.0.require(tier))
    }

    /// Connects to the storage that a URL names.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Builder::connect`](crate::Builder::connect).
    pub fn connect(self, url: &str) -> Result<Locks> {
        block_on(self.0.connect(url)).map(Locks)
    }

    /// Uses a storage that is already there.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Builder::build`](crate::Builder::build).
    pub fn build(self, storage: impl Storage) -> Result<Locks> {
        self.0.build(storage).map(Locks)
    }
}

/// Names one lock and says how to take it. See [`leasehold::Lock`](crate::Lock).
#[must_use = "a Lock holds nothing until `acquire` is called"]
#[derive(Clone, Debug)]
pub struct Lock(crate::Lock);

impl Lock {
    /// Sets how long the lease lasts if it is not renewed: 100 ms to 24 h, 10 s unless set.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// Sets how long to wait: a [`Duration`] or a [`Wait`]. Without end unless set.
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        Self(self.0.wait(wait))
    }

    /// Asks `n` more times after the first, 50 ms apart unless [`Lock::interval`] says otherwise.
    pub fn retries(self, n: u32) -> Self {
        Self(self.0.retries(n))
    }

    /// Sets the pause between two attempts.
    pub fn interval(self, interval: Duration) -> Self {
        Self(self.0.interval(interval))
    }

    /// Sets when the lease is renewed: every third of the TTL unless set.
    pub fn renewal(self, renewal: Renewal) -> Self {
        Self(self.0.renewal(renewal))
    }

    /// Gives the lock up after this time, whatever the holder does.
    pub fn max_hold(self, max_hold: Duration) -> Self {
        Self(self.0.max_hold(max_hold))
    }

    /// Sets what others see of this holder.
    pub fn label(self, label: impl Into<String>) -> Self {
        Self(self.0.label(label))
    }

    /// Replaces all options.
    pub fn options(self, options: Options) -> Self {
        Self(self.0.options(options))
    }

    /// Returns the name as it was given.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Waits for the lock, in line, for as long as [`Lock::wait`] says.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Lock::acquire`](crate::Lock::acquire).
    pub fn acquire(&self) -> Result<Guard> {
        block_on(self.0.acquire()).map(Guard)
    }

    /// Asks once. `None` means that somebody else has the lock.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Lock::try_acquire`](crate::Lock::try_acquire).
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(block_on(self.0.try_acquire())?.map(Guard))
    }

    /// Acquires the lock, runs `work`, and releases.
    ///
    /// Synchronous work cannot be dropped when the lock is lost: let it look at [`Guard::is_held`], and pass
    /// [`Guard::token`] to whatever it writes to. A loss is reported when the work has ended.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Lock::run`](crate::Lock::run).
    pub fn run<T>(&self, work: impl FnOnce(&Guard) -> T) -> Result<T> {
        let guard = self.acquire()?;
        let done = work(&guard);
        if let Some(lost) = guard.0.why_lost() {
            return Err(Error::lost_for(guard.name(), lost));
        }
        match guard.release() {
            Err(error) if error.kind() == ErrorKind::Lost => Err(error),
            _ => Ok(done),
        }
    }
}

/// Proves that this process holds a lock, until it is released, dropped or lost. See
/// [`leasehold::Guard`](crate::Guard).
#[must_use = "dropping a Guard gives the lock up"]
#[derive(Debug)]
pub struct Guard(crate::Guard);

impl Guard {
    /// Returns the name of the lock.
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// Returns the fencing token.
    pub fn token(&self) -> Token {
        self.0.token()
    }

    /// Returns the id of this acquisition.
    pub fn owner(&self) -> Owner {
        self.0.owner()
    }

    /// Tells whether the lock is held right now. Asks nobody.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Returns what is left of the lease if it is not renewed again. Asks nobody.
    pub fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    /// Blocks until the lock is lost and tells why.
    pub fn lost(&self) -> Lost {
        block_on(self.0.lost())
    }

    /// Makes sure that at least `least` is left of the lease: renews now if less is left.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Guard::ensure`](crate::Guard::ensure).
    pub fn ensure(&self, least: Duration) -> Result<()> {
        block_on(self.0.ensure(least))
    }

    /// Unties the lease from this process: if the process dies, the lease ends with its TTL, or when its ticket is resumed
    /// and released.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Guard::outlive_process`](crate::Guard::outlive_process).
    pub fn outlive_process(&self) -> Result<()> {
        block_on(self.0.outlive_process())
    }

    /// Asks the storage whether the lock is still held, now.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Guard::verify`](crate::Guard::verify).
    pub fn verify(&self) -> Result<()> {
        block_on(self.0.verify())
    }

    /// Replaces the TTL: the lease lasts `ttl` from now, and as long after each renewal.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Guard::extend`](crate::Guard::extend).
    pub fn extend(&self, ttl: Duration) -> Result<()> {
        block_on(self.0.extend(ttl))
    }

    /// Gives the lock up. `Ok` means that it was held, without a break, until now.
    ///
    /// # Errors
    ///
    /// As [`leasehold::Guard::release`](crate::Guard::release).
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }

    /// Returns the ticket of this lease without giving it away.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// Writes the lease down to hand it to somebody else.
    pub fn into_ticket(self) -> Ticket {
        self.0.into_ticket()
    }

    /// Stops renewing and lets the lease end with its TTL.
    pub fn forget(self) {
        self.0.forget();
    }
}

/// The events of one client. Ends when the client is closed.
#[derive(Debug)]
pub struct Events(crate::Events);

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        block_on(self.0.next())
    }
}

/// What happens to one lock, whoever holds it. Ends when the client is closed.
#[derive(Debug)]
pub struct Changes(crate::Changes);

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        block_on(self.0.next())
    }
}
