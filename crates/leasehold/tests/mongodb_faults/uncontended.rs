//! Short statements, for locks that are likely to have no waiters, on a server that is slow.

use leasehold::ErrorKind;
use leasehold::storage::{ReleaseReply, Storage as _};
use leasehold_testbed::mongodb::bson::doc;

use crate::tools::*;

/// A short statement has half of the time. If that is not enough, the next call must not begin with one.
#[test]
fn a_server_that_needs_more_than_half_of_the_time_answers_the_second_call() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let (storage, other) = (bare(&url).await, bare(&url).await);
        for lock in ["free", "contended"].map(claim) {
            take(&storage, &lock).await;
            answered(async || release(&storage, &lock).await).await;
        }
        let (held, free, waiting) = (claim("held"), claim("free"), claim("contended").wait(true));
        take(&storage, &held).await;
        take(&other, &claim("contended")).await;
        // The server has 2 s.
        let slow = doc! { "blockConnection": true, "blockTimeMS": 1_200 };
        set.members()[0].fail_commands("alwaysOn", &["findAndModify", "update"], slow).expect("set");
        let error = acquire(&storage, &free).await.expect_err("no time");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        take(&storage, &free).await;
        let error = release(&storage, &held).await.expect_err("no time");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(release(&storage, &held).await.expect("answered"), ReleaseReply::Released);
        is_held(&storage, &waiting).await;
        is_held(&storage, &waiting).await;
        set.members()[0].fail_commands("off", &[], doc! {}).expect("set");
        let document = document(&set.members()[0], &collection, "contended").expect("there");
        let queue = document.get_array("queue").expect("a queue");
        assert_eq!(queue.len(), 1, "{queue:?}");
        drop(storage.release(&[free]).await);
    });
}
