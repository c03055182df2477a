//! The operations on locks, and what their requests have in common.

use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::connect::LIMIT;
use super::keys::Companion;
use super::link::{Link, Server};
use super::primary::Primary;
use super::replies::Reply;
use super::request::Request;
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Claim, Name};

/// One kind of request about locks. On a Cluster the items of one request have the same slot.
pub(super) trait Operation: Send + Sync {
    /// What one entry of the request is about.
    type Item: Sync;
    type Reply: Send;

    fn name<'i>(&self, item: &'i Self::Item) -> &'i Name;

    /// Returns how long one node of a Cluster may take, since the replies of the others wait for it. `None`: no reply
    /// of another node does.
    fn limit(&self, items: &[Self::Item]) -> Option<Duration>;

    fn request(&self, link: &Link, items: &[&Self::Item]) -> Request;

    fn read(&self, reply: Reply<'_>, items: &[&Self::Item]) -> Result<Vec<Result<Self::Reply>>>;

    /// Returns the request with fewer keys: those that every lock has. While a slot moves, a node refuses a request if
    /// it has only some of its keys. `None` if the other keys are needed.
    fn narrow(&self, _items: &[&Self::Item]) -> Option<Request> {
        None
    }

    /// Returns the connection to use if a reply counts only once replicas have confirmed what was written.
    fn confirming<'p>(&self, _primary: &'p Primary) -> Option<&'p Arc<Server>> {
        None
    }

    /// Returns how many replicas must confirm, where failovers require `least`.
    fn confirmations(&self, _least: u32) -> u32 {
        0
    }

    /// Returns how long replicas may take.
    fn patience(&self, _items: &[&Self::Item]) -> Duration {
        LIMIT
    }

    /// Returns `true` if the reply counts only once replicas have confirmed it.
    fn must_be_confirmed(&self, _reply: &Self::Reply) -> bool {
        false
    }
}

/// What the requests of a client have in common.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    /// The id of this client.
    pub(super) client: &'a str,
    /// Whether this client is subscribed to its channel.
    pub(super) listening: bool,
    pub(super) cluster: bool,
}

impl Context<'_> {
    /// Returns how many keys [`Context::put_keys`] adds.
    pub(super) fn key_count(self, claims: &[&Claim]) -> usize {
        claims.len() * if self.cluster { 4 } else { 2 }
    }

    /// Adds the locks and their records; on a Cluster also their queues and waiters. On one server the scripts derive
    /// these when they are needed.
    pub(super) fn put_keys(self, request: &mut Request, claims: &[&Claim]) {
        self.put_own_keys(request, claims);
        let keys = &self.config.keys;
        for claim in claims.iter().filter(|_| self.cluster) {
            request.with(|key| keys.companion(&claim.name, Companion::Queue, key));
            request.with(|key| keys.companion(&claim.name, Companion::Waiters, key));
        }
    }

    /// Adds the locks and their records.
    pub(super) fn put_own_keys(self, request: &mut Request, claims: &[&Claim]) {
        let keys = &self.config.keys;
        for claim in claims {
            request.with(|key| keys.lock(&claim.name, key));
            request.with(|key| keys.companion(&claim.name, Companion::Record, key));
        }
    }
}

/// Adds the moment from which on a claim is too late, by the server's clock, in the width that the scripts require.
pub(super) fn put_limit(request: &mut Request, link: &Link, claim: &Claim, sent: Moment) {
    let limit = link.time.not_after(sent, claim.patience).unwrap_or(0);
    request.put(format_args!("{limit:016}"));
}

/// Returns three quarters of the shortest time within which a claim needs its reply: the rest is for the way back. A
/// claim that has hardly any time gets its reply too late in any case, and must not cut the time of the others.
pub(super) fn shortest(claims: &[Claim], span: impl Fn(&Claim) -> Duration) -> Option<Duration> {
    let shortest = claims.iter().map(span).filter(|span| *span >= SPAN_MIN).min();
    Some(std::cmp::min(shortest.unwrap_or(LIMIT) * 3 / 4, LIMIT))
}

/// A sixth of the shortest TTL.
const SPAN_MIN: Duration = Duration::from_millis(16);
