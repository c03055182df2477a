//! What can be asked of the servers of a Cluster: each verb's request and its answer.

use std::sync::Arc;
use std::time::Duration;

use super::Primary;
use super::claims::{self, Around};
use super::connect::LIMIT;
use super::keys::Keys;
use super::link::{Link, Server};
use super::request::{Answer, Request};
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{AcquireReply, Claim, Holder, Name, ReleaseReply, RenewReply};

/// One kind of question about locks. The items of one request are of one slot.
pub(super) trait Verb: Send + Sync {
    /// What is asked, about one lock.
    type Item: Sync;
    type Answer: Send;

    fn name<'i>(&self, item: &'i Self::Item) -> &'i Name;

    /// How long one server may take; the others' answers wait for it. `None` if nobody else's do.
    fn limit(&self, items: &[Self::Item]) -> Option<Duration>;

    fn request(&self, link: &Link, items: &[&Self::Item]) -> Request;

    fn read(&self, answer: Answer<'_>, items: &[&Self::Item]) -> Result<Vec<Result<Self::Answer>>>;

    /// Asks with fewer keys: those that are there while anything is to be done. While a slot moves, a node refuses a
    /// request of which it has some keys and not others. `None` if the others are needed.
    fn narrow(&self, _items: &[&Self::Item]) -> Option<Request> {
        None
    }

    /// Returns the connection on which to ask, if an answer may count only when replicas have what was written.
    fn confirming<'p>(&self, _primary: &'p Primary) -> Option<&'p Arc<Server>> {
        None
    }

    /// How many replicas must have what was written, where the server's failovers ask for `least`.
    fn confirmations(&self, _least: u32) -> u32 {
        0
    }

    /// How long replicas may take.
    fn patience(&self, _items: &[&Self::Item]) -> Duration {
        LIMIT
    }

    /// Returns `true` if the answer is worth nothing unless replicas have what was written.
    fn must_be_confirmed(&self, _answer: &Self::Answer) -> bool {
        false
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
    type Answer = AcquireReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        claims::acquire_request(self.around, link, claims, self.sent)
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<AcquireReply>>> {
        claims::acquired(answer, claims)
    }

    fn confirming<'p>(&self, primary: &'p Primary) -> Option<&'p Arc<Server>> {
        let needed = self.around.config.wait_replicas > 0;
        primary.acquires.as_ref().filter(|server| needed || server.connector().promises_failovers())
    }

    fn confirmations(&self, least: u32) -> u32 {
        std::cmp::max(self.around.config.wait_replicas, least)
    }

    fn patience(&self, claims: &[&Claim]) -> Duration {
        claims.iter().map(|claim| claim.patience).min().unwrap_or(LIMIT)
    }

    fn must_be_confirmed(&self, answer: &AcquireReply) -> bool {
        matches!(answer, AcquireReply::Granted { .. })
    }
}

impl Verb for Renewing<'_> {
    type Item = Claim;
    type Answer = RenewReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        // Whoever renews wants time for several tries within a TTL.
        shortest(claims, |claim| claim.ttl / 6)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        claims::renew_request(self.around, link, claims, self.sent)
    }

    fn confirming<'p>(&self, primary: &'p Primary) -> Option<&'p Arc<Server>> {
        primary.renewals.as_ref().filter(|server| server.connector().promises_failovers())
    }

    fn confirmations(&self, least: u32) -> u32 {
        least
    }

    fn patience(&self, claims: &[&Claim]) -> Duration {
        claims.iter().map(|claim| claim.ttl / 3).min().unwrap_or(LIMIT)
    }

    fn must_be_confirmed(&self, answer: &RenewReply) -> bool {
        matches!(answer, RenewReply::Renewed { .. })
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<RenewReply>>> {
        claims::renewed(answer, claims)
    }
}

impl Verb for Releasing<'_> {
    type Item = Claim;
    type Answer = ReleaseReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, _link: &Link, claims: &[&Claim]) -> Request {
        claims::release_request(self.around, claims)
    }

    fn narrow(&self, claims: &[&Claim]) -> Option<Request> {
        Some(claims::narrow_release_request(self.around, claims))
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<ReleaseReply>>> {
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

    fn request(&self, _link: &Link, names: &[&Name]) -> Request {
        claims::inspect_request(self.keys, names)
    }

    fn narrow(&self, names: &[&Name]) -> Option<Request> {
        Some(claims::narrow_inspect_request(self.keys, names))
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
