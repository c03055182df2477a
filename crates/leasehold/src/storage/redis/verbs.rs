//! What can be asked of the servers of a Cluster: each verb's request and its answer.

use std::time::Duration;

use redis::{Cmd, Value};

use super::claims::{self, Around};
use super::connect::LIMIT;
use super::keys::Keys;
use super::link::{Link, Server};
use super::replicas;
use super::request::{Answer, Request};
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Acquire, Claim, Holder, Name, Release, Renew};

/// One kind of question about locks. The items of one request are of one slot.
pub(super) trait Verb: Send + Sync {
    /// What is asked, about one lock.
    type Item: Sync;
    type Answer: Send;

    fn name<'i>(&self, item: &'i Self::Item) -> &'i Name;

    /// How long one server may take; the others' answers wait for it. `None` if nobody else's do.
    fn limit(&self, items: &[Self::Item]) -> Option<Duration>;

    fn request(&self, server: &Server, link: &Link, items: &[&Self::Item]) -> Request;

    fn read(&self, answer: Answer<'_>, items: &[&Self::Item]) -> Result<Vec<Result<Self::Answer>>>;

    /// What to ask after the requests, if an answer counts only when replicas have what was written.
    fn wait(&self, _items: &[&Self::Item]) -> Option<Cmd> {
        None
    }

    /// What an answer is worth, by the answer to `wait`.
    fn confirmed(&self, answer: Self::Answer, _acks: &Value, _place: &str) -> Result<Self::Answer> {
        Ok(answer)
    }
}

pub(super) struct Acquiring<'a> {
    pub(super) around: Around<'a>,
    pub(super) sent: Moment,
}

pub(super) struct Renewing<'a> {
    pub(super) around: Around<'a>,
    pub(super) sent: Moment,
}

pub(super) struct Releasing<'a> {
    pub(super) around: Around<'a>,
}

pub(super) struct Inspecting<'a> {
    pub(super) keys: &'a Keys,
}

impl Verb for Acquiring<'_> {
    type Item = Claim;
    type Answer = Acquire;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, server: &Server, link: &Link, claims: &[&Claim]) -> Request {
        claims::acquire_request(self.around, server, link, claims, self.sent)
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<Acquire>>> {
        claims::acquired(answer, claims)
    }

    fn wait(&self, claims: &[&Claim]) -> Option<Cmd> {
        let needed = self.around.config.wait_replicas;
        (needed > 0).then(|| replicas::wait(needed, claims.iter().copied()))
    }

    fn confirmed(&self, answer: Acquire, acks: &Value, place: &str) -> Result<Acquire> {
        replicas::confirmed(answer, acks, self.around.config.wait_replicas, place)
    }
}

impl Verb for Renewing<'_> {
    type Item = Claim;
    type Answer = Renew;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        // Whoever renews wants time for several tries within a TTL.
        shortest(claims, |claim| claim.ttl / 6)
    }

    fn request(&self, server: &Server, _link: &Link, claims: &[&Claim]) -> Request {
        claims::renew_request(self.around, server, claims, self.sent)
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<Renew>>> {
        claims::renewed(answer, claims)
    }
}

impl Verb for Releasing<'_> {
    type Item = Claim;
    type Answer = Release;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, _server: &Server, _link: &Link, claims: &[&Claim]) -> Request {
        claims::release_request(self.around, claims)
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<Release>>> {
        claims::released(answer, claims)
    }
}

impl Verb for Inspecting<'_> {
    type Item = Name;
    type Answer = Option<Holder>;

    fn name<'i>(&self, name: &'i Name) -> &'i Name {
        name
    }

    fn limit(&self, _names: &[Name]) -> Option<Duration> {
        None
    }

    fn request(&self, _server: &Server, _link: &Link, names: &[&Name]) -> Request {
        claims::inspect_request(self.keys, names)
    }

    fn read(&self, answer: Answer<'_>, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
        claims::inspected(answer, names)
    }
}

/// Three quarters of the shortest time within which somebody wants an answer: the rest is for the way back. One who
/// has no time at all gets nothing either way, and shall not cost the others theirs.
fn shortest(claims: &[Claim], span: impl Fn(&Claim) -> Duration) -> Option<Duration> {
    let shortest = claims.iter().map(span).filter(|span| *span >= SHORTEST).min();
    Some(std::cmp::min(shortest.unwrap_or(LIMIT) * 3 / 4, LIMIT))
}

/// A sixth of the shortest TTL.
const SHORTEST: Duration = Duration::from_millis(16);
