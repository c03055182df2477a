//! Waiters are woken, in order, whatever happens to the connection that wakes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, Storage, WAITER_HEARTBEAT, WAITER_TTL};
use tokio::time::Instant;

use crate::net::waking as scenario;
use crate::tools::*;

#[test]
fn a_release_that_races_an_entry_into_the_queue_is_not_missed() {
    run(async {
        let url = own(&common().url());
        let pairs = (0..4).map(|pair| {
            let url = url.clone();
            async move {
                let (mut a, mut b) = (listening(&url).await, listening(&url).await);
                let lock = format!("job{pair}");
                let mut holding = claim(&lock);
                take(&a.0, &holding).await;
                let mut random = Random(pair + 1_u64);
                for round in 0..250 {
                    let mine = claim(&lock).wait(true);
                    // The order of the release and the claim differs from round to round.
                    let pause = Duration::from_micros(random.below(2_500));
                    let releasing = async {
                        tokio::time::sleep(pause).await;
                        assert_eq!(release(&a.0, &holding).await.expect("answered"), ReleaseReply::Released);
                    };
                    let (answer, ()) = join(acquire(&b.0, &mine), releasing).await;
                    let answer = answer.expect("answered");
                    if let AcquireReply::Held { .. } = answer {
                        // No engine asks again here: either the waiter is notified, or this never ends. A hint may belong to
                        // the claim before, which was granted meanwhile.
                        let hinted = async { while b.1.next().await != Some(Hint::Owner(mine.owner)) {} };
                        if tokio::time::timeout(soon(), hinted).await.is_err() {
                            panic!("no waiter is notified in round {round}: {answer:?}");
                        }
                        take(&b.0, &mine).await;
                    }
                    holding = mine;
                    std::mem::swap(&mut a, &mut b);
                }
            }
        });
        within(LONG, join_all(pairs)).await;
    });
}

#[test]
fn a_handover_never_waits_for_a_heartbeat() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        let mut holding = hold(&a, "job", LONG).await;
        let mut times = Vec::new();
        for round in 0..200_u64 {
            let locks = if round % 2 == 0 { &b } else { &a };
            let lock = locks.lock("job");
            let waiting = tokio::spawn(async move { lock.acquire().await.expect("granted") });
            // The waiter may be in the queue by then, or not yet.
            tokio::time::sleep(Duration::from_micros((round * 7_919) % 4_000)).await;
            holding.release().await.expect("released");
            let since = Instant::now();
            holding = within(LONG, waiting).await.expect("no panic");
            times.push(since.elapsed());
        }
        times.sort_unstable();
        // A missed one takes two seconds; the machine may be slow for a moment.
        let longest = times[times.len() - 1];
        assert!(longest < WAITER_HEARTBEAT / 4 + time(400), "{longest:?}");
        holding.release().await.expect("released");
    });
}

#[test]
fn a_release_before_the_subscription_stands_is_not_missed() {
    run(scenario::release_before_the_subscription());
}

#[test]
fn a_notification_connection_that_falls_silent_is_replaced() {
    run(scenario::silent_notifications());
}

#[test]
fn waiters_ask_by_themselves_while_the_notification_connection_is_silent() {
    run(scenario::waiter_behind_silent_notifications(WAITER_HEARTBEAT + time(1_500)));
}

#[test]
fn terminated_listeners_miss_nothing() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let clients = 4;
        let (ended, end) = tokio::sync::watch::channel(false);
        let hit = Arc::new(AtomicU32::new(0));
        let killer = std::thread::spawn({
            let kill = format!(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                 where application_name = '{application}' and query ~ 'pg_listening_channels|^listen|freed as|pg_notify'"
            );
            let hit = Arc::clone(&hit);
            move || {
                while !*end.borrow() {
                    let killed = sql(common(), &kill).parse::<u32>().expect("a number");
                    hit.fetch_add(killed, Ordering::Relaxed);
                    // The pause between two faults.
                    sql(common(), "select pg_sleep(0.1)");
                }
            }
        });
        let is_enough = |turns| turns >= 30 && hit.load(Ordering::Relaxed) >= 3 * clients;
        scenario::disturbed_handovers(&url, clients, is_enough).await;
        ended.send(true).expect("it is received");
        killer.join().expect("no panic");
    });
}

#[test]
fn a_handover_wakes_one_of_many() {
    run(async {
        let url = own(&common().url());
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        let mut crowd = scenario::crowd(&url, 24).await;
        let count = |part| done(common(), table_of(&url), part);
        let (asked, [behind, notified, _]) = (count(ACQUIRE)[0], count(PASS));
        guard.release().await.expect("released");
        scenario::have_their_turns(&mut crowd[..12]).await;
        // The first release does not know of waiters, and finds out. Each release hands over to one waiter, and notifies it.
        until("the statements behind", || match count(PASS)[0] - behind {
            14 => Ok(()),
            asked => Err(leasehold_testbed::Error::new(format!("{asked} so far"))),
        });
        assert_eq!([count(HANDOVER)[0], count(PASS)[1] - notified], [13, 13]);
        assert_eq!(count(ACQUIRE)[0], asked, "no waiter has to ask");
        scenario::were_not_woken(&mut crowd[13..]).await;
    });
}

#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    let url = own(&common().url());
    let asked = || done(common(), table_of(&url), ACQUIRE)[0];
    // Each asks once more when its listener begins to listen.
    run(scenario::engines_in_a_crowd(&url, 20, 2, asked));
}

#[test]
fn a_handover_is_one_claim_to_wait_and_none_to_hold() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (a, b) = (client(&url).await, client(&url).await);
        let mut holding = hold(&a, "job", LONG).await;
        let handovers = 100;
        let since = Instant::now();
        for round in 0..handovers {
            let locks = if round % 2 == 0 { &b } else { &a };
            let waiting = waiting(locks.lock("job"));
            waiters(&a, "job", 1).await;
            holding.release().await.expect("released");
            holding = within(LONG, waiting).await.expect("no panic").expect("granted");
        }
        // A client asks again until it listens, and heartbeats are claims, too.
        let beats = 20 + since.elapsed().as_secs() / WAITER_HEARTBEAT.as_secs();
        let [asked, handed, behind] = [ACQUIRE, HANDOVER, PASS].map(|part| done(common(), table, part)[0]);
        assert!(asked <= handovers + beats, "{asked} claims");
        assert!(handed <= handovers && behind <= handovers + beats, "{handed}, {behind}");
        holding.release().await.expect("released");
    });
}

#[test]
fn a_dead_waiter_does_not_stop_the_waiters_behind_it() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (holder, (waiter, mut hints)) = (bare(&url).await, listening(&url).await);
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        // Now its client knows of waiters.
        is_held(&holder, &claim("job").wait(true)).await;
        sql(
            common(),
            &format!(
                "update {table}_waiters set since = since - interval '1 h', until = since - interval '1 h' \
                 where owner <> '{}'",
                mine.owner
            ),
        );
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(&waiter, &mine).await;
        // A grant deletes the expired entries before its own, here, too.
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
    });
}

#[test]
fn a_notified_waiter_overtakes_no_live_waiter() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let holder = bare(&url).await;
        let ((first, mut first_hints), (second, mut second_hints)) =
            (listening(&url).await, listening(&url).await);
        let (held, earlier, later) = (claim("job"), claim("job").wait(true), claim("job").wait(true));
        take(&holder, &held).await;
        is_held(&first, &earlier).await;
        is_held(&second, &later).await;
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(within(LONG, first_hints.next()).await, Some(Hint::Owner(earlier.owner)));
        sql(
            common(),
            &format!(
                "select pg_notify('leasehold_' || client, 'o' || replace(owner::text, '-', '')) \
                 from {table}_waiters where owner = '{}'",
                later.owner
            ),
        );
        assert_eq!(within(LONG, second_hints.next()).await, Some(Hint::Owner(later.owner)));
        is_held(&second, &later).await;
        take(&first, &earlier).await;
    });
}

#[test]
fn an_observer_sees_a_handover() {
    run(async {
        let url = own(&common().url());
        let (holder, (waiter, mut hints), (observer, mut seen)) =
            (bare(&url).await, listening(&url).await, listening(&url).await);
        let (held, mine, changed) = (claim("job"), claim("job").wait(true), Some(Hint::Name(name("job"))));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        observer.watch(&[name("job")], &[]);
        assert_eq!(within(LONG, seen.next()).await, changed, "it observes now");
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        assert_eq!(within(LONG, seen.next()).await, changed, "it is held by another");
        assert_eq!(
            observer.inspect(&name("job")).await.expect("answered").pop().expect("held").owner,
            mine.owner
        );
        take(&waiter, &mine).await;
    });
}

#[test]
fn no_notification_is_sent_while_no_client_waits() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        for locks in [&a, &b, &a] {
            for _ in 0..10 {
                hold(locks, "job", LONG).await.release().await.expect("released");
            }
        }
        let [asked, notified, _] = done(common(), table_of(&url), PASS);
        assert_eq!((asked, notified), (30, 0));
        let guard = hold(&a, "job", LONG).await;
        let (waiter, mut hints) = listening(&url).await;
        let mine = claim("job").wait(true);
        is_held(&waiter, &mine).await;
        guard.release().await.expect("released");
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        assert_eq!(done(common(), table_of(&url), PASS)[1], 1);
        // The queue of notifications of all databases does not fill up.
        assert!(sql(common(), "select pg_notification_queue_usage() < 0.01") == "t");
    });
}

#[test]
fn a_dead_holder_and_dead_waiters_end_with_their_ttls() {
    run(async {
        let url = own(&common().url());
        let ttl = time(1_000);
        let (dead, mut dead_hints) = listening(&url).await;
        let mut held = claim("job");
        held.ttl = ttl;
        take(&dead, &held).await;
        let since = Instant::now();
        for _ in 0..20 {
            is_held(&dead, &claim("job").wait(true)).await;
        }
        assert_eq!(futures_util::future::poll_immediate(dead_hints.next()).await, None);
        drop((dead, dead_hints));
        let live = client(&url).await;
        let guard = live.lock("job").acquire().await.expect("granted");
        let took = since.elapsed();
        assert!(took >= ttl && took < ttl + WAITER_TTL + WAITER_HEARTBEAT + time(1_000), "{took:?}");
        guard.release().await.expect("released");
        // A grant deletes the expired entries before its own.
        assert_eq!(sql(common(), &format!("select count(*) from {}_waiters", table_of(&url))), "0");
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
    one_row_is_left(&url);
}

#[test]
fn hundreds_of_handovers_leave_one_row() {
    let url = own(&common().url());
    run(scenario::handovers_of_two(&url, 200));
    one_row_is_left(&url);
}

fn one_row_is_left(url: &str) {
    let table = table_of(url);
    assert_eq!(sql(common(), &format!("select count(*), count(owner) from {table}")), "1|0");
    assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
}
