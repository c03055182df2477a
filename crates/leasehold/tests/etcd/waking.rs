//! Waiters are woken up in order, and without the delay of etcd's own lock service.

use futures_util::future::join_all;
use leasehold::storage::Storage;
use tokio::time::Instant;

use crate::net::waking as scenario;
use crate::tools::*;

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
        within(LONG, join_all(turns)).await.into_iter().for_each(|turn| turn.expect("no panic"));
    });
}

#[test]
fn handovers_do_not_wait_for_the_servers_round_of_late_watchers() {
    run(async {
        let url = own(&common().url());
        let turns = 40;
        let since = Instant::now();
        scenario::handovers_of_two(&url, turns).await;
        // Each would take about 50 ms on average with watches that begin in the past.
        let took = since.elapsed();
        assert!(took < time(2 * u64::from(turns) * 30), "{took:?} for {} handovers", 2 * turns);
    });
}

/// A watch that begins while another transaction is executed is late, too, and others are executed all the time here.
#[test]
fn handovers_beside_many_other_changes_do_not_wait_for_the_servers_round_either() {
    run(async {
        let server = leasehold_testbed::Etcd::start().expect("a server");
        let others = bare(&server.url()).await;
        let changing = async {
            loop {
                let some: Vec<_> = (0..8).map(|i| claim(&format!("other{i}"))).collect();
                for answer in others.acquire(&some).await {
                    answer.expect("answered");
                }
                for answer in others.release(&some).await {
                    answer.expect("answered");
                }
            }
        };
        let (a, b) = (client(&server.url()).await, client(&server.url()).await);
        let taking_turns = async { futures_util::future::join(waits(&a), waits(&b)).await };
        let (of_a, of_b) = tokio::select! {
            waits = within(LONG, taking_turns) => waits,
            () = changing => unreachable!("it never ends"),
        };
        let all = of_a.len() + of_b.len();
        let late = of_a.into_iter().chain(of_b).filter(|wait| *wait > time(40)).count();
        assert!(late * 50 <= all, "{late} of {all} handovers were late");
    });
}

/// Takes turns with another client. Returns how long each turn was waited for.
async fn waits(locks: &leasehold::Locks) -> Vec<std::time::Duration> {
    let mut waits = Vec::new();
    for _ in 0..150 {
        let since = Instant::now();
        let guard = locks.lock("job").acquire().await.expect("granted");
        waits.push(since.elapsed());
        guard.release().await.expect("released");
    }
    waits
}

#[test]
fn a_handover_wakes_one_of_many() {
    run(async {
        let url = own(&common().url());
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        let mut crowd = scenario::crowd(&url, 10).await;
        guard.release().await.expect("released");
        scenario::have_their_turns(&mut crowd[..5]).await;
        scenario::were_not_woken(&mut crowd[6..]).await;
    });
}

#[test]
fn waiters_that_leave_keep_no_other_waiting() {
    let url = own(&common().url());
    run(scenario::leaving_waiters(&url, 6, 8, 8_000));
    nothing_is_left(&url);
}

#[test]
fn a_dead_holder_ends_with_its_lease() {
    run(async {
        let url = own(&common().url());
        let ttl = time(2_000);
        let dead = bare(&url).await;
        let mut held = claim("job");
        held.ttl = ttl;
        let since = Instant::now();
        take(&dead, &held).await;
        drop(dead);
        let live = client(&url).await;
        let guard = live.lock("job").acquire().await.expect("granted");
        let took = since.elapsed();
        assert!(took >= ttl && took < ttl + time(3_000), "{took:?}");
        guard.release().await.expect("released");
    });
}

#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    let server = leasehold_testbed::Etcd::start().expect("a server");
    let asked = || server.members()[0].command_counts().expect("counted").get("Txn").copied().unwrap_or(0);
    // Each releases, too, and asks once more when it is subscribed.
    run(scenario::engines_in_a_crowd(&server.url(), 50, 2, asked));
}
