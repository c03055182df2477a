//! Hints about observed names, whose number decides what the change stream is filtered by.

use std::collections::HashSet;

use futures_util::StreamExt;
use leasehold::storage::{Hint, Name, Storage};

use crate::tools::*;

/// Waits until all these names were hinted at. Hints at other names are ignored.
async fn hinted(hints: &mut Hints, names: &[Name]) {
    let mut open: HashSet<_> = names.iter().cloned().collect();
    let all = async {
        while !open.is_empty() {
            match hints.next().await.expect("it goes on") {
                Hint::Name(name) => drop(open.remove(&name)),
                other => panic!("{other:?}"),
            }
        }
    };
    if tokio::time::timeout(soon(), all).await.is_err() {
        panic!("no hint at {} of {} names", open.len(), names.len());
    }
}

fn names(range: std::ops::Range<u32>) -> Vec<Name> {
    range.map(|i| name(&format!("job{i}"))).collect()
}

#[test]
fn every_change_of_an_observed_lock_is_hinted_at_however_many_there_are() {
    run(async {
        for count in [1, 99, 100, 101, 150] {
            let url = with(&own(&common().url()), "prefix=shop:");
            let ((observer, mut hints), other) = (listening(&url).await, bare(&url).await);
            let observed = names(0..count);
            observer.watch(&observed, &[]);
            // The locks may have changed before they were observed.
            hinted(&mut hints, &observed).await;
            let claims: Vec<_> = observed.iter().map(|name| claim(name.as_str())).collect();
            other.acquire(&claims).await;
            hinted(&mut hints, &observed).await;
            other.release(&claims).await;
            hinted(&mut hints, &observed).await;
            // A renewal, a refused claim and another name are no changes.
            let unobserved = claim("unobserved");
            let last = claims[0].clone();
            take(&other, &last).await;
            hinted(&mut hints, &observed[..1]).await;
            renew(&other, &last).await.expect("answered");
            is_held(&other, &claim("job0")).await;
            take(&other, &unobserved).await;
            release(&other, &last).await.expect("answered");
            assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job0"))));
            assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None, "{count}");
        }
    });
}

#[test]
fn no_change_is_lost_while_other_names_are_added_and_removed() {
    run(async {
        let url = own(&common().url());
        let ((observer, mut hints), other) = (listening(&url).await, bare(&url).await);
        let stable = name("stable");
        observer.watch(std::slice::from_ref(&stable), &[]);
        hinted(&mut hints, std::slice::from_ref(&stable)).await;
        let mut random = Random(3);
        let (mut observed, mut next) = (Vec::new(), 0);
        let mut held = None;
        for round in 0..80 {
            // The number of names moves around the hundred at which the filter is replaced.
            let wanted = 90 + usize::try_from(random.below(20)).expect("few");
            let removed: Vec<_> = observed.drain(..std::cmp::min(observed.len(), 5)).collect();
            let mut added = Vec::new();
            while observed.len() < wanted {
                observed.push(name(&format!("job{next}")));
                added.extend(observed.last().cloned());
                next += 1;
            }
            observed.truncate(std::cmp::max(wanted, 1));
            observer.watch(&added, &removed);
            match held.take() {
                None => {
                    let mine = claim("stable");
                    take(&other, &mine).await;
                    held = Some(mine);
                }
                Some(mine) => drop(release(&other, &mine).await.expect("answered")),
            }
            let changed = async { while hints.next().await != Some(Hint::Name(stable.clone())) {} };
            if tokio::time::timeout(soon(), changed).await.is_err() {
                panic!("round {round}: no hint, with {} names", observed.len());
            }
        }
    });
}

#[test]
fn a_name_that_is_not_observed_any_more_is_not_hinted_at() {
    run(async {
        let url = own(&common().url());
        let ((observer, mut hints), other) = (listening(&url).await, bare(&url).await);
        let observed = names(0..2);
        observer.watch(&observed, &[]);
        hinted(&mut hints, &observed).await;
        observer.watch(&[], &observed[..1]);
        for lock in ["job0", "job1"] {
            take(&other, &claim(lock)).await;
        }
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job1"))));
        // And again, when it is observed again.
        observer.watch(&observed[..1], &[]);
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job0"))));
    });
}

#[test]
fn an_observer_sees_a_handover_and_an_expiry() {
    run(async {
        let url = own(&common().url());
        let (holder, (waiter, mut hints), (observer, mut seen)) =
            (bare(&url).await, listening(&url).await, listening(&url).await);
        let (held, mine, changed) = (claim("job"), claim("job").wait(true), Some(Hint::Name(name("job"))));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        observer.watch(&[name("job")], &[]);
        assert_eq!(within(LONG, seen.next()).await, changed, "it observes now");
        release(&holder, &held).await.expect("answered");
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        assert_eq!(within(LONG, seen.next()).await, changed, "it is held by another");
        let holder = observer.inspect(&name("job")).await.expect("answered").pop().expect("held");
        assert_eq!(holder.owner, mine.owner);
        take(&waiter, &mine).await;
    });
}
