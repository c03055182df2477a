//! Replies that are lost or late, and callers that stop waiting.

use leasehold::ErrorKind;
use leasehold::storage::{Claim, RenewReply, Storage};
use leasehold_faultproxy::{End, Trap};

use crate::net::unknown as scenario;
use crate::tools::*;

#[test]
fn a_claim_and_its_clean_up_leave_nothing_in_whatever_order_they_arrive() {
    run(scenario::clean_up_before_and_after());
}

#[test]
fn an_acquire_that_is_dropped_at_any_point_leaves_nothing() {
    run(async {
        let url = own(&common().url());
        let (locks, other) = (client(&url).await, client(&url).await);
        scenario::dropped_acquires(&locks, &other, 200, 3_000).await;
        nothing_is_left(&url);
    });
}

#[test]
fn a_storage_whose_calls_are_dropped_at_any_point_answers_the_next() {
    let answer = async |storage: &Bare, claim: &Claim| release(storage, claim).await.expect("answered");
    run(scenario::dropped_calls(100, answer));
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
fn calls_whose_answers_are_lost_are_done_once() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (storage, other) = (bare(&through).await, bare(&direct).await);
        let mine = claim("job");
        let cut = || proxy.faults().arm(Trap::on_request(marker(mine.owner)).cut_reply(End::Reset));
        let mut token = None;
        for _ in 0..5 {
            cut();
            assert_eq!(acquire(&storage, &mine).await.expect_err("cut").kind(), ErrorKind::Unavailable);
            let holder = other.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!((holder.owner, holder.token), (mine.owner, token.unwrap_or(holder.token)));
            token = Some(holder.token);
        }
        let again = granted(answered(async || acquire(&storage, &mine).await).await);
        assert_eq!(Some(again), token);
        cut();
        assert_eq!(renew(&storage, &mine).await.expect_err("cut").kind(), ErrorKind::Unavailable);
        assert!(matches!(answered(async || renew(&storage, &mine).await).await, RenewReply::Renewed { .. }));
    });
}

fn granted(reply: leasehold::storage::AcquireReply) -> leasehold::Token {
    match reply {
        leasehold::storage::AcquireReply::Granted { token, .. } => token,
        held => panic!("{held:?}"),
    }
}

#[test]
fn an_acquire_survives_connections_that_break_after_every_request() {
    run(async {
        let (proxy, through, _) = proxied(common()).await;
        let locks = client(&through).await;
        let cut = proxy.faults().arm(Trap::on_request(ACQUIRE).cut_reply(End::Reset).times(3));
        let guard = hold(&locks, "job", LONG).await;
        assert!(cut.wait_for(|count| count.sprung >= 1).await.expect("armed").sprung >= 1);
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
    run(scenario::late_grant(Trap::on_request(ACQUIRE).hold_reply()));
}

#[test]
fn releases_that_meet_renewals_leave_nothing() {
    let url = own(&common().url());
    run(scenario::releases_among_renewals(&url));
    nothing_is_left(&url);
}

#[test]
fn a_server_that_stops_for_a_while_puts_a_hold_at_risk_and_does_not_end_it() {
    run(async {
        let server = leasehold_testbed::Etcd::start().expect("a server");
        let locks = client(&server.url()).await;
        let mut events = locks.events();
        let guard = hold(&locks, "job", time(9_000)).await;
        server.stop();
        is_at_risk(&mut events).await;
        assert!(guard.is_held());
        server.cont();
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        guard.release().await.expect("released");
    });
}
