//! Replies that are lost, late, or belong to another request, and callers that stop waiting.

use leasehold::ErrorKind;
use leasehold::storage::{Claim, ReleaseReply};
use leasehold_faultproxy::{End, Trap};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};

use crate::net::unknown as scenario;
use crate::tools::*;

#[test]
fn a_claim_that_a_stopped_server_executes_late_takes_nothing_from_anybody() {
    run(async {
        let redis = Redis::start().expect("a server");
        let take_again = async |storage: &Bare, claim: &Claim| within(soon(), take(storage, claim)).await;
        scenario::claims_to_a_stopped_server(&redis, &redis.url(), 24, take_again).await;
    });
}

#[test]
fn a_claim_and_its_clean_up_leave_nothing_in_whatever_order_they_arrive() {
    run(scenario::clean_up_before_and_after());
}

#[test]
fn an_acquire_that_fails_on_a_stopped_server_leaves_no_ghost() {
    let redis = Redis::start().expect("a server");
    run(scenario::acquires_from_a_stopped_server(&redis, &redis.url()));
}

#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (locks, other) = (client(&redis.url()).await, client(&redis.url()).await);
        let idle = connections(&redis);
        scenario::dropped_acquires(&locks, &other, 400, 700).await;
        let left = keys(&redis);
        assert!(left.len() <= 2 && left.iter().all(|key| key.starts_with('{')), "{left:?}");
        assert!(connections(&redis) <= idle);
    });
}

#[test]
fn a_storage_whose_calls_are_dropped_at_any_point_answers_the_next() {
    let answer = async |storage: &Bare, claim: &Claim| release(storage, claim).await.expect("answered");
    run(scenario::dropped_calls(300, answer));
}

#[test]
fn an_answer_to_another_request_is_not_believed() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        let mine = claim("job");
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::NotHeld);
        // A well-formed grant for a request that was never sent.
        let granted =
            b"*4\r\n$9\r\n123456789\r\n$16\r\n1790000000000000\r\n:1\r\n$16\r\n1790000000000000\r\n";
        proxy.add(Rule::on("evalsha").bytes(*granted));
        let error = acquire(&storage, &mine).await.expect_err("another nonce");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let opened = proxy.count("time");
        // The connection is not used any more.
        take(&storage, &mine).await;
        assert_eq!(proxy.count("time"), opened + 1);
    });
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
fn a_release_whose_answer_is_lost_harms_no_other_owner() {
    run(scenario::release_without_its_answer());
}

#[test]
fn a_claim_whose_answer_is_lost_five_times_is_granted_once() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        proxy.add(Rule::on("evalsha").times(5).after_effect().cut());
        for _ in 0..5 {
            assert_eq!(acquire(&storage, &mine).await.expect_err("cut").kind(), ErrorKind::Unavailable);
        }
        assert_eq!(take(&storage, &mine).await, token);
    });
}

#[test]
fn an_acquire_survives_connections_that_break_after_every_request() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let cut = proxy.faults().arm(Trap::on_request("EVALSHA").cut_reply(End::Reset).times(3));
        let guard = hold(&locks, "job", LONG).await;
        assert_eq!(cut.wait_for(|count| count.sprung >= 3).await.expect("armed").sprung, 3);
        guard.verify().await.expect("held");
        guard.release().await.expect("released");
    });
}

#[test]
fn a_holder_that_is_broken_by_an_operator_is_told_at_once() {
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
    run(scenario::late_grant(Trap::on_request("EVALSHA").hold_reply()));
}

#[test]
fn releases_that_meet_renewals_leave_nothing() {
    let redis = Redis::start().expect("a server");
    run(scenario::releases_among_renewals(&redis.url()));
    let left: Vec<_> = keys(&redis).into_iter().filter(|key| !key.starts_with('{')).collect();
    assert_eq!(left, Vec::<String>::new());
}
