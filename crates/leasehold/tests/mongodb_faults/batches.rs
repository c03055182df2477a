//! Claims that are sent together: what befalls one of them does not befall the others.

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage as _};
use leasehold_testbed::mongodb::bson::{Document, doc};

use crate::tools::*;

fn claims() -> Vec<Claim> {
    (0..40).map(|i| claim(&format!("job{i:02}"))).collect()
}

#[test]
fn documents_that_a_transaction_has_written_delay_no_claim_of_another_lock() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let (storage, claims) = (bare(&url).await, claims());
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        let open = pin(&set, &collection, &["job00", "job20"]);
        let is_pinned = |i: usize| i.is_multiple_of(20);
        // The engine gives up a call after five seconds.
        let limit = time(4_000);
        for (i, answer) in within(limit, storage.renew(&claims)).await.into_iter().enumerate() {
            match answer {
                Ok(RenewReply::Renewed { .. }) if !is_pinned(i) => {}
                Err(error) if is_pinned(i) => assert_eq!(error.kind(), ErrorKind::Unavailable),
                other => panic!("{i}: {other:?}"),
            }
        }
        for (i, answer) in within(limit, storage.acquire(&claims)).await.into_iter().enumerate() {
            match answer {
                Ok(AcquireReply::Granted { .. }) if !is_pinned(i) => {}
                Err(error) if is_pinned(i) => assert_eq!(error.kind(), ErrorKind::Unavailable),
                other => panic!("{i}: {other:?}"),
            }
        }
        within(limit, storage.release(&claims)).await;
        for (i, claim) in claims.iter().enumerate() {
            let is_free = storage.inspect(&claim.name).await.expect("answered").is_empty();
            assert_eq!(is_free, !is_pinned(i), "{i}");
        }
        open.abort().expect("ended");
        // A release that was not answered may be executed then.
        answered(async || release(&storage, &claims[0]).await).await;
        take(&storage, &claim("job00")).await;
    });
}

#[test]
fn a_hold_is_not_lost_beside_one_that_a_transaction_pins() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let locks = client(&url).await;
        let ttl = time(6_000);
        let (kept, pinned) = (hold(&locks, "kept", ttl).await, hold(&locks, "pinned", ttl).await);
        let open = pin(&set, &collection, &["pinned"]);
        within(LONG, pinned.lost()).await;
        // It has been renewed meanwhile, for longer than its TTL.
        assert!(kept.is_held());
        open.abort().expect("ended");
        verified(&kept).await;
        kept.release().await.expect("released");
    });
}

/// However many documents are pinned, and however short the leases are.
#[test]
fn holds_of_short_leases_are_not_lost_beside_many_that_a_transaction_pins() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let locks = client(&url).await;
        let ttl = time(4_800);
        let (mut kept, mut pinned, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..24 {
            kept.push(hold(&locks, &format!("kept{i:02}"), ttl).await);
            names.push(format!("pinned{i:02}"));
            pinned.push(hold(&locks, &names[i], ttl).await);
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let open = pin(&set, &collection, &names);
        for pinned in &pinned {
            within(LONG, pinned.lost()).await;
        }
        // They have been renewed meanwhile, for longer than their TTL.
        let lost: Vec<_> = kept.iter().filter(|guard| !guard.is_held()).map(|guard| guard.name()).collect();
        assert!(lost.is_empty(), "{lost:?}");
        open.abort().expect("ended");
    });
}

/// A client sends one acquire at a time, so others wait for it.
#[test]
fn a_claim_for_a_pinned_lock_does_not_keep_other_locks_waiting_for_long() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let locks = client(&url).await;
        hold(&locks, "pinned", LONG).await.release().await.expect("released");
        let open = pin(&set, &collection, &["pinned"]);
        let waiting = waiting(locks.lock("pinned").ttl(LONG));
        let mut longest = std::time::Duration::ZERO;
        for i in 0..6 {
            let begun = tokio::time::Instant::now();
            drop(hold(&locks, &format!("other{i}"), LONG).await);
            longest = std::cmp::max(longest, begun.elapsed());
        }
        assert!(longest < time(3_000), "{longest:?}");
        open.abort().expect("ended");
        drop(within(LONG, waiting).await.expect("no panic").expect("granted"));
    });
}

/// A server that is merely slow is not called another owner.
#[test]
fn a_free_lock_of_a_server_that_does_not_write_is_unavailable_and_not_held() {
    let set = one();
    run(async {
        let storage = bare(&own(&set).0).await;
        take(&storage, &claim("held")).await;
        let free = claim("free");
        take(&storage, &free).await;
        answered(async || release(&storage, &free).await).await;
        set.command("admin", doc! { "fsync": 1, "lock": true }).expect("locked");
        let several = [claim("free"), claim("new")];
        let mut answers = storage.acquire(&several).await;
        answers.push(acquire(&storage, &claim("free")).await);
        answers.push(acquire(&storage, &claim("free").wait(true)).await);
        // Whether that one is still held is certain only after a write, too.
        answers.push(acquire(&storage, &claim("held").wait(true)).await);
        set.command("admin", doc! { "fsyncUnlock": 1 }).expect("unlocked");
        for answer in answers {
            assert_eq!(answer.expect_err("it cannot be written").kind(), ErrorKind::Unavailable);
        }
        take(&storage, &several[0]).await;
    });
}

/// A validator of the collection makes the server refuse what it would write into one document.
#[test]
fn a_statement_that_the_server_refuses_fails_alone_and_is_not_called_temporary() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let (storage, claims) = (bare(&url).await, claims());
        let refuse = |filter: Document| {
            command(&set, doc! { "collMod": &collection, "validator": filter });
        };
        take(&storage, &claims[3]).await;
        let check = |what: &str, i: usize, error: Option<leasehold::Error>| match (i, error) {
            (3, Some(error)) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}"),
            (_, error) => assert!(i != 3 && error.is_none(), "{what} {i}: {error:?}"),
        };
        refuse(doc! { "_id": { "$ne": "job03" } });
        for (i, answer) in storage.acquire(&claims).await.into_iter().enumerate() {
            check("acquire", i, answer.err());
        }
        for (i, answer) in storage.renew(&claims).await.into_iter().enumerate() {
            check("renew", i, answer.err());
        }
        for (i, answer) in storage.release(&claims).await.into_iter().enumerate() {
            check("release", i, answer.err());
        }
        let alone = acquire(&storage, &claims[3]).await.expect_err("refused");
        assert_eq!(alone.kind(), ErrorKind::Unsupported, "{alone}");
        refuse(doc! {});
        assert_eq!(release(&storage, &claims[3]).await.expect("answered"), ReleaseReply::Released);
    });
}
