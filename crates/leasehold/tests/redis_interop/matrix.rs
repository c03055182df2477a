//! The rules that hold between Leasehold and each other client.

use std::thread;
use std::time::Duration;

use leasehold::blocking::Locks;
use leasehold::storage::{
    AnyStorage, Claim, Holder, Name, ReleaseReply, RenewReply, Storage, Token, WAITER_HEARTBEAT,
};
use leasehold::{ErrorKind, Wait};

use crate::makers::Maker;
use crate::{LONG, SLACK, ours, redis, time, timed};

macro_rules! makers {
    ($($maker:ident: $package:literal,)*) => {
        $(mod $maker {
            #[test]
            fn its_lock_refuses_ours() {
                super::its_lock_refuses_ours($package);
            }

            #[test]
            fn our_lock_refuses_its() {
                super::our_lock_refuses_its($package);
            }

            #[test]
            fn ours_is_granted_after_its_release() {
                super::ours_is_granted_after_its_release($package);
            }

            #[test]
            fn ours_is_granted_after_its_expiry_and_a_late_release_of_its_does_nothing() {
                super::ours_is_granted_after_its_expiry_and_a_late_release_of_its_does_nothing($package);
            }

            #[test]
            fn our_late_renewal_and_release_leave_its_lock_alone() {
                super::our_late_renewal_and_release_leave_its_lock_alone($package);
            }

            #[test]
            fn its_lock_can_be_broken() {
                super::its_lock_can_be_broken($package);
            }
        })*

        #[test]
        fn no_package_of_the_test_bed_is_forgotten() {
            for package in leasehold_testbed::interop::ALL {
                assert!([$($package),*].contains(&package.name), "{}", package.name);
            }
        }
    };
}

makers! {
    redislock: "redislock",
    redlock: "redlock",
    redis_semaphore: "redis-semaphore",
    distributed_locks: "distributed-locks",
    redis_py: "redis-py",
    rslock: "rslock",
}

fn its_lock_refuses_ours(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-refuses"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    assert!(theirs.acquire(&name, LONG));

    assert!(ours.lock(&name).try_acquire().expect("answered").is_none());
    let error = ours.lock(&name).wait(time(100)).acquire().expect_err("it is held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    is_foreign(error.holder().expect("a holder was seen"));
    // One more try, without a place in the queue.
    let once = Wait::Attempts { attempts: 1, interval: Duration::ZERO };
    let error = ours.lock(&name).wait(once).acquire().expect_err("it is held");
    let seen = ours.inspect(&name).expect("answered").pop().expect("it is held");
    is_foreign(&seen);
    assert_eq!(error.holder().map(|holder| holder.owner), Some(seen.owner));

    if let Some(extended) = theirs.extend(2 * LONG) {
        assert!(extended);
        let seen = ours.inspect(&name).expect("answered").pop().expect("it is held");
        assert!(seen.remaining > LONG, "{seen:?}");
    }
    assert_ne!(theirs.release(), Some(false));
    assert_eq!(ours.inspect(&name).expect("answered"), []);
    let guard = ours.lock(&name).try_acquire().expect("answered").expect("it is free");
    guard.release().expect("released");
}

fn our_lock_refuses_its(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-refused"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    let guard = ours.lock(&name).ttl(time(2_000)).acquire().expect("it is free");
    assert!(!theirs.acquire(&name, LONG));
    guard.extend(LONG).expect("held");
    assert!(!theirs.acquire(&name, LONG));
    guard.verify().expect("held");
    guard.release().expect("released");
    assert!(theirs.acquire(&name, LONG));
    assert_ne!(theirs.release(), Some(false));
}

fn ours_is_granted_after_its_release(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-released"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    assert!(theirs.acquire(&name, LONG));
    let waiting = waiter(&ours, &name);
    assert_ne!(theirs.release(), Some(false));
    // The other client sends no hint, so the waiter of Leasehold polls.
    let (guard, took) = timed(|| waiting.join().expect("no panic"));
    assert!(took < WAITER_HEARTBEAT + SLACK, "{took:?}");
    guard.release().expect("released");
}

fn ours_is_granted_after_its_expiry_and_a_late_release_of_its_does_nothing(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-expired"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    let ttl = time(1_000);
    let ((acquired, guard), took) =
        timed(|| (theirs.acquire(&name, ttl), ours.lock(&name).ttl(LONG).acquire().expect("granted")));
    assert!(acquired);
    assert!(took >= ttl.mul_f64(0.9) && took < ttl + WAITER_HEARTBEAT + SLACK, "{took:?}");

    assert_ne!(theirs.release(), Some(true));
    guard.verify().expect("held");
    assert_ne!(theirs.extend(LONG), Some(true));
    guard.verify().expect("held");
    let seen = ours.inspect(&name).expect("answered").pop().expect("held");
    assert_eq!((seen.owner, seen.token), (guard.owner(), guard.token()));
    guard.release().expect("released");
}

fn our_late_renewal_and_release_leave_its_lock_alone(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-late"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    let ttl = time(500);
    let ticket = ours.lock(&name).ttl(ttl).acquire().expect("it is free").into_ticket();
    leasehold_testbed::until("our lease to end", || match theirs.acquire(&name, LONG) {
        true => Ok(()),
        false => Err(leasehold_testbed::Error::new("it is held")),
    })
    .expect("it ends");
    let before = redis().quoted(&["get", &format!("{}{name}", maker.prefix)]).expect("answered");

    let error = ours.resume(ticket.clone()).expect_err("the lease is over");
    assert_eq!(error.kind(), ErrorKind::Lost);
    // The engine knows that the lock is lost and sends nothing more, so this asks the storage directly.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let claim = Claim::new(Name::new(&name).expect("a name"), ticket.owner(), LONG).shorten(true);
    runtime.block_on(async {
        let url = format!("{}?prefix={}", redis().url(), maker.prefix);
        let storage = AnyStorage::connect(&url).await.expect("connected");
        let claim = std::slice::from_ref(&claim);
        let renewed = storage.renew(claim).await.pop().expect("an answer");
        assert_eq!(renewed.expect("answered"), RenewReply::NotHeld);
        let released = storage.release(claim).await.pop().expect("an answer");
        assert_eq!(released.expect("answered"), ReleaseReply::NotHeld);
    });

    let seen = ours.inspect(&name).expect("answered").pop().expect("it holds");
    is_foreign(&seen);
    let after = redis().quoted(&["get", &format!("{}{name}", maker.prefix)]).expect("answered");
    assert_eq!(before, after);
    assert_ne!(theirs.release(), Some(false));
}

fn its_lock_can_be_broken(package: &'static str) {
    let (maker, name) = (Maker::named(package), format!("{package}-broken"));
    let (theirs, ours) = (maker.client(), ours(maker.prefix));
    assert!(theirs.acquire(&name, LONG));
    let waiting = waiter(&ours, &name);
    let broken = ours.break_lock(&name).expect("answered").pop().expect("it held");
    is_foreign(&broken);
    let guard = waiting.join().expect("no panic");
    assert_ne!(theirs.release(), Some(true));
    guard.verify().expect("held");
    guard.release().expect("released");
    assert_eq!(ours.break_lock(&name).expect("answered"), []);
}

/// Waits for a lock on a thread. Returns once the server knows the waiter.
fn waiter(locks: &Locks, name: &str) -> thread::JoinHandle<leasehold::blocking::Guard> {
    let lock = locks.lock(name);
    let waiting = thread::spawn(move || lock.acquire().expect("granted"));
    leasehold_testbed::until("the waiter", || match locks.inspect(name) {
        Ok(holders) if holders.first().is_some_and(|holder| holder.waiters == Some(1)) => Ok(()),
        other => Err(leasehold_testbed::Error::new(format!("{other:?}"))),
    })
    .expect("it waits");
    waiting
}

/// Checks a foreign holder, of which only the remaining time is known.
fn is_foreign(holder: &Holder) {
    assert_eq!((holder.token, holder.label.as_deref(), holder.held_for), (Token::new(0), None, None));
    assert!(holder.remaining > LONG / 2, "{holder:?}");
}
