use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, ReleaseReply, RenewReply,
    Storage,
};
use leasehold::{Error, ErrorKind, Result};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A storage that wraps another one and breaks its calls on demand: fails them, delays them, loses their
/// answers.
///
/// It serves tests of the engine, and of what a program does when a lock is lost. By default every call
/// passes and is counted; [`Chaos::controls`] changes that. All randomness comes from a seed. The calls
/// need a tokio runtime, which the engine always has.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> leasehold::Result<()> {
/// # use leasehold::storage::{Claim, Memory, Name, Owner, Storage};
/// # use std::time::Duration;
/// use leasehold_conformance::{Chaos, Fault, Verb};
///
/// let chaos = Chaos::new(Memory::new());
/// let controls = chaos.controls();
/// controls.next(Verb::Renew, 1, Fault::LoseReply);
///
/// let claim = [Claim::new(Name::new("invoice/42")?, Owner::random(), Duration::from_secs(10))];
/// chaos.acquire(&claim).await;
/// assert!(chaos.renew(&claim).await[0].is_err()); // renewed, but the caller gets an error
/// assert!(chaos.renew(&claim).await[0].is_ok());
/// assert_eq!(controls.calls(Verb::Renew), 2);
/// # Ok(()) }
/// ```
pub struct Chaos<S> {
    inner: Arc<S>,
    shared: Arc<Shared>,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The storage executes the call after this delay, even if the caller has gone. The patience of the
    /// claims is shortened by the delay, so a storage that keeps its promises refuses those that arrive too
    /// late.
    Delay(Duration),
    /// The storage executes the call at once, and the caller gets the answer after this delay, as over a
    /// link that is slow in one direction.
    DelayReply(Duration),
    /// The storage executes the call twice; the caller gets the second answer.
    Duplicate,
    /// The call fails before it reaches the storage.
    Fail,
    /// The caller gets an error at once, and the storage executes the call after this delay, as with
    /// [`Fault::Delay`]. A connection that breaks after the request was sent behaves like this.
    Ghost(Duration),
    /// Nothing happens until [`Controls::heal`]; then the call is executed as with [`Fault::Delay`].
    Hang,
    /// The storage executes the call, and the caller gets an error.
    LoseReply,
    /// The storage executes the call.
    Pass,
}

/// What happens to a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintFault {
    /// The hint arrives after this delay.
    Delay(Duration),
    /// The hint never arrives.
    Drop,
    /// The hint arrives twice.
    Duplicate,
    /// The hint arrives.
    Pass,
}

/// A call of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verb {
    /// [`Storage::acquire`]
    Acquire,
    /// [`Storage::inspect`]
    Inspect,
    /// [`Storage::list`]
    List,
    /// [`Storage::release`]
    Release,
    /// [`Storage::renew`]
    Renew,
}

/// A handle that controls a [`Chaos`] in use. Cheap to clone; all clones control the same one.
#[derive(Clone)]
pub struct Controls(Arc<Shared>);

impl<S: Storage> Chaos<S> {
    /// Wraps a storage; every call passes.
    pub fn new(storage: S) -> Self {
        Self { inner: Arc::new(storage), shared: Arc::new(Shared::default()) }
    }

    /// Returns the controls of this wrapper and its clones.
    pub fn controls(&self) -> Controls {
        Controls(Arc::clone(&self.shared))
    }

    /// Makes another client's wrapper. It shares the controls and the counts of this one.
    #[must_use]
    pub fn beside(&self, storage: S) -> Self {
        Self { inner: Arc::new(storage), shared: Arc::clone(&self.shared) }
    }
}

impl Controls {
    /// Applies the fault to every call of that verb until another one is set.
    pub fn always(&self, verb: Verb, fault: Fault) {
        self.0.state().of(verb).always = fault;
    }

    /// Applies the fault to the next `n` calls of that verb, after those planned earlier.
    pub fn next(&self, verb: Verb, n: usize, fault: Fault) {
        let mut state = self.0.state();
        state.of(verb).next.extend(std::iter::repeat_n(fault, n));
    }

    /// Applies the fault to about `percent` of a hundred calls of that verb, as the seed decides. The
    /// others pass or do what [`Controls::always`] says.
    pub fn sometimes(&self, verb: Verb, percent: u8, fault: Fault, seed: u64) {
        self.0.state().of(verb).chance = Some(Chance { percent, fault, seed });
    }

    /// Applies the fault to every hint until another one is set.
    pub fn hints(&self, fault: HintFault) {
        self.0.state().hints = fault;
    }

    /// Sends a hint that the storage did not send to all subscribers. [`Hint::Restarted`], for example,
    /// shows how holders react when the storage may have forgotten their leases.
    pub fn hint(&self, hint: Hint) {
        // An error means that there are no subscribers.
        let _ = self.0.forged.send(hint);
    }

    /// Lets every call pass from now on. Hanging calls are executed now, as late as they are.
    pub fn heal(&self) {
        let mut state = self.0.state();
        state.hints = HintFault::Pass;
        for plan in &mut state.plans {
            (plan.always, plan.chance) = (Fault::Pass, None);
            plan.next.clear();
        }
        drop(state);
        self.0.heals.send_modify(|heals| *heals += 1);
    }

    /// Returns how many calls of that verb were made.
    pub fn calls(&self, verb: Verb) -> usize {
        self.0.state().of(verb).calls
    }

    /// Returns how many claims the calls of that verb contained.
    pub fn claims(&self, verb: Verb) -> usize {
        self.0.state().of(verb).claims
    }

    /// Returns how many calls are in flight, including those that the caller has dropped.
    pub fn in_flight(&self) -> usize {
        self.0.state().in_flight
    }

    /// Resets the counts to zero.
    pub fn forget_counts(&self) {
        for plan in &mut self.0.state().plans {
            (plan.calls, plan.claims) = (0, 0);
        }
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Chaos<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chaos").field(&self.inner).finish()
    }
}

impl<S: fmt::Display> fmt::Display for Chaos<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chaos({})", self.inner)
    }
}

impl<S: Storage> Storage for Chaos<S> {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let (n, owned) = (claims.len(), claims.to_vec());
        let call = move |inner: Arc<S>, late| {
            let claims = impatient(&owned, late);
            async move { inner.acquire(&claims).await }
        };
        self.call(Verb::Acquire, n, call, || errors(n)).await
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let (n, owned) = (claims.len(), claims.to_vec());
        let call = move |inner: Arc<S>, late| {
            let claims = impatient(&owned, late);
            async move { inner.renew(&claims).await }
        };
        self.call(Verb::Renew, n, call, || errors(n)).await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        let (n, owned) = (claims.len(), claims.to_vec());
        let call = move |inner: Arc<S>, late| {
            let claims = impatient(&owned, late);
            async move { inner.release(&claims).await }
        };
        self.call(Verb::Release, n, call, || errors(n)).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let name = name.clone();
        let call = move |inner: Arc<S>, _| {
            let name = name.clone();
            async move { inner.inspect(&name).await }
        };
        self.call(Verb::Inspect, 1, call, || Err(error())).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let call = move |inner: Arc<S>, _| {
            let (prefix, after) = (prefix.clone(), after.clone());
            async move { inner.list(&prefix, after.as_ref(), limit).await }
        };
        self.call(Verb::List, 1, call, || Err(error())).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        self.inner.findings().await
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.inner.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        let forged = stream::unfold(self.shared.forged.subscribe(), next_forged);
        let sent = Box::pin(self.inner.hints()).flat_map(move |hint| {
            let fault = shared.state().hints;
            let copies = match fault {
                HintFault::Drop => 0,
                HintFault::Duplicate => 2,
                HintFault::Delay(_) | HintFault::Pass => 1,
            };
            stream::iter(std::iter::repeat_n(hint, copies)).then(move |hint| async move {
                if let HintFault::Delay(by) = fault {
                    sleep(by).await;
                }
                hint
            })
        });
        stream::select(sent, Box::pin(forged))
    }
}

async fn next_forged(mut forged: broadcast::Receiver<Hint>) -> Option<(Hint, broadcast::Receiver<Hint>)> {
    match forged.recv().await {
        Ok(hint) => Some((hint, forged)),
        // Hints were lost; `Hint::Restarted` covers whatever they said.
        Err(broadcast::error::RecvError::Lagged(_)) => Some((Hint::Restarted, forged)),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

impl<S: Storage> Chaos<S> {
    /// Makes a call, or applies the planned fault. `call` may run more than once and is told its delay each
    /// time.
    async fn call<T, C, F>(&self, verb: Verb, claims: usize, call: C, failed: impl FnOnce() -> T) -> T
    where
        T: Send + 'static,
        C: Fn(Arc<S>, Duration) -> F + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (fault, under_way) = self.shared.begin(verb, claims);
        let inner = Arc::clone(&self.inner);
        match fault {
            Fault::Pass => {
                let answer = call(inner, Duration::ZERO).await;
                drop(under_way);
                answer
            }
            Fault::Fail => failed(),
            Fault::LoseReply => {
                call(inner, Duration::ZERO).await;
                drop(under_way);
                failed()
            }
            Fault::DelayReply(by) => {
                let answer = call(inner, Duration::ZERO).await;
                drop(under_way);
                sleep(by).await;
                answer
            }
            Fault::Duplicate => {
                call(Arc::clone(&inner), Duration::ZERO).await;
                let answer = call(inner, Duration::ZERO).await;
                drop(under_way);
                answer
            }
            Fault::Delay(by) => late(under_way, Box::pin(sleep(by)), inner, call).await,
            Fault::Ghost(by) => {
                // The task goes on without a caller.
                drop(send_late(under_way, Box::pin(sleep(by)), inner, call));
                failed()
            }
            Fault::Hang => {
                let mut heals = self.shared.heals.subscribe();
                let healed = Box::pin(async move {
                    // An error means that the wrapper is gone, which counts as healed.
                    heals.changed().await.unwrap_or_default();
                });
                late(under_way, healed, inner, call).await
            }
        }
    }
}

/// Makes the call after `until`, and waits for the answer.
async fn late<S, T, C, F>(
    under_way: UnderWay,
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
    inner: Arc<S>,
    call: C,
) -> T
where
    S: Storage,
    T: Send + 'static,
    C: Fn(Arc<S>, Duration) -> F + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    match send_late(under_way, until, inner, call).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, so no caller is left to answer.
        Err(_) => std::future::pending().await,
    }
}

/// Makes the call after `until` in a task, because a request that was sent is executed even if the caller
/// has gone.
fn send_late<S, T, C, F>(
    under_way: UnderWay,
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
    inner: Arc<S>,
    call: C,
) -> JoinHandle<T>
where
    S: Storage,
    T: Send + 'static,
    C: Fn(Arc<S>, Duration) -> F + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let sent = Instant::now();
    tokio::spawn(async move {
        until.await;
        let answer = call(inner, sent.elapsed()).await;
        drop(under_way);
        answer
    })
}

fn impatient(claims: &[Claim], late: Duration) -> Vec<Claim> {
    let less = |claim: &Claim| claim.clone().patience(claim.patience.saturating_sub(late));
    claims.iter().map(less).collect()
}

fn errors<T>(n: usize) -> Vec<Result<T>> {
    (0..n).map(|_| Err(error())).collect()
}

fn error() -> Error {
    Error::new(ErrorKind::Unavailable, "the storage did not answer; chaos did this")
}

struct Shared {
    state: Mutex<State>,
    heals: watch::Sender<u64>,
    forged: broadcast::Sender<Hint>,
}

/// How many hints a subscriber may lag behind.
const HINTS: usize = 1024;

#[derive(Default)]
struct State {
    plans: [Plan; 5],
    hints: HintFault,
    in_flight: usize,
}

/// What happens to the calls of one verb.
#[derive(Default)]
struct Plan {
    always: Fault,
    next: std::collections::VecDeque<Fault>,
    chance: Option<Chance>,
    calls: usize,
    claims: usize,
}

struct Chance {
    percent: u8,
    fault: Fault,
    seed: u64,
}

#[expect(clippy::derivable_impls, reason = "the variants are in the order of the alphabet")]
impl Default for Fault {
    fn default() -> Self {
        Self::Pass
    }
}

#[expect(clippy::derivable_impls, reason = "the variants are in the order of the alphabet")]
impl Default for HintFault {
    fn default() -> Self {
        Self::Pass
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), heals: watch::Sender::new(0), forged: broadcast::Sender::new(HINTS) }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and decides its fault.
    fn begin(self: &Arc<Self>, verb: Verb, claims: usize) -> (Fault, UnderWay) {
        let mut state = self.state();
        state.in_flight += 1;
        let plan = state.of(verb);
        plan.calls += 1;
        plan.claims += claims;
        let fault = plan.decide();
        drop(state);
        (fault, UnderWay(Arc::clone(self)))
    }
}

impl State {
    fn of(&mut self, verb: Verb) -> &mut Plan {
        let [acquire, inspect, list, release, renew] = &mut self.plans;
        match verb {
            Verb::Acquire => acquire,
            Verb::Inspect => inspect,
            Verb::List => list,
            Verb::Release => release,
            Verb::Renew => renew,
        }
    }
}

impl Plan {
    fn decide(&mut self) -> Fault {
        if let Some(fault) = self.next.pop_front() {
            return fault;
        }
        let strikes = |chance: &mut Chance| chance.strikes().then_some(chance.fault);
        self.chance.as_mut().and_then(strikes).unwrap_or(self.always)
    }
}

impl Chance {
    /// Returns `true` if the fault applies to this call. Uses SplitMix64, which gives the same numbers on
    /// every machine.
    fn strikes(&mut self) -> bool {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100 < u64::from(self.percent)
    }
}

/// A guard that counts a call as in flight until it is dropped.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}
