use super::*;

const TTL: Duration = Duration::from_secs(10);
const T0: Moment = Moment::from_nanos(1_000_000_000_000);

fn at(millis: u64) -> Moment {
    T0.after(Duration::from_millis(millis))
}

fn lease() -> Lease {
    Lease::granted(Owner::random(), T0, TTL, Renewal::Automatic, None)
}

fn renewed(sent: Moment) -> Input {
    Input::Answer { call: Call::at(sent), answer: Some(RenewReply::Renewed { ttl: TTL }) }
}

#[test]
fn only_a_renewal_sent_from_now_on_verifies_a_lease() {
    let mut lease = lease();
    assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
    assert_eq!(lease.step(at(2), Input::Verify), Action::None, "the first renewal has not left yet");
    lease.sent(Call::at(at(3)));
    assert_eq!(lease.step(at(4), Input::Verify), Action::None);
    assert_eq!(lease.step(at(5), renewed(at(3))), Action::Renew, "that one was sent before");
    lease.sent(Call::at(at(6)));
    assert_eq!(lease.step(at(7), renewed(at(6))), Action::None);
    assert_eq!(lease.deadline(), at(10_006 - 102));
}

#[test]
fn renewals_that_were_sent_together_spread_over_the_whole_interval_once() {
    let (mut early, mut late) = (0, 0);
    for _ in 0..1000 {
        let mut lease = lease();
        assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
        lease.sent(Call::at(at(1)));
        assert_eq!(lease.step(at(2), Input::Answer { call: Call::at(at(1)), answer: None }), Action::None);
        assert_eq!(lease.step(at(600), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(600)));
        assert_eq!(lease.step(at(601), renewed(at(600))), Action::None);
        let next = lease.wake();
        assert!(next > at(600) && next <= at(600 + 3_334), "{next:?}");
        early += u32::from(next < at(600 + 1_100));
        late += u32::from(next > at(600 + 2_200));
        assert_eq!(lease.step(next, Input::Wake), Action::Renew);
        lease.sent(Call::at(next));
        lease.step(next, renewed(next));
        assert!(lease.wake() >= next.after(Duration::from_millis(2_489)), "the usual interval from then on");
    }
    assert!(early > 200 && late > 200, "{early} early, {late} late");
}

#[test]
fn the_deadline_counts_from_before_the_request_less_the_margin() {
    assert_eq!(lease().deadline(), at(10_000 - 102));
}

#[test]
fn renews_within_a_third_and_moves_the_deadline_from_the_sending() {
    let mut lease = lease();
    let wake = lease.wake();
    assert!(wake >= at(2_490) && wake <= at(3_334), "{wake:?}");
    assert_eq!(wake.as_nanos() % 10_000_000, 0, "rounded to the grid");
    assert_eq!(lease.step(wake, Input::Wake), Action::Renew);
    assert_eq!(lease.step(wake, Input::Wake), Action::None, "one at a time");
    lease.sent(Call::at(at(3_400)));
    assert_eq!(lease.step(at(4_000), renewed(at(3_400))), Action::None);
    assert_eq!(lease.deadline(), at(3_400 + 10_000 - 102));
}

#[test]
fn the_first_renewals_of_many_leases_spread_out() {
    let wakes: Vec<_> = (0..1000).map(|_| lease().wake().since(T0)).collect();
    let early = wakes.iter().filter(|wake| **wake < Duration::from_millis(2_917)).count();
    assert!((350..650).contains(&early), "{early} of 1000 in the earlier half");
}

#[test]
fn an_unknown_answer_neither_extends_nor_loses_the_lease() {
    let mut lease = lease();
    let before = lease.deadline();
    assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
    lease.sent(Call::at(at(3_400)));
    assert_eq!(
        lease.step(at(3_500), Input::Answer { call: Call::at(at(3_400)), answer: None }),
        Action::None
    );
    assert_eq!(lease.failures, 1);
    assert_eq!(lease.deadline(), before);
    assert!(lease.wake() <= at(4_000), "tries again soon");
    assert_eq!(lease.step(before, Input::Wake), Action::Lost(Lost::Expired));
}

#[test]
fn a_call_without_answer_is_given_up_and_repeated() {
    let mut lease = lease();
    assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
    lease.sent(Call::at(at(3_400)));
    let limit = lease.wake();
    assert_eq!(limit, at(3_400).after(renew_limit(TTL)));
    assert_eq!(lease.step(limit, Input::Wake), Action::None);
    let again = lease.wake();
    assert_eq!(lease.step(again, Input::Wake), Action::Renew);
    lease.sent(Call::at(again));
    let deadline = lease.deadline();
    assert_eq!(lease.step(again, renewed(at(3_400))), Action::None, "the reply to the earlier renewal");
    assert_eq!(lease.deadline(), deadline);
}

#[test]
fn a_lease_that_was_granted_for_less_is_renewed_soon_and_until_it_lasts_the_whole_ttl() {
    for renewal in [Renewal::Automatic, Renewal::Never] {
        let given = Duration::from_secs(4);
        let mut lease = Lease::granted(Owner::random(), T0, given, renewal, None).claimed_for(T0, TTL);
        assert_eq!((lease.ttl(), lease.deadline()), (TTL, T0.after(given - margin(given))));
        let mut now = lease.wake();
        assert_eq!(now, T0.after(SOON));
        for _ in 0..2 {
            assert_eq!(lease.step(now, Input::Wake), Action::Renew);
            lease.sent(Call::at(now));
            assert_eq!(lease.wake(), now.after(renew_limit(given)), "there is time for several tries");
            assert_eq!(lease.step(lease.wake(), Input::Wake), Action::None);
            now = lease.wake();
        }
        assert_eq!(lease.step(now, Input::Wake), Action::Renew);
        lease.sent(Call::at(now));
        assert_eq!(lease.step(now, renewed(now)), Action::None);
        assert_eq!(lease.deadline(), now.after(TTL - margin(TTL)));
        assert_eq!(lease.wake() == lease.deadline(), renewal == Renewal::Never);
    }
}

/// As by a server that grants no longer lease, because it is full.
#[test]
fn a_lease_that_is_renewed_for_less_again_and_again_is_renewed_in_time() {
    let (ttl, less) = (3 * TTL, Duration::from_millis(6_500));
    for renewal in [Renewal::Automatic, Renewal::Every(TTL), Renewal::Never] {
        let given = Duration::from_secs(6);
        let mut lease = Lease::granted(Owner::random(), T0, given, renewal, None).claimed_for(T0, ttl);
        let mut now = T0;
        while now < T0.after(ttl) {
            now = lease.wake();
            assert_eq!(lease.step(now, Input::Wake), Action::Renew, "{renewal:?}");
            lease.sent(Call::at(now));
            let answer = Some(RenewReply::Renewed { ttl: less });
            assert_eq!(lease.step(now, Input::Answer { call: Call::at(now), answer }), Action::None);
            assert_eq!((lease.ttl(), lease.lasts()), (ttl, less));
        }
        if renewal == Renewal::Never {
            // It has lasted for its TTL.
            assert_eq!(lease.step(lease.wake(), Input::Wake), Action::Lost(Lost::Expired));
            continue;
        }
        let full = lease.wake();
        assert_eq!(lease.step(full, Input::Wake), Action::Renew);
        lease.sent(Call::at(full));
        let answer = Some(RenewReply::Renewed { ttl });
        assert_eq!(lease.step(full, Input::Answer { call: Call::at(full), answer }), Action::None);
        assert_eq!((lease.deadline(), lease.lasts()), (full.after(ttl - margin(ttl)), ttl));
        assert!(lease.wake() > full.after(less));
    }
}

#[test]
fn a_late_ok_does_not_revive() {
    let mut lease = lease();
    assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
    lease.sent(Call::at(at(3_400)));
    assert_eq!(lease.step(at(9_900), renewed(at(3_400))), Action::Lost(Lost::Expired));
    assert_eq!(lease.step(at(9_901), renewed(at(3_400))), Action::None);
}

#[test]
fn not_held_is_lost_at_once_even_from_an_old_call() {
    let mut lease = lease();
    let answer = Input::Answer { call: Call::at(at(1)), answer: Some(RenewReply::NotHeld) };
    assert_eq!(lease.step(at(5), answer), Action::Lost(Lost::Taken));
}

#[test]
fn a_shorter_ttl_brings_the_deadline_forward_before_it_is_answered() {
    let mut lease = lease();
    let short = Duration::from_secs(1);
    assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
    lease.sent(Call::at(at(110)));
    assert_eq!(lease.deadline(), at(110).after(short - margin(short)));
}

#[test]
fn a_renewal_to_a_shorter_ttl_may_be_executed_again_after_its_answer() {
    for renewal in [Renewal::Automatic, Renewal::Never] {
        let mut lease = Lease::granted(Owner::random(), T0, TTL, renewal, None);
        let short = Duration::from_secs(1);
        assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
        lease.sent(Call::at(at(110)));
        let answer = Some(RenewReply::Renewed { ttl: short });
        assert_eq!(lease.step(at(120), Input::Answer { call: Call::at(at(110)), answer }), Action::None);
        assert_eq!(lease.step(at(130), Input::Extend(TTL)), Action::Renew);
        lease.sent(Call::at(at(140)));
        assert_eq!(lease.step(at(150), renewed(at(140))), Action::None);
        assert_eq!(
            lease.deadline(),
            at(140).after(short - margin(short)),
            "the shorter one may be executed twice"
        );
        // When the shorter one cannot be executed any more, one more renewal makes the longer TTL certain.
        assert!(lease.wake() < lease.deadline());
        assert_eq!(lease.step(at(800), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(810)));
        assert_eq!(lease.step(at(820), renewed(at(810))), Action::None);
        assert_eq!(lease.deadline(), at(810).after(TTL - margin(TTL)));
    }
}

#[test]
fn a_shorter_ttl_without_an_answer_does_not_shorten_the_cleanup() {
    let mut lease = lease();
    assert_eq!(lease.step(at(100), Input::Extend(Duration::from_secs(1))), Action::Renew);
    lease.sent(Call::at(at(110)));
    assert!(lease.ended_by(at(110)) >= at(110).after(TTL), "the storage may have it for that long");
}

#[test]
fn max_hold_ends_a_lease_that_is_renewed() {
    let max_hold = Some(Duration::from_secs(4));
    let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Automatic, max_hold);
    assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
    lease.sent(Call::at(at(3_400)));
    assert_eq!(lease.step(at(3_500), renewed(at(3_400))), Action::None);
    assert_eq!(lease.deadline(), at(4_000));
    assert_eq!(lease.step(at(4_000), Input::Wake), Action::Lost(Lost::MaxHold));
}

#[test]
fn a_lease_without_renewal_is_renewed_only_on_request() {
    let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Never, None);
    assert_eq!(lease.wake(), lease.deadline());
    assert_eq!(lease.step(at(1_000), Input::RenewNow), Action::Renew, "the holder may renew");
}

fn inspected(lease: &mut Lease, now: Moment, sent: Moment, remaining: Duration) -> Action {
    lease.step(now, Input::Inspected { sent, remaining })
}

#[test]
fn a_lease_that_another_client_has_shortened_ends_by_its_new_end_and_is_renewed() {
    let mut lease = lease();
    let left = Duration::from_millis(200);
    assert_eq!(inspected(&mut lease, at(1_005), at(1_000), left), Action::Renew);
    assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
    lease.sent(Call::at(at(1_006)));
    assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)), "until the renewal is confirmed");
    assert_eq!(lease.step(at(1_010), renewed(at(1_006))), Action::None);
    assert_eq!(lease.deadline(), at(1_006 + 10_000 - 102));
}

#[test]
fn a_shortened_lease_without_renewal_ends_by_its_new_end() {
    let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Never, None);
    let left = Duration::from_millis(200);
    assert_eq!(inspected(&mut lease, at(1_005), at(1_000), left), Action::None);
    assert_eq!(lease.step(lease.wake(), Input::Wake), Action::Lost(Lost::Expired));
    assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
}

#[test]
fn a_renewal_in_flight_may_be_older_than_an_inspection() {
    let mut lease = lease();
    assert_eq!(lease.step(at(900), Input::RenewNow), Action::Renew);
    lease.sent(Call::at(at(900)));
    let left = Duration::from_millis(200);
    assert_eq!(inspected(&mut lease, at(1_005), at(1_000), left), Action::Renew);
    assert_eq!(lease.step(at(1_006), renewed(at(900))), Action::None, "executed before or after?");
    assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
}

#[test]
fn a_slow_inspection_does_not_lose_a_lease_that_nothing_has_shortened() {
    let mut lease = lease();
    // Executed at the last moment: 4 s of 10 are left then, and the inspection took 5.9 s.
    let before = lease.deadline();
    assert_eq!(
        inspected(&mut lease, at(6_000), at(100), Duration::from_secs(4)),
        Action::Renew,
        "to be sure"
    );
    assert_eq!(lease.deadline(), before);
}

#[test]
fn a_slow_inspection_does_not_lose_a_lease_that_its_own_renewal_has_shortened() {
    let mut lease = lease();
    let short = Duration::from_secs(1);
    assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
    lease.sent(Call::at(at(100)));
    // No answer comes. An inspection takes half a second, and is executed at its end.
    lease.step(at(110), Input::Answer { call: Call::at(at(100)), answer: None });
    let before = lease.deadline();
    assert_ne!(
        inspected(&mut lease, at(650), at(150), Duration::from_millis(450)),
        Action::Lost(Lost::Expired)
    );
    assert_eq!(lease.deadline(), before);
    // Another client has shortened it further.
    let left = Duration::from_millis(200);
    inspected(&mut lease, at(660), at(655), left);
    assert_eq!(lease.deadline(), at(655).after(left - margin(left)));
}

#[test]
fn an_inspection_that_shows_nothing_new_changes_nothing() {
    let mut lease = lease();
    let before = lease.deadline();
    assert_eq!(inspected(&mut lease, at(1_001), at(1_000), Duration::from_millis(9_000)), Action::None);
    assert!(before.since(lease.deadline()) < Duration::from_millis(1), "{:?}", lease.deadline());
    // An inspection that was sent before the last renewal shows an older end.
    assert_eq!(lease.step(at(2_000), Input::RenewNow), Action::Renew);
    lease.sent(Call::at(at(2_000)));
    assert_eq!(lease.step(at(2_001), renewed(at(2_000))), Action::None);
    assert_eq!(inspected(&mut lease, at(2_002), at(1_900), Duration::from_millis(100)), Action::None);
    assert_eq!(lease.deadline(), at(2_000 + 10_000 - 102));
}

#[test]
fn effects_of_failed_renewals_do_not_accumulate() {
    let mut lease = lease();
    let mut now = T0;
    for _ in 0..100 {
        now = now.after(Duration::from_millis(40));
        if lease.step(now, Input::RenewNow) == Action::Renew {
            lease.sent(Call::at(now));
        }
        lease.step(now, Input::Answer { call: Call::at(now), answer: None });
    }
    assert_eq!(lease.effects.len(), 1, "{:?}", lease.effects);
}
