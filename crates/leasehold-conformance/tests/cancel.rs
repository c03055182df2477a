//! Every future of the library, dropped at every point, over a storage whose calls pass, fail, lose their
//! answers, come late, haunt or hang. Whatever happened, nothing stays held, queued or under way.
//!
//! The product of gates follows deadpool's `managed_cancellation`. Time is paused, so a hundred thousand
//! virtual seconds take a few real ones.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use leasehold::storage::{Acquire, Claim, Memory, Storage};
use leasehold::{Guard, Locks, Name, Owner, Ticket};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

/// Far longer than any scene: a lease that ends by itself hides nothing.
const TTL: Duration = Duration::from_secs(600);
/// In this time everything has to be tidy again once the storage works.
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

/// When the caller leaves.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// After its future was polled so often.
    Polls(usize),
    /// After everybody else could run so often.
    Steps(usize),
    /// After that time.
    Time(Duration),
}

/// What a scene is played with.
struct Stage {
    memory: Memory,
    controls: Controls,
    locks: Locks,
    name: Name,
    /// Somebody else, not behind the gates.
    other: Claim,
}

#[test]
fn acquire() {
    play(&[Verb::Acquire, Verb::Release], async |stage, cut| {
        let lock = stage.locks.lock(&stage.name).wait(Duration::from_secs(20));
        cut.of(lock.acquire()).await.is_some()
    });
}

#[test]
fn acquire_behind_a_holder() {
    play(&[Verb::Acquire, Verb::Release], async |stage, cut| {
        stage.other_takes().await;
        let lock = stage.locks.lock(&stage.name).wait(Duration::from_secs(20));
        let ended = cut.of(lock.acquire()).await.is_some();
        stage.heal();
        stage.nobody_waits().await;
        stage.other_gives().await;
        ended
    });
}

#[test]
fn acquire_while_the_lock_is_handed_over() {
    play(&[Verb::Acquire, Verb::Release], async |stage, cut| {
        stage.other_takes().await;
        let lock = stage.locks.lock(&stage.name).wait(Duration::from_secs(20));
        let acquiring = tokio::spawn(async move { cut.of(lock.acquire()).await.is_some() });
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        stage.other_gives().await;
        acquiring.await.expect("no panic")
    });
}

#[test]
fn try_acquire() {
    play(&[Verb::Acquire, Verb::Release], async |stage, cut| {
        let lock = stage.locks.lock(&stage.name);
        cut.of(lock.try_acquire()).await.is_some()
    });
}

#[test]
fn run() {
    play(&[Verb::Acquire, Verb::Release], async |stage, cut| {
        let lock = stage.locks.lock(&stage.name).wait(Duration::from_secs(20));
        let work = async |guard: &Guard| {
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(5)).await;
            guard.token()
        };
        cut.of(lock.run(work)).await.is_some()
    });
}

#[test]
fn release() {
    play(&[Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        cut.of(guard.release()).await.is_some()
    });
}

#[test]
fn extend() {
    play(&[Verb::Renew, Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        cut.of(guard.extend(TTL * 2)).await.is_some()
    });
}

#[test]
fn ensure() {
    play(&[Verb::Renew, Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        sleep(Duration::from_secs(10)).await;
        cut.of(guard.ensure(TTL - Duration::from_secs(8))).await.is_some()
    });
}

#[test]
fn verify() {
    play(&[Verb::Renew, Verb::Inspect, Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        cut.of(guard.verify()).await.is_some()
    });
}

#[test]
fn lost() {
    play(&[Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        cut.of(timeout(Duration::from_secs(1), guard.lost())).await.is_some()
    });
}

#[test]
fn resume() {
    play(&[Verb::Renew, Verb::Release], async |stage, cut| {
        let ticket: Ticket = stage.guard().await.into_ticket();
        sleep(Duration::from_secs(1)).await;
        let resumed = cut.of(stage.locks.resume(ticket.clone())).await;
        let ended = resumed.is_some();
        drop(resumed);
        stage.heal();
        sleep(Duration::from_secs(2)).await;
        // A ticket that was not taken up is as good as before: whoever has it can still end the lease.
        let claim = Claim::new(stage.name.clone(), ticket.owner(), TTL);
        stage.memory.release(&[claim]).await;
        ended
    });
}

#[test]
fn inspect() {
    play(&[Verb::Inspect], async |stage, cut| cut.of(stage.locks.inspect(&stage.name)).await.is_some());
}

#[test]
fn list() {
    play(&[Verb::List], async |stage, cut| cut.of(stage.locks.list("")).await.is_some());
}

#[test]
fn break_lock() {
    play(&[Verb::Inspect, Verb::Release], async |stage, cut| {
        stage.other_takes().await;
        let ended = cut.of(stage.locks.break_lock(&stage.name)).await.is_some();
        stage.heal();
        sleep(Duration::from_secs(1)).await;
        // Broken or not: both are right.
        stage.memory.release(std::slice::from_ref(&stage.other)).await;
        ended
    });
}

#[test]
fn close() {
    play(&[Verb::Renew, Verb::Release], async |stage, cut| {
        let guard = stage.guard().await;
        let ended = cut.of(stage.locks.close()).await.is_some();
        stage.heal();
        sleep(Duration::from_millis(500)).await;
        let begun = !matches!(cut, Cut::Polls(0));
        assert!(!(begun && guard.is_held()), "the client was closed, and its guard holds");
        ended
    });
}

/// A waiter's entry outlives a lease that is shorter: it is taken back all the same.
#[tokio::test(start_paused = true)]
async fn a_wait_dropped_after_its_ttl_leaves_no_entry() {
    let stage = Stage::new(&[]);
    stage.other_takes().await;
    let lock = stage.locks.lock(&stage.name).ttl(Duration::from_millis(500));
    let waited = timeout(Duration::from_millis(1_500), lock.acquire()).await;
    assert!(waited.is_err(), "another holds it all the time");
    sleep(Duration::from_millis(100)).await;
    let holder = stage.memory.inspect(&stage.name).await.expect("memory answers");
    assert_eq!(holder.and_then(|holder| holder.waiters), Some(0));
}

/// Plays a scene with every fault of these verbs, and leaves it at every point until it ends by itself.
fn play(verbs: &[Verb], scene: impl AsyncFn(&Stage, Cut) -> bool) {
    for gates in product(verbs) {
        let times = [1, 10, 30, 49, 51, 60, 200, 999, 1_001, 3_000].map(Duration::from_millis);
        let cuts: [Box<dyn Iterator<Item = Cut>>; 3] = [
            Box::new((0..).map(Cut::Polls)),
            Box::new((0..40).map(Cut::Steps)),
            Box::new(times.into_iter().map(Cut::Time)),
        ];
        for cuts in cuts {
            for cut in cuts {
                if act(&gates, cut, &scene) {
                    break;
                }
            }
        }
    }
}

/// Plays a scene once and sees that everything is tidy afterwards. Whether the scene ended by itself.
fn act(gates: &[(Verb, Fault)], cut: Cut, scene: &impl AsyncFn(&Stage, Cut) -> bool) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let stage = Stage::new(gates);
        let ended = scene(&stage, cut).await;
        stage.heal();
        let untidy = stage.tidy().await;
        assert!(untidy.is_none(), "{gates:?}, left after {cut:?}: {}", untidy.unwrap_or_default());
        ended
    })
}

impl Stage {
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

    async fn guard(&self) -> Guard {
        self.locks.lock(&self.name).acquire().await.expect("nobody holds it")
    }

    async fn other_takes(&self) {
        let answers = self.memory.acquire(std::slice::from_ref(&self.other)).await;
        assert!(matches!(answers[..], [Ok(Acquire::Granted { .. })]), "{answers:?}");
    }

    async fn other_gives(&self) {
        self.memory.release(std::slice::from_ref(&self.other)).await;
    }

    /// Waits until no waiter of ours is left behind the other holder.
    async fn nobody_waits(&self) {
        let start = Instant::now();
        loop {
            let holder = self.memory.inspect(&self.name).await.expect("memory answers");
            let waiters = holder.and_then(|holder| holder.waiters);
            if waiters == Some(0) {
                return;
            }
            assert!(start.elapsed() < TIDY, "still waiting: {waiters:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is held, queued or under way; what still is when it takes too long.
    async fn tidy(&self) -> Option<String> {
        let start = Instant::now();
        loop {
            sleep(Duration::from_millis(10)).await;
            let holder = self.memory.inspect(&self.name).await.expect("memory answers");
            let (held, in_flight) = (self.locks.held(), self.controls.in_flight());
            if holder.is_none() && held.is_empty() && in_flight == 0 && self.free().await {
                return None;
            }
            if start.elapsed() > TIDY {
                return Some(format!("holder {holder:?}, held {held:?}, {in_flight} in flight"));
            }
        }
    }

    /// Whether a newcomer is granted the lock at once: then nobody holds it and nobody waits.
    async fn free(&self) -> bool {
        let newcomer = [Claim::new(self.name.clone(), Owner::random(), TTL)];
        let answers = self.memory.acquire(&newcomer).await;
        self.memory.release(&newcomer).await;
        matches!(answers[..], [Ok(Acquire::Granted { .. })])
    }
}

impl Cut {
    /// Runs a future until it ends, or until its caller leaves.
    async fn of<F: Future>(self, future: F) -> Option<F::Output> {
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

/// A future that is dropped after so many polls.
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

/// Every way to give each verb a fault.
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
