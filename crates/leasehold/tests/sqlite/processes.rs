//! Processes that compete for locks in one file, and that are killed.

use std::fs;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, Storage, Token};
use tokio::time::Instant;

use crate::tools::{Dir, Hints, acquire, check_intact, claim, is_held, open, release, run, take, time};
use crate::worker::Worker;

#[test]
fn processes_exclude_each_other_and_tokens_grow() {
    let dir = Dir::new();
    let cycles = 100;
    let mut workers = Worker::start_many::<6>(&dir.file());
    for worker in &mut workers {
        worker.say(&format!("cycles counter {cycles}"));
    }
    let mut holds: Vec<(u64, u64, u64)> = Vec::new();
    for worker in &mut workers {
        for _ in 0..cycles {
            let numbers: Vec<u64> = worker.hear().split(' ').map(|n| n.parse().expect("a number")).collect();
            holds.push((numbers[0], numbers[1], numbers[2]));
        }
    }
    holds.sort_unstable();
    for pair in holds.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two held at once: {pair:?}");
        assert!(pair[0].2 < pair[1].2, "a token did not grow: {pair:?}");
    }
}

#[test]
fn a_killed_holder_is_replaced_long_before_its_ttl() {
    let dir = Dir::new();
    for _ in 0..5 {
        let [mut holder, mut waiter] = Worker::start_many(&dir.file());
        holder.take("job");
        waiter.queue("job");
        let killed = Instant::now();
        holder.kill();
        assert!(waiter.hear().starts_with("granted"));
        let took = killed.elapsed();
        assert!(took < time(50), "{took:?}");
    }
}

#[test]
fn a_killed_waiter_delays_no_other() {
    let dir = Dir::new();
    let [mut holder, mut head, mut next] = Worker::start_many(&dir.file());
    let granted = holder.take("job");
    head.queue("job");
    next.queue("job");
    head.kill();
    let released = Instant::now();
    assert_eq!(holder.release("job", granted.owner), "released");
    assert!(next.hear().starts_with("granted"));
    assert!(released.elapsed() < time(50), "{:?}", released.elapsed());
}

#[test]
fn a_killed_waiter_is_forgotten_while_the_lock_is_held() {
    let dir = Dir::new();
    let [mut holder, mut head] = Worker::start_many(&dir.file());
    holder.take("job");
    head.queue("job");
    run(async {
        let storage = open(&dir.file()).await;
        let mut hints: Hints = Box::pin(storage.hints());
        let mine = claim("job").wait(true);
        assert_eq!(waiters(&acquire(&storage, &mine).await), Some(2));
        head.kill();
        while hints.next().await != Some(Hint::Owner(mine.owner)) {}
        // Otherwise its death would be hinted again after each claim.
        assert_eq!(waiters(&acquire(&storage, &mine).await), Some(1));
    });
}

#[test]
fn a_holder_and_the_first_waiter_killed_together_delay_no_other() {
    let dir = Dir::new();
    let [mut holder, mut head, mut next] = Worker::start_many(&dir.file());
    holder.take("job");
    head.queue("job");
    next.queue("job");
    let killed = Instant::now();
    head.kill();
    holder.kill();
    assert!(next.hear().starts_with("granted"));
    assert!(killed.elapsed() < time(100), "{:?}", killed.elapsed());
}

#[test]
fn the_queue_is_served_in_order() {
    let dir = Dir::new();
    let mut workers = Worker::start_many::<6>(&dir.file());
    let mut granted = workers[0].take("job");
    for worker in &mut workers[1..] {
        worker.queue("job");
    }
    for i in 0..5 {
        assert_eq!(workers[i].release("job", granted.owner), "released");
        let next = workers[i + 1].hear_granted();
        assert!(next.token > granted.token);
        granted = next;
    }
}

#[test]
fn a_new_file_is_opened_by_many_at_once() {
    let dir = Dir::new();
    for round in 0..3 {
        let file = dir.path().join(format!("{round}.db"));
        let mut workers: Vec<_> = (0..20).map(|_| Worker::spawn(&file)).collect();
        for worker in &mut workers {
            assert_eq!(worker.hear(), "open");
        }
    }
}

#[test]
fn a_kill_at_any_point_leaves_the_file_intact() {
    let dir = Dir::new();
    let (mut random, mut last) = (0x9e37_79b9_7f4a_7c15_u64, Token::new(0));
    run(async {
        let storage = open(&dir.file()).await;
        for round in 0..110 {
            let [mut one, mut other] = Worker::start_many(&dir.file());
            one.say("cycles job 1000000");
            other.say("cycles job 1000000");
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for _ in 0..=(random >> 60) {
                one.hear();
            }
            other.kill();
            one.kill();
            let mine = claim("job");
            let token = take(&storage, &mine).await;
            assert!(token > last, "a token did not grow in round {round}");
            last = token;
            is_held(&storage, &claim("job")).await;
            assert_eq!(release(&storage, &mine).await, ReleaseReply::Released);
        }
    });
    check_intact(&dir.file());
    drop(run(open(&dir.file())));
    let left = fs::read_dir(dir.part("-live")).expect("listed").count();
    assert_eq!(left, 0, "liveness files were left behind");
}

fn waiters(answer: &AcquireReply) -> Option<u64> {
    match answer {
        AcquireReply::Held { holder, .. } => holder.as_ref().and_then(|holder| holder.waiters),
        _ => None,
    }
}
