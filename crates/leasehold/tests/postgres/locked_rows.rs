//! Rows and tables that another transaction has locked or inserted. They delay no claim of another lock.

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, ReleaseReply, Storage as _};

use crate::tools::*;

#[test]
fn a_transaction_that_has_inserted_a_row_delays_only_that_lock() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        take(&storage, &claim("first")).await;
        let insert = format!(
            "insert into {table} (space, name, kind, token, ttl_us, granted_at, expires_at) \
             select space, 'job7', kind, token, ttl_us, granted_at, expires_at from {table} where name = 'first'"
        );
        let open = common().transaction(&insert).expect("inserted");
        let before = done(common(), table, "made as (")[0];
        let claims: Vec<_> = (0..40).map(|i| claim(&format!("job{i}")).wait(true)).collect();
        for (i, answer) in within(soon(), storage.acquire(&claims)).await.into_iter().enumerate() {
            match answer {
                Ok(AcquireReply::Granted { .. }) if i != 7 => {}
                Ok(AcquireReply::Held { retry_after: Some(_), .. }) if i == 7 => {}
                other => panic!("{i}: {other:?}"),
            }
        }
        // By halves, and not one by one.
        let asked = done(common(), table, "made as (")[0] - before;
        assert!(asked <= 20, "{asked} statements");
        assert_eq!(sql(common(), &format!("select name from {table}_waiters")), "job7");
        // From then on the lock is known: in a batch with others, it is not waited for.
        let before = done(common(), table, "made as (")[0];
        let again: Vec<_> = claims[5..10].iter().chain(&[claim("new")]).cloned().collect();
        let answers = within(soon(), storage.acquire(&again)).await;
        let granted =
            answers.iter().filter(|answer| matches!(answer, Ok(AcquireReply::Granted { .. }))).count();
        assert_eq!(granted, 5, "{answers:?}");
        let asked = done(common(), table, "made as (")[0] - before;
        assert!(asked <= 2, "{asked} statements");
        drop(open);
        take_in_the_end(&storage, &claims[7]).await;
    });
}

#[test]
fn rows_that_others_lock_do_not_delay_renewals_and_releases_of_other_locks() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let claims: Vec<_> = (0..40).map(|i| claim(&format!("job{i:02}"))).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        // Two rows stay locked. A batch would wait for the first of them.
        let pin = format!("select from {table} where name in ('job00', 'job20') for update");
        let open = common().transaction(&pin).expect("locked");
        let is_pinned = |i: usize| i.is_multiple_of(20);
        let before = done(common(), table, RENEW)[0];
        for (i, answer) in within(soon(), storage.renew(&claims)).await.into_iter().enumerate() {
            assert_eq!(answer.is_err(), is_pinned(i), "{i}: {answer:?}");
        }
        assert!(done(common(), table, RENEW)[0] - before <= 3);
        for (i, answer) in within(soon(), storage.release(&claims)).await.into_iter().enumerate() {
            assert_eq!(answer.is_err(), is_pinned(i), "{i}: {answer:?}");
        }
        drop(open);
        assert_eq!(answered(async || release(&storage, &claims[0]).await).await, ReleaseReply::Released);
    });
}

#[test]
fn a_locked_table_holds_up_no_process_of_the_server_for_long() {
    run(async {
        let url = own(&with(&common().url(), "application_name=locked_out"));
        let storage = bare(&url).await;
        let lock = format!("lock table {} in access exclusive mode", table_of(&url));
        let open = common().transaction(&lock).expect("locked");
        for _ in 0..3 {
            let claims = [claim("a"), claim("b")];
            for answer in within(soon(), storage.acquire(&claims)).await {
                assert_eq!(answer.expect_err("locked").kind(), ErrorKind::Unavailable);
            }
        }
        let waiting = "select count(*) from pg_stat_activity where application_name = 'locked_out' \
             and wait_event_type = 'Lock'";
        until_sql(common(), waiting, "0");
        drop(open);
        take_in_the_end(&storage, &claim("a")).await;
    });
}
