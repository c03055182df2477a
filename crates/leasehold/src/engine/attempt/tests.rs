use super::*;
use crate::storage::Name;

const TTL: Duration = Duration::from_secs(10);
const T0: Moment = Moment::from_nanos(1_000_000_000_000);

fn at(millis: u64) -> Moment {
    T0.after(Duration::from_millis(millis))
}

fn attempt(wait: Wait, once: bool) -> Attempt {
    Attempt::new(Owner::random(), TTL, wait, once, T0)
}

fn held(sent: Moment) -> Input {
    let name = Name::new("a").expect("valid");
    let holder = Holder::new(name, Owner::random(), Token::new(1), Duration::from_secs(9));
    let retry_after = Some(holder.remaining);
    Input::Answer {
        call: Call::at(sent),
        answer: Ok(AcquireReply::Held { holder: Some(holder), retry_after }),
    }
}

fn granted(sent: Moment) -> Input {
    Input::Answer {
        call: Call::at(sent),
        answer: Ok(AcquireReply::Granted { token: Token::new(7), ttl: TTL }),
    }
}

fn unavailable(sent: Moment) -> Input {
    Input::Answer { call: Call::at(sent), answer: Err(Error::new(ErrorKind::Unavailable, "silence")) }
}

/// Takes its turn and sends the first claim.
fn send_first_claim(attempt: &mut Attempt, subscribed: bool) -> bool {
    let Action::SendClaim { wait } = attempt.step(T0, Input::Turn { subscribed, inherited: None }) else {
        panic!("it sends no claim")
    };
    attempt.sent(Call::at(T0));
    wait
}

#[test]
fn a_free_lock_takes_one_claim_and_no_subscription() {
    let mut attempt = attempt(Wait::Forever, false);
    assert!(!send_first_claim(&mut attempt, false));
    assert!(matches!(attempt.step(at(1), granted(T0)), Action::Granted { unknown_until: Moment::ZERO, .. }));
}

#[test]
fn subscribes_then_claims_again_then_pauses() {
    let mut attempt = attempt(Wait::Forever, false);
    assert!(!send_first_claim(&mut attempt, false));
    assert!(matches!(attempt.step(at(1), held(T0)), Action::SendClaim { wait: true }));
    attempt.sent(Call::at(at(1)));
    assert!(matches!(attempt.step(at(2), held(at(1))), Action::None));
    assert!(attempt.wake() <= at(2).after(WAITER_HEARTBEAT));
    assert!(matches!(attempt.step(at(3), Input::Hint), Action::SendClaim { wait: true }));
}

#[test]
fn a_hint_while_a_claim_is_in_flight_is_not_forgotten() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(at(1), Input::Hint), Action::None));
    assert!(matches!(attempt.step(at(2), held(T0)), Action::SendClaim { .. }));
}

#[test]
fn the_wait_ends_in_time_and_the_waiters_entry_is_left_to_the_cleanup() {
    let mut attempt = attempt(Wait::For(Duration::from_secs(1)), false);
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(at(1), held(T0)), Action::None));
    assert_eq!(attempt.wake(), at(1_000));
    let Action::End { refusal: Refusal::Contended(Some(_)), leftovers } =
        attempt.step(at(1_000), Input::Wake)
    else {
        panic!("it does not end")
    };
    assert!(matches!(leftovers, Some(Leftovers { claim: None, unknown_until: Moment::ZERO, .. })));
}

#[test]
fn a_wait_of_zero_length_still_gets_one_answer() {
    let mut attempt = attempt(Wait::For(Duration::ZERO), false);
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(T0, Input::Wake), Action::None));
    assert!(matches!(
        attempt.step(at(5), held(T0)),
        Action::End { refusal: Refusal::Contended(Some(_)), .. }
    ));
}

#[test]
fn a_single_claim_that_is_refused_leaves_nothing() {
    let mut attempt = attempt(Wait::Forever, true);
    assert!(!send_first_claim(&mut attempt, true), "a single claim leaves no entry");
    let Action::End { leftovers, .. } = attempt.step(at(1), held(T0)) else { panic!("it does not end") };
    assert_eq!(leftovers, None);
}

#[test]
fn canceling_while_a_claim_is_in_flight_leaves_that_claim_to_the_cleanup() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    let Action::End { refusal: Refusal::Canceled, leftovers } = attempt.step(at(1), Input::Cancel) else {
        panic!("it does not end")
    };
    assert!(matches!(leftovers, Some(Leftovers { claim: Some(call), .. }) if call == Call::at(T0)));
}

#[test]
fn canceling_before_anything_was_sent_leaves_nothing() {
    let mut attempt = attempt(Wait::Forever, false);
    let Action::End { leftovers, .. } = attempt.step(at(1), Input::Cancel) else { panic!("it does not end") };
    assert_eq!(leftovers, None);
}

#[test]
fn a_claim_without_an_answer_is_sent_again_and_stays_unknown_in_the_grant() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    assert!(matches!(attempt.step(at(100), unavailable(T0)), Action::None));
    let again = attempt.wake();
    assert!(matches!(attempt.step(again, Input::Wake), Action::SendClaim { .. }));
    attempt.sent(Call::at(again));
    let Action::Granted { unknown_until, .. } = attempt.step(again, granted(again)) else {
        panic!("not granted")
    };
    assert_eq!(unknown_until, executable_until(T0, TTL), "the first claim may still be executed");
}

#[test]
fn thirty_seconds_of_silence_end_a_wait_without_a_limit() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    let (mut now, mut sent) = (at(100), T0);
    let refusal = loop {
        match attempt.step(now, unavailable(sent)) {
            Action::None => {}
            Action::End { refusal, .. } => break refusal,
            other => panic!("{other:?}"),
        }
        sent = attempt.wake();
        assert!(matches!(attempt.step(sent, Input::Wake), Action::SendClaim { .. }));
        assert!(attempt.wake() > sent, "it is not woken up for nothing");
        attempt.sent(Call::at(sent));
        now = sent.after(Duration::from_millis(100));
    };
    assert!(matches!(refusal, Refusal::Unavailable(Some(_))));
    assert!(
        now >= T0.after(SILENCE_LIMIT) && now <= T0.after(SILENCE_LIMIT + Duration::from_secs(2)),
        "{now:?}"
    );
}

#[test]
fn the_sleep_of_the_machine_does_not_count_as_silence_of_the_storage() {
    let (hour, soon) = (Duration::from_secs(3600), Duration::from_millis(100));
    // The machine sleeps between two claims, and while one is in flight. The connections do not survive that.
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(at(1), held(T0)), Action::None));
    let awake = attempt.wake().after(hour);
    assert!(matches!(attempt.step(awake, Input::Wake), Action::SendClaim { .. }));
    attempt.sent(Call::at(awake));
    assert!(
        matches!(attempt.step(awake.after(soon), unavailable(awake)), Action::None),
        "the first claim without an answer"
    );
    let sent = attempt.wake();
    assert!(matches!(attempt.step(sent, Input::Wake), Action::SendClaim { .. }));
    attempt.sent(Call::at(sent));
    assert!(
        matches!(attempt.step(sent.after(hour), unavailable(sent)), Action::None),
        "the second claim without an answer"
    );
    // And while its claim waits for the reply to a claim of another lock.
    let sent = attempt.wake();
    assert!(matches!(attempt.step(sent, Input::Wake), Action::SendClaim { .. }));
    assert!(matches!(attempt.step(sent.after(hour), Input::Wake), Action::None));
    assert!(attempt.wake() > sent.after(hour), "it is not woken up for nothing");
    let Action::End { refusal: Refusal::Unavailable(_), .. } = attempt.step(attempt.wake(), Input::Wake)
    else {
        panic!("silence still ends it")
    };
}

#[test]
fn the_next_head_of_the_local_queue_inherits_what_the_previous_one_knew() {
    let limit = Wait::For(Duration::from_secs(1));
    let next = |ahead: &Attempt, wait: Wait, now: Moment| {
        let mut next = attempt(wait, false);
        let turn = Input::Turn { subscribed: true, inherited: Some(ahead.knowledge()) };
        assert!(matches!(next.step(now, turn), Action::SendClaim { .. }));
        next
    };
    let mut refused = attempt(limit, false);
    send_first_claim(&mut refused, true);
    assert!(matches!(refused.step(at(1), held(T0)), Action::None));
    assert!(matches!(refused.step(at(1_000), Input::Wake), Action::End { .. }));
    let mut behind = next(&refused, limit, at(1_000));
    let Action::End { refusal: Refusal::Contended(Some(_)), .. } = behind.step(at(1_000), Input::Wake) else {
        panic!("the storage has answered")
    };
    let mut third = next(&behind, limit, at(1_000));
    let Action::End { refusal: Refusal::Contended(Some(_)), .. } = third.step(at(1_000), Input::Wake) else {
        panic!("the third one inherits that, too")
    };
    let mut silent = attempt(Wait::For(Duration::from_secs(25)), false);
    send_first_claim(&mut silent, true);
    assert!(matches!(silent.step(at(100), unavailable(T0)), Action::None));
    assert!(matches!(silent.step(at(25_000), Input::Wake), Action::End { .. }));
    let mut behind = next(&silent, limit, at(25_000));
    let Action::End { refusal: Refusal::Unavailable(Some(_)), .. } = behind.step(at(25_000), Input::Wake)
    else {
        panic!("the storage does not answer")
    };
    let mut endless = next(&silent, Wait::Forever, at(25_000));
    endless.sent(Call::at(at(25_000)));
    let answer = endless.step(at(30_000), unavailable(at(25_000)));
    assert!(matches!(answer, Action::End { refusal: Refusal::Unavailable(Some(_)), .. }), "{answer:?}");
}

#[test]
fn attempts_counts_all_tries_and_does_not_pause_after_the_last() {
    let mut attempt = attempt(Wait::Attempts { attempts: 3, interval: Duration::from_secs(1) }, false);
    assert!(!send_first_claim(&mut attempt, true));
    let mut sent = T0;
    for _ in 0..2 {
        assert!(matches!(attempt.step(sent, held(sent)), Action::None));
        sent = attempt.wake();
        assert!(matches!(attempt.step(sent, Input::Wake), Action::SendClaim { wait: false }));
        attempt.sent(Call::at(sent));
    }
    assert!(matches!(
        attempt.step(sent, held(sent)),
        Action::End { refusal: Refusal::Contended(Some(_)), .. }
    ));
    assert_eq!(sent, at(2_000));
}

#[test]
fn a_grant_that_arrives_late_is_claimed_again() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    assert!(matches!(attempt.step(at(5_000), granted(T0)), Action::SendClaim { .. }));
}

#[test]
fn a_grant_that_arrives_late_is_released_if_the_caller_leaves_before_the_next_claim() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    assert!(matches!(attempt.step(at(5_000), granted(T0)), Action::SendClaim { .. }));
    let Action::End { leftovers, .. } = attempt.step(at(5_001), Input::Cancel) else {
        panic!("it does not end")
    };
    assert!(
        matches!(leftovers, Some(Leftovers { claim: None, .. })),
        "the storage has granted it: {leftovers:?}"
    );
}

#[test]
fn the_cleanup_lasts_long_enough_for_a_storage_whose_clock_runs_slower() {
    let waiters_entry = {
        let mut attempt = attempt(Wait::Forever, false);
        send_first_claim(&mut attempt, true);
        match attempt.step(at(1), Input::Cancel) {
            Action::End { leftovers: Some(Leftovers { expires, .. }), .. } => expires,
            other => panic!("{other:?}"),
        }
    };
    let latest = (TTL + patience(TTL)) * 101 / 100;
    assert!(waiters_entry.since(T0) > latest, "{waiters_entry:?}");
    assert!(executable_until(T0, TTL).since(T0) > patience(TTL) * 101 / 100);
}

#[test]
fn an_error_that_a_retry_does_not_mend_ends_the_attempt() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, false);
    let answer = Err(Error::new(ErrorKind::Unsupported, "no"));
    let Action::End { refusal: Refusal::Rejected(_), leftovers } =
        attempt.step(at(1), Input::Answer { call: Call::at(T0), answer })
    else {
        panic!("it retries")
    };
    assert!(
        matches!(leftovers, Some(Leftovers { claim: None, .. })),
        "`Err` means unknown to the cleanup: {leftovers:?}"
    );
}

#[test]
fn a_definite_error_leaves_to_the_cleanup_only_what_earlier_claims_may_have_left() {
    let no = || Err(Error::new(ErrorKind::Unsupported, "no").definite());
    for (silent, queued, expected) in [(false, false, false), (true, false, true), (false, true, true)] {
        let mut attempt = attempt(Wait::Forever, false);
        send_first_claim(&mut attempt, queued);
        let mut sent = T0;
        if silent {
            assert!(matches!(attempt.step(at(1), unavailable(T0)), Action::None));
            sent = attempt.wake();
            assert!(matches!(attempt.step(sent, Input::Wake), Action::SendClaim { .. }));
            attempt.sent(Call::at(sent));
        }
        let answer = Input::Answer { call: Call::at(sent), answer: no() };
        let Action::End { refusal: Refusal::Rejected(_), leftovers } =
            attempt.step(sent.after(Duration::from_millis(1)), answer)
        else {
            panic!("it retries")
        };
        assert_eq!(leftovers.is_some(), expected, "{leftovers:?}");
        let unknown =
            matches!(leftovers, Some(Leftovers { unknown_until, .. }) if unknown_until > Moment::ZERO);
        assert_eq!(unknown, silent, "{leftovers:?}");
    }
}

#[test]
fn a_single_claim_that_cannot_leave_its_lane_ends_within_its_patience() {
    let mut attempt = attempt(Wait::Forever, true);
    assert!(matches!(
        attempt.step(T0, Input::Turn { subscribed: true, inherited: None }),
        Action::SendClaim { .. }
    ));
    assert_eq!(attempt.wake(), T0.after(patience(TTL)));
    let Action::End { refusal: Refusal::Unavailable(None), leftovers } =
        attempt.step(attempt.wake(), Input::Wake)
    else {
        panic!("it does not end")
    };
    assert_eq!(leftovers, None, "nothing was sent");
}

#[test]
fn a_single_claim_in_flight_ends_within_its_patience_from_when_it_was_made() {
    let mut attempt = attempt(Wait::Forever, true);
    assert!(matches!(
        attempt.step(T0, Input::Turn { subscribed: true, inherited: None }),
        Action::SendClaim { .. }
    ));
    attempt.sent(Call::at(at(3_000)));
    assert_eq!(attempt.wake(), T0.after(patience(TTL)));
    assert!(matches!(
        attempt.step(attempt.wake(), Input::Wake),
        Action::End {
            refusal: Refusal::Unavailable(None),
            leftovers: Some(Leftovers { claim: Some(_), .. })
        }
    ));
}

#[test]
fn the_answer_to_another_claim_ends_a_shareable_one_and_leaves_nothing() {
    let mut attempt = attempt(Wait::Forever, true);
    assert!(matches!(
        attempt.step(T0, Input::Turn { subscribed: true, inherited: None }),
        Action::SendClaim { .. }
    ));
    assert!(matches!(
        attempt.step(at(1), Input::SharedAnswer(None)),
        Action::End { refusal: Refusal::Contended(None), leftovers: None }
    ));
}

#[test]
fn a_claim_is_not_shareable_once_an_earlier_one_may_have_been_granted() {
    let mut attempt = attempt(Wait::Attempts { attempts: 3, interval: Duration::from_secs(1) }, false);
    assert!(attempt.is_shareable());
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(at(100), unavailable(T0)), Action::None));
    assert!(matches!(attempt.step(attempt.wake(), Input::Wake), Action::SendClaim { .. }));
    assert!(!attempt.is_shareable(), "its first claim may have been granted");
    assert!(matches!(attempt.step(at(1_200), Input::SharedAnswer(None)), Action::None));
    attempt.sent(Call::at(at(1_300)));
    assert!(matches!(attempt.step(at(1_400), granted(at(1_300))), Action::Granted { .. }));
}

#[test]
fn a_late_answer_to_an_earlier_claim_is_dropped() {
    let mut attempt = attempt(Wait::Forever, false);
    send_first_claim(&mut attempt, true);
    assert!(matches!(attempt.step(at(100), unavailable(T0)), Action::None));
    let again = attempt.wake();
    assert!(matches!(attempt.step(again, Input::Wake), Action::SendClaim { .. }));
    attempt.sent(Call::at(again));
    assert!(matches!(attempt.step(again, granted(T0)), Action::None));
}

#[test]
fn a_wait_without_a_limit_whose_claim_cannot_leave_its_lane_ends_after_thirty_seconds() {
    let mut attempt = attempt(Wait::Forever, false);
    assert!(matches!(
        attempt.step(T0, Input::Turn { subscribed: true, inherited: None }),
        Action::SendClaim { .. }
    ));
    assert_eq!(attempt.wake(), T0.after(SILENCE_LIMIT));
    assert!(matches!(
        attempt.step(attempt.wake(), Input::Wake),
        Action::End { refusal: Refusal::Unavailable(None), .. }
    ));
}
