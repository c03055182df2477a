//! The cost of each operation, in calls of the storage. A count fails on any machine when it grows.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::Memory;
use leasehold::{Guard, Locks};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(30);

/// Makes two clients of one memory storage, each with its own counters.
fn two() -> [(Locks, Controls); 2] {
    let memory = Memory::new();
    [memory.clone(), memory].map(|memory| {
        let chaos = Chaos::new(memory);
        let controls = chaos.controls();
        let locks = Locks::builder().ttl(TTL).on_current_runtime().build(chaos);
        (locks.expect("memory promises enough"), controls)
    })
}

/// Returns the calls of acquire, renew, release, inspect and list.
fn counts(controls: &Controls) -> [usize; 5] {
    [Verb::Acquire, Verb::Renew, Verb::Release, Verb::Inspect, Verb::List].map(|verb| controls.calls(verb))
}

/// Lets the engines finish their background work.
async fn settle() {
    sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn acquire_and_release_are_one_call_each() {
    let [(locks, controls), _] = two();
    let guard = locks.lock("x").acquire().await.expect("free");
    assert_eq!(counts(&controls), [1, 0, 0, 0, 0]);
    guard.release().await.expect("held");
    settle().await;
    assert_eq!(counts(&controls), [1, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_guard_is_one_release() {
    let [(locks, controls), _] = two();
    drop(locks.lock("x").acquire().await.expect("free"));
    settle().await;
    assert_eq!(counts(&controls), [1, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn run_is_an_acquire_and_a_release() {
    let [(locks, controls), _] = two();
    locks.lock("x").run(async |_| ()).await.expect("free");
    settle().await;
    assert_eq!(counts(&controls), [1, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn several_free_locks_are_one_acquire_and_one_release() {
    let [(locks, controls), _] = two();
    let all = locks.all(["b", "a", "c"].map(|name| locks.lock(name)));
    let guards = all.acquire().await.expect("free");
    assert_eq!((counts(&controls), controls.claims(Verb::Acquire)), ([1, 0, 0, 0, 0], 3));
    guards.release().await.expect("held");
    settle().await;
    assert_eq!((counts(&controls), controls.claims(Verb::Release)), ([1, 0, 1, 0, 0], 3));
    drop(all.try_acquire().await.expect("memory answers").expect("free"));
    settle().await;
    assert_eq!((counts(&controls), controls.claims(Verb::Release)), ([2, 0, 2, 0, 0], 6));
}

/// One try of both, and for each lock one claim that enters the queue and one that is granted.
#[tokio::test(start_paused = true)]
async fn two_held_locks_cost_five_calls() {
    let [(a, _), (b, controls)] = two();
    let [x, y] = [a.lock("x").acquire().await, a.lock("y").acquire().await].map(|guard| guard.expect("free"));
    let all = b.all([b.lock("x"), b.lock("y")]);
    let waiting = tokio::spawn(async move { all.acquire().await });
    for guard in [x, y] {
        settle().await;
        guard.release().await.expect("held");
    }
    let guards = waiting.await.expect("no panic").expect("granted");
    assert_eq!((counts(&controls), controls.claims(Verb::Acquire)), ([5, 0, 0, 0, 0], 6));
    guards.release().await.expect("held");
    settle().await;
    assert_eq!(controls.calls(Verb::Release), 1);
}

#[tokio::test(start_paused = true)]
async fn a_contended_try_is_one_call() {
    let [(a, _), (b, controls)] = two();
    let guard = a.lock("x").acquire().await.expect("free");
    assert!(b.lock("x").try_acquire().await.expect("memory answers").is_none());
    settle().await;
    assert_eq!(counts(&controls), [1, 0, 0, 0, 0]);
    guard.release().await.expect("held");
}

/// A job that is skipped is one claim. One that runs is a claim, and a renewal in the place of a release.
#[tokio::test(start_paused = true)]
async fn a_job_is_one_call_where_it_is_skipped_and_two_where_it_runs() {
    let [(a, first), (b, second)] = two();
    let job = |locks: &Locks| locks.lock("x").at_least(TTL);
    assert!(job(&a).try_run(async |_| ()).await.expect("memory answers").is_some());
    assert!(job(&b).try_run(async |_| ()).await.expect("memory answers").is_none());
    settle().await;
    assert_eq!((counts(&first), counts(&second)), ([1, 1, 0, 0, 0], [1, 0, 0, 0, 0]));
}

/// With a TTL of 30 s: a leader renews, and a candidate claims at each heartbeat, and neither does anything else.
#[tokio::test(start_paused = true)]
async fn a_minute_of_an_election_costs_a_few_calls() {
    let [(a, leader), (b, candidate)] = two();
    let term = a.election("x").campaign().await.expect("free");
    let waiting = tokio::spawn(async move { b.election("x").campaign().await });
    // The first claims, and a look at the lease when the engine subscribes to hints.
    sleep(Duration::from_secs(1)).await;
    leader.forget_counts();
    candidate.forget_counts();
    sleep(Duration::from_secs(60)).await;
    let ([acquires, renews, releases, inspects, lists], asked) = (counts(&leader), counts(&candidate));
    assert_eq!([acquires, releases, inspects, lists], [0; 4]);
    assert!((6..=8).contains(&renews), "{renews} renewals of a leader in a minute");
    let [acquires, others @ ..] = asked;
    assert!((30..=40).contains(&acquires), "{acquires} claims of a candidate in a minute");
    assert_eq!(others, [0; 4]);
    term.release().await.expect("held");
    waiting.await.expect("no panic").expect("elected").release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn extend_and_verify_are_one_call_each() {
    let [(locks, controls), _] = two();
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.forget_counts();
    guard.extend(TTL * 2).await.expect("held");
    assert_eq!(counts(&controls).iter().sum::<usize>(), 1);
    guard.verify().await.expect("held");
    assert_eq!(counts(&controls).iter().sum::<usize>(), 2);
}

#[tokio::test(start_paused = true)]
async fn inspect_and_list_are_one_call_each() {
    let [(locks, controls), _] = two();
    locks.inspect("x").await.expect("memory answers");
    locks.list("").await.expect("memory answers");
    settle().await;
    assert_eq!(counts(&controls), [0, 0, 0, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_renewed_three_times_in_a_ttl() {
    let [(locks, controls), _] = two();
    let guard = locks.lock("x").acquire().await.expect("free");
    sleep(TTL * 10).await;
    let renewals = controls.calls(Verb::Renew);
    assert!((30..=40).contains(&renewals), "{renewals} renewals in 10 TTLs");
    guard.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn renewals_leave_together_when_the_storage_is_slow() {
    let [(locks, controls), _] = two();
    let wanted = (0..1_000).map(|i| locks.lock(format!("{i}")));
    let guards = join_all(wanted.map(|lock| async move { lock.acquire().await.expect("free") })).await;
    controls.forget_counts();
    controls.always(Verb::Renew, Fault::Delay(Duration::from_millis(100)));
    sleep(TTL).await;
    let (calls, claims) = (controls.calls(Verb::Renew), controls.claims(Verb::Renew));
    assert!((2_000..=5_000).contains(&claims), "{claims} renewals of 1000 locks in a TTL");
    assert!(calls * 5 <= claims, "{claims} renewals took {calls} calls");
    assert!(guards.iter().all(Guard::is_held));
}

#[tokio::test(start_paused = true)]
async fn claims_that_come_together_leave_together() {
    let [(locks, controls), _] = two();
    let wanted = (0..200).map(|i| locks.lock(format!("{i}")));
    let guards = join_all(wanted.map(|lock| async move { lock.acquire().await.expect("free") })).await;
    let calls = controls.calls(Verb::Acquire);
    assert!(calls <= 3, "200 claims took {calls} calls");
    controls.forget_counts();
    drop(guards);
    settle().await;
    let (calls, claims) = (controls.calls(Verb::Release), controls.claims(Verb::Release));
    assert!(claims == 200 && calls <= 3, "{claims} releases took {calls} calls");
}

/// Only the head of the local queue claims at the storage, regardless of how many wait behind it.
#[tokio::test(start_paused = true)]
async fn five_hundred_tasks_of_a_process_are_one_waiter() {
    const TASKS: usize = 500;
    let [(a, _), (b, controls)] = two();
    let first = a.lock("x").acquire().await.expect("free");
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(hold(b.clone()))).collect();
    settle().await;
    let holder = a.inspect("x").await.expect("memory answers").pop().expect("held");
    assert_eq!(holder.waiters, Some(1), "waiters that the storage sees");
    let asked = controls.calls(Verb::Acquire);
    assert!(asked <= 2, "{asked} calls to begin waiting");
    controls.forget_counts();
    first.release().await.expect("held");
    for task in tasks {
        task.await.expect("no panic").release().await.expect("held");
    }
    settle().await;
    let (acquires, releases) = (controls.calls(Verb::Acquire), controls.calls(Verb::Release));
    assert!(acquires <= 2 * TASKS, "{acquires} acquires for {TASKS} handovers");
    assert!(releases <= TASKS + 1, "{releases} releases for {TASKS} handovers");
}

async fn hold(locks: Locks) -> Guard {
    locks.lock("x").acquire().await.expect("granted in its turn")
}

/// A waiter without hints claims at each heartbeat, not in a loop.
#[tokio::test(start_paused = true)]
async fn a_waiter_claims_once_for_each_heartbeat() {
    let [(a, _), (b, controls)] = two();
    let guard = a.lock("x").ttl(TTL * 10).acquire().await.expect("free");
    let waiter = tokio::spawn(hold(b));
    sleep(Duration::from_secs(60)).await;
    let asked = controls.calls(Verb::Acquire);
    assert!((20..=45).contains(&asked), "{asked} calls in a minute of waiting");
    guard.release().await.expect("held");
    waiter.await.expect("no panic").release().await.expect("held");
}
