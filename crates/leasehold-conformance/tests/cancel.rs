//! Drops every future of the library at every point. The calls of the storage pass, fail, lose their answers, come
//! late, are executed after an error, or hang. In each case nothing stays held, queued or in flight.
//!
//! The product of faults follows deadpool's `managed_cancellation`. Time is paused, so a hundred thousand
//! virtual seconds take a few real ones.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, Memory, Storage};
use leasehold::{All, Guard, Locks, Name, Owner, Ticket};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

/// Far longer than any scene, so that no leak is hidden by an expiry.
const TTL: Duration = Duration::from_secs(600);
/// The name of a second lock, smaller than that of the first.
const SMALLER: &str = "w";
/// How long the cleanup may take once the storage works.
const TIDY: Duration = Duration::from_secs(5);

const FAULTS: [Fault; 7] = [
    Fault::Pass,
    Fault::Fail,
    Fault::LoseReply,
    Fault::Delay(Duration::from_millis(50)),
    Fault::Ghost(Duration::from_millis(30)),
    Fault::Ghost(Duration::from_secs(3)),
    Fault::Hang,
];

/// The moment at which the caller drops its future.
#[derive(Clone, Copy, Debug)]
enum DropAt {
    /// After its future was polled this many times.
    Polls(usize),
    /// After all other tasks could run this many times.
    Steps(usize),
    /// After this time.
    Time(Duration),
}

/// The locks, the storage and the faults of one scene.
struct Fixture {
    memory: Memory,
    controls: Controls,
    locks: Locks,
    name: Name,
    /// A claim of another client. Its calls have no faults.
    other: Claim,
}

#[test]
fn acquire() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        let lock = fixture.locks.lock(&fixture.name).wait(Duration::from_secs(20));
        drop_at.run(lock.acquire()).await.is_some()
    });
}

#[test]
fn acquire_behind_a_holder() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        fixture.other_takes().await;
        let lock = fixture.locks.lock(&fixture.name).wait(Duration::from_secs(20));
        let ended = drop_at.run(lock.acquire()).await.is_some();
        fixture.heal();
        fixture.no_waiters_left().await;
        fixture.other_gives().await;
        ended
    });
}

#[test]
fn acquire_while_the_lock_is_handed_over() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        fixture.other_takes().await;
        let lock = fixture.locks.lock(&fixture.name).wait(Duration::from_secs(20));
        let acquiring = tokio::spawn(async move { drop_at.run(lock.acquire()).await.is_some() });
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        fixture.other_gives().await;
        acquiring.await.expect("no panic")
    });
}

#[test]
fn try_acquire() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        let lock = fixture.locks.lock(&fixture.name);
        drop_at.run(lock.try_acquire()).await.is_some()
    });
}

#[test]
fn all() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        drop_at.run(fixture.all().acquire()).await.is_some()
    });
}

#[test]
fn all_behind_a_holder() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        fixture.other_takes().await;
        let ended = drop_at.run(fixture.all().acquire()).await.is_some();
        fixture.heal();
        fixture.no_waiters_left().await;
        fixture.other_gives().await;
        ended
    });
}

#[test]
fn all_while_a_lock_is_handed_over() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        fixture.other_takes().await;
        let all = fixture.all();
        let acquiring = tokio::spawn(async move { drop_at.run(all.acquire()).await.is_some() });
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        fixture.other_gives().await;
        acquiring.await.expect("no panic")
    });
}

#[test]
fn release_all() {
    play(&[Verb::Release], async |fixture, drop_at| {
        let guards = fixture.all().acquire().await.expect("the locks are free");
        drop_at.run(guards.release()).await.is_some()
    });
}

#[test]
fn run() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        let lock = fixture.locks.lock(&fixture.name).wait(Duration::from_secs(20));
        let work = async |guard: &Guard| {
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(5)).await;
            guard.token()
        };
        drop_at.run(lock.run(work)).await.is_some()
    });
}

#[test]
fn try_run_of_a_job() {
    play(&[Verb::Acquire, Verb::Renew, Verb::Release], async |fixture, drop_at| {
        let job = fixture.locks.lock(&fixture.name).at_least(Duration::from_millis(100));
        let work = async |_: &Guard| tokio::task::yield_now().await;
        drop_at.run(job.try_run(work)).await.is_some()
    });
}

#[test]
fn lead() {
    play(&[Verb::Acquire, Verb::Release], async |fixture, drop_at| {
        let work = async |_: Arc<Guard>| tokio::task::yield_now().await;
        drop_at.run(fixture.locks.election(&fixture.name).lead(work)).await.is_some()
    });
}

#[test]
fn release() {
    play(&[Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        drop_at.run(guard.release()).await.is_some()
    });
}

#[test]
fn extend() {
    play(&[Verb::Renew, Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        drop_at.run(guard.extend(TTL * 2)).await.is_some()
    });
}

#[test]
fn ensure() {
    play(&[Verb::Renew, Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        sleep(Duration::from_secs(10)).await;
        drop_at.run(guard.ensure(TTL - Duration::from_secs(8))).await.is_some()
    });
}

#[test]
fn verify() {
    play(&[Verb::Renew, Verb::Inspect, Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        drop_at.run(guard.verify()).await.is_some()
    });
}

#[test]
fn lost() {
    play(&[Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        drop_at.run(timeout(Duration::from_secs(1), guard.lost())).await.is_some()
    });
}

#[test]
fn resume() {
    play(&[Verb::Renew, Verb::Release], async |fixture, drop_at| {
        let ticket: Ticket = fixture.guard().await.into_ticket();
        sleep(Duration::from_secs(1)).await;
        let resumed = drop_at.run(fixture.locks.resume(ticket.clone())).await;
        let ended = resumed.is_some();
        drop(resumed);
        fixture.heal();
        sleep(Duration::from_secs(2)).await;
        // A ticket stays valid if its resume fails: its owner id can still end the lease.
        let claim = Claim::new(fixture.name.clone(), ticket.owner(), TTL);
        fixture.memory.release(&[claim]).await;
        ended
    });
}

#[test]
fn inspect() {
    play(&[Verb::Inspect], async |fixture, drop_at| {
        drop_at.run(fixture.locks.inspect(&fixture.name)).await.is_some()
    });
}

#[test]
fn list() {
    play(&[Verb::List], async |fixture, drop_at| drop_at.run(fixture.locks.list("")).await.is_some());
}

#[test]
fn break_lock() {
    play(&[Verb::Inspect, Verb::Release], async |fixture, drop_at| {
        fixture.other_takes().await;
        let ended = drop_at.run(fixture.locks.break_lock(&fixture.name)).await.is_some();
        fixture.heal();
        sleep(Duration::from_secs(1)).await;
        // The lease may or may not have been broken; both are right.
        fixture.memory.release(std::slice::from_ref(&fixture.other)).await;
        ended
    });
}

#[test]
fn close() {
    play(&[Verb::Renew, Verb::Release], async |fixture, drop_at| {
        let guard = fixture.guard().await;
        let ended = drop_at.run(fixture.locks.close()).await.is_some();
        fixture.heal();
        sleep(Duration::from_millis(500)).await;
        let begun = !matches!(drop_at, DropAt::Polls(0));
        assert!(!(begun && guard.is_held()), "the client was closed, and its guard holds");
        ended
    });
}

/// A queue entry that outlives its shorter lease is still removed.
#[tokio::test(start_paused = true)]
async fn a_wait_dropped_after_its_ttl_leaves_no_entry() {
    let fixture = Fixture::new(&[]);
    fixture.other_takes().await;
    let lock = fixture.locks.lock(&fixture.name).ttl(Duration::from_millis(500));
    let waited = timeout(Duration::from_millis(1_500), lock.acquire()).await;
    assert!(waited.is_err(), "another holds it all the time");
    sleep(Duration::from_millis(100)).await;
    let holders = fixture.memory.inspect(&fixture.name).await.expect("memory answers");
    assert_eq!(holders.first().and_then(|holder| holder.waiters), Some(0));
}

/// Plays a scene with every fault of these verbs, and drops it at every point until it ends by itself.
fn play(verbs: &[Verb], scene: impl AsyncFn(&Fixture, DropAt) -> bool) {
    for gates in product(verbs) {
        let times = [1, 10, 30, 49, 51, 60, 200, 999, 1_001, 3_000].map(Duration::from_millis);
        let cuts: [Box<dyn Iterator<Item = DropAt>>; 3] = [
            Box::new((0..).map(DropAt::Polls)),
            Box::new((0..40).map(DropAt::Steps)),
            Box::new(times.into_iter().map(DropAt::Time)),
        ];
        for cuts in cuts {
            for drop_at in cuts {
                if act(&gates, drop_at, &scene) {
                    break;
                }
            }
        }
    }
}

/// Plays a scene once and checks the cleanup. Returns `true` if the scene ended by itself.
fn act(gates: &[(Verb, Fault)], drop_at: DropAt, scene: &impl AsyncFn(&Fixture, DropAt) -> bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let fixture = Fixture::new(gates);
        let ended = scene(&fixture, drop_at).await;
        fixture.heal();
        let untidy = fixture.tidy().await;
        assert!(untidy.is_none(), "{gates:?}, left after {drop_at:?}: {}", untidy.unwrap_or_default());
        ended
    })
}

impl Fixture {
    fn new(gates: &[(Verb, Fault)]) -> Self {
        let memory = Memory::new();
        let chaos = Chaos::new(memory.clone());
        let controls = chaos.controls();
        let locks = Locks::builder().ttl(TTL).on_current_runtime().build(chaos);
        let name = Name::new("x").expect("valid");
        let other = Claim::new(name.clone(), Owner::random(), TTL);
        for (verb, fault) in gates {
            controls.next(*verb, 2, *fault);
        }
        Self { memory, controls, locks: locks.expect("memory promises enough"), name, other }
    }

    fn heal(&self) {
        self.controls.heal();
    }

    /// Returns the lock and one with a smaller name, which is held while the caller waits for the other.
    fn all(&self) -> All {
        let names = [self.name.as_str(), SMALLER];
        self.locks.all(names.map(|name| self.locks.lock(name))).wait(Duration::from_secs(20))
    }

    async fn guard(&self) -> Guard {
        self.locks.lock(&self.name).acquire().await.expect("the lock is free")
    }

    async fn other_takes(&self) {
        let answers = self.memory.acquire(std::slice::from_ref(&self.other)).await;
        assert!(matches!(answers[..], [Ok(AcquireReply::Granted { .. })]), "{answers:?}");
    }

    async fn other_gives(&self) {
        self.memory.release(std::slice::from_ref(&self.other)).await;
    }

    /// Waits until no waiter of these clients is queued behind the other holder.
    async fn no_waiters_left(&self) {
        let start = Instant::now();
        loop {
            let holders = self.memory.inspect(&self.name).await.expect("memory answers");
            let waiters = holders.first().and_then(|holder| holder.waiters);
            if waiters == Some(0) {
                return;
            }
            assert!(start.elapsed() < TIDY, "still waiting: {waiters:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is held, queued or in flight. Returns what remains if that takes too long.
    async fn tidy(&self) -> Option<String> {
        let start = Instant::now();
        loop {
            sleep(Duration::from_millis(10)).await;
            let holders = self.memory.list("", None, 10).await.expect("memory answers");
            let (held, in_flight) = (self.locks.held(), self.controls.in_flight());
            if holders.is_empty() && held.is_empty() && in_flight == 0 && self.free().await {
                return None;
            }
            if start.elapsed() > TIDY {
                return Some(format!("holder {holders:?}, held {held:?}, {in_flight} in flight"));
            }
        }
    }

    /// Returns `true` if a new client is granted each lock at once, so there is no holder and no waiter.
    async fn free(&self) -> bool {
        let smaller = Name::new(SMALLER).expect("valid");
        let newcomers = [smaller, self.name.clone()].map(|name| Claim::new(name, Owner::random(), TTL));
        let answers = self.memory.acquire(&newcomers).await;
        self.memory.release(&newcomers).await;
        answers.iter().all(|answer| matches!(answer, Ok(AcquireReply::Granted { .. })))
    }
}

impl DropAt {
    /// Runs a future until it ends or its caller drops it.
    async fn run<F: Future>(self, future: F) -> Option<F::Output> {
        // Longer than any wait within a scene.
        let patience = Duration::from_secs(100);
        match self {
            Self::Polls(left) => {
                let polls = Polls { future: Box::pin(future), left };
                timeout(patience, polls).await.unwrap_or_default()
            }
            Self::Steps(steps) => {
                let leave = async {
                    for _ in 0..steps {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    ended = future => Some(ended),
                    () = leave => None,
                }
            }
            Self::Time(time) => timeout(time, future).await.ok(),
        }
    }
}

/// A future that gives up after a number of polls.
struct Polls<F> {
    future: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Returns every assignment of faults to these verbs.
fn product(verbs: &[Verb]) -> Vec<Vec<(Verb, Fault)>> {
    verbs.iter().fold(vec![Vec::new()], |gates, verb| {
        let with = |gates: &Vec<(Verb, Fault)>, fault| {
            let mut gates = gates.clone();
            gates.push((*verb, fault));
            gates
        };
        gates.iter().flat_map(|gates| FAULTS.map(|fault| with(gates, fault))).collect()
    })
}
