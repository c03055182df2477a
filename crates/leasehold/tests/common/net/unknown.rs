//! Answers that are lost or late, and callers that go away meanwhile.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Claim, ReleaseReply, RenewReply, Storage, Token};
use leasehold::{ErrorKind, Event, Locks, Lost};
use leasehold_faultproxy::{End, Trap, Which};
use tokio::time::Instant;

use crate::tools::*;

/// Sends claims to a stopped server, and gives them up before it continues.
///
/// The server must not execute them when it continues. `take_again` acquires the lock for another client then.
pub(crate) async fn claims_to_a_stopped_server(
    server: &Server,
    url: &str,
    rounds: u32,
    take_again: impl AsyncFn(&Bare, &Claim) -> Token,
) {
    let other = bare(url).await;
    for round in 0..rounds {
        let lock = format!("job{round}");
        let storage = bare(url).await;
        let mine = claim(&lock).patience(Duration::from_millis(30));
        // After a first call, the client has a connection and knows the server's time.
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::NotHeld);
        server.stop();
        let stopped = Instant::now();
        let sent = [mine.clone()];
        let mut asking = Box::pin(storage.acquire(&sent));
        // The claim is sent and given up without an answer. In every second round the client goes away, too.
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut asking).await.is_err());
        drop(asking);
        let survivor = (round % 2 == 1).then_some(storage);
        // The claim's patience must have ended before the server continues.
        tokio::time::sleep_until(stopped + 3 * mine.patience).await;
        server.cont();
        let theirs = claim(&lock);
        let token = take_again(&other, &theirs).await;
        // A claim that the server had not read before must not replace this one.
        assert_eq!(within(soon(), take(&other, &theirs)).await, token, "round {round}");
        assert_eq!(
            release(&other, &theirs).await.expect("answered"),
            ReleaseReply::Released,
            "round {round}"
        );
        drop(survivor);
    }
}

/// Delays claims until after their cleanup, or executes them before it. Neither may leave a lease.
pub(crate) async fn clean_up_before_and_after() {
    let (proxy, through, direct) = proxied(common()).await;
    let (storage, cleaner) = (bare(&through).await, bare(&direct).await);
    warm_up(&storage).await;
    for round in 0..20 {
        let mine = claim("job").patience(Duration::from_millis(50));
        let sent = [mine.clone()];
        let late = round % 2 == 0;
        let held_back = proxy.faults().arm(Trap::on_request(marker(mine.owner)).hold());
        let since = Instant::now();
        let mut asking = pin!(storage.acquire(&sent));
        let on = tokio::select! {
            answer = &mut asking => panic!("round {round}: {answer:?}"),
            on = held_back.sprung() => on.expect("it asks"),
        };
        if late {
            // The cleanup overtakes the claim, which is executed after its patience has ended.
            assert_eq!(release(&cleaner, &mine).await.expect("answered"), ReleaseReply::NotHeld);
            tokio::time::sleep_until(since + mine.patience).await;
            proxy.faults().resume(Which::One(on));
            let answer = within(soon(), asking).await.pop().expect("an answer");
            assert_eq!(answer.expect_err("too late").kind(), ErrorKind::Unavailable);
        } else {
            proxy.faults().resume(Which::One(on));
            let _granted_unless_the_machine_is_slow = within(soon(), asking).await;
            release(&cleaner, &mine).await.expect("answered");
        }
        assert!(cleaner.inspect(&mine.name).await.expect("answered").is_empty(), "round {round}");
    }
}

/// Makes one cycle, so that the storage has a connection and has loaded its scripts or statements.
pub(crate) async fn warm_up(storage: &Bare) {
    let mine = claim("other");
    take(storage, &mine).await;
    assert_eq!(release(storage, &mine).await.expect("answered"), ReleaseReply::Released);
}

/// Acquires locks from a stopped server without an answer. All must be free when the server continues.
pub(crate) async fn acquires_from_a_stopped_server(server: &Server, url: &str) {
    let (locks, other) = (client(url).await, client(url).await);
    for round in 0..3 {
        let names: Vec<_> = (0..8).map(|i| format!("job{round}-{i}")).collect();
        assert!(locks.inspect("job").await.expect("answered").is_empty());
        server.stop();
        let failing = names.iter().map(|name| {
            let lock = locks.lock(name).ttl(Duration::from_secs(30)).wait(Duration::from_millis(50));
            async move { lock.acquire().await.expect_err("the server does not answer") }
        });
        for error in within(LONG, join_all(failing)).await {
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Contended), "{error:?}");
        }
        server.cont();
        within(soon(), join_all(names.iter().map(|name| is_free(&other, name)))).await;
    }
}

/// Drops acquires within at most `longest` microseconds of a poll. Then closes both clients.
pub(crate) async fn dropped_acquires(locks: &Locks, other: &Locks, rounds: usize, longest: u64) {
    let held = hold(other, "held", LONG).await;
    let mut random = Random(7);
    for round in 0..rounds {
        // The acquires get to different points before they are dropped.
        let pause = Duration::from_micros(random.below(longest));
        let lock = locks.lock(if round % 2 == 0 { "free" } else { "held" });
        let mut taking = Box::pin(lock.acquire());
        for _ in 0..round % 5 {
            if futures_util::future::poll_immediate(&mut taking).await.is_some() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    }
    locks.close().await.expect("closed");
    held.release().await.expect("released");
    other.close().await.expect("closed");
}

/// Drops calls at once. Each time, `answer` then makes a call that must get its own answer.
pub(crate) async fn dropped_calls(rounds: u32, answer: impl AsyncFn(&Bare, &Claim) -> ReleaseReply) {
    let storage = bare(&own(&common().url())).await;
    let (mine, yours) = (claim("job"), claim("job"));
    take(&storage, &mine).await;
    let mut context = Context::from_waker(Waker::noop());
    for round in 0..rounds {
        let claims = [claim("other")];
        let mut calls: [Pin<Box<dyn Future<Output = ()> + Send>>; 3] = [
            Box::pin(async { drop(storage.acquire(&claims).await) }),
            Box::pin(async { drop(storage.release(&claims).await) }),
            Box::pin(async { drop(storage.inspect(&claims[0].name).await) }),
        ];
        for call in &mut calls {
            let _ = call.as_mut().poll(&mut context);
        }
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        drop(calls);
        // No call may get the answer of a dropped one.
        is_held(&storage, &yours).await;
        assert_eq!(answer(&storage, &yours).await, ReleaseReply::NotHeld);
    }
    assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
}

/// Drops a guard by a panic in its task.
pub(crate) async fn guard_in_a_panic() {
    let url = own(&common().url());
    let (locks, other) = (client(&url).await, client(&url).await);
    let guard = hold(&locks, "job", LONG).await;
    let ended = tokio::spawn(async move {
        let _held = guard;
        std::panic::resume_unwind(Box::new("as a task would"));
    });
    assert!(ended.await.expect_err("it panics").is_panic());
    is_free(&other, "job").await;
}

/// Drops a guard on a thread without a runtime, and another one together with its runtime.
pub(crate) fn guard_without_a_runtime() {
    let url = own(&common().url());
    let (locks, guard) = run(async {
        let locks = client(&url).await;
        let guard = hold(&locks, "job", LONG).await;
        (locks, guard)
    });
    std::thread::spawn(move || drop(guard)).join().expect("no panic");
    run(async {
        let guard = within(soon(), locks.lock("job").acquire()).await.expect("granted");
        // The task is pending when its runtime is dropped.
        tokio::spawn(async move {
            let _held = guard;
            std::future::pending::<()>().await;
        });
    });
    run(is_free(&locks, "job"));
}

/// Drops a release while its request is in flight.
pub(crate) async fn release_without_its_caller() {
    let (proxy, through, direct) = proxied(common()).await;
    let (locks, other) = (client(&through).await, client(&direct).await);
    let guard = hold(&locks, "job", LONG).await;
    let held_back = proxy.faults().arm(Trap::on_request(marker(guard.owner())).hold());
    let releasing = tokio::spawn(guard.release());
    let on = within(LONG, held_back.sprung()).await.expect("it releases");
    releasing.abort();
    proxy.faults().resume(Which::One(on));
    is_free(&other, "job").await;
}

/// Resets the connection after a release was executed and before it is answered.
pub(crate) async fn release_without_its_answer() {
    let (proxy, through, direct) = proxied(common()).await;
    let (locks, other) = (client(&through).await, bare(&direct).await);
    let guard = hold(&locks, "job", LONG).await;
    let lost = proxy.faults().arm(Trap::on_request(marker(guard.owner())).cut_reply(End::Reset));
    let releasing = tokio::spawn(guard.release());
    within(LONG, lost.sprung()).await.expect("it releases");
    let theirs = claim("job");
    let token = take(&other, &theirs).await;
    within(LONG, releasing).await.expect("no panic").expect("it was held until it was released");
    assert_eq!(take(&other, &theirs).await, token);
    release(&other, &theirs).await.expect("answered");
}

/// Breaks a lock. Its holder listens, and must learn it at once.
pub(crate) async fn broken_lock() {
    let url = own(&common().url());
    let (locks, operator) = (client(&url).await, client(&url).await);
    // The client listens, because it has waited before.
    let other = hold(&operator, "other", LONG).await;
    let waiting = waiting(locks.lock("other"));
    waiters(&operator, "other", 1).await;
    other.release().await.expect("released");
    waiting.await.expect("no panic").expect("granted").release().await.expect("released");
    let guard = Arc::new(hold(&locks, "job", LONG).await);
    let mut events = operator.events();
    let broken = operator.break_lock("job").await.expect("answered").pop().expect("held");
    assert_eq!((broken.owner, broken.token), (guard.owner(), guard.token()));
    assert!(matches!(events.next().await, Some(Event::Broken { .. })));
    // The next renewal is due much later.
    assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
    let next = hold(&operator, "job", LONG).await;
    assert!(next.token() > guard.token());
}

/// Pauses a holder until another one holds the lock. Its renewal and release must then change nothing.
pub(crate) async fn paused_holder() {
    let url = own(&common().url());
    let (storage, other) = (bare(&url).await, bare(&url).await);
    let mut first = claim("job");
    first.ttl = time(200);
    let old = take(&storage, &first).await;
    let second = claim("job");
    take_over(&other, &second).await;
    let new = take(&other, &second).await;
    assert!(new > old);
    assert_eq!(renew(&storage, &first).await.expect("answered"), RenewReply::NotHeld);
    assert_eq!(release(&storage, &first).await.expect("answered"), ReleaseReply::NotHeld);
    assert_eq!(release(&other, &second).await.expect("answered"), ReleaseReply::Released);
    assert_eq!(renew(&storage, &first).await.expect("answered"), RenewReply::NotHeld);
    let third = claim("job");
    assert!(take(&storage, &third).await > new);
}

/// Delays the answer of a renewal until the holder's deadline. The lock must be lost, and free at once.
pub(crate) async fn late_renewal() {
    let (proxy, through, _) = proxied(common()).await;
    let locks = client(&through).await;
    let guard = hold(&locks, "job", std::cmp::max(time(900), locks.limits().ttl_min)).await;
    let late = proxy.faults().arm(Trap::on_request(marker(guard.owner())).hold_reply().times(u64::MAX));
    within(LONG, late.sprung()).await.expect("it renews");
    assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);
    proxy.faults().heal().expect("healed");
    assert!(!guard.is_held());
    assert!(guard.release().await.is_err());
    // The late renewal is undone, so the lock is free before its TTL has ended.
    is_free(&locks, "job").await;
}

/// Delays a grant by this trap until nine tenths of the TTL have passed. The guard must have more than half of it left.
pub(crate) async fn late_grant(trap: Trap) {
    let (proxy, through, _) = proxied(common()).await;
    let locks = client(&through).await;
    is_free(&locks, "other").await;
    let ttl = time(2_000);
    let late = proxy.faults().arm(trap);
    let taking = waiting(locks.lock("job").ttl(ttl));
    let on = within(LONG, late.sprung()).await.expect("it asks");
    // Nothing else happens meanwhile, so there is no event to wait for.
    tokio::time::sleep(ttl.mul_f64(0.9)).await;
    proxy.faults().resume(Which::One(on));
    let guard = within(LONG, taking).await.expect("no panic").expect("granted in the end");
    assert!(guard.remaining() > ttl / 2, "{:?}", guard.remaining());
    guard.release().await.expect("released");
}

/// Releases locks at about the time when a renewal is due. Then closes the client.
pub(crate) async fn releases_among_renewals(url: &str) {
    let locks = client(url).await;
    let mut turns = Vec::new();
    for worker in 0..40_u64 {
        let locks = locks.clone();
        turns.push(tokio::spawn(async move {
            let ttl = std::cmp::max(Duration::from_millis(100), locks.limits().ttl_min);
            for turn in 0..8_u64 {
                let Ok(guard) = locks.lock(format!("job{worker}")).ttl(ttl).acquire().await else {
                    continue;
                };
                // Renewals are sent at a third of the TTL.
                let later = u32::try_from(worker * 8 + turn).expect("few");
                let wait = ttl * 3 / 10 + ttl / 5_000 * later;
                tokio::time::sleep(wait).await;
                let _lost_on_a_slow_machine = guard.release().await;
            }
        }));
    }
    for turn in turns {
        within(LONG, turn).await.expect("no panic");
    }
    assert_eq!(locks.held(), []);
    locks.close().await.expect("closed");
}
