use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::registry::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Name, Owner,
    ReleaseReply, RenewReply, Share, Storage, Tier, Token, WAITER_TTL,
};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;

/// Keeps locks in this process: the reference for every other storage, and the one to test with.
///
/// Fair, with push wake-up and fencing tokens. Its time is tokio's, so a test with paused time needs no
/// sleep. Locks exclude the clients that share it: clones, or clients of `memory:NAME` with one name.
pub struct Memory {
    space: Arc<Space>,
    /// Tells this handle's watched names from those of its clones.
    id: u64,
}

impl Memory {
    /// Makes a new, empty one.
    pub fn new() -> Self {
        Self::over(Arc::new(Space::default()))
    }

    /// Returns the one of that name in this process, or a new one if the name is empty.
    ///
    /// A fork does not get those of its parent: their leases are copies that no client renews, and another thread may
    /// have locked them for ever.
    pub(crate) fn named(name: &str) -> Self {
        static SPACES: Mutex<Option<(Process, Spaces)>> = Mutex::new(None);
        if name.is_empty() {
            return Self::new();
        }
        let mut spaces = SPACES.lock().unwrap_or_else(PoisonError::into_inner);
        let spaces = match spaces.take().filter(|(process, _)| process.is_current()) {
            Some(ours) => spaces.insert(ours),
            None => spaces.insert((Process::current(), Spaces::new())),
        };
        let (_, spaces) = spaces;
        spaces.retain(|_, space| space.strong_count() > 0);
        if let Some(space) = spaces.get(name).and_then(Weak::upgrade) {
            return Self::over(space);
        }
        let memory = Self::new();
        spaces.insert(name.to_owned(), Arc::downgrade(&memory.space));
        memory
    }

    fn over(space: Arc<Space>) -> Self {
        let id = {
            let mut state = space.state();
            state.handles += 1;
            state.handles
        };
        Self { space, id }
    }
}

/// Reads a URL of this storage.
pub(super) fn target(_: &str, url: Url) -> Result<Target> {
    url.options(&[], |_, _| Ok(()))?;
    let memory = Memory::named(&url.path()?);
    Ok(Target::new(|| std::future::ready(Ok(memory))))
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Shares the locks.
impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::over(Arc::clone(&self.space))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut state = self.space.state();
        for name in state.watches.remove(&self.id).unwrap_or_default() {
            state.unwatch(self.id, &name);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("records", &self.space.state().records.len()).finish_non_exhaustive()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl Storage for Memory {
    fn guarantees(&self) -> Guarantees {
        // A crash takes the storage along with its clients, so there is nobody left to be surprised.
        Guarantees {
            fencing: true,
            fair: true,
            push: true,
            ..Guarantees::new(Tier::CrashSafe, LeaseClock::ServerMonotonic)
        }
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let sent = Instant::now();
        let (mut state, now) = (self.space.state(), Instant::now());
        claims.iter().map(|claim| state.acquire(claim, sent, now)).collect()
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let sent = Instant::now();
        let (mut state, now) = (self.space.state(), Instant::now());
        claims.iter().map(|claim| state.renew(claim, sent, now)).collect()
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        let (mut state, now) = (self.space.state(), Instant::now());
        claims.iter().map(|claim| Ok(state.release(claim, now))).collect()
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let (state, now) = (self.space.state(), Instant::now());
        Ok(state.records.get(name).and_then(|record| record.holder(name, now)).into_iter().collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let (state, now) = (self.space.state(), Instant::now());
        // A prefix that is no name, such as none at all, is looked for from the first one on.
        let from = match (after, Name::new(prefix)) {
            (Some(after), Ok(prefix)) if after.name < prefix => Bound::Included(prefix),
            (Some(after), _) => Bound::Included(after.name.clone()),
            (None, Ok(prefix)) => Bound::Included(prefix),
            (None, Err(_)) => Bound::Unbounded,
        };
        let from = state.records.range((from, Bound::Unbounded));
        let within = from.take_while(|(name, _)| name.as_str() < prefix || name.as_str().starts_with(prefix));
        let wanted = within.filter(|(name, _)| name.as_str().starts_with(prefix));
        let holders = wanted.filter_map(|(name, record)| record.holder(name, now));
        let next = holders.filter(|holder| after.is_none_or(|after| holder.cursor() > *after));
        Ok(next.take(limit).collect())
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding::good("memory", "locks of this process alone, gone when it ends")])
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        let mut state = self.space.state();
        for name in added {
            state.watched.entry(name.clone()).or_default().insert(self.id);
            state.watches.entry(self.id).or_default().insert(name.clone());
        }
        for name in removed {
            state.unwatch(self.id, name);
        }
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let (tx, rx) = mpsc::unbounded_channel();
        self.space.state().subscribers.push(tx);
        stream::unfold(rx, async |mut rx| rx.recv().await.map(|hint| (hint, rx)))
    }
}

/// The spaces of one process, by name.
type Spaces = HashMap<String, Weak<Space>>;

/// What the clients of one memory storage share.
#[derive(Default)]
struct Space(Mutex<State>);

impl Space {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    /// In order, so that a page of a list costs what is in it.
    records: BTreeMap<Name, Record>,
    /// No token below this was given for any name whose record was forgotten.
    floor: u64,
    /// How many records there may be before idle ones are forgotten.
    room: usize,
    handles: u64,
    /// The handles that observe each name, and the names of each handle.
    watched: HashMap<Name, HashSet<u64>>,
    watches: HashMap<u64, HashSet<Name>>,
    subscribers: Vec<mpsc::UnboundedSender<Hint>>,
}

#[derive(Default)]
struct Record {
    last: u64,
    lease: Option<Lease>,
    queue: VecDeque<Waiter>,
}

struct Lease {
    owner: Owner,
    share: Share,
    label: Option<Arc<str>>,
    since: Instant,
    until: Instant,
}

struct Waiter {
    owner: Owner,
    until: Instant,
}

impl State {
    fn acquire(&mut self, claim: &Claim, sent: Instant, now: Instant) -> Result<AcquireReply> {
        in_time(claim, sent, now)?;
        self.forget_idle(now);
        let floor = self.floor;
        let record = self.records.entry(claim.name.clone()).or_default();
        if let Some(lease) = record.live(now)
            && lease.owner == claim.owner
        {
            lease.until = std::cmp::max(lease.until, now + claim.ttl);
            return Ok(AcquireReply::Granted { token: Token::new(record.last), ttl: claim.ttl });
        }
        let first = record.first(now).is_none_or(|head| head == claim.owner);
        if record.live(now).is_none() && first {
            record.queue.retain(|waiter| waiter.owner != claim.owner);
            record.last = std::cmp::max(std::cmp::max(record.last, floor) + 1, clock::wall_us());
            let (until, label) = (now + claim.ttl, claim.label.clone());
            record.lease = Some(Lease { owner: claim.owner, share: claim.share, label, since: now, until });
            let token = Token::new(record.last);
            self.tell_observers(&claim.name);
            return Ok(AcquireReply::Granted { token, ttl: claim.ttl });
        }
        if claim.wait {
            record.enqueue(claim.owner, now + WAITER_TTL);
        }
        let holder = record.holder(&claim.name, now);
        let retry_after = holder.as_ref().map(|holder| holder.remaining);
        Ok(AcquireReply::Held { holder, retry_after })
    }

    fn renew(&mut self, claim: &Claim, sent: Instant, now: Instant) -> Result<RenewReply> {
        if claim.shorten {
            in_time(claim, sent, now)?;
        }
        let lease = self.records.get_mut(&claim.name).and_then(|record| record.live(now));
        let Some(lease) = lease.filter(|lease| lease.owner == claim.owner) else {
            return Ok(RenewReply::NotHeld);
        };
        let until = now + claim.ttl;
        let shortened = claim.shorten && until < lease.until;
        lease.until = if shortened { until } else { std::cmp::max(lease.until, until) };
        if shortened {
            // Its own engine: another client may have sent this.
            self.tell(&Hint::Owner(claim.owner));
        }
        Ok(RenewReply::Renewed { ttl: claim.ttl })
    }

    fn release(&mut self, claim: &Claim, now: Instant) -> ReleaseReply {
        let Some(record) = self.records.get_mut(&claim.name) else {
            return ReleaseReply::NotHeld;
        };
        record.queue.retain(|waiter| waiter.owner != claim.owner);
        let held = record.live(now).is_some_and(|lease| lease.owner == claim.owner);
        if held {
            record.lease = None;
        }
        let next = if record.live(now).is_none() { record.first(now) } else { None };
        if let Some(next) = next {
            self.tell(&Hint::Owner(next));
        }
        if !held {
            return ReleaseReply::NotHeld;
        }
        // Its own engine too: the lease may have been ended by somebody else.
        self.tell(&Hint::Owner(claim.owner));
        self.tell_observers(&claim.name);
        ReleaseReply::Released
    }

    fn unwatch(&mut self, handle: u64, name: &Name) {
        if let Some(names) = self.watches.get_mut(&handle) {
            names.remove(name);
        }
        if let Some(handles) = self.watched.get_mut(name) {
            handles.remove(&handle);
            if handles.is_empty() {
                self.watched.remove(name);
            }
        }
    }

    fn tell_observers(&mut self, name: &Name) {
        if self.watched.contains_key(name) {
            self.tell(&Hint::Name(name.clone()));
        }
    }

    fn tell(&mut self, hint: &Hint) {
        self.subscribers.retain(|subscriber| subscriber.send(hint.clone()).is_ok());
    }

    /// Forgets names that nobody uses, so that a million names once used cost nothing. Their tokens are
    /// folded into one floor, so the next token of such a name is still larger than its last.
    fn forget_idle(&mut self, now: Instant) {
        if self.records.len() < self.room {
            return;
        }
        let floor = &mut self.floor;
        self.records.retain(|_, record| {
            let idle = record.live(now).is_none() && record.first(now).is_none();
            if idle {
                *floor = std::cmp::max(*floor, record.last);
            }
            !idle
        });
        self.room = std::cmp::max(self.records.len() * 2, 1024);
    }
}

impl Record {
    /// The lease, if it has not ended.
    fn live(&mut self, now: Instant) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|lease| lease.until > now)
    }

    /// The first waiter that is alive; those before it are dropped.
    fn first(&mut self, now: Instant) -> Option<Owner> {
        while self.queue.front().is_some_and(|waiter| waiter.until <= now) {
            self.queue.pop_front();
        }
        self.queue.front().map(|waiter| waiter.owner)
    }

    fn enqueue(&mut self, owner: Owner, until: Instant) {
        match self.queue.iter_mut().find(|waiter| waiter.owner == owner) {
            Some(waiter) => waiter.until = until,
            None => self.queue.push_back(Waiter { owner, until }),
        }
    }

    fn holder(&self, name: &Name, now: Instant) -> Option<Holder> {
        let lease = self.lease.as_ref().filter(|lease| lease.until > now)?;
        let alive = self.queue.iter().filter(|waiter| waiter.until > now).count();
        Some(Holder {
            share: lease.share,
            label: lease.label.clone(),
            held_for: Some(since(now, lease.since)),
            waiters: u64::try_from(alive).ok(),
            ..Holder::new(name.clone(), lease.owner, Token::new(self.last), since(lease.until, now))
        })
    }
}

fn since(later: Instant, earlier: Instant) -> Duration {
    later.saturating_duration_since(earlier)
}

/// Refuses a claim that is executed later than its patience allows.
fn in_time(claim: &Claim, sent: Instant, now: Instant) -> Result<()> {
    if since(now, sent) < claim.patience {
        return Ok(());
    }
    let text = format!("the claim came too late and was refused; ask again name=`{}`", claim.name);
    Err(Error::new(ErrorKind::Unavailable, text))
}
