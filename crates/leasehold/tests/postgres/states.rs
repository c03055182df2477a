//! A server, a role or a table that changes: settings, locks, passwords, dropped tables.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply};
use leasehold::{ErrorKind, Lost, Renewal};
use leasehold_testbed::Postgres;
use tokio::time::Instant;

use crate::tools::*;

/// Returns a role that may make its tables in a schema of its own, and the URL for it. The role is its
/// `application_name`, too.
fn named_role() -> (String, String) {
    let (role, url) = role(common(), &[]);
    let url = with(&url, &format!("application_name={role}"));
    (role, url)
}

#[test]
fn settings_of_a_role_do_no_harm() {
    run(async {
        for (setting, value) in [
            ("statement_timeout", "1ms"),
            ("lock_timeout", "1ms"),
            ("idle_session_timeout", "50ms"),
            ("idle_in_transaction_session_timeout", "1ms"),
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_isolation", "repeatable read"),
            ("default_transaction_deferrable", "on"),
            ("search_path", ""),
            ("search_path", "nowhere, pg_temp"),
            ("TimeZone", "Pacific/Kiritimati"),
            ("DateStyle", "German, DMY"),
            ("IntervalStyle", "sql_standard"),
            ("bytea_output", "escape"),
            ("standard_conforming_strings", "off"),
            ("client_min_messages", "debug5"),
            ("enable_indexscan", "off"),
            ("plan_cache_mode", "force_custom_plan"),
            ("synchronous_commit", "off"),
            ("work_mem", "64kB"),
            ("row_security", "off"),
            ("lo_compat_privileges", "on"),
            ("quote_all_identifiers", "on"),
            ("transform_null_equals", "on"),
            ("extra_float_digits", "-15"),
            ("jit_above_cost", "0"),
        ] {
            let what = format!("{setting}={value}");
            let (role, url) = named_role();
            if common().set_for(&role, setting, value).is_err() {
                // Some settings are for administrators only.
                continue;
            }
            let (locks, other) = (client(&url).await, client(&url).await);
            for _ in 0..3 {
                let guard = hold(&locks, "job", LONG).await;
                let waiting = waiting(other.lock("job"));
                waiters(&locks, "job", 1).await;
                guard.verify().await.unwrap_or_else(|error| panic!("{what}: {error}"));
                guard.extend(2 * LONG).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                guard.release().await.unwrap_or_else(|error| panic!("{what}: {error}"));
                let guard = within(soon(), waiting).await.expect("no panic");
                let guard = guard.unwrap_or_else(|error| panic!("{what}: {error}"));
                guard.release().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    });
}

#[test]
fn an_idle_session_timeout_ends_no_subscription() {
    run(async {
        let (role, url) = named_role();
        common().set_for(&role, "idle_session_timeout", "100ms").expect("set");
        let (_storage, mut hints) = listening(&url).await;
        // Ten times as long as a session may be idle.
        let hint = tokio::time::timeout(Duration::from_secs(1), hints.next()).await;
        assert!(hint.is_err(), "{hint:?}");
    });
}

#[test]
fn a_role_that_may_not_write_gets_that_error() {
    run(async {
        let (role, url) = named_role();
        common().set_for(&role, "default_transaction_read_only", "on").expect("set");
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
    });
}

#[test]
fn a_table_that_is_dropped_ends_holds_at_the_next_renewal_and_is_made_again_once() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (locks, other) = (client(&url).await, client(&url).await);
        let ttl = time(3_000);
        let guard = hold(&locks, "job", ttl).await;
        let made = || done(common(), table, "create table if not exists")[0];
        assert_eq!(made(), 1);
        sql(common(), &format!("drop table {table}, {table}_waiters"));
        let since = Instant::now();
        let asking = (0..50).map(|i| {
            let other = other.clone();
            async move {
                while other.lock(format!("job{i}")).try_acquire().await.is_err() {
                    // An attempt asks once, and no event tells that the table exists again.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        let asked = within(soon(), join_all(asking));
        let (lost, _) = futures_util::future::join(within(LONG, guard.lost()), asked).await;
        assert_eq!(lost, Lost::Taken);
        assert!(since.elapsed() < ttl / 3 + time(1_000), "{:?}", since.elapsed());
        assert!(made() <= 3, "{} times", made());
        let next = hold(&locks, "job", LONG).await;
        assert!(next.token() > guard.token());
        next.release().await.expect("released");
    });
}

#[test]
fn a_dropped_schema_is_reported_to_a_role_that_may_not_make_it() {
    run(async {
        let (role, url) = named_role();
        let locks = client(&url).await;
        let ttl = time(2_000);
        let guard = hold(&locks, "job", ttl).await;
        let never =
            locks.lock("unrenewed").ttl(LONG).renewal(Renewal::Never).acquire().await.expect("granted");
        let created = || {
            let part = format!("{role}\".\"leasehold");
            done(common(), &part, "create table if not exists")[0] + done(common(), &role, "create schema")[0]
        };
        sql(common(), &format!("drop schema {role} cascade"));
        let before = created();
        let error = within(LONG, async {
            loop {
                if let Err(error) = never.verify().await
                    && error.kind() == ErrorKind::Unsupported
                {
                    return error;
                }
            }
        })
        .await;
        assert!(error.to_string().contains("doctor --sql"), "{error}");
        assert_eq!(within(LONG, guard.lost()).await, Lost::Expired);
        assert!(created() - before <= 20, "{} tries", created() - before);
        // An administrator makes the schema again: then the locks work, and are free.
        sql(common(), &format!("create schema {role} authorization {role}"));
        let next = async {
            loop {
                if let Ok(guard) = locks.lock("job").acquire().await {
                    return guard;
                }
            }
        };
        assert!(within(soon(), next).await.token() > guard.token());
    });
}

#[test]
fn a_table_that_is_locked_for_a_while_ends_no_hold() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (locks, other) = (client(&url).await, client(&url).await);
        let ttl = time(2_400);
        let guard = hold(&locks, "job", ttl).await;
        // As `vacuum full` and `alter table` do.
        let lock =
            common().transaction(&format!("lock table {table} in access exclusive mode")).expect("locked");
        let asking = waiting(other.lock("other"));
        // A renewal is due meanwhile, and waits for the table.
        tokio::time::sleep(ttl / 2).await;
        assert!(guard.is_held());
        lock.commit().expect("unlocked");
        within(soon(), asking).await.expect("no panic").expect("granted").release().await.expect("released");
        guard.ensure(ttl / 2).await.expect("renewed");
        sql(common(), &format!("vacuum full {table}"));
        sql(common(), &format!("alter table {table} add column theirs text"));
        sql(common(), &format!("alter table {table}_waiters add column theirs text"));
        guard.verify().await.expect("held");
        guard.release().await.expect("released");
        is_free(&locks, "job").await;
    });
}

#[test]
fn a_holder_that_a_locked_table_keeps_from_renewing_ends_at_its_deadline() {
    run(async {
        let url = own(&common().url());
        let locks = client(&url).await;
        let ttl = time(900);
        let guard = hold(&locks, "job", ttl).await;
        let lock = common()
            .transaction(&format!("lock table {} in access exclusive mode", table_of(&url)))
            .expect("locked");
        let since = Instant::now();
        assert_eq!(within(LONG, guard.lost()).await, Lost::Expired);
        assert!(since.elapsed() < ttl + time(300), "{:?}", since.elapsed());
        lock.commit().expect("unlocked");
        is_free(&locks, "job").await;
    });
}

#[test]
fn a_password_that_is_changed_puts_holds_at_risk_and_then_ends_them() {
    let postgres = Postgres::options().password("s3cret").start().expect("a server");
    run(async {
        let app = postgres.user("app", "old").expect("made");
        sql(&postgres, "create schema app authorization app");
        let url = with(&app, "schema=app&application_name=app");
        let locks = client(&url).await;
        let mut events = locks.events();
        let guard = hold(&locks, "job", time(1_200)).await;
        postgres.set_password("app", "new").expect("changed");
        postgres.terminate_backends("app").expect("ended");
        is_at_risk(&mut events).await;
        assert!(guard.is_held());
        assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);

        postgres.set_password("app", "old").expect("changed");
        let next = async {
            loop {
                if let Ok(guard) = locks.lock("job").ttl(time(4_000)).acquire().await {
                    return guard;
                }
            }
        };
        let guard = within(soon(), next).await;
        postgres.set_password("app", "new").expect("changed");
        postgres.terminate_backends("app").expect("ended");
        is_at_risk(&mut events).await;
        // The old password is valid again before the lease ends.
        postgres.set_password("app", "old").expect("changed");
        let renewed = async { while guard.ensure(time(3_000)).await.is_err() {} };
        within(soon(), renewed).await;
        guard.release().await.expect("released");
    });
}

#[test]
fn a_password_file_is_read_again_for_every_connection() {
    let postgres = Postgres::options().password("s3cret").start().expect("a server");
    run(async {
        let directory = tempfile::tempdir().expect("a directory");
        postgres.user("app", "old").expect("made");
        sql(&postgres, "create schema app authorization app");
        let line = |password: &str| format!("127.0.0.1:{}:*:app:{password}\n", postgres.port());
        let file = private(&directory, "passfile", line("old"));
        let url = postgres.url_as("app", "old").replace("app:old@", "app@");
        let url = with(&url, &format!("schema=app&application_name=app&passfile={}", file.display()));
        let locks = client(&url).await;
        let guard = hold(&locks, "job", time(4_000)).await;
        postgres.set_password("app", "new").expect("changed");
        private(&directory, "passfile", line("new"));
        postgres.terminate_backends("app").expect("ended");
        let renewed = async { while guard.ensure(time(3_000)).await.is_err() {} };
        within(soon(), renewed).await;
        guard.release().await.expect("released");
    });
}

/// A transaction that the server rolls back is sent again, and the caller does not see it.
#[test]
fn statements_that_fail_to_serialize_are_sent_again() {
    run(async {
        let (role, url) = named_role();
        common().set_for(&role, "default_transaction_isolation", "serializable").expect("set");
        // Sessions of Leasehold are READ COMMITTED whatever the role has set. All clients use the same row.
        let workers = (0..4).map(async |_| {
            let storage = bare(&url).await;
            for _ in 0..25 {
                let mine = claim("job");
                while !matches!(
                    acquire(&storage, &mine).await.expect("answered"),
                    AcquireReply::Granted { .. }
                ) {}
                // A claim that came too late may have locked the row for a moment.
                let renewed = answered(async || renew(&storage, &mine).await).await;
                assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
                let released = answered(async || release(&storage, &mine).await).await;
                assert_eq!(released, ReleaseReply::Released);
            }
        });
        within(LONG, join_all(workers)).await;
    });
}
