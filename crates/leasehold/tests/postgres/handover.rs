//! Locks that a release hands over to the first waiter: a grant without a claim at that moment.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Claim, Hint, ReleaseReply, RenewReply, Storage, WAITER_TTL};
use leasehold::{Guard, Lock, Renewal, Result};
use leasehold_faultproxy::{Flow, Trap, Which};
use leasehold_testbed::{Postgres, PostgresPair, Transaction};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::tools::*;

/// A lock that one storage holds, and another one, which listens, waits for.
struct Waited {
    table: String,
    holder: Bare,
    held: Claim,
    waiter: Bare,
    hints: Hints,
    mine: Claim,
}

async fn waited(ttl: Duration) -> Waited {
    let url = own(&common().url());
    let (holder, (waiter, hints)) = (bare(&url).await, listening(&url).await);
    let (held, mut mine) = (claim("job"), claim("job").wait(true));
    mine.ttl = ttl;
    take(&holder, &held).await;
    is_held(&waiter, &mine).await;
    // Now the holder's client knows of waiters.
    is_held(&holder, &claim("job")).await;
    Waited { table: table_of(&url).to_owned(), holder, held, waiter, hints, mine }
}

/// Waits for the only lock of a table, in a task of its own. Returns once the waiter can be notified.
fn waiting_and_listening(table: &str, lock: Lock) -> JoinHandle<Result<Guard>> {
    let waiting = waiting(lock);
    until_sql(common(), &format!("select count(client) from {table}_waiters"), "1");
    waiting
}

impl Waited {
    async fn release(&mut self) {
        let released = release(&self.holder, &self.held).await.expect("answered");
        assert_eq!(released, ReleaseReply::Released);
        assert_eq!(within(LONG, self.hints.next()).await, Some(Hint::Owner(self.mine.owner)));
    }

    /// Does what a release does, in a transaction that is not committed yet.
    fn handover(&self) -> Transaction {
        let (table, owner) = (&self.table, self.mine.owner);
        let handover = format!(
            "with successor as (delete from {table}_waiters where owner = '{owner}' returning client, until) \
             update {table} set owner = '{owner}', client = successor.client, expires_at = until, token = token + 1 from successor"
        );
        common().transaction(&handover).expect("begun")
    }

    fn asked(&self) -> u64 {
        done(common(), &self.table, ACQUIRE)[0]
    }
}

#[test]
fn a_release_grants_the_lock_to_the_first_waiter() {
    run(async {
        let mut waited = waited(LONG).await;
        let before = sql(common(), &format!("select token from {}", waited.table)).parse().expect("a token");
        waited.release().await;
        let holder = waited.holder.inspect(&waited.mine.name).await.expect("answered").pop().expect("held");
        assert_eq!(holder.owner, waited.mine.owner);
        assert!(holder.token.get() > before && holder.waiters == Some(0), "{holder:?}");
        assert!(holder.remaining <= WAITER_TTL, "{holder:?}");
        is_held(&waited.holder, &claim("job")).await;
        let asked = waited.asked();
        match acquire(&waited.waiter, &waited.mine).await.expect("answered") {
            AcquireReply::Granted { token, ttl } => {
                assert_eq!(token, holder.token);
                // Never longer than the lease at the server.
                let left = waited
                    .holder
                    .inspect(&waited.mine.name)
                    .await
                    .expect("answered")
                    .pop()
                    .expect("held")
                    .remaining;
                assert!(ttl <= WAITER_TTL && ttl > WAITER_TTL / 4 && left < holder.remaining, "{ttl:?}");
            }
            held => panic!("{held:?}"),
        }
        assert_eq!(waited.asked(), asked, "it knows of the handover already");
        // A second claim is sent to the server.
        match acquire(&waited.waiter, &waited.mine).await.expect("answered") {
            AcquireReply::Granted { token, ttl } => assert_eq!((token, ttl), (holder.token, waited.mine.ttl)),
            held => panic!("{held:?}"),
        }
        assert!(waited.asked() > asked);
        assert_eq!(release(&waited.waiter, &waited.mine).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_lease_that_was_handed_over_is_soon_as_long_as_it_was_asked_for() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (a, b) = (client(&url).await, client(&url).await);
        for renewal in [Renewal::Automatic, Renewal::Never] {
            let guard = hold(&a, "job", LONG).await;
            let waiting = waiting_and_listening(table, b.lock("job").ttl(LONG).renewal(renewal));
            let asked = done(common(), table, ACQUIRE);
            guard.release().await.expect("released");
            let guard = within(LONG, waiting).await.expect("no panic").expect("granted");
            assert_eq!(done(common(), table, ACQUIRE), asked, "it was handed over");
            let token = guard.token();
            let longer = async {
                loop {
                    let holder = a.inspect("job").await.expect("answered").pop().expect("held");
                    assert_eq!(holder.token, token);
                    if holder.remaining > WAITER_TTL && guard.remaining() > WAITER_TTL {
                        break;
                    }
                }
            };
            within(soon(), longer).await;
            guard.release().await.expect("released");
        }
    });
}

#[test]
fn a_lease_that_was_handed_over_outlives_its_process_by_all_that_was_asked_for() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        let guard = hold(&a, "job", LONG).await;
        let waiting = waiting_and_listening(table_of(&url), b.lock("job").ttl(LONG));
        guard.release().await.expect("released");
        within(LONG, waiting).await.expect("no panic").expect("granted").forget();
        b.close().await.expect("closed");
        let holder = a.inspect("job").await.expect("answered").pop().expect("held");
        assert!(holder.remaining > WAITER_TTL, "{holder:?}");
    });
}

#[test]
fn a_waiter_that_died_keeps_the_lock_no_longer_than_its_place() {
    run(async {
        let since = Instant::now();
        let mut waited = waited(LONG).await;
        waited.release().await;
        drop((waited.waiter, waited.hints));
        let next = claim("job").wait(true);
        take_over(&waited.holder, &next).await;
        let took = since.elapsed();
        assert!(took < WAITER_TTL + time(1_500), "{took:?}");
    });
}

#[test]
fn a_waiter_that_leaves_during_a_handover_gives_the_lock_back() {
    run(async {
        let waited = waited(LONG).await;
        let handover = waited.handover();
        let answer = within(soon(), release(&waited.waiter, &waited.mine)).await;
        assert!(answer.as_ref().is_err_and(|e| e.kind() == leasehold::ErrorKind::Unavailable), "{answer:?}");
        handover.commit().expect("handed over");
        assert_eq!(release(&waited.waiter, &waited.mine).await.expect("answered"), ReleaseReply::Released);
        take(&waited.holder, &claim("job")).await;
    });
}

#[test]
fn a_waiter_that_asks_during_a_handover_does_not_wait_and_gets_the_lock() {
    run(async {
        let waited = waited(LONG).await;
        let handover = waited.handover();
        let answer = within(time(1_000), acquire(&waited.waiter, &waited.mine)).await.expect("answered");
        assert!(
            matches!(answer, AcquireReply::Held { retry_after: Some(after), .. } if after < time(500)),
            "{answer:?}"
        );
        handover.commit().expect("handed over");
        take(&waited.waiter, &waited.mine).await;
        // Its entry is not left behind its own lease.
        assert_eq!(sql(common(), &format!("select count(*) from {}_waiters", waited.table)), "0");
    });
}

#[test]
fn a_release_whose_entry_is_locked_is_a_release() {
    run(async {
        let waited = waited(LONG).await;
        let (table, owner) = (&waited.table, waited.held.owner);
        // As a claim that was executed late leaves it.
        sql(
            common(),
            &format!(
                "insert into {table}_waiters (space, name, owner, since, until) \
                 select space, name, '{owner}', clock_timestamp(), until from {table}_waiters"
            ),
        );
        let lock = common()
            .transaction(&format!("select 1 from {table}_waiters where owner = '{owner}' for update"))
            .expect("locked");
        assert_eq!(release(&waited.holder, &waited.held).await.expect("answered"), ReleaseReply::Released);
        lock.commit().expect("unlocked");
        take(&waited.waiter, &waited.mine).await;
    });
}

#[test]
fn a_handover_that_no_standby_has_is_not_granted() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let url = own(&pair.primary.url());
        let (holder, (waiter, mut hints)) = (bare(&url).await, listening(&url).await);
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        is_held(&holder, &claim("job")).await;
        pair.stop_following().expect("stopped");
        let cancel =
            "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
        let releasing = tokio::spawn(async move {
            let answer = release(&holder, &held).await;
            (holder, held, answer)
        });
        until_sql(&pair.primary, cancel, "1");
        let (holder, held, answer) = within(LONG, releasing).await.expect("no panic");
        assert!(answer.is_err(), "{answer:?}");
        // The server has committed it all the same, and the next release notifies the waiter.
        let owner = format!("select owner = '{}' from {}", mine.owner, table_of(&url));
        assert_eq!(sql(&pair.primary, &owner), "t");
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::NotHeld);
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        let granted = tokio::time::timeout(time(500), acquire(&waiter, &mine)).await;
        assert!(!matches!(granted, Ok(Ok(AcquireReply::Granted { .. }))), "{granted:?}");
        pair.follow_again().expect("it follows");
        let granted =
            async { while !matches!(acquire(&waiter, &mine).await, Ok(AcquireReply::Granted { .. })) {} };
        within(soon(), granted).await;
    });
}

#[test]
fn a_lease_that_was_handed_over_outlives_a_renewal_that_is_not_answered() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let connecting = proxy.faults().arm(Trap::on_request("pg_is_in_recovery"));
        let (a, b) = (client(&direct).await, client(&through).await);
        let first = within(LONG, connecting.passed()).await.expect("connected");
        let guard = hold(&a, "job", LONG).await;
        let waiting = waiting_and_listening(table_of(&direct), b.lock("job").ttl(LONG));
        proxy.faults().flow_both(Which::One(first), Flow::BlackHole);
        guard.release().await.expect("released");
        let guard = within(LONG, waiting).await.expect("no panic").expect("granted");
        let since = Instant::now();
        let whole = async {
            while guard.is_held() && guard.remaining() <= WAITER_TTL {
                tokio::task::yield_now().await;
            }
        };
        within(LONG, whole).await;
        // There was time for another attempt.
        let took = since.elapsed();
        assert!(guard.is_held() && took < WAITER_TTL / 2 + time(500), "{took:?}");
    });
}

#[test]
fn a_waiter_whose_entry_is_locked_is_notified_to_ask() {
    run(async {
        let mut waited = waited(LONG).await;
        let (table, owner) = (&waited.table, waited.mine.owner);
        let lock = common()
            .transaction(&format!("select 1 from {table}_waiters where owner = '{owner}' for update"))
            .expect("locked");
        // Its entry is locked, so the lock is only released, and the waiter is notified.
        waited.release().await;
        assert_eq!(sql(common(), &format!("select count(owner) from {}", waited.table)), "0");
        is_held(&waited.holder, &claim("job")).await;
        // Its next claim does not wait for that transaction.
        let asked = waited.asked();
        is_held(&waited.waiter, &waited.mine).await;
        assert!(waited.asked() > asked);
        lock.commit().expect("unlocked");
        take(&waited.waiter, &waited.mine).await;
    });
}

#[test]
fn a_waiter_with_little_time_left_is_notified_to_ask() {
    run(async {
        // Its last claim is long ago, or its TTL is short.
        for (ttl, ago) in [(LONG, 4_000), (Duration::from_millis(1_900), 0)] {
            let mut waited = waited(ttl).await;
            let earlier = format!("update {}_waiters set until = until - interval '{ago} ms'", waited.table);
            sql(common(), &earlier);
            waited.release().await;
            assert_eq!(sql(common(), &format!("select count(owner) from {}", waited.table)), "0");
            match acquire(&waited.waiter, &waited.mine).await.expect("answered") {
                AcquireReply::Granted { ttl, .. } => assert_eq!(ttl, waited.mine.ttl),
                held => panic!("{held:?}"),
            }
        }
    });
}

#[test]
fn a_lock_that_a_transaction_pins_is_released_and_not_handed_over() {
    run(async {
        let mut waited = waited(LONG).await;
        let pin = format!("select 1 from {} where name = 'job' for key share", waited.table);
        let pin = common().transaction(&pin).expect("pinned");
        waited.release().await;
        assert_eq!(sql(common(), &format!("select count(owner) from {}", waited.table)), "0");
        is_held(&waited.waiter, &waited.mine).await;
        pin.commit().expect("ended");
        let granted = async {
            while !matches!(acquire(&waited.waiter, &waited.mine).await, Ok(AcquireReply::Granted { .. })) {}
        };
        within(soon(), granted).await;
        assert!(matches!(renew(&waited.waiter, &waited.mine).await, Ok(RenewReply::Renewed { .. })));
    });
}

#[test]
fn a_waiter_in_the_client_of_the_holder_needs_no_notification() {
    run(async {
        let url = own(&common().url());
        let locks = client(&url).await;
        let mut holding = hold(&locks, "job", LONG).await;
        let rounds = 50;
        for _ in 0..rounds {
            let waiting = waiting(locks.lock("job"));
            until_sql(common(), &format!("select count(*) from {}_waiters", table_of(&url)), "1");
            holding.release().await.expect("released");
            holding = within(LONG, waiting).await.expect("no panic").expect("granted");
        }
        holding.release().await.expect("released");
        let [_, notified, _] = done(common(), table_of(&url), PASS);
        assert!(notified <= 1, "{notified} notifications");
    });
}
