//! Errors of the server, connections that it cuts or leaves without an answer: what each does to each call.

use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage as _};
use leasehold::{ErrorKind, Result};
use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::{Document, doc};
use tokio::time::Instant;

use crate::tools::*;

/// The commands of a call.
const WRITES: [&str; 2] = ["update", "findAndModify"];

fn fail(set: &MongoDb, commands: &[&str], data: Document) {
    set.members()[0].fail_commands(doc! { "times": 1 }, commands, data).expect("set");
}

fn kind<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.expect_err("it fails").kind()
}

/// Makes each call fail with the error once, and checks its kind, and that the next call is answered.
async fn each_call_fails(set: &MongoDb, storage: &Bare, data: &Document, wanted: ErrorKind) {
    let what = data.to_string();
    let mine = claim("job");
    fail(set, &WRITES, data.clone());
    assert_eq!(kind(acquire(storage, &mine).await), wanted, "{what}: acquire");
    take(storage, &mine).await;
    let several = [claim("one"), claim("two")];
    fail(set, &WRITES, data.clone());
    for answer in storage.acquire(&several).await {
        assert_eq!(kind(answer), wanted, "{what}: acquire several");
    }
    fail(set, &["find"], data.clone());
    for answer in storage.acquire(&several).await {
        assert_eq!(kind(answer), wanted, "{what}: read");
    }
    for claim in &several {
        take(storage, claim).await;
    }
    fail(set, &WRITES, data.clone());
    assert_eq!(kind(renew(storage, &mine).await), wanted, "{what}: renew");
    let renewed = answered(async || renew(storage, &mine).await).await;
    assert!(matches!(renewed, RenewReply::Renewed { .. }), "{what}: {renewed:?}");
    fail(set, &["find"], data.clone());
    assert_eq!(kind(storage.inspect(&mine.name).await), wanted, "{what}: inspect");
    fail(set, &WRITES, data.clone());
    assert_eq!(kind(release(storage, &mine).await), wanted, "{what}: release");
    for claim in [&mine, &several[0], &several[1]] {
        let released = answered(async || release(storage, claim).await).await;
        assert_eq!(released, ReleaseReply::Released, "{what}");
    }
}

#[test]
fn what_may_succeed_later_is_unavailable() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        take(&storage, &claim("first")).await;
        // ShutdownInProgress, PrimarySteppedDown, InterruptedAtShutdown, InterruptedDueToReplStateChange,
        // OutOfDiskSpace, and one that does not exist yet.
        for code in [91, 189, 11_600, 11_602, 14_031, 987_654] {
            each_call_fails(&set, &storage, &doc! { "errorCode": code }, ErrorKind::Unavailable).await;
        }
        each_call_fails(&set, &storage, &doc! { "closeConnection": true }, ErrorKind::Unavailable).await;
    });
}

#[test]
fn a_server_that_is_not_the_primary_is_asked_once_more() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        take(&storage, &claim("first")).await;
        // NotWritablePrimary, NotPrimaryNoSecondaryOk.
        for code in [10_107, 13_435] {
            let mine = claim("job");
            fail(&set, &WRITES, doc! { "errorCode": code });
            assert!(matches!(acquire(&storage, &mine).await, Ok(AcquireReply::Granted { .. })), "{code}");
            fail(&set, &WRITES, doc! { "errorCode": code });
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })), "{code}");
            let twice = doc! { "times": 2 };
            set.members()[0].fail_commands(twice, &WRITES, doc! { "errorCode": code }).expect("set");
            assert_eq!(kind(release(&storage, &mine).await), ErrorKind::Unavailable, "{code}");
            fail(&set, &WRITES, doc! { "errorCode": code });
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{code}");
        }
    });
}

#[test]
fn a_claim_for_a_locked_document_is_refused_and_a_renewal_or_a_release_is_repeated() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        let mine = claim("job");
        take(&storage, &mine).await;
        // MaxTimeMSExpired, WriteConflict.
        for code in [50, 112] {
            let locked = doc! { "errorCode": code };
            fail(&set, &WRITES, locked.clone());
            match acquire(&storage, &claim("job")).await.expect("answered") {
                AcquireReply::Held { holder: Some(holder), .. } => assert_eq!(holder.owner, mine.owner),
                other => panic!("{code}: {other:?}"),
            }
            // The holder's own claim is not known to be executed.
            fail(&set, &WRITES, locked.clone());
            assert_eq!(kind(acquire(&storage, &mine).await), ErrorKind::Unavailable, "{code}");
            // What was not executed is sent once more.
            let twice = || set.members()[0].fail_commands(doc! { "times": 2 }, &WRITES, locked.clone());
            twice().expect("set");
            assert_eq!(kind(renew(&storage, &mine).await), ErrorKind::Unavailable, "{code}");
            twice().expect("set");
            assert_eq!(kind(release(&storage, &mine).await), ErrorKind::Unavailable, "{code}");
            fail(&set, &WRITES, locked.clone());
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })), "{code}");
            fail(&set, &WRITES, locked);
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{code}");
            take(&storage, &mine).await;
        }
        release(&storage, &mine).await.expect("released");
    });
}

#[test]
fn what_asking_again_cannot_mend_is_not_called_temporary() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        take(&storage, &claim("first")).await;
        let (unsupported, internal) = (ErrorKind::Unsupported, ErrorKind::Internal);
        // Unauthorized, IllegalOperation, CommandNotFound, InvalidOptions, InvalidNamespace,
        // CommandNotSupportedOnView, NotImplemented, APIStrictError; BadValue, FailedToParse, TypeMismatch.
        for (code, wanted) in [
            (13, unsupported),
            (20, unsupported),
            (59, unsupported),
            (72, unsupported),
            (73, unsupported),
            (166, unsupported),
            (238, unsupported),
            (323, unsupported),
            (2, internal),
            (9, internal),
            (14, internal),
        ] {
            each_call_fails(&set, &storage, &doc! { "errorCode": code }, wanted).await;
        }
    });
}

/// The write is executed, and may be rolled back.
#[test]
fn a_write_that_is_not_confirmed_is_unknown_and_asking_again_tells() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        take(&storage, &claim("first")).await;
        // WriteConcernFailed, UnsatisfiableWriteConcern, MaxTimeMSExpired, ShutdownInProgress,
        // InterruptedDueToReplStateChange.
        for code in [64, 100, 50, 91, 11_602] {
            let unconfirmed = doc! { "writeConcernError": { "code": code, "errmsg": "" } };
            let mine = claim(&format!("job{code}"));
            fail(&set, &WRITES, unconfirmed.clone());
            let answer = acquire(&storage, &mine).await;
            match code {
                // A majority may only be late. A read finds out that it has the grant.
                64 | 50 => assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{code}: {answer:?}"),
                _ => assert_eq!(kind(answer), ErrorKind::Unavailable, "{code}"),
            }
            is_held(&storage, &claim(&format!("job{code}"))).await;
            take(&storage, &mine).await;
            fail(&set, &WRITES, unconfirmed.clone());
            let answer = renew(&storage, &mine).await;
            match code {
                64 | 50 => assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{code}: {answer:?}"),
                _ => assert_eq!(kind(answer), ErrorKind::Unavailable, "{code}"),
            }
            fail(&set, &WRITES, unconfirmed);
            let answer = release(&storage, &mine).await;
            match code {
                64 | 50 => assert_eq!(answer.expect("answered"), ReleaseReply::Released, "{code}"),
                _ => assert_eq!(kind(answer), ErrorKind::Unavailable, "{code}"),
            }
            let again = answered(async || release(&storage, &mine).await).await;
            assert_eq!(again, ReleaseReply::NotHeld, "{code}: it was released");
        }
    });
}

#[test]
fn a_call_that_is_answered_late_is_answered() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        let block = doc! { "blockConnection": true, "blockTimeMS": 400 };
        let mine = claim("job");
        for call in 0..4 {
            fail(&set, &["update", "findAndModify", "find"], block.clone());
            let since = Instant::now();
            match call {
                0 => drop(take(&storage, &mine).await),
                1 => assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. }))),
                2 => assert_eq!(storage.inspect(&mine.name).await.expect("answered").len(), 1),
                _ => assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released),
            }
            assert!(since.elapsed().as_millis() >= 400, "{call}: {:?}", since.elapsed());
        }
        // A claim that the server begins too late grants nothing.
        fail(&set, &WRITES, block);
        let late = claim("job").patience(std::time::Duration::from_millis(100));
        let answer = acquire(&storage, &late).await;
        assert!(!matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        let answer = acquire(&storage, &claim("job")).await;
        assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
    });
}

/// Half of all commands fail, one way or the other. Holds stay, and waiters are served.
#[test]
fn a_server_that_fails_half_of_all_commands_ends_no_hold() {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        let kept = hold(&locks, "kept", time(6_000)).await;
        for data in [
            doc! { "closeConnection": true },
            doc! { "errorCode": 11_602 },
            doc! { "writeConcernError": { "code": 64, "errmsg": "" } },
        ] {
            let half = doc! { "activationProbability": 0.5 };
            set.members()[0].fail_commands(half, &WRITES, data.clone()).expect("set");
            let mut last = None;
            let since = Instant::now();
            while since.elapsed() < time(2_000) {
                for locks in [&locks, &other] {
                    let Ok(guard) = locks.lock("job").acquire().await else { continue };
                    assert!(last < Some(guard.token()), "{data}");
                    last = Some(guard.token());
                    drop(guard.release().await);
                }
            }
            assert!(last.is_some() && kept.is_held(), "{data}");
        }
        set.members()[0].fail_commands("off", &WRITES, doc! {}).expect("set");
        verified(&kept).await;
        kept.release().await.expect("released");
        // What they send later would meet the faults of the next test.
        for locks in [locks, other] {
            locks.close().await.expect("closed");
        }
    });
}
