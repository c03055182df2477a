//! The lock of etcd's own clients: it excludes Leasehold's and is excluded by it, and both wait in one queue.

use leasehold::storage::{AcquireReply, Storage};

use crate::tools::*;

#[test]
fn a_lock_of_etcdctl_is_held_for_everybody_else() {
    run(async {
        let name = unique();
        let theirs = common().lock(&name, 10).expect("started");
        let key = theirs.await_held().expect("held");
        let (locks, storage) = (client(&common().url()).await, bare(&common().url()).await);
        assert!(locks.lock(&*name).try_acquire().await.expect("answered").is_none());
        let held = locks.inspect(&*name).await.expect("answered");
        assert_eq!(key, format!("{name}/{:x}", u128::from_be_bytes(held[0].owner.to_bytes())));
        let waiting = waiting(locks.lock(&*name));
        waiters(&locks, &name, 1).await;
        theirs.release().expect("released");
        let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
        assert!(guard.token() > held[0].token);
        guard.release().await.expect("released");
        assert!(matches!(acquire(&storage, &claim(&name)).await, Ok(AcquireReply::Granted { .. })));
    });
}

#[test]
fn etcdctl_waits_for_a_lock_and_is_next_in_line() {
    run(async {
        let name = unique();
        let locks = client(&common().url()).await;
        let guard = hold(&locks, &name, LONG).await;
        let theirs = common().lock(&name, 10).expect("started");
        waiters(&locks, &name, 1).await;
        // This one comes after it.
        let waiting = waiting(locks.lock(&*name));
        waiters(&locks, &name, 2).await;
        assert!(!theirs.holds() && !waiting.is_finished());
        guard.release().await.expect("released");
        theirs.await_held().expect("held");
        assert!(!waiting.is_finished());
        theirs.release().expect("released");
        within(soon(), waiting).await.expect("no panic").expect("granted").release().await.expect("released");
    });
}

#[test]
fn an_etcdctl_that_died_keeps_the_lock_for_its_ttl() {
    run(async {
        let name = unique();
        let theirs = common().lock(&name, 2).expect("started");
        theirs.await_held().expect("held");
        let locks = client(&common().url()).await;
        let waiting = waiting(locks.lock(&*name));
        waiters(&locks, &name, 1).await;
        drop(theirs);
        within(soon(), waiting).await.expect("no panic").expect("granted").release().await.expect("released");
    });
}

#[test]
fn a_lock_of_etcdctl_can_be_broken() {
    run(async {
        let name = unique();
        let theirs = common().lock(&name, 60).expect("started");
        theirs.await_held().expect("held");
        let locks = client(&common().url()).await;
        assert_eq!(locks.break_lock(&*name).await.expect("answered").len(), 1);
        is_free(&locks, &name).await;
    });
}

#[test]
fn a_key_of_another_program_blocks_a_lock_only_if_it_is_that_of_an_owner_and_can_be_broken() {
    run(async {
        let name = unique();
        let locks = client(&common().url()).await;
        for last in ["backup", "of another program", "0a", "A", "order/1"] {
            tell(common(), &["put", &format!("{name}/{last}"), ""]);
        }
        hold(&locks, &name, LONG).await.release().await.expect("released");
        tell(common(), &["put", &format!("{name}/a1"), "of another program"]);
        assert!(locks.lock(&*name).try_acquire().await.expect("answered").is_none());
        let waiting = waiting(locks.lock(&*name));
        waiters(&locks, &name, 1).await;
        let inspected = locks.inspect(&*name).await.expect("answered");
        let mut listed = locks.list(&*name).await.expect("answered");
        listed.retain(|holder| holder.name.as_str() == name);
        let tokens =
            |shown: &[leasehold::Holder]| shown.iter().map(|holder| holder.token).collect::<Vec<_>>();
        assert_eq!(tokens(&listed), tokens(&inspected), "the waiter is no holder");
        waiting.abort();
        assert_eq!(locks.break_lock(&*name).await.expect("answered").len(), 1);
        is_free(&locks, &name).await;
        hold(&locks, &name, LONG).await.release().await.expect("released");
    });
}

#[test]
fn a_lock_does_not_wait_for_locks_with_longer_names() {
    run(async {
        let url = own(&common().url());
        let storage = bare(&url).await;
        for lock in ["a/b", "a/b/c", "a/"] {
            take(&storage, &claim(lock)).await;
        }
        let (first, second) = (claim("a"), claim("a").wait(true));
        take(&storage, &first).await;
        is_held(&storage, &claim("a")).await;
        is_held(&storage, &second).await;
        take(&storage, &claim("a/d")).await;
        assert_eq!(storage.inspect(&first.name).await.expect("answered")[0].waiters, Some(1));
        release(&storage, &first).await.expect("released");
        take(&storage, &second).await;
    });
}
