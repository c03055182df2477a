//! What locks cost the replication: entries of the oplog, and their bytes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, Storage};
use leasehold_faultproxy::{Flow, To, Which};

use crate::tools::*;

/// Returns the sizes of the entries since the last call.
struct Oplog<'a> {
    database: &'a str,
    seen: usize,
}

impl Oplog<'_> {
    fn more(&mut self) -> Vec<i32> {
        let all = oplog(common(), self.database);
        let more = all[self.seen..].to_vec();
        self.seen = all.len();
        more
    }

    /// Checks that there is one more entry, of at most so many bytes.
    #[track_caller]
    fn one(&mut self, what: &str, most: i32) {
        let more = self.more();
        assert!(more.len() == 1 && more[0] <= most, "{what}: {more:?} bytes");
    }

    #[track_caller]
    fn none(&mut self, what: &str) {
        assert_eq!(self.more(), [], "{what}");
    }
}

#[test]
fn each_call_writes_one_small_entry_and_a_refusal_none() {
    run(async {
        let url = own(&common().url());
        let ((storage, mut hints), other) = (listening(&url).await, bare(&url).await);
        let mut log = Oplog { database: database_of(&url), seen: 0 };
        let held = claim("job");
        let token = take(&other, &held).await;
        log.one("the first grant", 350);
        renew(&other, &held).await.expect("answered");
        log.one("a renewal", 350);
        for _ in 0..10 {
            is_held(&storage, &claim("job")).await;
        }
        log.none("refused claims");
        let mine = claim("job").wait(true);
        is_held(&storage, &mine).await;
        log.one("a waiter's entry", 600);
        is_held(&storage, &mine).await;
        log.one("a waiter's heartbeat", 600);
        is_held(&storage, &claim("job")).await;
        log.none("a refused claim beside a waiter");
        assert_eq!(renew(&storage, &mine).await.expect("answered"), leasehold::storage::RenewReply::NotHeld);
        log.none("a renewal of what is not held");
        assert_eq!(release(&storage, &claim("job")).await.expect("answered"), ReleaseReply::NotHeld);
        log.none("a release of what is not held");
        release(&other, &held).await.expect("released");
        log.one("a handover", 600);
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(mine.owner)));
        assert!(take(&storage, &mine).await > token);
        log.none("the new owner learns its token from the change stream");
        release(&storage, &mine).await.expect("released");
        log.one("a release", 450);
        take(&storage, &mine).await;
        log.one("a grant", 450);
    });
}

#[test]
fn a_refused_batch_writes_nothing() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let claims = || (0..20).map(|i| claim(&format!("job{i}"))).collect::<Vec<_>>();
        storage.acquire(&claims()).await;
        let mut log = Oplog { database: database_of(&url), seen: 0 };
        assert!(log.more().len() >= 20);
        for answer in other.acquire(&claims()).await {
            assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
        }
        for answer in other.renew(&claims()).await {
            assert!(matches!(answer, Ok(leasehold::storage::RenewReply::NotHeld)), "{answer:?}");
        }
        for answer in other.release(&claims()).await {
            assert!(matches!(answer, Ok(ReleaseReply::NotHeld)), "{answer:?}");
        }
        log.none("refusals");
    });
}

#[test]
fn a_late_claim_writes_nothing() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let storage = bare(&through).await;
        take(&storage, &claim("other")).await;
        let mut log = Oplog { database: database_of(&direct), seen: 0 };
        assert_eq!(log.more().len(), 1);
        proxy.faults().flow(Which::All, To::Server, Flow::delay(Duration::from_millis(200)));
        let late = |lock: &str| claim(lock).patience(Duration::from_millis(20)).wait(true);
        let mut answers = storage.acquire(&[late("job"), late("other"), late("third")]).await;
        answers.push(acquire(&storage, &late("job")).await);
        for answer in answers {
            let error = answer.expect_err("too late");
            assert_eq!(error.kind(), leasehold::ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("too late"), "{error}");
        }
        // Not even the document of a lock that was never held.
        log.none("late claims");
        assert_eq!(locks_of(common(), database_of(&direct)).len(), 1);
    });
}

#[test]
fn a_handover_writes_little_however_many_wait() {
    run(async {
        let url = own(&common().url());
        let database = database_of(&url);
        let (storage, mut hints) = listening(&url).await;
        let held = claim("job");
        take(&storage, &held).await;
        let claims: Vec<_> = (0..300).map(|_| claim("job").wait(true)).collect();
        let (first, rest) = claims.split_at(20);
        for waiter in first {
            is_held(&storage, waiter).await;
        }
        for some in rest.chunks(50) {
            join_all(some.iter().map(|waiter| is_held(&storage, waiter))).await;
        }
        let mut log = Oplog { database, seen: 0 };
        log.more();
        is_held(&storage, &claims[150]).await;
        log.one("a heartbeat among 300", 600);
        let mut last = held;
        let mut sizes = Vec::new();
        for next in claims.iter().take(20) {
            // A waiter that has not asked for three seconds is told that it is its turn instead.
            is_held(&storage, next).await;
            log.more();
            release(&storage, &last).await.expect("released");
            assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(next.owner)));
            sizes.extend(log.more());
            last = next.clone();
        }
        assert!(sizes.len() == 20 && sizes.iter().all(|size| *size <= 700), "{sizes:?}");
        // An entry in the middle that leaves is only marked.
        release(&storage, &claims[200]).await.expect("answered");
        log.one("a waiter that leaves among 300", 700);
    });
}
