//! Answers that do not come, come late, or belong to somebody else; callers that go away meanwhile.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Release, Storage};
use leasehold::{ErrorKind, Event, Lost};
use leasehold_faultproxy::{End, Trap};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};
use tokio::time::Instant;

use crate::tools::*;

// 15
#[test]
fn a_claim_that_a_stopped_server_executes_late_takes_nothing_from_anybody() {
    run(async {
        let redis = Redis::start().expect("a server");
        let url = redis.url();
        let other = bare(&url).await;
        for round in 0..24 {
            let lock = format!("job{round}");
            let storage = bare(&url).await;
            let mine = claim(&lock).patience(Duration::from_millis(30));
            // A first call, so that both have a connection and know the server's time.
            assert_eq!(release(&storage, &mine).await.expect("answered"), Release::NotHeld);
            redis.stop();
            let stopped = Instant::now();
            let sent = [mine.clone()];
            let mut asking = Box::pin(storage.acquire(&sent));
            // Sent, and given up; in every second round the client dies as well.
            assert!(tokio::time::timeout(Duration::from_millis(20), &mut asking).await.is_err());
            drop(asking);
            let survivor = (round % 2 == 1).then_some(storage);
            while stopped.elapsed() < 3 * mine.patience {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            redis.cont();
            let theirs = claim(&lock);
            let token = within(soon(), take(&other, &theirs)).await;
            // What the server had not yet read cannot take it away either.
            assert_eq!(within(soon(), take(&other, &theirs)).await, token, "round {round}");
            assert_eq!(release(&other, &theirs).await.expect("answered"), Release::Released, "round {round}");
            drop(survivor);
        }
    });
}

// 15
#[test]
fn a_claim_and_its_clean_up_leave_nothing_in_whatever_order_they_arrive() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let (through, direct) = through_and_direct(&proxy);
        let (storage, cleaner) = (bare(&through).await, bare(&direct).await);
        for round in 0..20 {
            let mine = claim("job").patience(Duration::from_millis(50));
            let sent = [mine.clone()];
            let late = round % 2 == 0;
            let held_back = proxy.add(Rule::on("evalsha").containing(mine.owner.to_string()).hold_request());
            let since = Instant::now();
            let mut asking = Box::pin(storage.acquire(&sent));
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut asking).await.is_err());
            held_back.await_hits(1).expect("it asks");
            if late {
                // The clean-up overtakes the claim, which is executed when nobody wants it any more.
                assert_eq!(release(&cleaner, &mine).await.expect("answered"), Release::NotHeld);
                tokio::time::sleep_until(since + mine.patience).await;
                held_back.release();
                let answer = within(soon(), asking).await.pop().expect("an answer");
                assert_eq!(answer.expect_err("too late").kind(), ErrorKind::Unavailable);
            } else {
                held_back.release();
                let _granted_unless_the_machine_is_slow = within(soon(), asking).await;
                release(&cleaner, &mine).await.expect("answered");
            }
            assert!(cleaner.inspect(&mine.name).await.expect("answered").is_none(), "round {round}");
        }
    });
}

/// The same place, through the proxy and without it.
fn through_and_direct(proxy: &RedisProxy) -> (String, String) {
    let through = own(&proxy.url());
    let direct = through.replace(&proxy.port().to_string(), &common().port().to_string());
    (through, direct)
}

// 15, 40
#[test]
fn an_acquire_that_fails_on_a_stopped_server_leaves_no_ghost() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (locks, other) = (client(&redis.url()).await, client(&redis.url()).await);
        for round in 0..3 {
            let names: Vec<_> = (0..8).map(|i| format!("job{round}-{i}")).collect();
            assert!(locks.inspect("job").await.expect("answered").is_none());
            redis.stop();
            let failing = names.iter().map(|name| {
                let lock = locks.lock(name).ttl(Duration::from_secs(30)).wait(Duration::from_millis(50));
                async move { lock.acquire().await.expect_err("nobody answers") }
            });
            for error in within(LONG, join_all(failing)).await {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Contended), "{error:?}");
            }
            redis.cont();
            within(soon(), join_all(names.iter().map(|name| is_free(&other, name)))).await;
        }
    });
}

// 16
#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (locks, other) = (client(&redis.url()).await, client(&redis.url()).await);
        let idle = connections(&redis);
        let held = hold(&other, "held", LONG).await;
        let mut random = 7_u64;
        for round in 0..400 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lock = locks.lock(if round % 2 == 0 { "free" } else { "held" });
            let mut taking = Box::pin(lock.acquire());
            for _ in 0..round % 5 {
                if futures_util::future::poll_immediate(&mut taking).await.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros((random >> 33) % 700)).await;
            }
        }
        locks.close().await.expect("closed");
        held.release().await.expect("released");
        other.close().await.expect("closed");
        let left = keys(&redis);
        assert!(left.len() <= 2 && left.iter().all(|key| key.starts_with('{')), "{left:?}");
        assert!(connections(&redis) <= idle);
    });
}

// 16, 26
#[test]
fn a_storage_whose_calls_are_dropped_at_any_point_answers_the_next() {
    run(async {
        let storage = bare(&own(&common().url())).await;
        let (mine, yours) = (claim("job"), claim("job"));
        take(&storage, &mine).await;
        let mut context = Context::from_waker(Waker::noop());
        for round in 0..300 {
            let claims = [claim("other")];
            let mut calls: [std::pin::Pin<Box<dyn Future<Output = ()> + Send>>; 3] = [
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
            // Every answer belongs to its own question.
            is_held(&storage, &yours).await;
            assert_eq!(release(&storage, &yours).await.expect("answered"), Release::NotHeld);
        }
        assert_eq!(release(&storage, &mine).await.expect("answered"), Release::Released);
    });
}

// 26
#[test]
fn an_answer_to_another_question_is_not_believed() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        let mine = claim("job");
        assert_eq!(release(&storage, &mine).await.expect("answered"), Release::NotHeld);
        // What a server says that grants: to a request that was never sent.
        let granted =
            b"*4\r\n$9\r\n123456789\r\n$16\r\n1790000000000000\r\n:1\r\n$16\r\n1790000000000000\r\n";
        proxy.add(Rule::on("evalsha").bytes(*granted));
        let error = acquire(&storage, &mine).await.expect_err("another nonce");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let opened = proxy.count("time");
        // Nothing on that connection is believed any more.
        take(&storage, &mine).await;
        assert_eq!(proxy.count("time"), opened + 1);
    });
}

// 17
#[test]
fn a_guard_that_is_dropped_by_a_panic_is_released_at_once() {
    run(async {
        let url = own(&common().url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let guard = hold(&locks, "job", LONG).await;
        let ended = tokio::spawn(async move {
            let _held = guard;
            std::panic::resume_unwind(Box::new("as a task would"));
        });
        assert!(ended.await.expect_err("it panics").is_panic());
        is_free(&other, "job").await;
    });
}

// 18
#[test]
fn a_guard_may_be_dropped_where_no_runtime_is() {
    let url = own(&common().url());
    let (locks, guard) = run(async {
        let locks = client(&url).await;
        let guard = hold(&locks, "job", LONG).await;
        (locks, guard)
    });
    std::thread::spawn(move || drop(guard)).join().expect("no panic");
    run(async {
        let guard = within(soon(), locks.lock("job").acquire()).await.expect("granted");
        // With the runtime that goes away, in a task that never ran on.
        tokio::spawn(async move {
            let _held = guard;
            std::future::pending::<()>().await;
        });
    });
    run(is_free(&locks, "job"));
}

// 19
#[test]
fn a_release_whose_caller_goes_away_is_carried_out() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let (through, direct) = through_and_direct(&proxy);
        let (locks, other) = (client(&through).await, client(&direct).await);
        let guard = hold(&locks, "job", LONG).await;
        let owner = guard.owner().to_string();
        let held_back = proxy.add(Rule::on("evalsha").containing(owner).hold_request());
        let releasing = tokio::spawn(guard.release());
        held_back.await_hits(1).expect("it releases");
        releasing.abort();
        held_back.release();
        is_free(&other, "job").await;
    });
}

// 20
#[test]
fn a_release_whose_answer_is_lost_harms_nobody() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let (through, direct) = through_and_direct(&proxy);
        let (locks, other) = (client(&through).await, bare(&direct).await);
        let guard = hold(&locks, "job", LONG).await;
        let lost = proxy.add(Rule::on("evalsha").after_effect().cut());
        let releasing = tokio::spawn(guard.release());
        lost.await_hits(1).expect("it releases");
        let theirs = claim("job");
        let token = take(&other, &theirs).await;
        within(LONG, releasing).await.expect("no panic").expect("it was ours until it was released");
        assert_eq!(take(&other, &theirs).await, token);
        release(&other, &theirs).await.expect("answered");
    });
}

// 21
#[test]
fn a_claim_whose_answer_is_lost_five_times_is_granted_once() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        proxy.add(Rule::on("evalsha").times(5).after_effect().cut());
        for _ in 0..5 {
            assert_eq!(acquire(&storage, &mine).await.expect_err("cut").kind(), ErrorKind::Unavailable);
        }
        assert_eq!(take(&storage, &mine).await, token);
    });
}

// 21
#[test]
fn an_acquire_survives_connections_that_break_after_every_request() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let cut = proxy.faults().arm(Trap::on_request("EVALSHA").cut_reply(End::Reset).times(3));
        let guard = hold(&locks, "job", LONG).await;
        assert_eq!(cut.wait_for(|count| count.sprung >= 3).await.expect("armed").sprung, 3);
        guard.verify().await.expect("held");
        guard.release().await.expect("released");
    });
}

// 11
#[test]
fn a_holder_that_is_broken_by_an_operator_is_told_at_once() {
    run(async {
        let url = own(&common().url());
        let (locks, operator) = (client(&url).await, client(&url).await);
        // It has waited before, so it listens.
        let other = hold(&operator, "other", LONG).await;
        let waiting = waiting(locks.lock("other"));
        waiters(&operator, "other", 1).await;
        other.release().await.expect("released");
        waiting.await.expect("no panic").expect("granted").release().await.expect("released");
        let guard = Arc::new(hold(&locks, "job", LONG).await);
        let mut events = operator.events();
        let broken = operator.break_lock("job").await.expect("answered").expect("held");
        assert_eq!((broken.owner, broken.token), (guard.owner(), guard.token()));
        assert!(matches!(events.next().await, Some(Event::Broken { .. })));
        // Well before its next renewal.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        let next = hold(&operator, "job", LONG).await;
        assert!(next.token() > guard.token());
    });
}

// 2, 3, 4
#[test]
fn a_holder_that_was_paused_gets_nothing_back() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mut first = claim("job");
        first.ttl = time(200);
        let old = take(&storage, &first).await;
        let second = claim("job");
        take_over(&other, &second).await;
        let new = take(&other, &second).await;
        assert!(new > old);
        assert_eq!(renew(&storage, &first).await.expect("answered"), leasehold::storage::Renew::NotHeld);
        assert_eq!(release(&storage, &first).await.expect("answered"), Release::NotHeld);
        assert_eq!(release(&other, &second).await.expect("answered"), Release::Released);
        assert_eq!(renew(&storage, &first).await.expect("answered"), leasehold::storage::Renew::NotHeld);
        let third = claim("job");
        assert!(take(&storage, &third).await > new);
    });
}

// 5
#[test]
fn a_renewal_that_is_answered_after_the_deadline_revives_nothing() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let locks = client(&own(&proxy.url())).await;
        let guard = hold(&locks, "job", time(900)).await;
        let late = proxy.add(Rule::on("evalsha").containing(guard.owner().to_string()).always().hold_reply());
        late.await_hits(1).expect("it renews");
        assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);
        late.release();
        assert!(!guard.is_held());
        assert!(guard.release().await.is_err());
        // The late renewal is undone: nobody waits for its TTL.
        is_free(&locks, "job").await;
    });
}

// 6
#[test]
fn a_grant_that_is_answered_when_it_is_nearly_over_is_not_handed_out() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let locks = client(&own(&proxy.url())).await;
        assert!(locks.inspect("job").await.expect("answered").is_none());
        let ttl = time(2_000);
        let late = proxy.add(Rule::on("evalsha").hold_reply());
        let taking = waiting(locks.lock("job").ttl(ttl));
        late.await_hits(1).expect("it asks");
        tokio::time::sleep(ttl.mul_f64(0.9)).await;
        late.release();
        let guard = within(LONG, taking).await.expect("no panic").expect("granted in the end");
        assert!(guard.remaining() > ttl / 2, "{:?}", guard.remaining());
        guard.release().await.expect("released");
    });
}

// 8
#[test]
fn releases_that_meet_renewals_leave_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&redis.url()).await;
        let mut turns = Vec::new();
        for worker in 0..40_u64 {
            let locks = locks.clone();
            turns.push(tokio::spawn(async move {
                let ttl = Duration::from_millis(100);
                for turn in 0..8_u64 {
                    let Ok(guard) = locks.lock(format!("job{worker}")).ttl(ttl).acquire().await else {
                        continue;
                    };
                    // Renewals go out at a third.
                    let wait = Duration::from_micros(30_000 + (worker * 8 + turn) * 20);
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
        let left: Vec<_> = keys(&redis).into_iter().filter(|key| !key.starts_with('{')).collect();
        assert_eq!(left, Vec::<String>::new());
    });
}
