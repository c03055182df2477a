//! The waiters of this client, and the locks that were handed over to them.
//!
//! A release hands a lock over to the first waiter without being asked by it, so the waiter holds the lock before it
//! knows. It learns the handover from a notification, or from a release of its own client. Its next claim is then
//! answered from here, without a request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Name, Owner, Token, WAITER_HEARTBEAT, WAITER_TTL};

/// The waiters of this client, by owner. `S` tells the servers apart that can hand locks over.
pub(in crate::storage) struct LocalWaiters<S>(Mutex<State<S>>);

struct State<S> {
    waiters: HashMap<Owner, Waiter<S>>,
    /// At how many waiters those are removed whose entries have expired.
    limit: usize,
}

/// An owner with an entry in the queue.
struct Waiter<S> {
    name: Name,
    /// When its last claim was sent.
    sent: Moment,
    /// When the server executed that claim, by the server's clock and in its unit.
    asked: i64,
    /// How long a lease that is handed over to it lasts from then.
    span: Duration,
    /// The handover, and the server that made it.
    handover: Option<(Handover, S)>,
    /// How many waiters are before it, if no notification tells it that it is first.
    before: Option<u32>,
    /// When that was first known, and how many there were then.
    first: Option<(Moment, u32)>,
}

/// A lock that was handed over to a waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Handover {
    pub(in crate::storage) owner: Owner,
    pub(in crate::storage) token: Token,
    /// When the lease begins to count, by the server's clock and in its unit: when the owner's last claim was executed.
    pub(in crate::storage) asked: i64,
    pub(in crate::storage) name: Name,
}

/// Reads what the server says of a handover: the owner, the token, the time and the lock.
impl FromStr for Handover {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Invalid, "a handover is an owner, a token, a time and a lock");
        let mut words = text.splitn(4, ' ');
        let mut next = || words.next().ok_or_else(wrong);
        let owner = next()?.parse()?;
        let token = next()?.parse().map(Token::new).map_err(|_| wrong())?;
        let asked = next()?.parse().map_err(|_| wrong())?;
        Ok(Self { owner, token, asked, name: Name::new(next()?)? })
    }
}

/// How many waiters are kept before the first is removed.
const LIMIT_MIN: usize = 1024;
/// The shortest pause between two claims of a waiter that is not notified.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause with at most [`NEAR_HEAD`] waiters before it.
const PAUSE_NEAR_HEAD: Duration = Duration::from_millis(500);
const NEAR_HEAD: u32 = 2;
/// The shortest rest of a lease that is relied on: with less, a renewal might come too late.
const REST_MIN: Duration = Duration::from_millis(250);

/// The claims of a call, of which handovers may answer some.
pub(in crate::storage) struct SplitClaims<'a> {
    handed_over: Vec<(usize, AcquireReply)>,
    indexes: Vec<usize>,
    /// The claims that the server has to answer.
    pub(in crate::storage) rest: Cow<'a, [Claim]>,
}

impl SplitClaims<'_> {
    /// Returns the replies to all claims, from those to the rest.
    pub(in crate::storage) fn merge(self, of_rest: Vec<Result<AcquireReply>>) -> Vec<Result<AcquireReply>> {
        if self.handed_over.is_empty() {
            return of_rest;
        }
        let handed_over = self.handed_over.into_iter().map(|(index, granted)| (index, Ok(granted)));
        let mut replies: Vec<_> = handed_over.chain(self.indexes.into_iter().zip(of_rest)).collect();
        replies.sort_by_key(|(index, _)| *index);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }
}

impl<S> Default for LocalWaiters<S> {
    fn default() -> Self {
        Self(Mutex::new(State { waiters: HashMap::new(), limit: 0 }))
    }
}

impl<S: Copy + PartialEq> LocalWaiters<S> {
    /// Records that a claim, sent then, has entered the queue or refreshed its entry, at that time of the server.
    pub(in crate::storage) fn queued(&self, claim: &Claim, sent: Moment, asked: i64, before: Option<u32>) {
        let mut state = self.state();
        if state.waiters.len() >= std::cmp::max(state.limit, LIMIT_MIN) {
            state.waiters.retain(|_, waiter| sent.since(waiter.sent) < WAITER_TTL);
            state.limit = state.waiters.len() * 2;
        }
        let known = state.waiters.remove(&claim.owner);
        let first = known.as_ref().and_then(|waiter| waiter.first).or(before.map(|before| (sent, before)));
        let handover = known.and_then(|waiter| waiter.handover);
        let (name, span) = (claim.name.clone(), std::cmp::min(claim.ttl, WAITER_TTL));
        state.waiters.insert(claim.owner, Waiter { name, sent, asked, span, handover, before, first });
    }

    /// Returns when a waiter that is not notified and not the first asks again: after about as long as the waiters before
    /// it take, judged by those that have gone.
    pub(in crate::storage) fn pause(&self, owner: &Owner) -> Option<Duration> {
        let state = self.state();
        let waiter = state.waiters.get(owner)?;
        let ((since, first), before) = (waiter.first?, std::cmp::max(waiter.before?, 1));
        let turn = waiter.sent.since(since) / std::cmp::max(first.saturating_sub(before), 1);
        let longest = if before <= NEAR_HEAD { PAUSE_NEAR_HEAD } else { WAITER_HEARTBEAT };
        Some((std::cmp::max(turn, PAUSE_MIN) * before * 3 / 4).clamp(PAUSE_MIN, longest))
    }

    /// Records a handover that a server has made. Ignores owners that do not wait through this client; they learn of the
    /// grant on their next claim.
    pub(in crate::storage) fn hand_over(&self, handover: Handover, server: &S) {
        if let Some(waiter) = self.state().waiters.get_mut(&handover.owner) {
            waiter.handover = Some((handover, *server));
        }
    }

    /// Forgets the handover to an owner, because its lock has changed since: its next claim is sent to the server.
    pub(in crate::storage) fn forget_handover(&self, owner: &Owner) {
        if let Some(waiter) = self.state().waiters.get_mut(owner) {
            waiter.handover = None;
        }
    }

    /// Finds the claims whose locks were handed over by that server, if one is known. The lease counts from the claim that the
    /// server has built on, so no clock is compared with another.
    pub(in crate::storage) fn split<'a>(
        &self,
        claims: &'a [Claim],
        now: Moment,
        server: Option<&S>,
    ) -> SplitClaims<'a> {
        let handed_over = server.map(|server| self.handed_over(claims, now, server)).unwrap_or_default();
        if handed_over.is_empty() {
            return SplitClaims { handed_over, indexes: Vec::new(), rest: Cow::Borrowed(claims) };
        }
        let is_open = |i: usize| handed_over.iter().all(|(index, _)| *index != i);
        let rest = claims.iter().enumerate().filter(|(i, _)| is_open(*i));
        let (indexes, rest): (_, Vec<_>) = rest.map(|(i, claim)| (i, claim.clone())).unzip();
        SplitClaims { handed_over, indexes, rest: Cow::Owned(rest) }
    }

    fn handed_over(&self, claims: &[Claim], now: Moment, server: &S) -> Vec<(usize, AcquireReply)> {
        let state = self.state();
        if state.waiters.is_empty() {
            return Vec::new();
        }
        let reply = |(i, claim): (usize, &Claim)| {
            let waiter = state.waiters.get(&claim.owner)?;
            let (handover, made_by) = waiter.handover.as_ref()?;
            let is_this = handover.name == claim.name && waiter.name == claim.name && made_by == server;
            let since = now.since(waiter.sent);
            // The server's clock may run faster than the client's.
            let ttl = waiter.span.saturating_sub(since + since / 64);
            let is_enough = ttl >= std::cmp::max(waiter.span / 4, REST_MIN);
            let token = handover.token;
            (is_this && handover.asked == waiter.asked && is_enough)
                .then_some((i, AcquireReply::Granted { token, ttl }))
        };
        claims.iter().enumerate().filter_map(reply).collect()
    }

    /// Removes the owners of the claims that are granted.
    pub(in crate::storage) fn remove_granted(&self, claims: &[Claim], replies: &[Result<AcquireReply>]) {
        let is_granted = |reply: &Result<AcquireReply>| matches!(reply, Ok(AcquireReply::Granted { .. }));
        let granted = claims.iter().zip(replies).filter(|(_, reply)| is_granted(reply));
        self.remove(granted.map(|(claim, _)| &claim.owner));
    }

    /// Removes owners that wait no more.
    pub(in crate::storage) fn remove<'a>(&self, owners: impl Iterator<Item = &'a Owner>) {
        let mut state = self.state();
        if state.waiters.is_empty() {
            return;
        }
        for owner in owners {
            state.waiters.remove(owner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn claim(lock: &str) -> Claim {
        Claim::new(Name::new(lock).expect("valid"), Owner::random(), TTL)
    }

    fn after(millis: u64) -> Moment {
        T0.after(Duration::from_millis(millis))
    }

    fn handover(claim: &Claim, asked: i64) -> Handover {
        Handover { owner: claim.owner, token: Token::new(7), asked, name: claim.name.clone() }
    }

    const HERE: u8 = 1;
    const ELSEWHERE: u8 = 2;

    fn is_granted(waiters: &LocalWaiters<u8>, claim: &Claim, now: Moment) -> bool {
        !waiters.handed_over(std::slice::from_ref(claim), now, &HERE).is_empty()
    }

    #[test]
    fn a_handover_counts_from_the_last_claim() {
        let waiters = LocalWaiters::<u8>::default();
        let claims = [claim("a"), claim("b")];
        waiters.hand_over(handover(&claims[0], 5), &HERE);
        assert!(!is_granted(&waiters, &claims[0], T0), "it is not in the queue");
        waiters.queued(&claims[1], T0, 5, None);
        waiters.hand_over(handover(&claims[1], 5), &HERE);
        // The server's clock may be ahead by 1/64 of the time since.
        let ttl = WAITER_TTL - Duration::from_millis(650);
        let granted = AcquireReply::Granted { token: Token::new(7), ttl };
        assert_eq!(waiters.handed_over(&claims, after(640), &HERE), [(1, granted)]);
        waiters.remove([&claims[1].owner].into_iter());
        assert!(!is_granted(&waiters, &claims[1], after(640)));
    }

    #[test]
    fn a_handover_that_builds_on_an_earlier_claim_is_not_used() {
        let (waiters, claim) = (LocalWaiters::<u8>::default(), claim("a"));
        waiters.queued(&claim, T0, 5, None);
        waiters.hand_over(handover(&claim, 5), &HERE);
        waiters.queued(&claim, after(2_000), 6, None);
        assert!(!is_granted(&waiters, &claim, after(2_000)));
        waiters.hand_over(handover(&claim, 6), &HERE);
        waiters.forget_handover(&claim.owner);
        assert!(!is_granted(&waiters, &claim, after(2_000)));
        // The notification may arrive before the reply to the claim.
        waiters.hand_over(handover(&claim, 8), &HERE);
        waiters.queued(&claim, after(4_000), 8, None);
        assert!(is_granted(&waiters, &claim, after(4_001)));
    }

    #[test]
    fn a_handover_by_another_server_or_of_another_lock_is_not_used() {
        let (waiters, mine) = (LocalWaiters::<u8>::default(), claim("a"));
        waiters.queued(&mine, T0, 5, None);
        waiters.hand_over(handover(&mine, 5), &ELSEWHERE);
        assert!(!is_granted(&waiters, &mine, T0));
        let other = Claim { name: Name::new("b").expect("valid"), ..mine.clone() };
        waiters.hand_over(handover(&other, 5), &HERE);
        assert!(!is_granted(&waiters, &mine, T0) && !is_granted(&waiters, &other, T0));
    }

    #[test]
    fn a_handover_with_little_time_left_is_not_used() {
        let waiters = LocalWaiters::<u8>::default();
        for (ttl, enough) in [(30_000, 4_400), (1_000, 700), (200, 0)] {
            let claim = Claim { ttl: Duration::from_millis(ttl), ..claim("a") };
            waiters.queued(&claim, T0, 5, None);
            waiters.hand_over(handover(&claim, 5), &HERE);
            assert_eq!(is_granted(&waiters, &claim, after(enough)), enough > 0, "{ttl}");
            assert!(!is_granted(&waiters, &claim, after(enough + 50)), "{ttl}");
        }
    }

    #[test]
    fn waiters_that_stopped_asking_are_removed() {
        let waiters = LocalWaiters::<u8>::default();
        let many = u64::try_from(LIMIT_MIN).expect("few") * 10;
        for i in 0..many {
            waiters.queued(&claim("a"), after(i * 6), 5, None);
        }
        assert!(waiters.state().waiters.len() <= 3 * LIMIT_MIN);
    }

    #[test]
    fn a_waiter_far_from_the_head_asks_less_often() {
        let (waiters, claim) = (LocalWaiters::<u8>::default(), claim("a"));
        let pause = |millis, before| {
            waiters.queued(&claim, after(millis), 5, Some(before));
            waiters.pause(&claim.owner).expect("it waits").as_millis()
        };
        // Until a waiter before it has gone, a turn counts as 10 ms.
        assert_eq!([pause(0, 200), pause(1_500, 100)], [1_500, 1_125]);
        assert_eq!([pause(2_000, 20), pause(2_200, 2), pause(2_220, 1)], [166, 16, 10]);
        let (waiters, other) = (LocalWaiters::<u8>::default(), claim.clone());
        let pause = |millis, before| {
            waiters.queued(&other, after(millis), 5, Some(before));
            waiters.pause(&other.owner).expect("it waits").as_millis()
        };
        assert_eq!([pause(0, 3), pause(22, 3), pause(1_000, 3), pause(1_100, 2)], [22, 49, 2_000, 500]);
        waiters.remove([&other.owner].into_iter());
        assert_eq!(waiters.pause(&other.owner), None);
    }

    #[test]
    fn a_handover_is_read_as_the_server_writes_it() {
        let claim = claim("a lock");
        let text = format!("{} 7 -12 a lock", claim.owner);
        assert_eq!(text.parse::<Handover>().expect("valid"), handover(&claim, -12));
        for text in ["", "7 7 7 a", &claim.owner.to_string(), &format!("{} -7 5 a", claim.owner)] {
            assert!(text.parse::<Handover>().is_err(), "{text}");
        }
    }
}
