//! Detached leases, which outlive their process.

use std::time::Duration;

use leasehold::storage::{Claim, ReleaseReply, Storage};
use leasehold::{ErrorKind, Locks};
use tokio::time::Instant;

use crate::tools::{
    Dir, LONG, check_held, claim, is_held, is_renewed, name, open, release, renew_elsewhere, run,
};
use crate::worker::Worker;

#[test]
fn a_detached_lease_outlives_its_process() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    holder.say("detach job");
    let granted = holder.hear_granted();
    holder.kill();
    run(async {
        let storage = open(&dir.file()).await;
        let seen = storage.inspect(&name("job")).await.expect("looked").pop().expect("held");
        assert_eq!((seen.owner, seen.token), (granted.owner, granted.token));
        is_held(&storage, &claim("job")).await;
        let mine = Claim::new(name("job"), granted.owner, LONG).detached(true);
        is_renewed(&storage, &mine).await;
        assert_eq!(release(&storage, &mine).await, ReleaseReply::Released);
    });
}

#[test]
fn a_guard_may_outlive_its_process_and_is_released_by_its_ticket() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    let kept = holder.ask("guard kept outlives");
    let freed = holder.ask("guard freed ends");
    holder.kill();
    run(async {
        let locks = Locks::connect(&format!("sqlite:{}", dir.file().display())).await.expect("opened");
        let resume = async |ticket: &str| locks.resume(ticket.parse().expect("a ticket")).await;
        assert_eq!(resume(&freed).await.expect_err("its process has ended").kind(), ErrorKind::Lost);
        assert!(locks.lock("kept").try_acquire().await.expect("looked").is_none());
        resume(&kept).await.expect("still there").release().await.expect("still held");
        assert!(locks.lock("kept").try_acquire().await.expect("looked").is_some());
    });
}

#[test]
fn a_renewal_may_detach_a_lease_and_never_binds_it_again() {
    let dir = Dir::new();
    let (mut first, granted) = Worker::holding(&dir.file(), "job");
    let mut second = Worker::start(&dir.file());
    renew_elsewhere(&dir.file(), "job", granted.owner, true);
    // A late renewal by the former holder does not undo it.
    for renewing in [&mut first, &mut second] {
        assert_eq!(renewing.renew("job", granted.owner), "renewed");
        renewing.kill();
    }
    check_held(&dir.file(), "job");
}

#[test]
fn a_lock_is_kept_for_its_minimum_after_the_death_of_its_process() {
    const MINIMUM: Duration = Duration::from_secs(20);
    let dir = Dir::new();
    let ways = ["released", "closed", "dropped", "held"];
    for (ttl, ends) in [(60_000, &ways[..]), (20_000, &ways), (2_000, &ways[..2])] {
        for (place, end) in (0..).zip(ends) {
            let lock = format!("job-{ttl}-{place}");
            let [mut worker, mut other] = Worker::start_many(&dir.file());
            let begun = Instant::now();
            assert_eq!(worker.ask(&format!("job {lock} {ttl} {} {end}", MINIMUM.as_millis())), *end);
            worker.kill();
            let remaining = other.remaining(&lock);
            let passed = begun.elapsed();
            assert!(remaining + passed >= MINIMUM, "{end}, ttl {ttl} ms: {remaining:?} after {passed:?}");
            let is_over = matches!(*end, "released" | "closed");
            assert!(!is_over || remaining <= MINIMUM, "{end}, ttl {ttl} ms: {remaining:?} after {passed:?}");
        }
    }
}
