//! The same locks for synchronous programs, under the same names. The caller needs no runtime.
//!
//! Every call parks the thread until the engine, which runs on a thread of its own, has answered. Do not call these
//! functions from async code: they block its executor.
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

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use pollster::block_on;

use crate::election::Leader;
use crate::engine::Handle;
use crate::error::{Error, Result};
use crate::event::{Change, Event};
use crate::guard::unless_lost;
use crate::guards::first_lost;
use crate::lost::Lost;
use crate::options::{Options, Renewal, Wait};
use crate::storage::{Finding, Guarantees, Holder, Limits, Name, Owner, Storage, Tier, Token};
use crate::ticket::Ticket;
use crate::watch::Watch;

/// A client of one storage, which provides locks. See [`leasehold::Locks`](crate::Locks).
#[derive(Clone, Debug)]
pub struct Locks(crate::Locks);

impl Locks {
    /// Connects to the storage that a URL names; see [`leasehold::Locks::connect`](crate::Locks::connect).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn connect(url: &str) -> Result<Self> {
        block_on(crate::Locks::connect(url)).map(Self)
    }

    /// Makes a client of a storage value, with default options.
    pub fn new(storage: impl Storage) -> Self {
        Self(crate::Locks::new(storage))
    }

    /// Returns a builder, which sets the default options of the locks of a client.
    pub fn builder() -> Builder {
        Builder(crate::Locks::builder())
    }

    /// Returns the lock of that name. Makes no request and cannot fail.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        Lock(self.0.lock(name))
    }

    /// Returns several locks, which are acquired together: all of them, or none. See
    /// [`leasehold::Locks::all`](crate::Locks::all).
    ///
    /// ```
    /// let locks = leasehold::blocking::Locks::connect("memory:")?;
    /// let accounts = locks.all([locks.lock("account/7"), locks.lock("account/3")]).acquire()?;
    /// println!("move the money with tokens {} and {}", accounts[0].token(), accounts[1].token());
    /// accounts.release()?;
    /// # Ok::<(), leasehold::Error>(())
    /// ```
    pub fn all(&self, locks: impl IntoIterator<Item = Lock>) -> All {
        All(self.0.all(locks.into_iter().map(|lock| lock.0)))
    }

    /// Returns the election of that name; see [`leasehold::Locks::election`](crate::Locks::election).
    ///
    /// ```
    /// let locks = leasehold::blocking::Locks::connect("memory:")?;
    /// let election = locks.election("scheduler").value("10.0.0.7:8080");
    /// let term = election.lead(|term| term.token())?;
    /// println!("led in term {term}");
    /// # Ok::<(), leasehold::Error>(())
    /// ```
    pub fn election(&self, name: impl AsRef<str>) -> Election {
        Election(self.0.election(name))
    }

    /// Resumes the lease of a ticket; see [`leasehold::Locks::resume`](crate::Locks::resume).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn resume(&self, ticket: Ticket) -> Result<Guard> {
        block_on(self.0.resume(ticket)).map(Guard)
    }

    /// Looks up the holder of a lock; see [`leasehold::Locks::inspect`](crate::Locks::inspect).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.inspect(name))
    }

    /// Lists the holders of all locks whose names begin with `prefix`, ordered by name and token.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Locks::list`](crate::Locks::list).
    pub fn list(&self, prefix: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.list(prefix))
    }

    /// Returns what the storage reports about its servers or files; see
    /// [`leasehold::Locks::findings`](crate::Locks::findings).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn findings(&self) -> Result<Vec<Finding>> {
        block_on(self.0.findings())
    }

    /// Ends the lease of each holder of a lock; see
    /// [`leasehold::Locks::break_lock`](crate::Locks::break_lock).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn break_lock(&self, name: impl AsRef<str>) -> Result<Vec<Holder>> {
        block_on(self.0.break_lock(name))
    }

    /// Observes one lock: returns its current state and then every change. The iterator blocks until the next one.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Locks::observe`](crate::Locks::observe).
    pub fn observe(&self, name: impl AsRef<str>) -> Result<Changes> {
        self.0.observe(name).map(Changes)
    }

    /// Returns the events of the locks of this client from now on. The iterator blocks until the next one.
    pub fn events(&self) -> Events {
        Events(self.0.events())
    }

    /// Lists the locks that guards of this client hold now, ordered by name. Makes no request.
    pub fn held(&self) -> Vec<Holder> {
        self.0.held()
    }

    /// Returns the guarantees of the storage, as probed when it was connected.
    pub fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    /// Returns the bounds of what the storage accepts, as probed when it was connected.
    pub fn limits(&self) -> Limits {
        self.0.limits()
    }

    /// Ends this client and all its clones; see [`leasehold::Locks::close`](crate::Locks::close).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn close(&self) -> Result<()> {
        block_on(self.0.close())
    }

    /// Closes the client and waits for the storage for at most `limit`; see
    /// [`leasehold::Locks::close_within`](crate::Locks::close_within).
    ///
    /// # Errors
    ///
    /// Returns the same errors.
    pub fn close_within(&self, limit: Duration) -> Result<()> {
        block_on(self.0.close_within(limit))
    }
}

/// The same client in its blocking form, to close an asynchronous one where nothing asynchronous runs any more.
impl From<crate::Locks> for Locks {
    fn from(locks: crate::Locks) -> Self {
        Self(locks)
    }
}

/// A builder of a client: sets the default options of its locks, and connects. See
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

    /// Sets the program that the default label names; see
    /// [`leasehold::Builder::program`](crate::Builder::program).
    pub fn program(self, program: impl AsRef<str>) -> Self {
        Self(self.0.program(program))
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
    /// See [`leasehold::Builder::connect`](crate::Builder::connect).
    pub fn connect(self, url: &str) -> Result<Locks> {
        block_on(self.0.connect(url)).map(Locks)
    }

    /// Makes a client of a storage value.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Builder::build`](crate::Builder::build).
    pub fn build(self, storage: impl Storage) -> Result<Locks> {
        self.0.build(storage).map(Locks)
    }
}

/// One lock by its name, with the options to acquire it. See [`leasehold::Lock`](crate::Lock).
#[must_use = "a Lock holds nothing until `acquire` is called"]
#[derive(Clone, Debug)]
pub struct Lock(crate::Lock);

impl Lock {
    /// Sets how long the lease lasts if it is not renewed: 100 ms to 24 h, 10 s unless set.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// Sets how long to wait: a [`Duration`] or a [`Wait`]. [`Wait::Forever`] unless set.
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        Self(self.0.wait(wait))
    }

    /// Tries `n` more times after the first, 50 ms apart unless [`Lock::interval`] is set.
    pub fn retries(self, n: u32) -> Self {
        Self(self.0.retries(n))
    }

    /// Sets the pause between two tries. Without [`Lock::retries`], there are two.
    pub fn interval(self, interval: Duration) -> Self {
        Self(self.0.interval(interval))
    }

    /// Sets when the lease is renewed: every third of the TTL unless set.
    pub fn renewal(self, renewal: Renewal) -> Self {
        Self(self.0.renewal(renewal))
    }

    /// Limits how long the lock is held, whatever the holder does.
    pub fn max_hold(self, max_hold: Duration) -> Self {
        Self(self.0.max_hold(max_hold))
    }

    /// Keeps the lock from other clients for at least this time from its grant, however early it is released. See
    /// [`leasehold::Lock::at_least`](crate::Lock::at_least).
    pub fn at_least(self, at_least: Duration) -> Self {
        Self(self.0.at_least(at_least))
    }

    /// Sets the text that other clients see of this holder.
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

    /// Acquires the lock. Waits in the queue for as long as [`Lock::wait`] allows.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Lock::acquire`](crate::Lock::acquire).
    pub fn acquire(&self) -> Result<Guard> {
        block_on(self.0.acquire()).map(Guard)
    }

    /// Tries once. `None` means that another client has the lock.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Lock::try_acquire`](crate::Lock::try_acquire).
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(block_on(self.0.try_acquire())?.map(Guard))
    }

    /// Acquires the lock, runs `work`, and releases the lock.
    ///
    /// Synchronous work cannot be dropped when the lock is lost. Let it check [`Guard::is_held`], and let it pass
    /// [`Guard::token`] to the resource that it writes to. A loss is reported when the work has ended.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Lock::run`](crate::Lock::run).
    pub fn run<T>(&self, work: impl FnOnce(&Guard) -> T) -> Result<T> {
        self.acquire()?.run(work)
    }

    /// Tries once to acquire the lock. If it is granted, runs `work` and releases the lock, as [`Lock::run`] does.
    /// `None` means that another client has the lock, so the work was skipped.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Lock::try_run`](crate::Lock::try_run).
    pub fn try_run<T>(&self, work: impl FnOnce(&Guard) -> T) -> Result<Option<T>> {
        self.try_acquire()?.map(|guard| guard.run(work)).transpose()
    }
}

/// Several locks that are acquired together: all of them, or none. See [`leasehold::All`](crate::All).
#[must_use = "All holds nothing until `acquire` is called"]
#[derive(Clone, Debug)]
pub struct All(crate::All);

impl All {
    /// Sets [`Lock::wait`] for every lock. The time counts from the call of [`All::acquire`].
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        Self(self.0.wait(wait))
    }

    /// Acquires all locks. Each is waited for as long as its [`Lock::wait`] allows, from the call on.
    ///
    /// # Errors
    ///
    /// See [`leasehold::All::acquire`](crate::All::acquire).
    pub fn acquire(&self) -> Result<Guards> {
        block_on(self.0.acquire()).map(Guards::new)
    }

    /// Tries once. `None` means that another client has at least one of the locks. Then none is held.
    ///
    /// # Errors
    ///
    /// See [`leasehold::All::try_acquire`](crate::All::try_acquire).
    pub fn try_acquire(&self) -> Result<Option<Guards>> {
        Ok(block_on(self.0.try_acquire())?.map(Guards::new))
    }

    /// Acquires the locks, runs `work`, and releases them. A loss is reported when the work has ended; see
    /// [`Lock::run`].
    ///
    /// # Errors
    ///
    /// See [`leasehold::All::run`](crate::All::run).
    pub fn run<T>(&self, work: impl FnOnce(&Guards) -> T) -> Result<T> {
        self.acquire()?.run(work)
    }

    /// Tries once to acquire the locks. If all are granted, runs `work` and releases them. `None` means that another
    /// client has at least one of the locks, so the work was skipped.
    ///
    /// # Errors
    ///
    /// See [`leasehold::All::try_run`](crate::All::try_run).
    pub fn try_run<T>(&self, work: impl FnOnce(&Guards) -> T) -> Result<Option<T>> {
        self.try_acquire()?.map(|guards| guards.run(work)).transpose()
    }
}

/// Proves that this process holds several locks. A slice of [`Guard`]s, in the order in which the locks were given. See
/// [`leasehold::Guards`](crate::Guards).
#[must_use = "dropping Guards releases the locks"]
pub struct Guards {
    engine: Handle,
    guards: Vec<Guard>,
}

impl Guards {
    fn new(guards: crate::Guards) -> Self {
        let (engine, guards) = guards.into_parts();
        Self { engine, guards: guards.into_iter().map(Guard).collect() }
    }

    fn run<T>(self, work: impl FnOnce(&Self) -> T) -> Result<T> {
        let done = work(&self);
        if let Some((guard, lost)) = self.iter().find_map(|guard| Some((guard, guard.0.why_lost()?))) {
            return Err(Error::lost_for(guard.name(), lost));
        }
        unless_lost(self.release(), done)
    }

    /// Takes the guards out, and leaves none.
    fn take(&mut self) -> crate::Guards {
        crate::Guards::from_parts(self.engine.clone(), self.guards.drain(..).map(|guard| guard.0).collect())
    }

    /// Returns `true` if every lock is held right now. Makes no request.
    pub fn is_held(&self) -> bool {
        self.iter().all(Guard::is_held)
    }

    /// Returns the remaining time of the lease that ends first, unless it is renewed again. Makes no request.
    pub fn remaining(&self) -> Duration {
        self.iter().map(Guard::remaining).fold(Duration::MAX, std::cmp::min)
    }

    /// Blocks until one of the locks is lost and returns the reason.
    pub fn lost(&self) -> Lost {
        block_on(first_lost(self.iter().map(|guard| &guard.0))).1
    }

    /// Releases all locks. `Ok` means that each was held without interruption until now.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guards::release`](crate::Guards::release).
    pub fn release(mut self) -> Result<()> {
        block_on(self.take().release())
    }
}

impl Deref for Guards {
    type Target = [Guard];

    fn deref(&self) -> &[Guard] {
        &self.guards
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.guards).finish()
    }
}

/// Proves that this process holds a lock, until it is released, dropped or lost. See
/// [`leasehold::Guard`](crate::Guard).
#[must_use = "dropping a Guard releases the lock"]
#[derive(Debug)]
pub struct Guard(crate::Guard);

impl Guard {
    fn run<T>(self, work: impl FnOnce(&Self) -> T) -> Result<T> {
        let done = work(&self);
        if let Some(lost) = self.0.why_lost() {
            return Err(Error::lost_for(self.name(), lost));
        }
        unless_lost(self.release(), done)
    }

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

    /// Returns `true` if the lock is held right now. Makes no request.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Returns the remaining time of the lease if it is not renewed again. Makes no request.
    pub fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    /// Blocks until the lock is lost and returns the reason.
    pub fn lost(&self) -> Lost {
        block_on(self.0.lost())
    }

    /// Returns a view of this lease that borrows nothing and does not hold the lock.
    pub fn watch(&self) -> Watch {
        self.0.watch()
    }

    /// Ensures that at least `least` is left of the lease. Renews it now if less is left.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guard::ensure`](crate::Guard::ensure).
    pub fn ensure(&self, least: Duration) -> Result<()> {
        block_on(self.0.ensure(least))
    }

    /// Lets the lease outlive this process: if the process dies, the lease ends with its TTL, or when its ticket is
    /// resumed and released.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guard::outlive_process`](crate::Guard::outlive_process).
    pub fn outlive_process(&self) -> Result<()> {
        block_on(self.0.outlive_process())
    }

    /// Verifies with one request that the storage still has this lease.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guard::verify`](crate::Guard::verify).
    pub fn verify(&self) -> Result<()> {
        block_on(self.0.verify())
    }

    /// Replaces the TTL: the lease lasts `ttl` from now, and as long after each renewal.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guard::extend`](crate::Guard::extend).
    pub fn extend(&self, ttl: Duration) -> Result<()> {
        block_on(self.0.extend(ttl))
    }

    /// Releases the lock. `Ok` means that it was held without interruption until now.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Guard::release`](crate::Guard::release).
    pub fn release(self) -> Result<()> {
        block_on(self.0.release())
    }

    /// Releases the lock and keeps the guard; see
    /// [`leasehold::Guard::release_by_ref`](crate::Guard::release_by_ref).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release_by_ref(&self) -> Result<()> {
        block_on(self.0.release_by_ref())
    }

    /// Returns the ticket of this lease and keeps the guard.
    pub fn ticket(&self) -> Ticket {
        self.0.ticket()
    }

    /// Makes a ticket of the lease, for another process or for later.
    pub fn into_ticket(self) -> Ticket {
        self.0.into_ticket()
    }

    /// Stops renewing and lets the lease end with its TTL.
    pub fn forget(self) {
        self.0.forget();
    }
}

/// An election: of all programs that stand for it, at most one leads. See [`leasehold::Election`](crate::Election).
#[must_use = "an Election has no leader until `lead` or `campaign` is called"]
#[derive(Clone, Debug)]
pub struct Election(crate::Election);

impl Election {
    /// Sets the text that others see of this program while it leads.
    pub fn value(self, value: impl Into<String>) -> Self {
        Self(self.0.value(value))
    }

    /// Sets how long it takes until another program leads if the leader dies. 10 s unless set.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// Sets how long [`Election::campaign`] waits: a [`Duration`] or a [`Wait`]. [`Wait::Forever`] unless set.
    pub fn wait(self, wait: impl Into<Wait>) -> Self {
        Self(self.0.wait(wait))
    }

    /// Limits how long a term lasts.
    pub fn max_term(self, max_term: Duration) -> Self {
        Self(self.0.max_term(max_term))
    }

    /// Returns the name as it was given.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Leads whenever it is elected, and runs `work` in each term. Ends with the work.
    ///
    /// Synchronous work cannot be dropped when the lock is lost. Let it check [`Guard::is_held`], and return when that
    /// is `false`. Then this function waits in line again. If the lock is held when the work returns, this function
    /// resigns and returns the result.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Election::lead`](crate::Election::lead).
    pub fn lead<T>(&self, mut work: impl FnMut(&Guard) -> T) -> Result<T> {
        loop {
            let term = block_on(self.0.elected()).map(Guard)?;
            let done = work(&term);
            if term.is_held() {
                return unless_lost(term.release(), done);
            }
        }
    }

    /// Waits until this program leads. Returns the guard of its term.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Election::campaign`](crate::Election::campaign).
    pub fn campaign(&self) -> Result<Guard> {
        block_on(self.0.campaign()).map(Guard)
    }

    /// Returns the present leader, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Election::leader`](crate::Election::leader).
    pub fn leader(&self) -> Result<Option<Leader>> {
        block_on(self.0.leader())
    }

    /// Observes the election: returns the present leader and then every change. The iterator blocks until the next one.
    ///
    /// # Errors
    ///
    /// See [`leasehold::Election::leaders`](crate::Election::leaders).
    pub fn leaders(&self) -> Result<Leaders> {
        self.0.leaders().map(Leaders)
    }
}

/// The leaders of an election, from the present one on. Ends when the client is closed.
#[derive(Debug)]
pub struct Leaders(crate::Leaders);

impl Iterator for Leaders {
    type Item = Option<Leader>;

    fn next(&mut self) -> Option<Option<Leader>> {
        block_on(self.0.next())
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

/// The changes of one lock by any holder. Ends when the client is closed.
#[derive(Debug)]
pub struct Changes(crate::Changes);

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        block_on(self.0.next())
    }
}
