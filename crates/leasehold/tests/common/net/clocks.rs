//! Servers whose clock jumps, and tokens that grow after their record was deleted.

use leasehold::Lost;
use leasehold::storage::{WAITER_HEARTBEAT, WAITER_TTL};
use tokio::time::Instant;

use crate::tools::*;

/// Sets a server's clock an hour ahead while a client holds a lock.
pub(crate) async fn jump_ahead(url: &str, set: impl Fn(i64)) {
    let (locks, other) = (client(url).await, client(url).await);
    let ttl = time(3_000);
    let guard = hold(&locks, "job", ttl).await;
    set(3_600);
    let since = Instant::now();
    // The lease has ended for the server, so the next client is granted the lock.
    let theirs = within(soon(), other.lock("job").ttl(LONG).acquire()).await.expect("granted");
    assert!(theirs.token() > guard.token());
    assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
    assert!(since.elapsed() < ttl / 3 + time(1_000), "{:?}", since.elapsed());
    // A claim is refused as late only until the client has learned the new time.
    is_free(&locks, "other").await;
    theirs.release().await.expect("released");
}

/// Sets a server's clock an hour back, after a client with a lease and a waiter has died.
pub(crate) async fn jump_back(url: &str, set: impl Fn(i64)) {
    let ttl = time(1_000);
    let dead = bare(url).await;
    let mut held = claim("job");
    held.ttl = ttl;
    let token = take(&dead, &held).await;
    is_held(&dead, &claim("job").wait(true)).await;
    drop(dead);
    set(-3_600);
    let live = client(url).await;
    let since = Instant::now();
    let guard = within(LONG, live.lock("job").acquire()).await.expect("granted");
    let took = since.elapsed();
    assert!(guard.token() > token, "a token did not grow after the clock was set back");
    assert!(took < ttl + WAITER_TTL + 2 * WAITER_HEARTBEAT + time(1_000), "{took:?}");
    guard.release().await.expect("released");
}

/// Deletes the record of a lock each time that it is free. Tokens must still grow.
pub(crate) async fn deleted_record(url: &str, delete: impl Fn()) {
    let storage = bare(url).await;
    let mut last = None;
    for _ in 0..3 {
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        assert!(Some(token) > last);
        last = Some(token);
        release(&storage, &mine).await.expect("answered");
        delete();
    }
}
