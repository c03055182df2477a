//! One call of the storage: what its statements need besides the claims, and the claims as parameters.

use uuid::Uuid;

use super::apart::Blocked;
use super::link::{Link, Server};
use super::waiting::Waiting;
use crate::clock::Moment;
use crate::storage::net::hints::Hinter;
use crate::storage::{Claim, Owner};

/// What a batch's statements need besides the claims.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) server: &'a Server,
    pub(super) link: &'a Link,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// The option `prefix`.
    pub(super) space: &'a str,
    /// This client's id.
    pub(super) client: &'a str,
    /// The same as a number: its advisory lock. None if what is not found is asked for again behind what is on its way.
    pub(super) key: Option<i64>,
    pub(super) hinter: &'a Hinter,
    pub(super) waiting: &'a Waiting,
    pub(super) blocked: &'a Blocked,
}

/// No tokens: of none is it known that a standby has it.
pub(super) const NONE: &[i64] = &[];

/// The claims at these places.
pub(super) fn at<'a>(claims: &'a [Claim], places: &[usize]) -> Vec<&'a Claim> {
    places.iter().map(|i| &claims[*i]).collect()
}

/// The last moments of the server's clock at which the claims may be executed, in microseconds.
pub(super) fn limits(around: Around<'_>, claims: &[&Claim]) -> Vec<i64> {
    let limit = |claim: &&Claim| around.server.time.not_after(around.sent, claim.patience).unwrap_or(0);
    claims.iter().map(limit).map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)).collect()
}

pub(super) fn names<'a>(claims: &[&'a Claim]) -> Vec<&'a str> {
    claims.iter().map(|claim| claim.name.as_str()).collect()
}

pub(super) fn owners(claims: &[&Claim]) -> Vec<Uuid> {
    claims.iter().map(|claim| id(claim.owner)).collect()
}

pub(super) fn kinds(claims: &[&Claim]) -> Vec<&'static str> {
    claims.iter().map(|claim| claim.kind.as_str()).collect()
}

pub(super) fn labels<'a>(claims: &[&'a Claim]) -> Vec<Option<&'a str>> {
    claims.iter().map(|claim| claim.label.as_deref()).collect()
}

pub(super) fn ttls(claims: &[&Claim]) -> Vec<i64> {
    claims.iter().map(|claim| i64::try_from(claim.ttl.as_micros()).unwrap_or(i64::MAX)).collect()
}

pub(super) fn id(owner: Owner) -> Uuid {
    Uuid::from_bytes(owner.to_bytes())
}
