//! What others own: settings, warnings, triggers, encodings, open transactions, rights. Each may cost its own claim.

use std::sync::Arc;

use futures_util::future::{join, join_all};
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage as _};
use leasehold::{ErrorKind, Tier};
use leasehold_faultproxy::{Trap, Which};
use leasehold_testbed::{PgBouncer, Postgres, PostgresPair};

use crate::tools::*;

/// Makes a role with a schema of its own that has these settings.
fn role(postgres: &Postgres, settings: &[(&str, &str)]) -> (String, String) {
    let role = table();
    let url = postgres.user(&role, "pw").expect("made");
    sql(postgres, &format!("create schema {role} authorization {role}"));
    for (setting, value) in settings {
        if let Err(error) = postgres.set_for(&role, setting, value) {
            // Of another version.
            assert!(error.to_string().contains("unrecognized configuration parameter"), "{error}");
        }
    }
    (role.clone(), with(&url, &format!("schema={role}")))
}

/// A function for triggers, and what makes a trigger of a table call it.
fn trigger(table: &str, when: &str, body: &str) -> String {
    format!(
        "create function {table}fires() returns trigger language plpgsql as $$ begin {body} end $$; \
         create trigger fires {when} execute function {table}fires()"
    )
}

/// Everything that a role may set and a statement may depend on, at its worst.
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
    // With the plans that the settings before this leave, to compile one takes seconds; a session of ours switches it off.
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
fn a_role_whose_settings_are_the_worst_is_served_directly_and_through_a_pooler() {
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
fn a_commit_that_no_standby_has_is_no_grant_though_its_role_wants_no_warnings() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    let primary = &pair.primary;
    run(async {
        let (role, direct) =
            role(primary, &[("client_min_messages", "error"), ("synchronous_commit", "local")]);
        let pooler = PgBouncer::start(primary).expect("a pooler");
        let pooled = with(&pooler.user(&role, "pw").expect("let in"), &format!("schema={role}"));
        for (i, url) in [direct, pooled].into_iter().enumerate() {
            let storage = Arc::new(bare(&url).await);
            // The first of them makes its row, the others grant what was held before.
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
fn other_warnings_do_no_harm_whatever_they_say() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        for postgres in [&pair.primary, common()] {
            let url = own(&postgres.url());
            let storage = bare(&url).await;
            let table = table_of(&url);
            // As the server says of a commit, in its words; and as of transaction ids that run out.
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

/// Claims of which some are not to be had: those are told so, and the others are granted, renewed and released.
async fn only_the_bad_are_refused(storage: &Bare, claims: &[Claim], is_bad: impl Fn(&Claim) -> bool) {
    for (claim, answer) in claims.iter().zip(within(soon(), storage.acquire(claims)).await) {
        match (is_bad(claim), answer) {
            (false, Ok(AcquireReply::Granted { .. })) | (true, Ok(AcquireReply::Held { .. })) => {}
            (true, Err(error)) => {
                let passes = ["54000", "55000", "XX000"].iter().any(|code| error.to_string().contains(code));
                assert_eq!(error.kind() == ErrorKind::Unavailable, passes, "{error}");
            }
            (_, other) => panic!("{:?}: {other:?}", claim.name),
        }
    }
    for (claim, answer) in claims.iter().zip(within(soon(), storage.renew(claims)).await) {
        let wanted = if is_bad(claim) { RenewReply::NotHeld } else { RenewReply::Renewed { ttl: claim.ttl } };
        assert_eq!(answer.expect("answered"), wanted, "{:?}", claim.name);
    }
    for (claim, answer) in claims.iter().zip(within(soon(), storage.release(claims)).await) {
        let wanted = if is_bad(claim) { ReleaseReply::NotHeld } else { ReleaseReply::Released };
        assert_eq!(answer.expect("answered"), wanted, "{:?}", claim.name);
    }
}

#[test]
fn a_name_or_label_that_the_database_cannot_hold_costs_its_own_claim_only() {
    run(async {
        for (encoding, fine, bad) in
            [("LATIN1", "\u{ff}", "日本"), ("EUC_JP", "日本", "🔒"), ("UTF8", "🔒", "a\0b")]
        {
            let database = table();
            let make = format!(
                "create database {database} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
            );
            sql(common(), &make);
            let url = common().url_of(&database);
            let storage = bare(&url).await;
            // A name with a NUL is none; a label may have one.
            let names = [bad, "bad"].map(|lock| if lock.contains('\0') { "nul" } else { lock });
            let claims: Vec<_> = (0..78)
                .map(|i| claim(&format!("{fine}{i}")).label(fine))
                .chain(names.map(|lock| claim(lock).label(bad)))
                .collect();
            // Once with rows that are to be made, and once with rows that are there.
            for _ in 0..2 {
                only_the_bad_are_refused(&storage, &claims, |claim| claim.label.as_deref() == Some(bad))
                    .await;
            }
            let held = claim(&format!("{fine}1"));
            take(&storage, &held).await;
            // Nor do they keep others from being observed, or listed.
            if let Ok(bad) = leasehold::storage::Name::new(bad) {
                assert_eq!(storage.inspect(&bad).await.expect("answered"), []);
                assert!(storage.list(bad.as_str(), None, 10).await.expect("answered").is_empty());
            }
            assert_eq!(storage.list(fine, None, 10).await.expect("answered").len(), 1, "{encoding}");
            assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 1);
            let locks = client(&url).await;
            let mut changes = locks.observe(format!("{fine}1")).expect("a name");
            let mut never = locks.observe("日本🔒").expect("a name");
            within(soon(), changes.next()).await.expect("it is there");
            let unheard = tokio::spawn(async move { never.next().await });
            assert_eq!(release(&storage, &held).await.expect("answered"), ReleaseReply::Released);
            while !matches!(within(soon(), changes.next()).await, Some(leasehold::Change::Unlocked)) {}
            unheard.abort();
            // What is refused for good is owed nothing.
            let acquired = locks.lock("fine").label(bad).acquire().await;
            if let Ok(guard) = acquired {
                panic!("a label that cannot be kept: {:?}", guard.name());
            }
            let closing = tokio::time::Instant::now();
            locks.close().await.expect("closed");
            assert!(closing.elapsed() < time(1_500), "closed after {:?}", closing.elapsed());
        }
        let error = refusal(&with(&common().url_of(&latin1()), "prefix=%E6%97%A5")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

fn latin1() -> String {
    let database = table();
    let make = format!(
        "create database {database} encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
    );
    sql(common(), &make);
    database
}

#[test]
fn rows_that_are_no_text_of_ours_do_not_fail_a_list() {
    run(async {
        let database = table();
        let make = format!(
            "create database {database} encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"
        );
        sql(common(), &make);
        let storage = bare(&common().url_of(&database)).await;
        let claims: Vec<_> = (0..10).map(|i| claim(&format!("job{i}")).label("é")).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        // Two in the midst of them, and a label.
        let others = "insert into leasehold select '', name || E'\\xff', kind, owner, client, token, ttl_us, granted_at, \
             expires_at, label from leasehold where name in ('job3', 'job4'); \
             update leasehold set label = E'\\xff' where name = 'job7'";
        common().sql_in(&database, others).expect("done");
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = storage.list("", after.as_ref(), 3).await.expect("answered");
            assert!(page.len() <= 3);
            let Some(last) = page.last() else { break };
            after = Some(last.cursor());
            listed.extend(page.into_iter().map(|holder| holder.name));
        }
        assert_eq!(listed, claims.iter().map(|claim| claim.name.clone()).collect::<Vec<_>>());
        is_held(&storage, &claim("job7")).await;
    });
}

#[test]
fn a_claim_that_a_rule_of_others_refuses_costs_nobody_else_anything() {
    run(async {
        // Of the codes that a trigger may raise, some are those of a server that refuses everything.
        for kind in ["check", "P0001", "42501", "42883", "XX000", "0A000", "55000", "54000", "policy"] {
            let (role, url) = role(common(), &[]);
            let url = with(&url, "table=locks");
            let storage = bare(&url).await;
            let table = format!("{role}.locks");
            let rule = match kind {
                "check" => format!("alter table {table} add check (label <> 'bad')"),
                "policy" => format!(
                    "alter table {table} enable row level security; alter table {table} force row level security; \
                     create policy fine on {table} using (true) with check (label is distinct from 'bad')"
                ),
                code => trigger(
                    &table,
                    &format!("before insert or update on {table} for each row when (new.label = 'bad')"),
                    &format!("raise 'not that' using errcode = '{code}';"),
                ),
            };
            sql(common(), &rule);
            let claims: Vec<_> = (0..40)
                .map(|i| claim(&format!("job{i}")).label(if i % 20 == 7 { "bad" } else { "fine" }))
                .collect();
            for _ in 0..2 {
                only_the_bad_are_refused(&storage, &claims, |claim| claim.label.as_deref() == Some("bad"))
                    .await;
            }
            // Whoever releases has nothing to do with who is next.
            let other = bare(&url).await;
            let _hints = listening(&url).await;
            let (mine, next) = (claim("job"), claim("job").wait(true).label("bad"));
            take(&storage, &mine).await;
            is_held(&other, &next).await;
            sql(
                common(),
                &format!(
                    "update {table}_waiters set client = '0000000000000000', until = until - interval '1 ms'"
                ),
            );
            is_held(&storage, &claim("job").wait(true)).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{kind}");
        }
    });
}

#[test]
fn a_transaction_that_has_made_a_row_keeps_only_that_lock_from_others() {
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
        // From then on it is known: it waits for nothing in the company of others.
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
fn rows_that_others_lock_keep_no_renewal_and_no_release_of_another_lock_waiting_for_long() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let claims: Vec<_> = (0..40).map(|i| claim(&format!("job{i:02}"))).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        // Two are locked for good, of which the first in line would be waited for.
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
fn a_table_that_is_locked_holds_up_no_process_of_the_server_for_long() {
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

#[test]
fn statements_that_the_server_has_forgotten_are_all_sent_again() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let (held, mine) = (claim("held"), claim("mine"));
        take(&storage, &held).await;
        renew(&storage, &held).await.expect("answered");
        take(&storage, &mine).await;
        // What a pooler does that nobody has noticed.
        let forget =
            "if tg_op = 'UPDATE' and old.name = 'last' then execute 'deallocate all'; end if; return new;";
        let when = format!("before update on {table} for each row");
        let last = claim("last");
        take(&storage, &last).await;
        sql(common(), &trigger(table, &when, forget));
        renew(&storage, &last).await.expect("answered");
        // Both are on their way before the first is answered.
        let (renewed, granted) = join(renew(&storage, &held), acquire(&storage, &mine)).await;
        assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        assert!(matches!(granted, Ok(AcquireReply::Granted { .. })), "{granted:?}");
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_server_that_tells_no_details_is_locked_in_and_what_is_unknown_is_said() {
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

#[test]
fn a_release_that_has_found_nothing_is_followed_by_no_grant() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let application = table();
        let through = with(&through, &format!("application_name={application}"));
        let (storage, other) = (Arc::new(bare(&through).await), bare(&direct).await);
        let table = table_of(&direct);
        let first = claim("job");
        take(&other, &first).await;
        release(&other, &first).await.expect("answered");
        // A release that stops when it has looked, and before it is over.
        let wait = format!(
            "if current_query() like '%heir as materialized%' then while not exists(select from {table}gate) loop perform pg_sleep(0.01); end loop; end if; return null;"
        );
        let when = format!("after delete on {table}_waiters for each statement");
        let tables = format!("create table {table}gate (); ");
        sql(common(), &(tables + &trigger(table, &when, &wait)));
        let mine = claim("job");
        let held_back = proxy.faults().arm(Trap::on_request(marker(mine.owner)).hold());
        let asking = tokio::spawn({
            let (storage, mine) = (Arc::clone(&storage), mine.clone());
            async move { acquire(&*storage, &mine).await }
        });
        let on = within(LONG, held_back.sprung()).await.expect("it asks");
        // The caller gives up, the connection is given up, and the clean-up comes over another one.
        asking.abort();
        let _gone = asking.await;
        let releasing = tokio::spawn({
            let (storage, mine) = (Arc::clone(&storage), mine.clone());
            async move { release(&*storage, &mine).await }
        });
        let sleeping = format!(
            "select count(*) from pg_stat_activity where application_name = '{application}' and wait_event = 'PgSleep'"
        );
        until_sql(common(), &sleeping, "1");
        // Only now the claim arrives.
        proxy.faults().resume(Which::One(on));
        let claims = format!(
            "select calls > 1 from pg_stat_statements where query ~ '\"{table}\"' and query ~ 'as fenced' and query !~ 'seen as'"
        );
        until_sql(common(), &claims, "t");
        sql(common(), &format!("insert into {table}gate default values"));
        let released = within(soon(), releasing).await.expect("no panic").expect("answered");
        assert_eq!(released, ReleaseReply::NotHeld);
        assert_eq!(other.inspect(&mine.name).await.expect("answered"), [], "held by nobody who knows of it");
        take(&other, &claim("job")).await;
    });
}

#[test]
fn the_tier_tells_what_each_standby_has_and_a_backup_is_none() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let tier = async || bare(&url).await.guarantees().tier;
        assert_eq!(tier().await, Tier::RestartSafe);
        let backup = postgres.slow_backup().expect("begun");
        assert_eq!(tier().await, Tier::RestartSafe, "while a backup is made");
        // A role that may not see the states of others.
        let role = table();
        let theirs = postgres.user(&role, "pw").expect("made");
        sql(&postgres, &format!("create schema {role} authorization {role}"));
        let seen = bare(&with(&theirs, &format!("schema={role}"))).await.guarantees().tier;
        assert_eq!(seen, Tier::RestartSafe, "of one that sees less");
        drop(backup);
        // The process that fetches its log outlives it, and `*` admits that.
        sql(&postgres, "select count(pg_terminate_backend(pid)) from pg_stat_replication");
        until_sql(&postgres, "select count(*) from pg_stat_replication", "0");
        for (names, promised) in [
            ("a", Tier::FailoverSafe),
            ("FIRST 1 (a, b)", Tier::RestartSafe),
            ("ANY 1 (a, b)", Tier::RestartSafe),
            ("ANY 2 (a, b)", Tier::FailoverSafe),
            ("FIRST 2 (a, \"b c\")", Tier::FailoverSafe),
            ("*", Tier::FailoverSafe),
        ] {
            postgres.set("synchronous_standby_names", names).expect("set");
            let found = async {
                // A setting is read a moment later.
                while tier().await != promised {}
            };
            within(soon(), found).await;
            let found = bare(&url).await.findings().await.expect("answered");
            let failover = found.iter().find(|finding| finding.about == "failover").expect("it is said");
            assert_eq!(failover.is_good(), promised == Tier::FailoverSafe, "{names}: {failover:?}");
        }
        // What only keeps the log is no standby either, and may confirm a commit before any standby has it.
        let keeper = postgres.receive_log("keeper").expect("begun");
        for (names, promised) in [
            ("*", Tier::RestartSafe),
            ("a", Tier::FailoverSafe),
            ("ANY 1 (a, keeper)", Tier::RestartSafe),
            ("ANY 2 (a, keeper)", Tier::FailoverSafe),
            ("keeper", Tier::RestartSafe),
            ("a", Tier::FailoverSafe),
        ] {
            postgres.set("synchronous_standby_names", names).expect("set");
            within(soon(), async { while tier().await != promised {} }).await;
        }
        drop(keeper);
        // One more that follows, which no commit waits for.
        postgres.set("synchronous_standby_names", "").expect("set");
        let standby = postgres.start_standby().expect("another");
        within(soon(), async { while tier().await != Tier::CrashSafe {} }).await;
        postgres.set("synchronous_standby_names", "ANY 1 (walreceiver, b)").expect("set");
        within(soon(), async { while tier().await != Tier::RestartSafe {} }).await;
        postgres.set("synchronous_standby_names", "ANY 1 (walreceiver)").expect("set");
        within(soon(), async { while tier().await != Tier::FailoverSafe {} }).await;
        drop(standby);
    });
    sql(&postgres, "alter system reset all");
    sql(&postgres, "select pg_reload_conf()");
}

/// So many clients, each with its own connections, that come at the same time and want the same.
const CROWD: usize = 250;

#[test]
fn many_clients_that_come_at_once_are_all_notified() {
    let postgres = Postgres::options().setting("max_connections", "600").start().expect("a server");
    run(async {
        let url = own(&with(&postgres.url(), "application_name=crowd"));
        let holder = client(&url).await;
        let guard = hold(&holder, "job", 10 * LONG).await;
        let mut coming = Vec::new();
        while coming.len() < CROWD {
            coming.extend(join_all((0..10).map(|_| client(&url))).await);
        }
        // Each opens its second connection, all at once.
        let waiting: Vec<_> = coming
            .into_iter()
            .map(|locks| {
                let lock = locks.lock("job");
                let turn = async move { lock.acquire().await.expect("granted").release().await };
                (locks, tokio::spawn(turn))
            })
            .collect();
        waiters(&holder, "job", u64::try_from(CROWD).expect("few")).await;
        let listening = "select count(*) from pg_stat_activity where application_name = 'crowd' and query like 'listen%' \
             or application_name = 'crowd' and query like '%pg_listening_channels%'";
        let some = format!("select ({listening}) >= {CROWD}");
        until_sql(&postgres, &some, "t");
        // Each client opens two connections, and hardly any in vain.
        let sessions: u64 =
            sql(&postgres, "select sessions from pg_stat_database where datname = 'leasehold'")
                .parse()
                .expect("a number");
        assert!(sessions < 3 * u64::try_from(CROWD).expect("few"), "{sessions} sessions");
        let table = table_of(&url);
        let before = done(&postgres, table, ACQUIRE)[0];
        guard.release().await.expect("released");
        for (locks, waiting) in waiting {
            within(LONG, waiting).await.expect("no panic").expect("released");
            drop(locks);
        }
        let asked = done(&postgres, table, ACQUIRE)[0] - before;
        assert!(asked < 4 * u64::try_from(CROWD).expect("few"), "{asked} statements for {CROWD} handovers");
    });
}

#[test]
fn without_notifications_the_queue_is_asked_by_its_first() {
    run(async {
        let url = own(&with(&common().url(), "notify=off"));
        let table = table_of(&url);
        let holder = client(&url).await;
        let guard = hold(&holder, "job", 10 * LONG).await;
        let mut waiting_ones = Vec::new();
        for _ in 0..40 {
            let locks = client(&url).await;
            let lock = locks.lock("job");
            let turn = async move { lock.acquire().await.expect("granted").release().await };
            waiting_ones.push((tokio::spawn(turn), locks));
        }
        waiters(&holder, "job", 40).await;
        let before = done(common(), table, ACQUIRE)[0];
        let since = tokio::time::Instant::now();
        tokio::time::sleep(time(3_000)).await;
        let asked = done(common(), table, ACQUIRE)[0] - before;
        // The first asks four times a second, the two behind it twice, and all to keep their places every two seconds.
        let seconds = u64::try_from(since.elapsed().as_millis()).expect("few") / 1_000 + 1;
        assert!(asked < seconds * (4 + 4 + 20) + 40, "{asked} in {seconds} s");
        let before = done(common(), table, ACQUIRE)[0];
        guard.release().await.expect("released");
        for (waiting, locks) in waiting_ones {
            within(LONG, waiting).await.expect("no panic").expect("released");
            drop(locks);
        }
        let asked = done(common(), table, ACQUIRE)[0] - before;
        assert!(asked < 40 * 12, "{asked} statements for 40 handovers");
    });
}
