//! The places of waiters.

use leasehold::storage::{AcquireReply, ReleaseReply, Storage, WAITER_TTL};
use tokio::time::sleep;

use crate::tools::*;

#[test]
fn a_waiter_with_a_short_ttl_keeps_its_place_as_long_as_any_other() {
    run(async {
        let url = own(&common().url());
        let (holder, one, two) = (bare(&url).await, bare(&url).await, bare(&url).await);
        let held = claim("job");
        take(&holder, &held).await;
        let first = with_ttl("job", WAITER_TTL / 3).wait(true);
        let second = claim("job").wait(true);
        is_held(&one, &first).await;
        is_held(&two, &second).await;
        // Neither asks meanwhile, so there is no event to wait for.
        sleep(WAITER_TTL / 2).await;
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        is_held(&two, &second).await;
        let granted = acquire(&one, &first).await;
        assert!(matches!(granted, Ok(AcquireReply::Granted { .. })), "{granted:?}");
        assert_eq!(release(&one, &first).await.expect("answered"), ReleaseReply::Released);
        release(&two, &second).await.expect("answered");
    });
}

#[test]
fn a_waiter_that_leaves_beside_a_lock_with_a_longer_name_has_not_held() {
    run(async {
        let url = own(&common().url());
        let (holder, storage) = (bare(&url).await, bare(&url).await);
        let (longer, held, mine) = (claim("job/part"), claim("job"), claim("job").wait(true));
        take(&holder, &longer).await;
        take(&holder, &held).await;
        is_held(&storage, &mine).await;
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::NotHeld);
        for one in [longer, held] {
            assert_eq!(release(&holder, &one).await.expect("answered"), ReleaseReply::Released);
        }
    });
}

/// The lease of a waiter lasts for longer than its TTL.
#[test]
fn a_waiter_with_a_short_ttl_is_promised_no_more_than_that() {
    run(async {
        let url = own(&common().url());
        let (holder, waiter) = (bare(&url).await, bare(&url).await);
        let (held, mine) = (claim("job"), with_ttl("job", WAITER_TTL / 3).wait(true));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        let granted = acquire(&waiter, &mine).await;
        assert!(matches!(granted, Ok(AcquireReply::Granted { ttl, .. }) if ttl == mine.ttl), "{granted:?}");
        // Its client deletes the key when this is over.
        let holder = waiter.inspect(&mine.name).await.expect("answered").pop().expect("held");
        assert!(holder.remaining <= mine.ttl, "{holder:?}");
    });
}

#[test]
fn a_waiter_that_leaves_when_it_is_its_turn_has_not_held() {
    run(async {
        let url = own(&common().url());
        let (holder, storage) = (bare(&url).await, bare(&url).await);
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&holder, &held).await;
        is_held(&storage, &mine).await;
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        // It has not asked since.
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::NotHeld);
        take(&holder, &claim("job")).await;
    });
}
