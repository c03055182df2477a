//! The same promises, observed by a user of [`leasehold::Locks`] over this storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use leasehold::{Change, ErrorKind, Guard, Locks, Lost};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::cases;
use crate::case::Need;
use crate::context::Context;

cases!("locks":
    [] => [
        a_lock_is_held_by_one_client,
        a_waiter_gets_what_is_released,
        a_held_lock_is_renewed,
        a_dropped_guard_frees_the_lock,
        a_dropped_wait_leaves_nothing_behind,
        a_lock_that_was_broken_is_lost,
        a_ticket_is_taken_up_by_another_client,
        an_observer_sees_a_lock_come_and_go,
        tasks_of_several_clients_never_overlap,
        a_closed_client_holds_nothing,
        several_locks_are_acquired_all_or_none,
        callers_that_name_several_locks_in_crossing_orders_get_them,
        a_job_that_clients_start_one_after_another_runs_once,
    ],
    [Need::Push] => [
        a_leader_that_resigns_is_followed_at_once,
    ],
    [Need::Fair] => [
        clients_are_served_in_order,
    ],
);

async fn a_lock_is_held_by_one_client(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let first = take(&a, &name).await;
    let second = b.lock(&name).try_acquire().await.expect("the storage answers");
    assert!(second.is_none(), "two clients hold one lock");
    let token = first.token();
    first.release().await.expect("it was held until now");
    let next = take(&b, &name).await;
    assert!(next.token() > token, "after the token {token} came {}", next.token());
    next.release().await.expect("it was held until now");
}

async fn a_waiter_gets_what_is_released(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let first = take(&a, &name).await;
    let waiting = tokio::spawn({
        let name = name.clone();
        async move { take(&b, &name).await }
    });
    sleep(case.timing.short(&case.limits)).await;
    assert!(!waiting.is_finished(), "granted while another client holds it");
    first.release().await.expect("it was held until now");
    let second = timeout(case.timing.slack(), waiting).await;
    let second = second.expect("the waiter is granted soon after the release");
    second.expect("it waited").release().await.expect("it was held until now");
}

async fn a_held_lock_is_renewed(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let ttl = case.timing.short(&case.limits) * 4;
    let guard = a.lock(&name).ttl(ttl).acquire().await.expect("the lock is free");
    let end = Instant::now() + ttl * 2;
    while Instant::now() < end {
        assert!(guard.is_held(), "it is renewed, and lost");
        let other = b.lock(&name).try_acquire().await.expect("the storage answers");
        assert!(other.is_none(), "granted to another while it is renewed");
        sleep(ttl / 8).await;
    }
    guard.release().await.expect("it was held until now");
}

async fn a_dropped_guard_frees_the_lock(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    drop(take(&a, &name).await);
    let next = timeout(case.timing.slack(), take(&b, &name)).await;
    next.expect("free soon after the drop").release().await.expect("it was held until now");
}

async fn a_dropped_wait_leaves_nothing_behind(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let first = take(&a, &name).await;
    let waited = timeout(case.timing.short(&case.limits), take(&b, &name)).await;
    assert!(waited.is_err(), "granted while another client holds it");
    first.release().await.expect("it was held until now");
    let end = Instant::now() + case.timing.slack();
    loop {
        if let Some(guard) = a.lock(&name).try_acquire().await.expect("the storage answers") {
            return guard.release().await.expect("it was held until now");
        }
        assert!(Instant::now() < end, "a wait that was dropped still stands in the queue");
        sleep(case.timing.pause()).await;
    }
}

async fn a_lock_that_was_broken_is_lost(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let ttl = case.timing.short(&case.limits) * 4;
    let guard = a.lock(&name).ttl(ttl).acquire().await.expect("the lock is free");
    let broken = b.break_lock(&name).await.expect("the storage answers");
    let owner = broken.first().expect("it was held").owner;
    assert_eq!(owner, guard.owner(), "the owner that was put out");
    let lost = timeout(ttl + case.timing.slack(), guard.lost()).await;
    assert_eq!(lost.expect("told at the next renewal"), Lost::Taken);
    let error = guard.release().await.expect_err("it was lost before");
    assert_eq!(error.kind(), ErrorKind::Lost);
}

async fn a_ticket_is_taken_up_by_another_client(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let guard = take(&a, &name).await;
    let token = guard.token();
    let ticket = guard.into_ticket();
    a.close().await.expect("nothing is owed but what the ticket holds");
    let guard = b.resume(ticket.clone()).await.expect("the lease is alive");
    assert_eq!(guard.token(), token, "one lease, one token");
    guard.release().await.expect("it was held until now");
    let error = b.resume(ticket).await.expect_err("the lease is over");
    assert_eq!(error.kind(), ErrorKind::Lost);
}

async fn an_observer_sees_a_lock_come_and_go(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let mut changes = b.observe(&name).expect("a valid name");
    let guard = take(&a, &name).await;
    let within = case.timing.slack();
    let come = async {
        while let Some(change) = changes.next().await {
            if matches!(&change, Change::Locked { holder } if holder.owner == guard.owner()) {
                return;
            }
        }
    };
    timeout(within, come).await.expect("an observer sees that it was locked");
    guard.release().await.expect("it was held until now");
    let go = async {
        while let Some(change) = changes.next().await {
            if matches!(change, Change::Unlocked) {
                return;
            }
        }
    };
    timeout(within, go).await.expect("an observer sees that it was unlocked");
}

async fn tasks_of_several_clients_never_overlap(case: Context) {
    let (inside, name) = (Arc::new(AtomicBool::new(false)), case.name("a"));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let locks = case.locks().await;
        for _ in 0..4 {
            let (locks, inside, name) = (locks.clone(), Arc::clone(&inside), name.clone());
            tasks.push(tokio::spawn(async move {
                let mut last = None;
                for _ in 0..5 {
                    let guard = take(&locks, &name).await;
                    assert!(!inside.swap(true, Ordering::SeqCst), "two tasks are inside");
                    assert!(last < Some(guard.token()), "after {last:?} came {:?}", guard.token());
                    last = Some(guard.token());
                    tokio::task::yield_now().await;
                    inside.store(false, Ordering::SeqCst);
                    guard.release().await.expect("it was held until now");
                }
            }));
        }
    }
    for task in join_all(tasks).await {
        task.expect("no task was inside with another");
    }
}

async fn a_closed_client_holds_nothing(case: Context) {
    let (a, b, name) = (case.locks().await, case.locks().await, case.name("a"));
    let guard = take(&a, &name).await;
    a.close().await.expect("the storage confirms every release");
    assert!(!guard.is_held(), "its client was closed");
    let next = b.lock(&name).try_acquire().await.expect("the storage answers");
    assert!(next.is_some(), "a closed client still holds the lock");
}

async fn several_locks_are_acquired_all_or_none(case: Context) {
    let (a, b) = (case.locks().await, case.locks().await);
    let names = ["c", "a", "b"].map(|name| case.name(name));
    let all = a.all(names.iter().map(|name| a.lock(name)));
    let guards = all.acquire().await.expect("the locks are free");
    let held: Vec<_> = guards.iter().map(|guard| guard.name()).collect();
    assert_eq!(held, names.iter().collect::<Vec<_>>(), "the guards are in the given order");
    for name in &names {
        assert!(b.lock(name).try_acquire().await.expect("the storage answers").is_none(), "{name} is held");
    }
    guards.release().await.expect("they were held until now");
    let one = take(&b, &names[2]).await;
    assert!(all.try_acquire().await.expect("the storage answers").is_none(), "one of them is held");
    let waited = timeout(case.timing.short(&case.limits), all.acquire()).await;
    assert!(waited.is_err(), "granted while another client holds one of them");
    let others = b.all(names[..2].iter().map(|name| b.lock(name))).wait(case.timing.slack());
    others
        .acquire()
        .await
        .expect("a wait that was dropped leaves nothing held")
        .release()
        .await
        .expect("held");
    let waiting = tokio::spawn(async move { all.acquire().await });
    sleep(case.timing.short(&case.limits)).await;
    one.release().await.expect("it was held until now");
    let guards = timeout(case.timing.slack(), waiting).await.expect("granted soon after the release");
    guards.expect("it waited").expect("the storage answers").release().await.expect("held until now");
}

async fn callers_that_name_several_locks_in_crossing_orders_get_them(case: Context) {
    let inside = Arc::new([const { AtomicBool::new(false) }; 3]);
    let names = Arc::new(["a", "b", "c"].map(|name| case.name(name)));
    let mut tasks = Vec::new();
    for task in 0..6 {
        let (locks, inside, names) = (case.locks().await, Arc::clone(&inside), Arc::clone(&names));
        tasks.push(tokio::spawn(async move {
            let (first, step) = (task % 3, 1 + task / 3);
            let wanted = [first, (first + step) % 3];
            let all = locks.all(wanted.map(|place| locks.lock(&names[place])));
            for _ in 0..4 {
                let guards = all.acquire().await.expect("granted in its turn");
                for place in wanted {
                    assert!(!inside[place].swap(true, Ordering::SeqCst), "two tasks are inside");
                }
                tokio::task::yield_now().await;
                for place in wanted {
                    inside[place].store(false, Ordering::SeqCst);
                }
                guards.release().await.expect("they were held until now");
            }
        }));
    }
    for task in join_all(tasks).await {
        task.expect("no task was inside with another");
    }
}

async fn a_job_that_clients_start_one_after_another_runs_once(case: Context) {
    let (name, short) = (case.name("a"), case.timing.short(&case.limits));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(case.locks().await);
    }
    // The same tick by five clocks that differ. The job is over long before the last client starts it.
    for (ttl, at_least) in [(short * 4, short * 8), (short * 40, short * 8)] {
        let (start, mut ran) = (Instant::now(), 0);
        for locks in &clients {
            let job = locks.lock(&name).ttl(ttl).at_least(at_least);
            let done = job.try_run(async |_| Instant::now()).await.expect("the storage answers");
            ran += usize::from(done.is_some());
            sleep(short).await;
        }
        if start.elapsed() < at_least {
            assert_eq!(ran, 1, "the job of one tick runs once, with a ttl of {ttl:?}");
        }
        let lock = clients[0].lock(&name).wait(at_least + case.timing.slack());
        let next = lock.acquire().await.expect("the lock is free when the time is over");
        assert!(start.elapsed() >= at_least, "free after {:?}", start.elapsed());
        next.release().await.expect("it was held until now");
    }
}

async fn a_leader_that_resigns_is_followed_at_once(case: Context) {
    let (a, b, observer) = (case.locks().await, case.locks().await, case.locks().await);
    let name = case.name("a");
    let mut leaders = observer.election(&name).leaders().expect("the client is open");
    let term = a.election(&name).value("a").campaign().await.expect("there is no leader");
    let election = b.election(&name).value("b");
    let next = tokio::spawn(async move { election.campaign().await });
    sleep(case.timing.short(&case.limits)).await;
    let leader = observer.election(&name).leader().await.expect("the storage answers").expect("there is one");
    assert_eq!((leader.value.as_str(), leader.term), ("a", term.token()));
    let first = term.token();
    term.release().await.expect("it was held until now");
    // Not only when its lease would have ended.
    let next = timeout(case.timing.slack(), next).await.expect("elected at once");
    let term = next.expect("it waited").expect("the storage answers");
    assert!(term.token() > first, "terms grow");
    let seen = async { while leaders.next().await.flatten().is_none_or(|leader| leader.value != "b") {} };
    timeout(case.timing.slack(), seen).await.expect("an observer sees the new leader");
    term.release().await.expect("it was held until now");
}

async fn clients_are_served_in_order(case: Context) {
    let (first, name) = (case.locks().await, case.name("a"));
    let guard = take(&first, &name).await;
    let (tx, mut served) = mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for i in 0..3 {
        let (locks, wanted, tx) = (case.locks().await, name.clone(), tx.clone());
        waiters.push(tokio::spawn(async move {
            let guard = take(&locks, &wanted).await;
            tx.send(i).expect("the case listens");
            guard.release().await.expect("it was held until now");
        }));
        // The next waiter starts once the storage has counted this one.
        let end = Instant::now() + case.timing.slack();
        loop {
            let holders = first.inspect(&name).await.expect("the storage answers");
            match holders.first().and_then(|holder| holder.waiters) {
                Some(n) if n > i => break,
                Some(_) => sleep(case.timing.pause()).await,
                None => {
                    sleep(case.timing.short(&case.limits)).await;
                    break;
                }
            }
            assert!(Instant::now() < end, "the storage has not seen waiter {i}");
        }
    }
    guard.release().await.expect("it was held until now");
    for expected in 0..3 {
        let next = timeout(case.timing.slack(), served.recv()).await;
        assert_eq!(next.expect("served soon"), Some(expected), "the order of service");
    }
    for waiter in waiters {
        waiter.await.expect("it was served");
    }
}

async fn take(locks: &Locks, name: &leasehold::Name) -> Guard {
    let taken = locks.lock(name).acquire().await;
    taken.unwrap_or_else(|error| panic!("not granted: {error}"))
}
