//! Change streams that break, fall silent, or whose collection goes: waiters are served, and observers are notified.

use futures_util::StreamExt as _;
use leasehold::storage::{Hint, Storage as _, WAITER_HEARTBEAT};
use leasehold::{Change, Changes, Locks, Lost};
use leasehold_testbed::mongodb::bson::{Bson, Document, doc};
use leasehold_testbed::{Error, MongoDb, until};

use crate::tools::*;

/// How long a waiter may wait that is not told.
fn heartbeat() -> std::time::Duration {
    WAITER_HEARTBEAT + time(3_000)
}

async fn see_locked(changes: &mut Changes) {
    let seeing = async { while !matches!(changes.next().await, Some(Change::Locked { .. })) {} };
    within(heartbeat(), seeing).await;
}

async fn see_unlocked(changes: &mut Changes) {
    let seeing = async { while changes.next().await != Some(Change::Unlocked) {} };
    within(heartbeat(), seeing).await;
}

/// Hands a lock over to a waiter, and frees it, before the eyes of an observer. The fault happens before each.
async fn serve(locks: &Locks, other: &Locks, lock: &str, fault: impl Fn()) {
    let mut changes = other.observe(lock).expect("a name");
    see_unlocked(&mut changes).await;
    fault();
    let guard = hold(locks, lock, LONG).await;
    see_locked(&mut changes).await;
    let next = waiting(other.lock(lock).ttl(LONG));
    waiters(locks, lock, 1).await;
    fault();
    let token = guard.token();
    guard.release().await.expect("released");
    let next = within(heartbeat(), next).await.expect("no panic").expect("granted");
    assert!(next.token() > token);
    fault();
    next.release().await.expect("released");
    see_unlocked(&mut changes).await;
}

fn fail(set: &MongoDb, times: i32, commands: &[&str], data: Document) {
    set.members()[0].fail_commands(doc! { "times": times }, commands, data).expect("set");
}

#[test]
fn cursors_that_are_killed_delay_nothing_for_longer_than_a_heartbeat() {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        serve(&locks, &other, "warm", || {}).await;
        for round in 0..5 {
            // A stream may be about to be opened again.
            let kill = || {
                let killed = until("a stream", || match set.members()[0].kill_streams()? {
                    0 => Err(Error::new("there is none")),
                    _ => Ok(()),
                });
                killed.expect("a stream");
            };
            serve(&locks, &other, &format!("job{round}"), kill).await;
        }
    });
}

#[test]
fn a_stream_whose_history_is_lost_is_opened_anew_and_everyone_asks_again() {
    const HISTORY_LOST: i32 = 286;
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        let lost = || fail(&set, 2, &["getMore", "aggregate"], doc! { "errorCode": HISTORY_LOST });
        serve(&locks, &other, "job", lost).await;
        // Their streams would take the errors.
        locks.close().await.expect("closed");
        other.close().await.expect("closed");
        drop((locks, other));
        // A stream that goes on with the same token for ever would never be told again.
        let (storage, mut hints) = listening(&url).await;
        let next = async {
            // A stream that is about to end may take them, too.
            loop {
                lost();
                if tokio::time::timeout(2 * WAITER_HEARTBEAT, awaited(&mut hints, &Hint::Any)).await.is_ok() {
                    break;
                }
            }
        };
        within(LONG, next).await;
        let (mine, theirs) = (claim("again"), claim("again").wait(true));
        let rival = bare(&url).await;
        take(&rival, &mine).await;
        is_held(&storage, &theirs).await;
        answered(async || release(&rival, &mine).await).await;
        within(heartbeat(), awaited(&mut hints, &Hint::Owner(theirs.owner))).await;
        take(&storage, &theirs).await;
    });
}

#[test]
fn a_stream_that_the_server_does_not_answer_is_replaced() {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        serve(&locks, &other, "warm", || {}).await;
        let (storage, mut hints) = listening(&url).await;
        // It expects a sign of life every two seconds.
        let block = || fail(&set, 4, &["getMore"], doc! { "blockConnection": true, "blockTimeMS": 8_000 });
        block();
        awaited(&mut hints, &Hint::Any).await;
        drop((storage, hints));
        // A handover that no stream tells.
        let guard = hold(&locks, "job", LONG).await;
        let next = waiting(other.lock("job").ttl(LONG));
        waiters(&locks, "job", 1).await;
        block();
        guard.release().await.expect("released");
        let next = within(heartbeat(), next).await.expect("no panic").expect("granted");
        next.release().await.expect("released");
    });
}

#[test]
fn every_error_of_a_stream_is_survived() {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        // Unauthorized, NotWritablePrimary, CursorNotFound, Interrupted, ChangeStreamFatalError, and a broken connection.
        for (i, code) in [13, 10_107, 43, 11_601, 280].into_iter().enumerate() {
            let break_it = || fail(&set, 2, &["getMore", "aggregate"], doc! { "errorCode": code });
            serve(&locks, &other, &format!("job{i}"), break_it).await;
        }
        let cut = || fail(&set, 2, &["getMore", "aggregate"], doc! { "closeConnection": true });
        serve(&locks, &other, "cut", cut).await;
    });
}

/// Returns how often the server was asked to open a cursor.
fn opened(set: &MongoDb) -> i64 {
    let status = set.command("admin", doc! { "serverStatus": 1, "repl": 0 }).expect("answered");
    let commands = status.get_document("metrics").and_then(|metrics| metrics.get_document("commands"));
    let total =
        commands.and_then(|commands| commands.get_document("aggregate")).expect("counted").get("total");
    total.and_then(Bson::as_i64).expect("a number")
}

/// A stream that cannot go on opens all the same.
#[test]
fn a_stream_that_breaks_at_its_first_reply_is_opened_ever_more_rarely() {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let before = opened(&set);
        set.members()[0].fail_commands("alwaysOn", &["getMore"], doc! { "errorCode": 280 }).expect("set");
        let storage = bare(&url).await;
        let mut hints: Hints = Box::pin(storage.hints());
        // The stream is opened meanwhile as often as it breaks.
        let listening = async { while hints.next().await.is_some() {} };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), listening).await;
        assert!(ended.is_err(), "the hints have ended");
        let opened = opened(&set) - before;
        assert!((2..=20).contains(&opened), "{opened}");
        set.members()[0].fail_commands("off", &[], doc! {}).expect("answered");
        within(heartbeat() * 2, awaited(&mut hints, &Hint::Any)).await;
    });
}

/// Drops or renames the collection while a client holds a lock and another waits for it.
fn lose_collection(lose: impl Fn(&MongoDb, &str)) {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        // The next renewal of it is due in twenty seconds.
        let guard = hold(&locks, "job", LONG).await;
        let mut changes = other.observe("free").expect("a name");
        see_unlocked(&mut changes).await;
        let next = waiting(other.lock("job").ttl(LONG));
        waiters(&locks, "job", 1).await;
        serve(&locks, &other, "warm", || {}).await;
        lose(&set, &collection);
        let next = within(heartbeat(), next).await.expect("no panic").expect("granted");
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        assert!(next.token() > guard.token());
        next.release().await.expect("released");
        // The streams are those of the collection that was made anew.
        let guard = hold(&locks, "free", LONG).await;
        see_locked(&mut changes).await;
        guard.release().await.expect("released");
        serve(&locks, &other, "again", || {}).await;
    });
}

#[test]
fn a_collection_that_is_dropped_ends_the_holds_at_once_and_serves_the_waiters() {
    lose_collection(|set, collection| drop(command(set, doc! { "drop": collection })));
}

#[test]
fn a_collection_that_is_renamed_ends_the_holds_at_once_and_serves_the_waiters() {
    lose_collection(|set, collection| {
        let (from, to) = (format!("leasehold.{collection}"), format!("leasehold.{collection}_old"));
        set.command("admin", doc! { "renameCollection": from, "to": to }).expect("renamed");
    });
}
