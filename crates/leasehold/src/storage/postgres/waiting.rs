//! Those who wait through this client, and what they were left: a lock that is handed over is held from before its new
//! owner knows.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::facts::Identity;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Name, Owner, Token, WAITER_HEARTBEAT, WAITER_TTL};

/// Owners with an entry in the queue.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Places>);

#[derive(Default)]
struct Places {
    of: HashMap<Owner, Place>,
    /// At how many those are forgotten that have not asked for long.
    limit: usize,
}

struct Place {
    name: Name,
    /// When it last asked and was answered, and at what time of the server, in microseconds.
    sent: Moment,
    asked: i64,
    /// How long a lease that it inherits lasts from then.
    span: Duration,
    heir: Option<(Heir, Identity)>,
    /// How many stand before it, if it has to ask for itself when its turn comes; and when that was first known, and how
    /// many there were then.
    before: Option<u32>,
    first: Option<(Moment, u32)>,
}

/// To whom a lock was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heir {
    pub(super) owner: Owner,
    pub(super) token: Token,
    /// Since when its lease counts, by the server's clock, in microseconds: when it had last asked.
    pub(super) asked: i64,
    pub(super) name: Name,
}

/// As the server tells it: the owner, the token, the time and the lock.
impl FromStr for Heir {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let senseless = || Error::new(ErrorKind::Invalid, "an heir is an owner, a token, a time and a lock");
        let mut words = text.splitn(4, ' ');
        let mut next = || words.next().ok_or_else(senseless);
        let owner = next()?.parse()?;
        let token = next()?.parse().map(Token::new).map_err(|_| senseless())?;
        let asked = next()?.parse().map_err(|_| senseless())?;
        Ok(Self { owner, token, asked, name: Name::new(next()?)? })
    }
}

/// Fewer are never worth a look at how old they are.
const FEW: usize = 1024;
/// The shortest turn, and for how long those who are near the first do not ask at most.
const SHORTEST: Duration = Duration::from_millis(10);
const NEAR: u32 = 2;
const NEAR_MOST: Duration = Duration::from_millis(500);
/// With less than this left of it, a lease could not be relied on to be renewed.
const ENOUGH: Duration = Duration::from_millis(250);

impl Waiting {
    /// A claim that was sent then has left an entry, or refreshed it, at that time of the server.
    pub(super) fn asked(&self, claim: &Claim, sent: Moment, asked: i64, before: Option<u32>) {
        let mut places = self.places();
        if places.of.len() >= std::cmp::max(places.limit, FEW) {
            places.of.retain(|_, place| sent.since(place.sent) < WAITER_TTL);
            places.limit = places.of.len() * 2;
        }
        let known = places.of.remove(&claim.owner);
        let first = known.as_ref().and_then(|place| place.first).or(before.map(|before| (sent, before)));
        let heir = known.and_then(|place| place.heir);
        let (name, span) = (claim.name.clone(), std::cmp::min(claim.ttl, WAITER_TTL));
        places.of.insert(claim.owner, Place { name, sent, asked, span, heir, before, first });
    }

    /// Returns when to ask again if nothing tells: a waiter that is not the first, in about as long as those before it
    /// take, judged by those that have gone.
    pub(super) fn pause(&self, owner: &Owner) -> Option<Duration> {
        let places = self.places();
        let place = places.of.get(owner)?;
        let ((since, first), before) = (place.first?, std::cmp::max(place.before?, 1));
        let turn = place.sent.since(since) / std::cmp::max(first.saturating_sub(before), 1);
        let most = if before <= NEAR { NEAR_MOST } else { WAITER_HEARTBEAT };
        Some((std::cmp::max(turn, SHORTEST) * before * 3 / 4).clamp(SHORTEST, most))
    }

    /// Takes in what a server has told. Of somebody else nothing is known here; whoever it is finds out when it asks.
    pub(super) fn inherits(&self, heir: Heir, server: &Identity) {
        if let Some(place) = self.places().of.get_mut(&heir.owner) {
            place.heir = Some((heir, *server));
        }
    }

    /// Something has happened to it since: it asks.
    pub(super) fn disinherit(&self, owner: &Owner) {
        if let Some(place) = self.places().of.get_mut(owner) {
            place.heir = None;
        }
    }

    /// Returns which of the claims this server need not be asked for, since their owners hold. What is granted counts from
    /// the asking that the server has built on, so that no clock is compared with another.
    pub(super) fn inheritance(
        &self,
        claims: &[Claim],
        now: Moment,
        server: &Identity,
    ) -> Vec<(usize, AcquireReply)> {
        let places = self.places();
        if places.of.is_empty() {
            return Vec::new();
        }
        let granted = |(i, claim): (usize, &Claim)| {
            let place = places.of.get(&claim.owner)?;
            let (heir, told_by) = place.heir.as_ref()?;
            let is_this = heir.name == claim.name && place.name == claim.name && told_by == server;
            let since = now.since(place.sent);
            // The server's clock may run faster than ours.
            let ttl = place.span.saturating_sub(since + since / 64);
            let is_enough = ttl >= std::cmp::max(place.span / 4, ENOUGH);
            let token = heir.token;
            (is_this && heir.asked == place.asked && is_enough)
                .then_some((i, AcquireReply::Granted { token, ttl }))
        };
        claims.iter().enumerate().filter_map(granted).collect()
    }

    /// They wait no more.
    pub(super) fn forget<'a>(&self, owners: impl Iterator<Item = &'a Owner>) {
        let mut places = self.places();
        if places.of.is_empty() {
            return;
        }
        for owner in owners {
            places.of.remove(owner);
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
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

    fn heir(claim: &Claim, asked: i64) -> Heir {
        Heir { owner: claim.owner, token: Token::new(7), asked, name: claim.name.clone() }
    }

    fn here() -> Identity {
        Identity::default()
    }

    fn inherited(waiting: &Waiting, claim: &Claim, now: Moment) -> bool {
        !waiting.inheritance(std::slice::from_ref(claim), now, &here()).is_empty()
    }

    #[test]
    fn an_inheritance_counts_from_the_asking() {
        let waiting = Waiting::default();
        let claims = [claim("a"), claim("b")];
        waiting.inherits(heir(&claims[0], 5), &here());
        assert!(!inherited(&waiting, &claims[0], T0), "it has not asked");
        waiting.asked(&claims[1], T0, 5, None);
        waiting.inherits(heir(&claims[1], 5), &here());
        // Less what the server's clock may be ahead by then.
        let ttl = WAITER_TTL - Duration::from_millis(650);
        let granted = AcquireReply::Granted { token: Token::new(7), ttl };
        assert_eq!(waiting.inheritance(&claims, after(640), &here()), [(1, granted)]);
        waiting.forget([&claims[1].owner].into_iter());
        assert!(!inherited(&waiting, &claims[1], after(640)));
    }

    #[test]
    fn what_does_not_build_on_the_last_asking_is_asked_for() {
        let (waiting, claim) = (Waiting::default(), claim("a"));
        waiting.asked(&claim, T0, 5, None);
        waiting.inherits(heir(&claim, 5), &here());
        waiting.asked(&claim, after(2_000), 6, None);
        assert!(!inherited(&waiting, &claim, after(2_000)));
        waiting.inherits(heir(&claim, 6), &here());
        waiting.disinherit(&claim.owner);
        assert!(!inherited(&waiting, &claim, after(2_000)));
        // It may be heard before the answer is.
        waiting.inherits(heir(&claim, 8), &here());
        waiting.asked(&claim, after(4_000), 8, None);
        assert!(inherited(&waiting, &claim, after(4_001)));
    }

    #[test]
    fn what_another_server_says_or_of_another_lock_is_asked_for() {
        let (waiting, mine) = (Waiting::default(), claim("a"));
        waiting.asked(&mine, T0, 5, None);
        waiting.inherits(heir(&mine, 5), &Identity::default().another());
        assert!(!inherited(&waiting, &mine, T0));
        let other = Claim { name: Name::new("b").expect("valid"), ..mine.clone() };
        waiting.inherits(heir(&other, 5), &here());
        assert!(!inherited(&waiting, &mine, T0) && !inherited(&waiting, &other, T0));
    }

    #[test]
    fn too_little_of_it_is_asked_for() {
        let waiting = Waiting::default();
        for (ttl, enough) in [(30_000, 4_400), (1_000, 700), (200, 0)] {
            let claim = Claim { ttl: Duration::from_millis(ttl), ..claim("a") };
            waiting.asked(&claim, T0, 5, None);
            waiting.inherits(heir(&claim, 5), &here());
            assert_eq!(inherited(&waiting, &claim, after(enough)), enough > 0, "{ttl}");
            assert!(!inherited(&waiting, &claim, after(enough + 50)), "{ttl}");
        }
    }

    #[test]
    fn those_who_stopped_asking_are_forgotten() {
        let waiting = Waiting::default();
        let many = u64::try_from(FEW).expect("few") * 10;
        for i in 0..many {
            waiting.asked(&claim("a"), after(i * 6), 5, None);
        }
        assert!(waiting.places().of.len() <= 3 * FEW);
    }

    #[test]
    fn the_farther_from_the_first_the_more_seldom_it_asks() {
        let (waiting, claim) = (Waiting::default(), claim("a"));
        let pause = |millis, before| {
            waiting.asked(&claim, after(millis), 5, Some(before));
            waiting.pause(&claim.owner).expect("it waits").as_millis()
        };
        // Of a turn it is only known that it lasts 10 ms at least, until somebody has gone.
        assert_eq!([pause(0, 200), pause(1_500, 100)], [1_500, 1_125]);
        assert_eq!([pause(2_000, 20), pause(2_200, 2), pause(2_220, 1)], [166, 16, 10]);
        let (waiting, other) = (Waiting::default(), claim.clone());
        let pause = |millis, before| {
            waiting.asked(&other, after(millis), 5, Some(before));
            waiting.pause(&other.owner).expect("it waits").as_millis()
        };
        assert_eq!([pause(0, 3), pause(22, 3), pause(1_000, 3), pause(1_100, 2)], [22, 49, 2_000, 500]);
        waiting.forget([&other.owner].into_iter());
        assert_eq!(waiting.pause(&other.owner), None);
    }

    #[test]
    fn heirs_are_read_as_the_server_writes_them() {
        let claim = claim("a lock");
        let text = format!("{} 7 -12 a lock", claim.owner);
        assert_eq!(text.parse::<Heir>().expect("valid"), heir(&claim, -12));
        for text in ["", "7 7 7 a", &claim.owner.to_string(), &format!("{} -7 5 a", claim.owner)] {
            assert!(text.parse::<Heir>().is_err(), "{text}");
        }
    }
}
