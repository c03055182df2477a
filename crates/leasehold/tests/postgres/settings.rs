//! Settings of a role, warnings and facts of a server, and prepared statements that it forgets.

use std::sync::Arc;

use futures_util::future::join;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage as _};
use leasehold::{ErrorKind, Tier};
use leasehold_testbed::{PgBouncer, Postgres, PostgresPair};

use crate::tools::*;

/// The settings of a role that a statement may depend on, with the worst values.
const WORST: &[(&str, &str)] = &[
    ("client_min_messages", "error"),
    ("synchronous_commit", "off"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("row_security", "off"),
    ("search_path", "nowhere, pg_temp"),
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("TimeZone", "Pacific/Kiritimati"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "on"),
    ("client_encoding", "SQL_ASCII"),
    ("lc_messages", "C"),
    ("lc_time", "C"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("check_function_bodies", "off"),
    ("quote_all_identifiers", "on"),
    ("lo_compat_privileges", "on"),
    ("enable_indexscan", "off"),
    ("enable_indexonlyscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_tidscan", "off"),
    ("enable_nestloop", "off"),
    ("enable_hashjoin", "off"),
    ("enable_material", "off"),
    ("plan_cache_mode", "force_custom_plan"),
    ("force_parallel_mode", "on"),
    ("max_parallel_workers_per_gather", "8"),
    ("parallel_setup_cost", "0"),
    ("parallel_tuple_cost", "0"),
    // With the plans that the settings before this allow, compiling takes seconds. A session of Leasehold turns it off.
    ("jit", "off"),
    ("geqo_threshold", "2"),
    ("from_collapse_limit", "1"),
    ("join_collapse_limit", "1"),
    ("constraint_exclusion", "on"),
    ("cursor_tuple_fraction", "0"),
    ("work_mem", "64kB"),
    ("hash_mem_multiplier", "1"),
    ("temp_buffers", "100"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "1s"),
    ("transaction_timeout", "30s"),
    ("commit_siblings", "0"),
    ("synchronize_seqscans", "off"),
    ("default_statistics_target", "1"),
    ("application_name", "theirs"),
];

#[test]
fn a_role_with_the_worst_settings_is_served_directly_and_through_a_pooler() {
    run(async {
        let (role, direct) = role(common(), WORST);
        for administrators in [("session_replication_role", "replica"), ("log_statement", "all")] {
            common().set_for(&role, administrators.0, administrators.1).expect("set");
        }
        let pooler = PgBouncer::start(common()).expect("a pooler");
        let pooled = with(&pooler.user(&role, "pw").expect("let in"), &format!("schema={role}"));
        for url in [direct, pooled] {
            let (locks, other) = (client(&url).await, client(&url).await);
            let mut last = None;
            for _ in 0..5 {
                let guard = hold(&locks, "job", LONG).await;
                assert!(last.is_none_or(|last| guard.token() > last));
                let mut waiting = waiting(other.lock("job"));
                tokio::select! {
                    () = waiters(&locks, "job", 1) => {}
                    outcome = &mut waiting => panic!("it does not wait: {outcome:?}"),
                }
                guard.verify().await.expect("held");
                guard.extend(2 * LONG).await.expect("held");
                let holder = other.inspect("job").await.expect("answered").pop().expect("held");
                assert!(holder.remaining > LONG && holder.remaining <= 2 * LONG, "{holder:?}");
                assert_eq!(locks.list("jo").await.expect("answered").len(), 1);
                guard.release().await.expect("released");
                let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
                last = Some(guard.token());
                guard.release().await.expect("released");
            }
        }
    });
}

#[test]
fn a_commit_that_no_standby_has_is_no_grant_even_if_its_role_suppresses_warnings() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    let primary = &pair.primary;
    run(async {
        let (role, direct) =
            role(primary, &[("client_min_messages", "error"), ("synchronous_commit", "local")]);
        let pooler = PgBouncer::start(primary).expect("a pooler");
        let pooled = with(&pooler.user(&role, "pw").expect("let in"), &format!("schema={role}"));
        for (i, url) in [direct, pooled].into_iter().enumerate() {
            let storage = Arc::new(bare(&url).await);
            // The first round inserts the row, the second one updates it.
            for round in 0..2 {
                let mine = claim(&format!("job{i}"));
                pair.stop_following().expect("stopped");
                let asking = tokio::spawn({
                    let (storage, mine) = (Arc::clone(&storage), mine.clone());
                    async move { acquire(&*storage, &mine).await }
                });
                let cancel =
                    "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
                until_sql(primary, cancel, "1");
                let answer = within(soon(), asking).await.expect("no panic");
                let error = answer.expect_err("no standby knows of it");
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains("standby"), "{round} {error}");
                pair.follow_again().expect("it follows");
                within(soon(), take(&*storage, &mine)).await;
                release(&*storage, &mine).await.expect("answered");
            }
        }
    });
}

#[test]
fn other_warnings_do_no_harm_whatever_their_text() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        for postgres in [&pair.primary, common()] {
            let url = own(&postgres.url());
            let storage = bare(&url).await;
            let table = table_of(&url);
            // The server's own text about a commit, and one about transaction ids.
            let warn = "raise warning 'canceling wait for synchronous replication due to user request'; \
                raise warning using errcode = '01000', message = 'database must be vacuumed'; return null;";
            let when = format!("after insert or update on {table} for each statement");
            sql(postgres, &trigger(table, &when, warn));
            for _ in 0..3 {
                let mine = claim("job");
                take(&storage, &mine).await;
                assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
                assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            }
        }
    });
}

#[test]
fn prepared_statements_that_the_server_has_forgotten_are_sent_again() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let (held, mine) = (claim("held"), claim("mine"));
        take(&storage, &held).await;
        renew(&storage, &held).await.expect("answered");
        take(&storage, &mine).await;
        // As a pooler does that was not recognized.
        let forget =
            "if tg_op = 'UPDATE' and old.name = 'last' then execute 'deallocate all'; end if; return new;";
        let when = format!("before update on {table} for each row");
        let last = claim("last");
        take(&storage, &last).await;
        sql(common(), &trigger(table, &when, forget));
        renew(&storage, &last).await.expect("answered");
        // Both are in flight before the first is answered.
        let (renewed, granted) = join(renew(&storage, &held), acquire(&storage, &mine)).await;
        assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        assert!(matches!(granted, Ok(AcquireReply::Granted { .. })), "{granted:?}");
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_server_that_refuses_optional_facts_is_used_and_the_facts_are_reported_as_unknown() {
    run(async {
        for refuse in [
            "revoke execute on function pg_control_system() from public",
            "revoke execute on function pg_control_checkpoint() from public",
            "revoke execute on function pg_postmaster_start_time() from public",
            "revoke select on pg_stat_replication from public",
            "revoke select on pg_replication_slots from public",
            "alter function pg_control_system() rename to theirs; create function pg_catalog.pg_control_system(out pg_control_version integer, out catalog_version_no integer, \
             out system_identifier bigint, out pg_control_last_modified timestamptz) language plpgsql as \
             $$ begin raise 'not here'; end $$",
        ] {
            let database = table();
            common().database(&database).expect("made");
            let role = table();
            let url =
                common().user(&role, "pw").expect("made").replace("/leasehold", &format!("/{database}"));
            common().sql_in(&database, &format!("create schema {role} authorization {role}")).expect("made");
            common().sql_in(&database, refuse).unwrap_or_else(|error| panic!("{refuse}: {error}"));
            let url = with(&url, &format!("schema={role}"));
            let (storage, mut hints) = listening(&url).await;
            let (mine, next) = (claim("job"), claim("job").wait(true));
            take(&storage, &mine).await;
            is_held(&storage, &next).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            let hint = within(soon(), futures_util::StreamExt::next(&mut hints)).await;
            assert_eq!(hint, Some(leasehold::storage::Hint::Owner(next.owner)), "{refuse}");
            take(&storage, &next).await;
            let found = storage.findings().await.expect("answered");
            let unknown: Vec<_> = found.iter().filter(|finding| finding.about == "unknown").collect();
            assert!(unknown.len() == 1 && !unknown[0].is_good(), "{refuse}: {found:?}");
            let restarts = !refuse.contains("select");
            let tier = storage.guarantees().tier;
            assert_eq!(tier == Tier::RestartSafe, restarts, "{refuse}: {tier}");
        }
    });
}
