//! Answers that do not come, come late, or are about a commit that nobody knows of; callers that go away meanwhile.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Acquire, Release, Renew, Storage};
use leasehold::{ErrorKind, Event, Lost};
use leasehold_faultproxy::{End, Trap, Which};
use leasehold_testbed::{Postgres, PostgresPair};
use tokio::time::Instant;

use crate::tools::*;

// 15
#[test]
fn a_claim_that_a_stopped_server_executes_late_takes_nothing_from_anybody() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let other = bare(&url).await;
        for round in 0..10 {
            let lock = format!("job{round}");
            let storage = bare(&url).await;
            let mine = claim(&lock).patience(Duration::from_millis(30));
            // A first call, so that both have a connection and know the server's time.
            assert_eq!(release(&storage, &mine).await.expect("answered"), Release::NotHeld);
            postgres.stop();
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
            postgres.cont();
            let theirs = claim(&lock);
            let token = take_in_the_end(&other, &theirs).await;
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
        let (proxy, through, direct) = proxied(common()).await;
        let (storage, cleaner) = (bare(&through).await, bare(&direct).await);
        // Has the statement prepared.
        is_held_by_nobody(&storage).await;
        for round in 0..20 {
            let mine = claim("job").patience(Duration::from_millis(50));
            let sent = [mine.clone()];
            let late = round % 2 == 0;
            let held_back = proxy.faults().arm(Trap::on_request(mine.owner.to_bytes()).hold());
            let since = Instant::now();
            let mut asking = Box::pin(storage.acquire(&sent));
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut asking).await.is_err());
            let on = held_back.sprung().await.expect("it asks");
            if late {
                // The clean-up overtakes the claim, which is executed when nobody wants it any more.
                assert_eq!(release(&cleaner, &mine).await.expect("answered"), Release::NotHeld);
                tokio::time::sleep_until(since + mine.patience).await;
                proxy.faults().resume(Which::One(on));
                let answer = within(soon(), asking).await.pop().expect("an answer");
                assert_eq!(answer.expect_err("too late").kind(), ErrorKind::Unavailable);
            } else {
                proxy.faults().resume(Which::One(on));
                let _granted_unless_the_machine_is_slow = within(soon(), asking).await;
                release(&cleaner, &mine).await.expect("answered");
            }
            assert!(cleaner.inspect(&mine.name).await.expect("answered").is_none(), "round {round}");
        }
    });
}

async fn is_held_by_nobody(storage: &Bare) {
    let mine = claim("other");
    take(storage, &mine).await;
    assert_eq!(release(storage, &mine).await.expect("answered"), Release::Released);
}

// 15
#[test]
fn an_acquire_that_fails_on_a_stopped_server_leaves_no_ghost() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let (locks, other) = (client(&url).await, client(&url).await);
        for round in 0..3 {
            let names: Vec<_> = (0..8).map(|i| format!("job{round}-{i}")).collect();
            assert!(locks.inspect("job").await.expect("answered").is_none());
            postgres.stop();
            let failing = names.iter().map(|name| {
                let lock = locks.lock(name).ttl(Duration::from_secs(30)).wait(Duration::from_millis(50));
                async move { lock.acquire().await.expect_err("nobody answers") }
            });
            for error in within(LONG, join_all(failing)).await {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Contended), "{error:?}");
            }
            postgres.cont();
            within(soon(), join_all(names.iter().map(|name| is_free(&other, name)))).await;
        }
    });
}

// 15, 22
#[test]
fn a_claim_whose_commit_waits_for_a_standby_is_not_said_to_be_gone() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let url = pair.primary.url();
        let (storage, other) = (bare(&url).await, bare(&url).await);
        is_held_by_nobody(&storage).await;
        for round in 0..2 {
            let mine = claim("job");
            pair.stop_following().expect("stopped");
            let sent = [mine.clone()];
            let mut asking = Box::pin(storage.acquire(&sent));
            assert!(tokio::time::timeout(time(200), &mut asking).await.is_err(), "a commit of one server");
            until_sql(
                &pair.primary,
                "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
                "1",
            );
            drop(asking);
            // It is not visible yet, and will be: nobody may conclude that there is nothing to give back.
            for _ in 0..3 {
                let error = within(soon(), release(&storage, &mine)).await.expect_err("unknown");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            // Nor does it keep others from asking; what they get is not there yet either.
            if round == 0 {
                let theirs = [claim("job")];
                if let Ok(answers) = tokio::time::timeout(time(100), other.acquire(&theirs)).await {
                    assert!(!matches!(answers[..], [Ok(Acquire::Granted { .. })]), "{answers:?}");
                }
                pair.follow_again().expect("it follows");
            } else {
                // As an operator does: the commit stands, and no standby has it. The storage learns of it only now.
                let end =
                    "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
                assert_eq!(sql(&pair.primary, end), "t");
                pair.follow_again().expect("it follows");
            }
            assert_eq!(answered(async || release(&storage, &mine).await).await, Release::Released);
            let theirs = claim("job");
            take_in_the_end(&other, &theirs).await;
            release(&other, &theirs).await.expect("answered");
        }
    });
}

// 22
#[test]
fn a_commit_that_no_standby_has_is_no_grant() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let storage = bare(&pair.primary.url()).await;
        // The first statement grants only what was held before.
        let first = claim("job");
        take(&storage, &first).await;
        release(&storage, &first).await.expect("answered");
        pair.stop_following().expect("stopped");
        let mine = claim("job");
        let (answer, ()) = futures_util::future::join(acquire(&storage, &mine), async {
            // Only a warning says that the server did not wait for it.
            until_sql(
                &pair.primary,
                "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'",
                "1",
            );
        })
        .await;
        let error = answer.expect_err("nobody but this server knows of it");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("standby"), "{error}");
        pair.follow_again().expect("it follows");
        let token = within(soon(), take(&storage, &mine)).await;
        assert_eq!(within(soon(), take(&storage, &mine)).await, token);
    });
}

// 16
#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_nothing() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let (locks, other) = (client(&url).await, client(&url).await);
        let held = hold(&other, "held", LONG).await;
        let mut random = 7_u64;
        for round in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lock = locks.lock(if round % 2 == 0 { "free" } else { "held" });
            let mut taking = Box::pin(lock.acquire());
            for _ in 0..round % 5 {
                if futures_util::future::poll_immediate(&mut taking).await.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros((random >> 33) % 900)).await;
            }
        }
        locks.close().await.expect("closed");
        held.release().await.expect("released");
        other.close().await.expect("closed");
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*) from {table} where owner is not null")), "0");
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
        drop((locks, other));
        connections(common(), &application, 0);
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
        for round in 0..200 {
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
            // What was dropped may still be under way on the connection before.
            assert_eq!(answered(async || release(&storage, &yours).await).await, Release::NotHeld);
        }
        assert_eq!(release(&storage, &mine).await.expect("answered"), Release::Released);
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
        let (proxy, through, direct) = proxied(common()).await;
        let (locks, other) = (client(&through).await, client(&direct).await);
        let guard = hold(&locks, "job", LONG).await;
        let held_back = proxy.faults().arm(Trap::on_request(guard.owner().to_bytes()).hold());
        let releasing = tokio::spawn(guard.release());
        let on = held_back.sprung().await.expect("it releases");
        releasing.abort();
        proxy.faults().resume(Which::One(on));
        is_free(&other, "job").await;
    });
}

// 20
#[test]
fn a_release_whose_answer_is_lost_harms_nobody() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (locks, other) = (client(&through).await, bare(&direct).await);
        let guard = hold(&locks, "job", LONG).await;
        let lost = proxy.faults().arm(Trap::on_request(guard.owner().to_bytes()).cut_reply(End::Reset));
        let releasing = tokio::spawn(guard.release());
        lost.sprung().await.expect("it releases");
        let theirs = claim("job");
        let token = take(&other, &theirs).await;
        within(LONG, releasing).await.expect("no panic").expect("it was ours until it was released");
        assert_eq!(take(&other, &theirs).await, token);
        release(&other, &theirs).await.expect("answered");
    });
}

// 21, 22
#[test]
fn a_claim_whose_commit_is_unknown_five_times_is_granted_once() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (storage, other) = (bare(&through).await, bare(&direct).await);
        // The first statement grants only what was held before.
        let first = claim("job");
        take(&other, &first).await;
        release(&other, &first).await.expect("answered");
        let mine = claim("job");
        // Five times it is done, and the connection ends with what says so.
        let mut token = None;
        for _ in 0..5 {
            let lost = proxy.faults().arm(Trap::on_request(mine.owner.to_bytes()).cut_reply(End::Reset));
            let error = acquire(&storage, &mine).await.expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            lost.sprung().await.expect("armed");
            let holder = other.inspect(&mine.name).await.expect("answered").expect("held");
            assert_eq!(holder.owner, mine.owner);
            assert!(token.is_none_or(|token| token == holder.token), "{token:?} {holder:?}");
            token = Some(holder.token);
        }
        assert_eq!(Some(take(&storage, &mine).await), token);
    });
}

// 21
#[test]
fn an_acquire_survives_connections_that_break_after_every_request() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let idle = hold(&locks, "other", LONG).await;
        // The tag that only an answer with one row ends with.
        let cut = proxy.faults().arm(Trap::on_reply("SELECT 1\0").cut(End::Reset).times(3));
        let guard = hold(&locks, "job", LONG).await;
        assert_eq!(cut.wait_for(|count| count.sprung >= 3).await.expect("armed").sprung, 3);
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        guard.release().await.expect("released");
        idle.release().await.expect("released");
    });
}

// 25
#[test]
fn statements_that_are_cancelled_leave_no_lock_of_any_kind() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let storage = bare(&url).await;
        let (stopped, stop) = tokio::sync::watch::channel(false);
        let cancelling = std::thread::spawn({
            let cancel = format!(
                "do $$ begin for i in 1..200 loop perform pg_cancel_backend(pid) from pg_stat_activity \
                 where application_name = '{application}' and state = 'active'; perform pg_sleep(0.002); \
                 perform pg_stat_clear_snapshot(); end loop; end $$"
            );
            move || {
                while !*stop.borrow() {
                    sql(common(), &cancel);
                }
            }
        });
        let mut cancelled = 0;
        let mut rounds = 0;
        while (rounds < 300 || cancelled == 0) && rounds < 5_000 {
            rounds += 1;
            let mine = claim(&format!("job{}", rounds % 3));
            for error in [acquire(&storage, &mine).await.err(), release(&storage, &mine).await.err()] {
                let Some(error) = error else { continue };
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                cancelled += 1;
            }
            // Whatever came of it is undone by the second release at the latest.
            while release(&storage, &mine).await.is_err() {}
        }
        stopped.send(true).expect("somebody listens");
        cancelling.join().expect("no panic");
        assert!(cancelled > 0, "not one was hit");
        let held = format!(
            "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
             where a.application_name = '{application}' and l.locktype = 'advisory'"
        );
        assert_eq!(sql(common(), &held), "0");
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*) from {table} where owner is not null")), "0");
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
        assert_eq!(renew(&storage, &first).await.expect("answered"), Renew::NotHeld);
        assert_eq!(release(&storage, &first).await.expect("answered"), Release::NotHeld);
        assert_eq!(release(&other, &second).await.expect("answered"), Release::Released);
        assert_eq!(renew(&storage, &first).await.expect("answered"), Renew::NotHeld);
        let third = claim("job");
        assert!(take(&storage, &third).await > new);
    });
}

// 5
#[test]
fn a_renewal_that_is_answered_after_the_deadline_revives_nothing() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let guard = hold(&locks, "job", time(900)).await;
        let marker = guard.owner().to_bytes();
        let late = proxy.faults().arm(Trap::on_request(marker).hold_reply().times(u64::MAX));
        late.sprung().await.expect("it renews");
        assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);
        proxy.faults().heal().expect("healed");
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
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        is_free(&locks, "other").await;
        let ttl = time(2_000);
        let late = proxy.faults().arm(Trap::on_reply("SELECT 1\0").hold());
        let taking = waiting(locks.lock("job").ttl(ttl));
        let on = late.sprung().await.expect("it asks");
        tokio::time::sleep(ttl.mul_f64(0.9)).await;
        proxy.faults().resume(Which::One(on));
        let guard = within(LONG, taking).await.expect("no panic").expect("granted in the end");
        assert!(guard.remaining() > ttl / 2, "{:?}", guard.remaining());
        guard.release().await.expect("released");
    });
}

// 8
#[test]
fn releases_that_meet_renewals_leave_nothing() {
    run(async {
        let url = own(&common().url());
        let locks = client(&url).await;
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
        let held = format!(
            "select count(*) from {} where owner is not null and expires_at > clock_timestamp()",
            table_of(&url)
        );
        assert_eq!(sql(common(), &held), "0");
    });
}
