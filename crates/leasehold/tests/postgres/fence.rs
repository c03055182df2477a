//! The check of a token in the transaction that it protects.

use leasehold::Token;
use leasehold::storage::postgres::{Config, Fence};
use leasehold::storage::{AcquireReply, Owner, ReleaseReply, RenewReply, Storage};

use crate::tools::*;

/// Returns the statement for `psql`, with the parameters in it.
fn check(url: &str, lock: &str, token: Token) -> String {
    let fence = Fence::new(&Config::new(url).expect("valid"));
    let token = format!("{}", token.get());
    fence
        .sql()
        .replace("$1", &format!("'{}'", fence.space()))
        .replace("$2", &format!("'{lock}'"))
        .replace("$3", &token)
}

#[test]
fn a_pinned_lock_is_renewed_and_granted_to_no_other_owner() {
    run(async {
        let url = own(&with(&common().url(), "prefix=shop:"));
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let check = check(&url, "job", token);
        assert_eq!(sql(common(), &check), "1");
        let open = common().transaction(&check).expect("pinned");
        assert!(
            matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })),
            "a pin stops no renewal"
        );
        // The holder is paused for longer than its lease, with its transaction open.
        sql(common(), &format!("update {} set expires_at = clock_timestamp()", table_of(&url)));
        let theirs = claim("job").wait(true);
        for _ in 0..10 {
            let answer = within(soon(), acquire(&other, &theirs)).await;
            assert!(!matches!(answer, Ok(AcquireReply::Granted { .. })), "granted beside the transaction");
        }
        assert!(storage.inspect(&mine.name).await.expect("answered").is_empty(), "its lease is over");
        open.commit().expect("no other owner came between");
        let next = take_in_the_end(&other, &theirs).await;
        assert!(next > token);
        // A check fails from now on.
        assert_eq!(sql(common(), &check), "");
    });
}

#[test]
fn a_transaction_that_still_sees_the_earlier_lease_cannot_pin_it() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let check = check(&url, "job", token);
        // A transaction that has taken its snapshot, and goes on when the gate opens.
        let number = Owner::random().to_bytes()[..8].try_into().map(i64::from_be_bytes).expect("eight bytes");
        let gate = common().transaction(&format!("select pg_advisory_xact_lock({number})")).expect("closed");
        let late = std::thread::spawn(move || {
            common().sql(&format!(
                "begin isolation level repeatable read; select count(*) from pg_class; \
                 select pg_advisory_xact_lock({number}); {check}; commit"
            ))
        });
        let arrived = format!(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted \
             and (classid::bigint << 32) | objid::bigint = {number}"
        );
        until_sql(common(), &arrived, "1");
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        assert!(take(&other, &claim("job")).await > token);
        gate.commit().expect("opened");
        match late.join().expect("no panic") {
            Ok(pinned) => panic!("pinned beside the new holder: {pinned}"),
            Err(error) => assert!(error.to_string().contains("could not serialize"), "{error}"),
        }
    });
}

#[test]
fn a_pin_outlasts_the_release() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let open = common().transaction(&check(&url, "job", token)).expect("pinned");
        assert_eq!(within(soon(), release(&storage, &mine)).await.expect("answered"), ReleaseReply::Released);
        let theirs = claim("job");
        for _ in 0..10 {
            is_held(&other, &theirs).await;
        }
        open.commit().expect("no other owner came between");
        assert!(take(&other, &theirs).await > token);
    });
}

#[test]
fn a_stale_token_an_ended_lease_and_another_prefix_give_no_row() {
    run(async {
        let url = own(&with(&common().url(), "prefix=shop:"));
        let storage = bare(&url).await;
        let (first, second) = (claim("job"), claim("job"));
        let old = take(&storage, &first).await;
        assert_eq!(sql(common(), &check(&url, "job", old)), "1");
        release(&storage, &first).await.expect("answered");
        assert_eq!(sql(common(), &check(&url, "job", old)), "", "released");
        let new = take(&storage, &second).await;
        assert_eq!(sql(common(), &check(&url, "job", old)), "", "of another owner");
        assert_eq!(sql(common(), &check(&url, "job", new)), "1");
        assert_eq!(sql(common(), &check(&url.replace("shop:", "shop"), "job", new)), "");
        assert_eq!(sql(common(), &check(&url, "jo", new)), "");
        // The lease has ended.
        sql(common(), &format!("update {} set expires_at = clock_timestamp()", table_of(&url)));
        assert_eq!(sql(common(), &check(&url, "job", new)), "", "its lease is over");
    });
}

#[test]
fn money_that_is_written_behind_the_fence_is_written_once() {
    run(async {
        let url = own(&common().url());
        let account = table();
        sql(common(), &format!("create table {account} (cents bigint); insert into {account} values (0)"));
        let (paused, other) = (bare(&url).await, bare(&url).await);
        let mut mine = claim("account");
        mine.ttl = time(200);
        let token = take(&paused, &mine).await;
        // The holder sleeps through its lease, and another one pays.
        let theirs = claim("account");
        take_over(&other, &theirs).await;
        let new = take(&other, &theirs).await;
        for (token, written) in [(new, "100"), (token, "100")] {
            let pay = format!(
                "begin; with fence as materialized ({}) update {account} set cents = cents + 100 \
                 where exists (select from fence); commit",
                check(&url, "account", token)
            );
            sql(common(), &pay);
            assert_eq!(sql(common(), &format!("select cents from {account}")), written);
        }
    });
}
