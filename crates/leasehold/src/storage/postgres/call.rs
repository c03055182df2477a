//! One call of the storage: the connection that it uses, and its claims as the parameters of statements.

use uuid::Uuid;

use super::facts::Identity;
use super::link::Link;
use super::link_connector::Server;
use super::uncommitted::UncommittedRows;
use crate::clock::Moment;
use crate::storage::net::hints::Hinter;
use crate::storage::net::waiters::LocalWaiters;
use crate::storage::{Claim, Owner};

/// One call of the storage: everything that its statements need besides the claims.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) server: &'a Server,
    /// The connection over which the statements are sent.
    pub(super) link: &'a Link,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// The option `prefix`.
    pub(super) space: &'a str,
    /// The id of this client.
    pub(super) client: &'a str,
    /// The key of this client's advisory lock. `None` on the side connection: a release that finds nothing is retried on
    /// the main one, behind any acquire in flight.
    pub(super) client_key: Option<i64>,
    pub(super) hinter: &'a Hinter,
    pub(super) waiters: &'a LocalWaiters<Identity>,
    pub(super) uncommitted: &'a UncommittedRows,
}

/// No tokens: of no handover is it known that every standby has it.
pub(super) const NO_TOKENS: &[i64] = &[];

/// Returns the claims at these indexes.
pub(super) fn select<'a>(claims: &'a [Claim], indexes: &[usize]) -> Vec<&'a Claim> {
    indexes.iter().map(|i| &claims[*i]).collect()
}

/// Returns the last moments of the server's clock at which the claims may be executed, in microseconds.
pub(super) fn limits(call: Call<'_>, claims: &[&Claim]) -> Vec<i64> {
    let limit = |claim: &&Claim| call.server.time.not_after(call.sent, claim.patience).unwrap_or(0);
    claims.iter().map(limit).map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)).collect()
}

pub(super) fn names<'a>(claims: &[&'a Claim]) -> Vec<&'a str> {
    claims.iter().map(|claim| claim.name.as_str()).collect()
}

pub(super) fn owners(claims: &[&Claim]) -> Vec<Uuid> {
    claims.iter().map(|claim| id(claim.owner)).collect()
}

/// The value of the column `kind` for an exclusive lock.
const KIND: &str = "mutex";

pub(super) fn kinds(claims: &[&Claim]) -> Vec<&'static str> {
    vec![KIND; claims.len()]
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
