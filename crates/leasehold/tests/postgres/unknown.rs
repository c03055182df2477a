//! Unknown outcomes: replies that are lost or late, commits whose fate is unknown, and callers that are canceled.

use std::sync::Arc;

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage};
use leasehold_faultproxy::{End, Trap, Which};
use leasehold_testbed::{Postgres, PostgresPair};

use crate::net::unknown as scenario;
use crate::tools::*;

#[test]
fn a_claim_that_a_stopped_server_executes_late_takes_nothing_from_anybody() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let take_again = async |storage: &Bare, claim: &Claim| take_in_the_end(storage, claim).await;
        scenario::claims_to_a_stopped_server(&postgres, &url, 10, take_again).await;
    });
}

#[test]
fn a_claim_and_its_clean_up_leave_nothing_in_whatever_order_they_arrive() {
    run(scenario::clean_up_before_and_after());
}

#[test]
fn an_acquire_that_fails_on_a_stopped_server_leaves_no_lease() {
    let postgres = victim();
    run(scenario::acquires_from_a_stopped_server(&postgres, &own(&postgres.url())));
}

#[test]
fn a_claim_whose_commit_waits_for_a_standby_is_not_said_to_be_gone() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let url = pair.primary.url();
        let (storage, other) = (bare(&url).await, bare(&url).await);
        scenario::is_held_by_nobody(&storage).await;
        for round in 0..2 {
            let mine = claim("job");
            pair.stop_following().expect("stopped");
            let sent = [mine.clone()];
            let mut asking = Box::pin(storage.acquire(&sent));
            assert!(tokio::time::timeout(time(200), &mut asking).await.is_err(), "a commit of one server");
            until_sql(
                &pair.primary,
                "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
                "1",
            );
            drop(asking);
            // The grant is not visible yet, and will be: a release must not conclude that there is nothing to release.
            for _ in 0..3 {
                let error = within(soon(), release(&storage, &mine)).await.expect_err("unknown");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
            // Nor does it keep others from asking; their grants do not have the standby either.
            if round == 0 {
                let theirs = [claim("job")];
                if let Ok(answers) = tokio::time::timeout(time(100), other.acquire(&theirs)).await {
                    assert!(!matches!(answers[..], [Ok(AcquireReply::Granted { .. })]), "{answers:?}");
                }
                pair.follow_again().expect("it follows");
            } else {
                // As an operator may do: the statement is committed, and no standby has it. The storage learns that only now.
                let end =
                    "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
                assert_eq!(sql(&pair.primary, end), "t");
                pair.follow_again().expect("it follows");
            }
            assert_eq!(answered(async || release(&storage, &mine).await).await, ReleaseReply::Released);
            let theirs = claim("job");
            take_in_the_end(&other, &theirs).await;
            release(&other, &theirs).await.expect("answered");
        }
    });
}

#[test]
fn a_commit_that_no_standby_has_is_no_grant() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let storage = bare(&pair.primary.url()).await;
        // The small statement grants only locks that have a row.
        let first = claim("job");
        take(&storage, &first).await;
        release(&storage, &first).await.expect("answered");
        pair.stop_following().expect("stopped");
        let mine = claim("job");
        let (answer, ()) = futures_util::future::join(acquire(&storage, &mine), async {
            // Only a warning tells that the server did not wait for the standby.
            until_sql(
                &pair.primary,
                "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'",
                "1",
            );
        })
        .await;
        let error = answer.expect_err("only this server has it");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("standby"), "{error}");
        pair.follow_again().expect("it follows");
        let token = within(soon(), take(&storage, &mine)).await;
        assert_eq!(within(soon(), take(&storage, &mine)).await, token);
    });
}

#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_nothing() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let (locks, other) = (client(&url).await, client(&url).await);
        scenario::dropped_acquires(&locks, &other, 300, 900).await;
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*) from {table} where owner is not null")), "0");
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
        drop((locks, other));
        connections(common(), &application, 0);
    });
}

#[test]
fn a_storage_whose_calls_are_dropped_at_any_point_answers_the_next() {
    // A dropped claim may still be in flight on the earlier connection.
    let answer = async |storage: &Bare, claim: &Claim| answered(async || release(storage, claim).await).await;
    run(scenario::dropped_calls(200, answer));
}

#[test]
fn a_guard_that_is_dropped_by_a_panic_is_released_at_once() {
    run(scenario::guard_in_a_panic());
}

#[test]
fn a_guard_may_be_dropped_where_no_runtime_is() {
    scenario::guard_without_a_runtime();
}

#[test]
fn a_release_whose_caller_goes_away_is_carried_out() {
    run(scenario::release_without_its_caller());
}

#[test]
fn a_release_whose_reply_is_lost_ends_no_other_lease() {
    run(scenario::release_without_its_answer());
}

#[test]
fn a_claim_whose_commit_is_unknown_five_times_is_granted_once() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (storage, other) = (bare(&through).await, bare(&direct).await);
        // The small statement grants only locks that have a row.
        let first = claim("job");
        take(&other, &first).await;
        release(&other, &first).await.expect("answered");
        let mine = claim("job");
        // Five times the claim is committed, and the connection breaks with the reply.
        let mut token = None;
        for _ in 0..5 {
            let lost = proxy.faults().arm(Trap::on_request(mine.owner.to_bytes()).cut_reply(End::Reset));
            let error = acquire(&storage, &mine).await.expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            lost.sprung().await.expect("armed");
            let holder = other.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(holder.owner, mine.owner);
            assert!(token.is_none_or(|token| token == holder.token), "{token:?} {holder:?}");
            token = Some(holder.token);
        }
        assert_eq!(Some(take(&storage, &mine).await), token);
    });
}

#[test]
fn an_acquire_survives_connections_that_break_after_every_request() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let idle = hold(&locks, "other", LONG).await;
        // The tag that ends only a reply with one row.
        let cut = proxy.faults().arm(Trap::on_reply("SELECT 1\0").cut(End::Reset).times(3));
        let guard = hold(&locks, "job", LONG).await;
        assert_eq!(cut.wait_for(|count| count.sprung >= 3).await.expect("armed").sprung, 3);
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        guard.release().await.expect("released");
        idle.release().await.expect("released");
    });
}

// The server may report a timeout for a statement that has taken its lock.
#[test]
fn canceled_statements_leave_no_lock_of_any_kind() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let storage = bare(&url).await;
        let (stopped, stop) = tokio::sync::watch::channel(false);
        let canceling = std::thread::spawn({
            // Cancels every running statement, every two milliseconds.
            let cancel = format!(
                "do $$ begin for i in 1..200 loop perform pg_cancel_backend(pid) from pg_stat_activity \
                 where application_name = '{application}' and state = 'active'; perform pg_sleep(0.002); \
                 perform pg_stat_clear_snapshot(); end loop; end $$"
            );
            move || {
                while !*stop.borrow() {
                    sql(common(), &cancel);
                }
            }
        });
        let mut cancelled = 0;
        let mut rounds = 0;
        while (rounds < 300 || cancelled == 0) && rounds < 5_000 {
            rounds += 1;
            let mine = claim(&format!("job{}", rounds % 3));
            for error in [acquire(&storage, &mine).await.err(), release(&storage, &mine).await.err()] {
                let Some(error) = error else { continue };
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                cancelled += 1;
            }
            // The second release at the latest undoes the claim.
            while release(&storage, &mine).await.is_err() {}
        }
        stopped.send(true).expect("it is received");
        canceling.join().expect("no panic");
        assert!(cancelled > 0, "not one was hit");
        let held = format!(
            "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
             where a.application_name = '{application}' and l.locktype = 'advisory'"
        );
        assert_eq!(sql(common(), &held), "0");
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*) from {table} where owner is not null")), "0");
    });
}

#[test]
fn a_holder_whose_lease_an_operator_ends_learns_it_at_once() {
    run(scenario::broken_lock());
}

#[test]
fn a_holder_that_was_paused_gets_nothing_back() {
    run(scenario::paused_holder());
}

#[test]
fn a_renewal_that_is_answered_after_the_deadline_revives_nothing() {
    run(scenario::late_renewal());
}

#[test]
fn a_grant_that_is_answered_when_it_is_nearly_over_is_not_handed_out() {
    // The tag that ends only a reply with one row.
    run(scenario::late_grant(Trap::on_reply("SELECT 1\0").hold()));
}

#[test]
fn releases_that_meet_renewals_leave_nothing() {
    let url = own(&common().url());
    run(scenario::releases_among_renewals(&url));
    let held = format!(
        "select count(*) from {} where owner is not null and expires_at > clock_timestamp()",
        table_of(&url)
    );
    assert_eq!(sql(common(), &held), "0");
}

#[test]
fn what_is_held_is_renewed_and_released_while_an_acquire_is_stuck() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = Arc::new(bare(&url).await);
        let (held, wanted) = (claim("held"), claim("wanted"));
        take(&*storage, &held).await;
        // A trigger waits until the gate is open.
        let trigger = format!(
            "create table {table}gate (); create function {table}wait() returns trigger language plpgsql as $$ begin \
             while not exists(select from {table}gate) loop perform pg_sleep(0.01); end loop; return new; end $$; \
             create trigger wait before insert on {table} for each row when (new.name = 'wanted') \
             execute function {table}wait()"
        );
        sql(common(), &trigger);
        let acquiring = tokio::spawn({
            let (storage, wanted) = (Arc::clone(&storage), wanted.clone());
            async move { acquire(&*storage, &wanted).await }
        });
        // Long enough to count as stuck.
        let stuck = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' \
                     and clock_timestamp() > query_start + interval '200 ms' and query ~ ";
        until_sql(common(), &format!("{stuck} '{table}'"), "1");
        for _ in 0..3 {
            let renewed = within(soon(), renew(&*storage, &held)).await;
            assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        }
        assert_eq!(
            within(soon(), release(&*storage, &held)).await.expect("answered"),
            ReleaseReply::Released
        );
        sql(common(), &format!("insert into {table}gate default values"));
        let acquired = within(LONG, acquiring).await.expect("no panic");
        assert!(!matches!(acquired, Ok(AcquireReply::Held { .. })), "{acquired:?}");
    });
}

#[test]
fn a_release_that_found_nothing_is_followed_by_no_grant() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let application = table();
        let through = with(&through, &format!("application_name={application}"));
        let (storage, other) = (Arc::new(bare(&through).await), bare(&direct).await);
        let table = table_of(&direct);
        let first = claim("job");
        take(&other, &first).await;
        release(&other, &first).await.expect("answered");
        // A release that stops after it has looked, and before its commit.
        let wait = format!(
            "if current_query() like '%successor as materialized%' then while not exists(select from {table}gate) loop perform pg_sleep(0.01); end loop; end if; return null;"
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
        // The caller is canceled, the connection is given up, and the cleanup is sent over another one.
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
        // Only now does the claim arrive.
        proxy.faults().resume(Which::One(on));
        let claims = format!(
            "select calls > 1 from pg_stat_statements where query ~ '\"{table}\"' and query ~ 'as fenced' and query !~ 'seen as'"
        );
        until_sql(common(), &claims, "t");
        sql(common(), &format!("insert into {table}gate default values"));
        let released = within(soon(), releasing).await.expect("no panic").expect("answered");
        assert_eq!(released, ReleaseReply::NotHeld);
        assert_eq!(other.inspect(&mine.name).await.expect("answered"), [], "a lease without a holder");
        take(&other, &claim("job")).await;
    });
}
