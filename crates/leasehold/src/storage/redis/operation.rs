//! What can be asked of the servers of a Cluster: each verb's request and its answer.

use std::sync::Arc;
use std::time::Duration;

use super::Primary;
use super::config::Config;
use super::connect::LIMIT;
use super::keys::{Companion, Keys};
use super::link::{Link, Server};
use super::request::{Answer, Request};
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Claim, Name};

/// What a batch's scripts need besides the claims.
#[derive(Clone, Copy)]
pub(in crate::storage) struct Around<'a> {
    pub(in crate::storage) config: &'a Config,
    /// This client's id.
    pub(in crate::storage) client: &'a str,
    /// Whether this client's channel is listened to.
    pub(in crate::storage) listening: bool,
    pub(in crate::storage) cluster: bool,
}

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

/// How many keys there are, without the epoch.
pub(super) fn keys_of(around: Around<'_>, claims: &[&Claim]) -> usize {
    claims.len() * if around.cluster { 4 } else { 2 }
}

pub(super) fn own_keys(request: &mut Request, keys: &Keys, claims: &[&Claim]) {
    for claim in claims {
        request.with(|key| keys.lock(&claim.name, key));
        request.with(|key| keys.companion(&claim.name, Companion::Record, key));
    }
}

/// On one server the scripts put these together when they are needed.
pub(super) fn queue_keys(request: &mut Request, around: Around<'_>, claims: &[&Claim]) {
    let keys = &around.config.keys;
    for claim in claims.iter().filter(|_| around.cluster) {
        request.with(|key| keys.companion(&claim.name, Companion::Queue, key));
        request.with(|key| keys.companion(&claim.name, Companion::Waiters, key));
    }
}

/// Puts the last moment at which a claim may be executed, by the server's clock, as wide as the scripts want it.
pub(super) fn not_after(request: &mut Request, link: &Link, claim: &Claim, sent: Moment) {
    let limit = link.time.not_after(sent, claim.patience).unwrap_or(0);
    request.put(format_args!("{limit:016}"));
}

/// Three quarters of the shortest time within which somebody wants an answer: the rest is for the way back. One who
/// has no time at all gets nothing either way, and shall not cost the others theirs.
pub(super) fn shortest(claims: &[Claim], span: impl Fn(&Claim) -> Duration) -> Option<Duration> {
    let shortest = claims.iter().map(span).filter(|span| *span >= SHORTEST).min();
    Some(std::cmp::min(shortest.unwrap_or(LIMIT) * 3 / 4, LIMIT))
}

/// A sixth of the shortest TTL.
const SHORTEST: Duration = Duration::from_millis(16);
