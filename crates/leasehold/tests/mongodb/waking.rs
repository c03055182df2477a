//! Waiters are woken up in order, whatever happens to their connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Hint, Storage, WAITER_HEARTBEAT, WAITER_TTL};
use leasehold_testbed::MongoDb;
use tokio::time::Instant;

use crate::net::waking as scenario;
use crate::tools::*;

#[test]
fn a_release_before_the_stream_stands_is_not_missed() {
    run(scenario::release_before_the_subscription());
}

#[test]
fn a_change_stream_that_falls_silent_is_replaced() {
    run(scenario::silent_notifications());
}

#[test]
fn waiters_ask_by_themselves_while_the_change_stream_is_silent() {
    run(scenario::waiter_behind_silent_notifications(2 * WAITER_HEARTBEAT + time(1_000)));
}

#[test]
fn killed_change_streams_miss_nothing() {
    run(async {
        let url = own(&common().url());
        let clients = 4;
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let hit = Arc::new(AtomicU32::new(0));
        let killer = std::thread::spawn({
            let (hit, database) = (Arc::clone(&hit), database_of(&url).to_owned());
            // The pause between two faults.
            let pause = Duration::from_millis(100);
            move || {
                while end.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    let cursors = streams(common(), &database);
                    let killed =
                        tell(common(), &database, doc! { "killCursors": "leasehold", "cursors": cursors });
                    let killed = killed.get_array("cursorsKilled").map_or(0, Vec::len);
                    hit.fetch_add(u32::try_from(killed).expect("few"), Ordering::Relaxed);
                }
            }
        });
        let is_enough = |turns| turns >= 20 && hit.load(Ordering::Relaxed) >= 3 * clients;
        scenario::disturbed_handovers(&url, clients, is_enough).await;
        drop(ended);
        killer.join().expect("no panic");
    });
}

#[test]
fn a_handover_wakes_one_of_many_by_one_update() {
    run(async {
        let server = MongoDb::start().expect("a server");
        let url = own(&server.url());
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        let mut crowd = scenario::crowd(&url, 30).await;
        // A waiter that has not asked for a while is told that it is its turn instead.
        join_all(crowd.iter().map(|(storage, _, mine)| is_held(storage, mine))).await;
        let before = counts(&server);
        let written = oplog(&server, database_of(&url)).len();
        guard.release().await.expect("released");
        scenario::have_their_turns(&mut crowd[..15]).await;
        let calls = since(&server, &before);
        // Each release is one update, which writes one entry to the oplog, after one for a lock that has no waiters: the holder
        // was granted it before they came. No waiter has to ask.
        assert_eq!(calls.get("update").copied(), Some(17), "{calls:?}");
        assert_eq!(calls.get("findAndModify").copied(), None, "{calls:?}");
        assert_eq!(oplog(&server, database_of(&url)).len() - written, 16);
        scenario::were_not_woken(&mut crowd[16..]).await;
    });
}

#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    let server = MongoDb::start().expect("a server");
    let asked = || counts(&server).get("findAndModify").copied().unwrap_or(0);
    // Each asks once more when its change stream stands.
    run(scenario::engines_in_a_crowd(&server.url(), 50, 2, asked));
}

#[test]
fn waiters_of_many_clients_are_granted_the_lock_in_their_order() {
    run(async {
        let url = own(&common().url());
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        let (granted, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut turns = Vec::new();
        for i in 0..30_u64 {
            let (locks, granted) = (client(&url).await, granted.clone());
            turns.push(tokio::spawn(async move {
                let guard = locks.lock("job").acquire().await.expect("granted");
                granted.send((i, guard.token())).expect("it is received");
                guard.release().await.expect("released");
            }));
            waiters(&holder, "job", i + 1).await;
        }
        guard.release().await.expect("released");
        drop(granted);
        let mut last = None;
        for wanted in 0..30 {
            let (turn, token) = within(LONG, order.recv()).await.expect("another turn");
            assert_eq!(turn, wanted);
            assert!(Some(token) > last);
            last = Some(token);
        }
        for turn in turns {
            within(LONG, turn).await.expect("no panic");
        }
    });
}

#[test]
fn a_waiter_that_died_is_dropped_by_the_next_caller() {
    run(async {
        let url = own(&common().url());
        let (holder, waiter) = (bare(&url).await, bare(&url).await);
        let held = claim("job");
        take(&holder, &held).await;
        is_held(&waiter, &claim("job").wait(true)).await;
        let queue = || locks_of(common(), database_of(&url))[0].get_array("queue").expect("a queue").len();
        assert_eq!(queue(), 1);
        let long_ago = doc! { "$set": { "queue.0.asked": bson::DateTime::from_millis(1) } };
        change(common(), database_of(&url), doc! {}, long_ago);
        let second = claim("job").wait(true);
        is_held(&waiter, &second).await;
        assert_eq!(queue(), 1, "the dead entry is gone, and the new one is there");
        change(
            common(),
            database_of(&url),
            doc! {},
            doc! { "$set": { "queue.0.asked": bson::DateTime::from_millis(1) } },
        );
        release(&holder, &held).await.expect("released");
        assert_eq!(queue(), 0);
        take(&holder, &claim("job")).await;
    });
}

#[test]
fn a_dead_holder_and_dead_waiters_end_with_their_ttls() {
    run(async {
        let url = own(&common().url());
        let ttl = time(1_000);
        let (dead, dead_hints) = listening(&url).await;
        let mut held = claim("job");
        held.ttl = ttl;
        take(&dead, &held).await;
        let since = Instant::now();
        for _ in 0..20 {
            is_held(&dead, &claim("job").wait(true)).await;
        }
        drop((dead, dead_hints));
        let live = client(&url).await;
        let guard = live.lock("job").acquire().await.expect("granted");
        let took = since.elapsed();
        assert!(took >= ttl && took < ttl + WAITER_TTL + WAITER_HEARTBEAT + time(1_000), "{took:?}");
        guard.release().await.expect("released");
    });
}

#[test]
fn a_dead_holder_is_replaced_when_its_ttl_is_over() {
    run(scenario::dead_holder(time(700)));
}

#[test]
fn waiters_that_leave_at_random_stall_no_waiter_and_leave_nothing() {
    let url = own(&common().url());
    run(scenario::leaving_waiters(&url, 6, 20, 12_000));
    one_free_document_is_left(&url);
}

#[test]
fn hundreds_of_handovers_leave_one_document() {
    let url = own(&common().url());
    run(scenario::handovers_of_two(&url, 200));
    one_free_document_is_left(&url);
}

fn one_free_document_is_left(url: &str) {
    let left = locks_of(common(), database_of(url));
    assert!(left.len() == 1 && left[0].get("owner") == Some(&Bson::Null), "{left:?}");
    assert_eq!(left[0].get_array("queue").map_or(0, Vec::len), 0, "{left:?}");
}

#[test]
fn a_standalone_server_is_polled_adaptively() {
    let server = MongoDb::options().start_standalone().expect("a server");
    run(polled(&server, &own(&server.url())));
}

#[test]
fn without_notifications_a_replica_set_is_polled_adaptively() {
    let server = MongoDb::start().expect("a server");
    run(polled(&server, &with(&own(&server.url()), "notify=off")));
}

/// Has clients wait without a change stream, counts their claims, and then has them take their turns.
async fn polled(server: &MongoDb, url: &str) {
    let storage = bare(url).await;
    assert!(!storage.guarantees().push && storage.guarantees().fair);
    let mut hints: Hints = Box::pin(storage.hints());
    let holder = client(url).await;
    let guard = hold(&holder, "job", LONG).await;
    let mut turns = Vec::new();
    for _ in 0..20 {
        let locks = client(url).await;
        let lock = locks.lock("job");
        let turn = async move { lock.acquire().await.expect("granted").release().await };
        turns.push((tokio::spawn(turn), locks));
    }
    waiters(&holder, "job", 20).await;
    let asked = || counts(server).get("findAndModify").copied().unwrap_or(0);
    let (before, since) = (asked(), Instant::now());
    // The claims within this time are counted.
    tokio::time::sleep(time(3_000)).await;
    let seconds = since.elapsed().as_millis().div_ceil(1_000);
    let claims = u128::from(asked() - before);
    // The first asks four times a second and more often at first, the two behind it twice, and all of them every two seconds
    // to keep their places.
    assert!(claims >= 20 && claims < seconds * (4 + 4 + 10) + 80, "{claims} in {seconds} s");
    let (before, since) = (asked(), Instant::now());
    guard.release().await.expect("released");
    for (turn, locks) in turns {
        within(LONG, turn).await.expect("no panic").expect("released");
        drop(locks);
    }
    let (claims, took) = (asked() - before, since.elapsed());
    assert!(claims < 20 * 15, "{claims} claims for 20 handovers in {took:?}");
    assert!(took < time(20 * 600), "{took:?}");
    assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None, "there are no hints");
}

#[test]
fn a_waiter_without_a_stream_is_told_when_to_ask_again() {
    run(async {
        let url = with(&own(&common().url()), "notify=off");
        let (holder, waiter) = (bare(&url).await, bare(&url).await);
        take(&holder, &claim("job")).await;
        let (first, second) = (claim("job").wait(true), claim("job").wait(true));
        let mut pauses = Vec::new();
        for mine in [&first, &second, &first] {
            match acquire(&waiter, mine).await.expect("answered") {
                AcquireReply::Held { retry_after: Some(after), .. } => pauses.push(after),
                other => panic!("{other:?}"),
            }
        }
        let bounds = Duration::from_millis(10)..=Duration::from_millis(500);
        assert!(pauses.iter().all(|pause| bounds.contains(pause)), "{pauses:?}");
        let not_waiting = acquire(&waiter, &claim("job")).await.expect("answered");
        assert!(
            matches!(not_waiting, AcquireReply::Held { retry_after: Some(after), .. } if after > LONG / 2)
        );
    });
}

#[test]
fn a_break_hands_the_lock_to_the_first_waiter_and_tells_the_holder() {
    run(async {
        let url = own(&common().url());
        let ((holder, mut told), (waiter, mut hints)) = (listening(&url).await, listening(&url).await);
        let operator = bare(&url).await;
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        release(&operator, &held).await.expect("broken");
        assert_eq!(within(soon(), told.next()).await, Some(Hint::Owner(held.owner)));
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(&waiter, &mine).await;
    });
}
