//! One call of the storage: its claims as statements, and how long the server may take for them.
//!
//! Several claims are one statement, which updates all of their documents. A document that a transaction has changed holds
//! the statement up, and so does a slow server. Then the documents are read, and what was not done is sent again: a command
//! for each claim, in the time that is left.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use mongodb::bson::{Document, Timestamp, doc};

use super::config::Config;
use super::link::{Failure, Link};
use super::pipelines::{COMMAND_MAX, Claims, Params, projection, projection_without_queue};
use super::replies::id;
use super::uncontended::Uncontended;
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::Claim;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::hints::Hinter;
use crate::storage::net::waiters::LocalWaiters;

/// Everything that a call needs besides its claims.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) link: &'a Link,
    pub(super) config: &'a Config,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// The clock of the server that was the primary then.
    pub(super) time: &'a ServerClock,
    /// How long the server may take for all commands of the call.
    pub(super) limit: Duration,
    /// The id of this client.
    pub(super) client: &'a str,
    /// The id of this call, random. What the call writes has it, so a read tells what was executed.
    pub(super) id: &'a str,
    pub(super) hinter: &'a Hinter,
    pub(super) waiters: &'a LocalWaiters<()>,
    pub(super) uncontended: &'a Uncontended,
}

/// The reply to a statement.
#[derive(Default)]
pub(super) struct Updated {
    /// How many documents the server has updated.
    pub(super) count: usize,
    /// The time of the last write. `None` if the server is standalone.
    pub(super) time: Option<Timestamp>,
    /// Why the server has stopped before the last document.
    pub(super) failure: Option<Failure>,
    /// Why no majority has confirmed what it did.
    pub(super) unconfirmed: Option<Failure>,
}

impl Updated {
    /// Returns the reply to both of two statements. The second was executed later.
    pub(super) fn and(self, second: Self) -> Self {
        Self {
            count: self.count + second.count,
            time: second.time.or(self.time),
            failure: second.failure.or(self.failure),
            unconfirmed: second.unconfirmed.or(self.unconfirmed),
        }
    }
}

/// How many commands are in flight at once when each claim has one.
const COMMANDS_MAX: usize = 8;

impl<'a> Call<'a> {
    /// Limits the call to the shortest of the times that `limit_for` returns, within these bounds.
    pub(super) fn limited(
        self,
        claims: &[Claim],
        limit_for: fn(&Claim) -> Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Self {
        let limit = claims.iter().map(limit_for).min().unwrap_or(COMMAND_MAX);
        Self { limit: std::cmp::min(self.limit, limit.clamp(*bounds.start(), *bounds.end())), ..self }
    }

    pub(super) fn id_of(&self, claim: &Claim) -> String {
        self.config.id(claim.name.as_str())
    }

    pub(super) fn params(&self) -> Params<'a> {
        Params { client: self.client, call: self.id, listens: self.hinter.is_listening() }
    }

    /// Returns the claims as a statement has them.
    pub(super) fn claims<'b>(&self, claims: impl IntoIterator<Item = &'b Claim>) -> Claims {
        let claim = |claim: &'b Claim| (self.id_of(claim), claim, self.not_after(claim));
        Claims::new(claims.into_iter().map(claim))
    }

    /// Returns the moment of the server's clock before which the server must begin to execute a claim, in milliseconds. It
    /// may finish as much later as the limit says.
    fn not_after(&self, claim: &Claim) -> i64 {
        let patience = std::cmp::max(claim.patience.saturating_sub(self.limit), claim.patience / 2);
        let not_after = self.time.not_after(self.sent, patience).unwrap_or(0);
        i64::try_from(not_after / 1000).unwrap_or(i64::MAX)
    }

    /// Returns `true` if a claim that is sent now comes too late.
    pub(super) fn is_late(&self, claim: &Claim) -> bool {
        self.link.primary.now().since(self.sent) >= claim.patience
    }

    /// Learns the server's clock anew after a claim was refused as late: the clock may have been set.
    pub(super) async fn refresh_clock(&self) {
        // If it fails, the next heartbeat of the driver tells the time.
        let _hello = self.link.hello().await;
    }

    /// Learns the server's clock from the time in a reply, in milliseconds.
    pub(super) fn learn_clock(&self, server_ms: i64) {
        self.link.primary.learn(self.time, self.sent, server_ms);
    }

    /// Returns the lock's document.
    pub(super) fn document<'b>(&self, claim: &Claim, found: &'b [Document]) -> Option<&'b Document> {
        let id_of_lock = self.id_of(claim);
        found.iter().find(|found| id(found) == Some(&id_of_lock))
    }

    /// Returns `true` if this call was the last one that has granted or renewed the lock, or entered an owner in its queue.
    pub(super) fn has_written(&self, found: &Document) -> bool {
        found.get_str("call").is_ok_and(|call| call == self.id)
    }

    /// Returns `true` if this call was one of the last that have released the lock.
    pub(super) fn has_released(&self, found: &Document) -> bool {
        found.get_array("released").is_ok_and(|calls| calls.iter().any(|call| call.as_str() == Some(self.id)))
    }

    /// Returns how long the server may take for a command of these claims, so that there is time for others if it is held up.
    pub(super) fn first_part(&self, claims: &[Claim]) -> Duration {
        if claims.len() > 1 { self.left() / 2 } else { self.left() }
    }

    /// Returns how much of the limit is left.
    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.link.primary.now().since(self.sent))
    }

    /// Sends a statement for several claims.
    pub(super) async fn update(&self, statement: Document, limit: Duration) -> Result<Updated> {
        let command = doc! { "update": &self.link.collection, "updates": [statement] };
        let written = match self.link.write(command, limit).await {
            Err(failure) if failure.is_delay() => {
                return Ok(Updated { failure: Some(failure), ..Updated::default() });
            }
            written => written.map_err(|failure| failure.error)?,
        };
        let unconfirmed = written.unconfirmed.map(|code| Failure::of_code(code, &self.link.place));
        if let (Some(failure), false) = (&unconfirmed, written.may_be_confirmed()) {
            return Err(failure.error.clone());
        }
        let refused = written.refused(&self.link.place)?.into_iter().next().map(|(_, failure)| failure);
        let count = written.reply.get_i32("n").ok().and_then(|count| usize::try_from(count).ok());
        Ok(Updated {
            count: count.ok_or_else(|| self.link.unexpected_reply())?,
            time: written.time,
            failure: refused,
            unconfirmed,
        })
    }

    /// Waits until a majority has what a statement for these claims has written, and returns the documents as a majority has
    /// them. If another server was elected meanwhile, these are its documents, and the writes may be lost.
    pub(super) async fn confirmed(&self, claims: &[Claim], updated: &Updated) -> Result<Vec<Document>> {
        let ids: Vec<_> = claims.iter().map(|claim| self.id_of(claim)).collect();
        self.find(&ids, &[], updated.time).await
    }

    /// Sends a statement for each claim, in a command of its own. Returns whether it has updated the document.
    pub(super) async fn update_each(
        &self,
        claims: &[&Claim],
        statement: impl Fn(&Claims) -> Document,
    ) -> Vec<Result<bool>> {
        let limit = self.share(claims.len());
        let command = |claim: &&Claim| self.update(statement(&self.claims([*claim])), limit);
        let updated = each(claims.iter().map(command).collect()).await.into_iter();
        let has_updated = |updated: Updated| match updated.failure.or(updated.unconfirmed) {
            None => Ok(updated.count == 1),
            Some(failure) => Err(failure.error),
        };
        updated.map(|updated| updated.and_then(has_updated)).collect()
    }

    /// Returns how long the server may take for each of so many commands that [`each`] sends. Each has its part of the time
    /// that is left, so those that are held up do not hold up the others.
    pub(super) fn share(&self, commands: usize) -> Duration {
        let turns = std::cmp::max(commands.div_ceil(COMMANDS_MAX), 1);
        self.left() / u32::try_from(turns).unwrap_or(u32::MAX)
    }

    /// Reads documents, also those of other programs. They are not older than `after`.
    pub(super) async fn find(
        &self,
        ids: &[String],
        owners: &[String],
        after: Option<Timestamp>,
    ) -> Result<Vec<Document>> {
        self.link.read(self.query(ids, projection(owners)), after, self.left()).await
    }

    /// Reads documents without their queues. They are not older than `after`.
    pub(super) async fn find_without_queue(
        &self,
        ids: &[String],
        after: Option<Timestamp>,
    ) -> Result<Vec<Document>> {
        self.link.read(self.query(ids, projection_without_queue()), after, self.left()).await
    }

    /// Reads the latest documents of these claims. Fails if the primary was deposed.
    ///
    /// A command that has failed tells no time, and may have written all the same: a statement for several claims is
    /// interrupted as a whole. A majority may not have that yet, so what it has may be older than what this call wrote.
    pub(super) async fn find_latest<'b>(
        &self,
        claims: impl IntoIterator<Item = &'b Claim> + Clone,
    ) -> Result<Vec<Document>> {
        let ids: Vec<_> = claims.clone().into_iter().map(|claim| self.id_of(claim)).collect();
        let owners: Vec<_> = claims.into_iter().map(|claim| claim.owner.to_string()).collect();
        self.link.read_latest(self.query(&ids, projection(&owners)), self.left()).await
    }

    fn query(&self, ids: &[String], projection: Document) -> Document {
        doc! {
            "find": &self.link.collection,
            "filter": { "_id": { "$in": ids } },
            "projection": projection,
            "batchSize": i64::try_from(ids.len()).unwrap_or(i64::MAX),
        }
    }
}

/// Sends commands, several at a time. Returns their results in the same order.
pub(super) async fn each<F: Future>(commands: Vec<F>) -> Vec<F::Output> {
    stream::iter(commands).buffered(COMMANDS_MAX).collect().await
}

/// Returns the claims that may not have been executed.
pub(super) fn unknown<'a, T>(claims: &'a [Claim], known: &[Option<T>]) -> Vec<&'a Claim> {
    claims.iter().zip(known).filter(|(_, known)| known.is_none()).map(|(claim, _)| claim).collect()
}
