//! The owners that wait through this client, and the locks that were handed over to them: such a lock is held from before
//! its new owner knows.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::storage::{AcquireReply, Claim, Name, Owner, Token, WAITER_TTL};

/// Owners with an entry in the queue.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Places>);

#[derive(Default)]
struct Places {
    of: HashMap<Owner, Place>,
    /// The number of places from which on those are forgotten that have not asked for long.
    limit: usize,
}

struct Place {
    name: Name,
    /// When it last asked and was answered, and at what time of the server, in milliseconds.
    sent: Moment,
    asked: i64,
    /// How long a lease that it inherits lasts from then.
    span: Duration,
    heir: Option<Heir>,
}

/// A lock that was handed over, and its new owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heir {
    pub(super) owner: Owner,
    pub(super) token: Token,
    /// Since when its lease counts, by the server's clock, in milliseconds: when it had last asked.
    pub(super) asked: i64,
    pub(super) name: Name,
}

impl Heir {
    /// Reads what a release has written into the lock's document: the owner, the token and the time.
    pub(super) fn read(text: &str, name: Name) -> Option<Self> {
        let mut words = text.split(' ');
        let owner = words.next()?.parse().ok()?;
        let token = words.next()?.parse().map(Token::new).ok()?;
        let asked = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { owner, token, asked, name })
    }
}

/// Fewer are never worth a look at how old they are.
const FEW: usize = 1024;
/// With less than this left of it, a lease could not be relied on to be renewed.
const ENOUGH: Duration = Duration::from_millis(250);

impl Waiting {
    /// A claim that was sent then has left an entry, or refreshed it, at that time of the server.
    pub(super) fn asked(&self, claim: &Claim, sent: Moment, asked: i64) {
        let mut places = self.places();
        if places.of.len() >= std::cmp::max(places.limit, FEW) {
            places.of.retain(|_, place| sent.since(place.sent) < WAITER_TTL);
            places.limit = places.of.len() * 2;
        }
        let heir = places.of.remove(&claim.owner).and_then(|place| place.heir);
        let (name, span) = (claim.name.clone(), std::cmp::min(claim.ttl, WAITER_TTL));
        places.of.insert(claim.owner, Place { name, sent, asked, span, heir });
    }

    /// Takes in that a lock was handed over. Ignores owners that do not wait through this client; they learn of the grant on
    /// their next claim.
    pub(super) fn inherits(&self, heir: Heir) {
        if let Some(place) = self.places().of.get_mut(&heir.owner) {
            place.heir = Some(heir);
        }
    }

    /// Forgets a lock that was handed over: something has happened to it since, so its owner asks.
    pub(super) fn disinherit(&self, owner: &Owner) {
        if let Some(place) = self.places().of.get_mut(owner) {
            place.heir = None;
        }
    }

    /// Returns which of the claims the server need not be asked for, since their owners hold. What is granted counts from
    /// the request that the server has built on, so that no clock is compared with another.
    pub(super) fn inheritance(&self, claims: &[Claim], now: Moment) -> Vec<(usize, AcquireReply)> {
        let places = self.places();
        if places.of.is_empty() {
            return Vec::new();
        }
        let granted = |(i, claim): (usize, &Claim)| {
            let place = places.of.get(&claim.owner)?;
            let heir = place.heir.as_ref()?;
            let is_this = heir.name == claim.name && place.name == claim.name;
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

    /// Forgets owners that wait no more.
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

    fn inherited(waiting: &Waiting, claim: &Claim, now: Moment) -> bool {
        !waiting.inheritance(std::slice::from_ref(claim), now).is_empty()
    }

    #[test]
    fn an_inheritance_counts_from_the_asking() {
        let waiting = Waiting::default();
        let claims = [claim("a"), claim("b")];
        waiting.inherits(heir(&claims[0], 5));
        assert!(!inherited(&waiting, &claims[0], T0), "it has not asked");
        waiting.asked(&claims[1], T0, 5);
        waiting.inherits(heir(&claims[1], 5));
        // Less what the server's clock may be ahead by then.
        let ttl = WAITER_TTL - Duration::from_millis(650);
        let granted = AcquireReply::Granted { token: Token::new(7), ttl };
        assert_eq!(waiting.inheritance(&claims, after(640)), [(1, granted)]);
        waiting.forget([&claims[1].owner].into_iter());
        assert!(!inherited(&waiting, &claims[1], after(640)));
    }

    #[test]
    fn what_does_not_build_on_the_last_asking_is_asked_for() {
        let (waiting, claim) = (Waiting::default(), claim("a"));
        waiting.asked(&claim, T0, 5);
        waiting.inherits(heir(&claim, 5));
        waiting.asked(&claim, after(2_000), 6);
        assert!(!inherited(&waiting, &claim, after(2_000)));
        waiting.inherits(heir(&claim, 6));
        waiting.disinherit(&claim.owner);
        assert!(!inherited(&waiting, &claim, after(2_000)));
        // It may be heard before the answer is.
        waiting.inherits(heir(&claim, 8));
        waiting.asked(&claim, after(4_000), 8);
        assert!(inherited(&waiting, &claim, after(4_001)));
    }

    #[test]
    fn what_is_said_of_another_lock_is_asked_for() {
        let (waiting, mine) = (Waiting::default(), claim("a"));
        waiting.asked(&mine, T0, 5);
        let other = Claim { name: Name::new("b").expect("valid"), ..mine.clone() };
        waiting.inherits(heir(&other, 5));
        assert!(!inherited(&waiting, &mine, T0) && !inherited(&waiting, &other, T0));
    }

    #[test]
    fn too_little_of_it_is_asked_for() {
        let waiting = Waiting::default();
        for (ttl, enough) in [(30_000, 4_400), (1_000, 700), (200, 0)] {
            let claim = Claim { ttl: Duration::from_millis(ttl), ..claim("a") };
            waiting.asked(&claim, T0, 5);
            waiting.inherits(heir(&claim, 5));
            assert_eq!(inherited(&waiting, &claim, after(enough)), enough > 0, "{ttl}");
            assert!(!inherited(&waiting, &claim, after(enough + 50)), "{ttl}");
        }
    }

    #[test]
    fn owners_that_stopped_asking_are_forgotten() {
        let waiting = Waiting::default();
        let many = u64::try_from(FEW).expect("few") * 10;
        for i in 0..many {
            waiting.asked(&claim("a"), after(i * 6), 5);
        }
        assert!(waiting.places().of.len() <= 3 * FEW);
    }

    #[test]
    fn heirs_are_read_as_the_server_writes_them() {
        let claim = claim("a lock");
        let text = format!("{} 7 -12", claim.owner);
        assert_eq!(Heir::read(&text, claim.name.clone()), Some(heir(&claim, -12)));
        for text in
            ["", "7 7 7", &claim.owner.to_string(), &format!("{} -7 5", claim.owner), &format!("{text} 5")]
        {
            assert_eq!(Heir::read(text, claim.name.clone()), None, "{text}");
        }
    }
}
