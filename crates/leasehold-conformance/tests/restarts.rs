//! What happens to leases when the storage may have forgotten them: a server without a disk restarts, or a
//! replica takes over that lacks them. Time is simulated.

use std::time::Duration;

use futures_util::future::{join, join_all};
use leasehold::storage::{Claim, Hint, Limits, Memory, Storage};
use leasehold::{ErrorKind, Guard, Locks, Lost, Renewal};
use leasehold_conformance::{Chaos, Controls, Fault, HintFault, Verb};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(30);
/// The duration of a call, where it takes time.
const CALL: Duration = Duration::from_millis(5);
/// A time long before the first renewal of a lease is due.
const EARLY: Duration = Duration::from_secs(5);

/// A storage that forgets leases, its client, and the controls of both.
struct Forgetful {
    memory: Memory,
    controls: Controls,
    locks: Locks,
}

impl Forgetful {
    fn new() -> Self {
        let memory = Memory::new();
        let chaos = Chaos::new(memory.clone());
        let controls = chaos.controls();
        // Forgotten leases are not released, so no hint announces their end.
        controls.hints(HintFault::Drop);
        let locks = Locks::builder().on_current_runtime().build(chaos).expect("memory promises enough");
        Self { memory, controls, locks }
    }

    async fn take(&self, name: &str, renewal: Renewal) -> Guard {
        let lock = self.locks.lock(name).ttl(TTL).renewal(renewal);
        lock.acquire().await.expect("the lock is free")
    }

    async fn take_many(&self, n: usize) -> Vec<Guard> {
        let names: Vec<_> = (0..n).map(|i| i.to_string()).collect();
        join_all(names.iter().map(|name| self.take(name, Renewal::Automatic))).await
    }

    /// Makes the storage forget a lease, without any notification.
    async fn forget(&self, guard: &Guard) {
        self.memory.release(&[Claim::new(guard.name().clone(), guard.owner(), TTL)]).await;
    }

    fn restarts(&self) {
        self.controls.hint(Hint::Restarted);
    }

    /// Returns how many renewals were sent since the last call, and in how many storage calls.
    fn renewed(&self) -> (usize, usize) {
        let counts = (self.controls.claims(Verb::Renew), self.controls.calls(Verb::Renew));
        self.controls.forget_counts();
        counts
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_hold_is_lost_within_the_time_of_one_call() {
    let storage = Forgetful::new();
    let kept = storage.take("kept", Renewal::Automatic).await;
    let forgotten = storage.take("forgotten", Renewal::Automatic).await;
    sleep(EARLY).await;
    storage.forget(&forgotten).await;
    sleep(CALL).await;
    assert!(forgotten.is_held(), "how should it know");
    storage.controls.always(Verb::Renew, Fault::Delay(CALL));
    let left = kept.remaining();
    storage.renewed();
    let start = Instant::now();
    storage.restarts();
    assert_eq!(forgotten.lost().await, Lost::Taken);
    assert_eq!(start.elapsed(), CALL);
    assert_eq!(storage.renewed(), (2, 1), "one call for both");
    assert!(kept.is_held() && kept.remaining() > left + EARLY - 2 * CALL, "a verified hold is a renewed one");
    kept.release().await.expect("held");
    assert_eq!(forgotten.release().await.expect_err("lost").kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_wants_no_renewals_is_looked_at_and_not_renewed() {
    let storage = Forgetful::new();
    let kept = storage.take("kept", Renewal::Never).await;
    let forgotten = storage.take("forgotten", Renewal::Never).await;
    sleep(EARLY).await;
    storage.forget(&forgotten).await;
    storage.controls.always(Verb::Inspect, Fault::Delay(CALL));
    let start = Instant::now();
    storage.restarts();
    assert_eq!(forgotten.lost().await, Lost::Taken);
    assert_eq!(start.elapsed(), CALL);
    assert_eq!(kept.lost().await, Lost::Expired, "it was not renewed");
    assert_eq!(storage.renewed(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_under_way_proves_nothing_and_is_not_disturbed() {
    let storage = Forgetful::new();
    let guard = storage.take("x", Renewal::Every(Duration::from_secs(1))).await;
    sleep(Duration::from_millis(500)).await;
    storage.controls.next(Verb::Renew, 1, Fault::Delay(CALL * 10));
    storage.renewed();
    sleep(Duration::from_millis(500) + CALL * 2).await;
    storage.restarts();
    sleep(CALL * 2).await;
    assert_eq!(storage.renewed(), (1, 1), "it is still under way");
    sleep(CALL * 8).await;
    assert_eq!(storage.renewed(), (1, 1), "one that was sent after the restart follows");
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_lock_asked_for_before_and_granted_after_is_verified_as_well() {
    let storage = Forgetful::new();
    // The engine receives hints only while it has a reason to subscribe.
    let held = storage.take("held", Renewal::Never).await;
    sleep(EARLY).await;
    storage.controls.always(Verb::Acquire, Fault::Delay(CALL));
    storage.renewed();
    let (lock, restart) = (storage.locks.lock("x").ttl(TTL), async {
        sleep(CALL / 2).await;
        storage.restarts();
    });
    let (guard, ()) = join(lock.acquire(), restart).await;
    sleep(CALL).await;
    assert_eq!(storage.renewed(), (1, 1), "the grant may be one of those that are forgotten");
    assert!(guard.expect("free").is_held() && held.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_does_not_answer_after_its_restart_is_asked_again() {
    let storage = Forgetful::new();
    let (kept, forgotten) =
        (storage.take("kept", Renewal::Automatic).await, storage.take("x", Renewal::Automatic).await);
    sleep(EARLY).await;
    storage.forget(&forgotten).await;
    storage.controls.next(Verb::Renew, 3, Fault::Fail);
    let start = Instant::now();
    storage.restarts();
    assert_eq!(forgotten.lost().await, Lost::Taken);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(kept.is_held());
}

#[tokio::test(start_paused = true)]
async fn many_holds_are_verified_in_batches_once_however_often_it_is_said_and_spread_again() {
    const HOLDS: usize = 20_000;
    let storage = Forgetful::new();
    let guards = storage.take_many(HOLDS).await;
    sleep(EARLY).await;
    let batches = HOLDS.div_ceil(Limits::default().batch_max);
    storage.controls.always(Verb::Renew, Fault::Delay(CALL));
    storage.renewed();
    for _ in 0..batches / 2 {
        storage.restarts();
        sleep(CALL).await;
        assert_eq!(storage.controls.in_flight(), 1, "one call at a time, as the storage wants it");
    }
    assert!(storage.controls.claims(Verb::Renew) < HOLDS, "it is half done");
    sleep(CALL * 2 * u32::try_from(batches).expect("few")).await;
    let (renewals, calls) = storage.renewed();
    assert_eq!(renewals, HOLDS * 2, "one sweep, and one that follows");
    assert!(calls <= batches * 2 + 1, "{calls} calls");

    // From now on each lease is due within a third of the TTL, and about as many in each tenth of it.
    for _ in 0..10 {
        sleep(TTL / 30).await;
        let (renewals, _) = storage.renewed();
        assert!(renewals < HOLDS / 10 * 2, "{renewals} renewals in a second");
    }
    assert!(guards.iter().all(Guard::is_held));
}
