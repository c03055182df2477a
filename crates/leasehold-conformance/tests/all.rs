//! Several locks at once: all or none, without deadlocks, and with one limit for the wait.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Memory, Storage};
use leasehold::{Error, ErrorKind, Locks, Lost, Name, Renewal, Wait};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn client(memory: &Memory) -> Locks {
    Locks::builder().ttl(TTL).on_current_runtime().build(memory.clone()).expect("memory promises enough")
}

fn faulty(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (Locks::builder().ttl(TTL).on_current_runtime().build(chaos).expect("memory promises enough"), controls)
}

async fn held(memory: &Memory) -> Vec<String> {
    let holders = memory.list("", None, 100).await.expect("memory answers");
    holders.into_iter().map(|holder| holder.name.as_str().to_owned()).collect()
}

/// Lets the engines do what they can do at once.
async fn settle() {
    sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn all_are_held_in_the_given_order_and_released_together() {
    let memory = Memory::new();
    let locks = client(&memory);
    let guards = locks.all(["b", "c", "a"].map(|name| locks.lock(name))).acquire().await.expect("free");
    let names: Vec<_> = guards.iter().map(|guard| guard.name().as_str()).collect();
    assert_eq!(names, ["b", "c", "a"]);
    assert!(guards.is_held() && guards.remaining() > SECOND * 9);
    assert_eq!(held(&memory).await, ["a", "b", "c"]);
    guards.release().await.expect("held");
    assert_eq!(held(&memory).await, Vec::<String>::new());
    let none = locks.all([]).acquire().await.expect("no lock is never refused");
    assert!(none.is_empty() && none.is_held());
    none.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_listed_twice_or_of_another_client_is_invalid() {
    let memory = Memory::new();
    let ((a, controls), b) = (faulty(&memory), client(&memory));
    for (locks, text) in [
        (vec![a.lock("x"), a.lock("y"), a.lock("x")], "listed twice, so it would wait for itself name=`x`"),
        (vec![a.lock("x"), b.lock("y")], "belongs to another client"),
        (vec![a.lock("x"), a.lock("")], "name"),
    ] {
        let all = a.all(locks);
        for error in [all.acquire().await.expect_err(text), all.try_acquire().await.expect_err(text)] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    assert_eq!(controls.calls(Verb::Acquire), 0, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn a_wait_holds_only_locks_with_smaller_names() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let first = b.lock("b").acquire().await.expect("free");
    let all = a.all(["c", "b", "a"].map(|name| a.lock(name)));
    let waiting = tokio::spawn(async move { all.acquire().await });
    settle().await;
    assert_eq!(held(&memory).await, ["a", "b"], "what is behind the held one was given back");
    let third = b.lock("c").try_acquire().await.expect("memory answers").expect("free");
    first.release().await.expect("held");
    settle().await;
    assert_eq!(held(&memory).await, ["a", "b", "c"]);
    assert!(!waiting.is_finished(), "the last one is held");
    third.release().await.expect("held");
    let guards = waiting.await.expect("no panic").expect("free");
    assert!(guards.is_held());
    drop(guards);
    settle().await;
    assert_eq!(held(&memory).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn callers_that_name_locks_in_crossing_orders_all_get_them() {
    let memory = Memory::new();
    let clients: Vec<_> = (0..3).map(|_| client(&memory)).collect();
    let callers = (0..30_usize).map(|i| {
        let locks = clients[i % 3].clone();
        async move {
            // Three of five names, in any order.
            let names = (0..3).map(|k| format!("{}", (i * 7 + k * (1 + i % 4)) % 5));
            for _ in 0..10 {
                let all = locks.all(names.clone().map(|name| locks.lock(name)));
                let guards = all.acquire().await.expect("granted in its turn");
                sleep(Duration::from_millis(1 + i as u64 % 5)).await;
                guards.release().await.expect("held");
            }
        }
    });
    timeout(Duration::from_secs(60), join_all(callers))
        .await
        .expect("no caller waits for another in a circle");
}

#[tokio::test(start_paused = true)]
async fn one_limit_ends_the_wait_for_all_and_names_the_lock() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let _x = a.lock("x").acquire().await.expect("free");
    let y = a.lock("y").acquire().await.expect("free");
    let all = b.all(["y", "x", "w"].map(|name| b.lock(name))).wait(SECOND * 3);
    let start = Instant::now();
    let error = all.acquire().await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    assert_eq!(error.holder().map(|holder| holder.name.as_str()), Some("x"));
    assert!((SECOND * 3..SECOND * 3 + SECOND / 10).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(y);
    settle().await;
    assert_eq!(held(&memory).await, ["x"], "nothing stays held");
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_for_each_lock_with_a_pause_between_them() {
    let memory = Memory::new();
    let (a, (b, controls)) = (client(&memory), faulty(&memory));
    let _guard = a.lock("x").label("the first").acquire().await.expect("free");
    for attempts in [1, 3] {
        controls.forget_counts();
        let all = b.all([b.lock("x"), b.lock("y")]).wait(Wait::Attempts { attempts, interval: SECOND });
        let start = Instant::now();
        let error = all.acquire().await.expect_err("held");
        assert_eq!(error.kind(), ErrorKind::Contended);
        assert_eq!(error.holder().and_then(|holder| holder.label.as_deref()), Some("the first"));
        let (waited, pauses) = (start.elapsed(), SECOND * (attempts - 1));
        assert!(waited >= pauses && waited < pauses + SECOND / 10, "{waited:?}");
        assert_eq!(controls.calls(Verb::Acquire), attempts as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_takes_all_or_none() {
    let memory = Memory::new();
    let (a, (b, controls)) = (client(&memory), faulty(&memory));
    let all = b.all(["x", "y", "z"].map(|name| b.lock(name)));
    let guards = all.try_acquire().await.expect("memory answers").expect("free");
    guards.release().await.expect("held");
    let guard = a.lock("y").acquire().await.expect("free");
    assert!(all.try_acquire().await.expect("memory answers").is_none());
    settle().await;
    assert_eq!(held(&memory).await, ["y"], "nothing stays held");
    guard.release().await.expect("held");
    controls.next(Verb::Acquire, 1, Fault::LoseReply);
    let error = all.try_acquire().await.expect_err("the reply was lost");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    sleep(TTL / 2).await;
    assert_eq!(held(&memory).await, Vec::<String>::new(), "what was granted without a reply is released");
}

#[tokio::test(start_paused = true)]
async fn losing_one_loses_all() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let all = a.all(["x", "y"].map(|name| a.lock(name)));
    let guards = all.acquire().await.expect("free");
    b.break_lock("y").await.expect("memory answers");
    assert_eq!(guards.lost().await, Lost::Taken);
    assert!(!guards.is_held() && guards[0].is_held() && guards.remaining().is_zero());
    let error = guards.release().await.expect_err("one was lost");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Taken)));
    assert!(error.to_string().contains("name=`y`"), "{error}");
    settle().await;
    assert_eq!(held(&memory).await, Vec::<String>::new(), "the other one is released all the same");

    let work = async |_: &leasehold::Guards| {
        b.break_lock("x").await.expect("memory answers");
        std::future::pending::<()>().await;
    };
    let error = timeout(TTL, all.run(work)).await.expect("the work is dropped").expect_err("lost");
    assert!(error.kind() == ErrorKind::Lost && error.to_string().contains("name=`x`"), "{error}");
    settle().await;
    assert_eq!(held(&memory).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_while_it_waits_for_another_is_acquired_again() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let second = b.lock("y").acquire().await.expect("free");
    let all = a.all([a.lock("x").renewal(Renewal::Never), a.lock("y")]);
    let waiting = tokio::spawn(async move { all.acquire().await });
    sleep(TTL * 2 + SECOND).await;
    assert!(!waiting.is_finished());
    second.release().await.expect("held");
    let guards = waiting.await.expect("no panic").expect("free");
    assert!(guards.is_held(), "none of them is a lease that has ended");
    assert!(guards[0].remaining() < TTL, "the first one was granted before");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_and_a_silent_storage_ends_a_limited_wait_in_time() {
    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let all = locks.all(["x", "y"].map(|name| locks.lock(name)));
    controls.next(Verb::Acquire, 5, Fault::Fail);
    let guards = all.acquire().await.expect("the storage works again");
    guards.release().await.expect("held");

    controls.always(Verb::Acquire, Fault::Hang);
    let start = Instant::now();
    let error = all.clone().wait(SECOND).acquire().await.expect_err("no answer comes");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= SECOND * 2 + SECOND / 10, "{:?}", start.elapsed());
    controls.heal();
    sleep(TTL).await;
    assert_eq!(held(&memory).await, Vec::<String>::new(), "nothing stays held");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_no_retry_mends_ends_it_and_gives_all_back() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let _x = b.lock("x").acquire().await.expect("free");
    let all = a.all(["w", "x"].map(|name| a.lock(name)));
    let waiting = tokio::spawn(async move { all.acquire().await });
    settle().await;
    a.close().await.expect("memory answers");
    let error: Error = waiting.await.expect("no panic").expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(held(&memory).await, ["x"]);
    assert!(memory.inspect(&Name::new("w").expect("valid")).await.expect("memory answers").is_empty());
}
