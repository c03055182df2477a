//! Hints from one process to the owners and observers of another.

#[cfg(target_os = "linux")]
use std::collections::HashSet;

use futures_util::StreamExt;
use leasehold::storage::{Claim, Hint, ReleaseReply, Storage};

#[cfg(target_os = "linux")]
use crate::tools::time;
use crate::tools::{Dir, Hints, LONG, claim, is_renewed, name, open, release, renew_elsewhere, run, take};
use crate::worker::Worker;

#[test]
fn a_holder_is_hinted_when_its_lock_is_broken() {
    let dir = Dir::new();
    let (mut holder, granted) = Worker::holding(&dir.file(), "job");
    holder.say("hinted");
    run(async {
        let storage = open(&dir.file()).await;
        let broken = Claim::new(name("job"), granted.owner, LONG);
        assert_eq!(release(&storage, &broken).await, ReleaseReply::Released);
    });
    assert_eq!(holder.hear(), granted.owner.to_string());
}

#[test]
fn a_holder_is_hinted_when_another_process_changes_its_end() {
    let dir = Dir::new();
    let [mut holder, mut other] = Worker::start_many(&dir.file());
    for detached in [false, true] {
        let lock = if detached { "detached" } else { "bound" };
        let granted = holder.take(lock);
        if detached {
            // The record of a detached lease does not say which process holds it.
            renew_elsewhere(&dir.file(), lock, granted.owner, true);
        }
        holder.say("hinted");
        assert_eq!(other.ask(&format!("shorten {lock} {}", granted.owner)), "shortened");
        assert_eq!(holder.hear(), granted.owner.to_string(), "{lock}");

        let granted = holder.take("released");
        renew_elsewhere(&dir.file(), "released", granted.owner, detached);
        holder.say("hinted");
        assert_eq!(other.release("released", granted.owner), "released");
        assert_eq!(holder.hear(), granted.owner.to_string(), "{lock}");
    }
}

#[test]
fn the_end_of_a_detached_lease_wakes_no_other_process_if_its_holder_ends_it() {
    let dir = Dir::new();
    run(async {
        let (holder, listener, other) =
            (open(&dir.file()).await, open(&dir.file()).await, open(&dir.file()).await);
        let (own, ended) = (claim("own").detached(true), claim("ended by another").detached(true));
        for mine in [&own, &ended] {
            take(&holder, mine).await;
        }
        is_renewed(&holder, &own).await;
        assert_eq!(release(&holder, &own).await, ReleaseReply::Released);
        assert_eq!(release(&other, &ended).await, ReleaseReply::Released);
        // The first hint is about the lease that another client ended.
        let mut hints: Hints = Box::pin(listener.hints());
        let owner = loop {
            if let Some(Hint::Owner(owner)) = hints.next().await {
                break owner;
            }
        };
        assert_eq!(owner, ended.owner);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn changes_of_observed_names_are_hinted() {
    let dir = Dir::new();
    let mut other = Worker::start(&dir.file());
    run(async {
        let storage = open(&dir.file()).await;
        let mut hints: Hints = Box::pin(storage.hints());
        storage.watch(&[name("job"), name("another")], &[]);
        other.say("cycles job 1000000");
        let mut hinted = HashSet::new();
        while hinted.len() < 2 {
            match tokio::time::timeout(time(5_000), hints.next()).await {
                Ok(Some(Hint::Name(name))) => drop(hinted.insert(name)),
                Ok(Some(_)) => {}
                end => panic!("{end:?}"),
            }
        }
    });
}
