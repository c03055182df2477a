//! Commands that the server executes later than it began them, because a transaction has changed the document. Their time is
//! older than what they find.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, RenewReply, Storage, Token};
use leasehold_testbed::scaled;
use mongodb::ClientSession;
use mongodb::bson::{DateTime, Document, doc};
use tokio::time::Instant;

use super::tools::*;

const TTL: Duration = Duration::from_secs(20);
/// How much later the commands are executed: less than the time that the server has for them, and more than two times
/// may differ by chance.
const DELAY: Duration = Duration::from_millis(400);

#[test]
fn a_waiters_claim_does_not_shorten_a_newer_lease() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let mine = claim("job", TTL);
        let token = take(&storage, &mine).await;
        let theirs = claim("job", TTL).wait(true);
        let (answer, renewed) = delayed(&place, token, acquire(&other, &theirs)).await;
        assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
        assert_eq!(until(&place).await, renewed);
        release(&storage, &mine).await.expect("released");
    });
}

#[test]
fn a_renewal_does_not_shorten_a_newer_one() {
    run(async {
        let place = Place::new().await;
        let storage = place.storage().await;
        let mine = claim("job", TTL);
        let token = take(&storage, &mine).await;
        let (answer, renewed) = delayed(&place, token, renew(&storage, &mine)).await;
        assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        assert_eq!(until(&place).await, renewed);
        let (answer, renewed) = delayed(&place, token, acquire(&storage, &mine)).await;
        assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        assert_eq!(until(&place).await, renewed);
    });
}

#[test]
fn a_claim_removes_no_waiter_that_has_asked_since() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let mine = claim("job", TTL);
        let token = take(&storage, &mine).await;
        let waiters: Vec<_> = (0..3).map(|_| claim("job", TTL).wait(true)).collect();
        for waiter in &waiters {
            acquire(&other, waiter).await.expect("answered");
        }
        let (answer, _) = delayed(&place, token, acquire(&other, &waiters[1])).await;
        assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
        let document = place.lock("job").await;
        let queue = document.get_array("queue").expect("there").iter();
        let queue: Vec<_> = queue.map(|entry| owner(entry.as_document().expect("an entry"))).collect();
        assert_eq!(queue, waiters.iter().map(|waiter| waiter.owner.to_string()).collect::<Vec<_>>());
        release(&storage, &mine).await.expect("released");
    });
}

#[test]
fn a_locked_document_holds_up_no_neighbor_in_a_batch() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let claims: Vec<_> = (0..6).map(|i| claim(&format!("job/{i}"), TTL)).collect();
        let mut tokens = Vec::new();
        for claim in &claims {
            tokens.push(take(&storage, claim).await);
        }
        let mut session = place.transaction().await;
        let pinned = place.pin(&mut session, "job/2", tokens[2]).await;
        assert_eq!(pinned.expect("answered"), 1);

        let started = Instant::now();
        let renewed = storage.renew(&claims).await;
        for (i, reply) in renewed.iter().enumerate() {
            assert_eq!(matches!(reply, Ok(RenewReply::Renewed { .. })), i != 2, "{i}: {reply:?}");
        }
        let theirs: Vec<_> = claims.iter().map(theirs).collect();
        for reply in other.acquire(&theirs).await {
            assert!(matches!(reply, Ok(AcquireReply::Held { .. })), "{reply:?}");
        }
        assert!(started.elapsed() < scaled(Duration::from_secs(6)), "{:?}", started.elapsed());
        session.abort_transaction().await.expect("aborted");
        for (i, reply) in storage.release(&claims).await.into_iter().enumerate() {
            assert!(reply.is_ok(), "{i}: {reply:?}");
        }
    });
}

/// Begins a command while a transaction has changed the document. Before that ends, it renews the lease and every waiter's
/// entry. Returns the reply to the command, and when the renewed lease ends.
async fn delayed<T>(place: &Place, token: Token, command: impl Future<Output = T>) -> (T, DateTime) {
    let mut session = place.transaction().await;
    assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 1);
    let renewing = async {
        place.until_blocked().await;
        // By so much the command's time is older than what it finds.
        tokio::time::sleep(DELAY).await;
        renew_all(place, &mut session).await;
        session.commit_transaction().await.expect("committed");
    };
    let (reply, ()) = futures_util::future::join(command, renewing).await;
    let ttl = i64::try_from(TTL.as_millis()).expect("short");
    let document = place.lock("job").await;
    let renewed = document.get_datetime("renewed").expect("there").timestamp_millis();
    (reply, DateTime::from_millis(renewed + ttl))
}

async fn renew_all(place: &Place, session: &mut ClientSession) {
    let ttl = i64::try_from(TTL.as_millis()).expect("short");
    let asked = doc! { "$mergeObjects": ["$$this", { "asked": "$$NOW" }] };
    let renewal = doc! { "$set": {
        "renewed": "$$NOW",
        "until": { "$add": ["$$NOW", ttl] },
        "queue": { "$map": { "input": "$queue", "in": asked } },
    } };
    place.change(session, "job", renewal).await;
}

async fn until(place: &Place) -> DateTime {
    *place.lock("job").await.get_datetime("until").expect("there")
}

fn owner(entry: &Document) -> String {
    entry.get_str("owner").expect("a text").to_owned()
}

/// Makes a claim of another owner for the same lock.
fn theirs(claim: &Claim) -> Claim {
    super::tools::claim(claim.name.as_str(), TTL)
}
