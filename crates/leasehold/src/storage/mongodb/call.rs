//! One call of the storage: its claims as statements, and how they are sent.
//!
//! A document that a transaction has changed holds up its statement, and the statements behind it in the same command. So
//! a command of several statements has little time. If that is over, each statement is sent in a command of its own.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use mongodb::bson::{Document, Timestamp, doc};

use super::config::Config;
use super::errors::{TIME_OVER, error_of_code};
use super::link::{Failure, Link, Written};
use super::pipelines::{COMMAND_MAX, Params, VERSION, projection};
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
    /// How long the server may take for a command.
    pub(super) limit: Duration,
    /// The id of this client.
    pub(super) client: &'a str,
    pub(super) hinter: &'a Hinter,
    pub(super) waiters: &'a LocalWaiters<()>,
}

/// The reply to several statements.
#[derive(Default)]
pub(super) struct Updated {
    /// The time of the last write. `None` if the server is standalone.
    pub(super) time: Option<Timestamp>,
    /// The server's code, if no majority has confirmed the statements in time.
    pub(super) unconfirmed: Option<i32>,
    /// Whether statements may have been executed twice.
    pub(super) repeated: bool,
    /// The indexes of the statements that failed, and the reasons.
    pub(super) failed: Vec<(usize, Failure)>,
}

/// How long the server may take for a command of several statements, as a part of the shortest TTL.
const BATCH_PART_OF_TTL: u32 = 16;
const BATCH_MAX: Duration = Duration::from_secs(1);
/// The shortest time that a server has for a command. A claim with less patience may be executed as much too late, if a
/// transaction has changed its document; such a lease is short, too, and ends by itself.
const COMMAND_MIN: Duration = Duration::from_millis(250);
/// How many statements are under way at once when each has a command of its own.
const COMMANDS_MAX: usize = 16;

impl Call<'_> {
    pub(super) fn id(&self, claim: &Claim) -> String {
        self.config.id(claim.name.as_str())
    }

    pub(super) fn ids(&self, claims: &[Claim]) -> Vec<String> {
        claims.iter().map(|claim| self.id(claim)).collect()
    }

    pub(super) fn params<'b>(&'b self, claim: &'b Claim) -> Params<'b> {
        // `$$NOW` is the time at which the server begins a command. It may execute it as much later as the limit says.
        let patience = std::cmp::max(claim.patience.saturating_sub(self.limit), claim.patience / 2);
        Params {
            claim,
            client: self.client,
            listens: self.hinter.is_listening(),
            not_after: i64::try_from(self.time.not_after(self.sent, patience).unwrap_or(0) / 1000)
                .unwrap_or(i64::MAX),
        }
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

    /// Returns the same call for claims that the server must not execute later than their patience.
    pub(super) fn bounded<'b>(self, claims: impl Iterator<Item = &'b Claim>) -> Self {
        let patience = claims.map(|claim| claim.patience).min();
        let limit = patience.map_or(COMMAND_MAX, |patience| (patience / 2).clamp(COMMAND_MIN, COMMAND_MAX));
        Self { limit, ..self }
    }

    /// Makes a statement for each claim, which fails if its owner does not hold the lock. See
    /// [`REFUSED`](super::pipelines::REFUSED).
    pub(super) fn for_holders(
        &self,
        claims: &[Claim],
        pipeline: impl Fn(Params<'_>) -> Vec<Document>,
    ) -> Vec<Document> {
        let statement = |claim: &Claim| {
            let query =
                doc! { "_id": self.id(claim), "leasehold": VERSION, "owner": claim.owner.to_string() };
            doc! { "q": query, "u": pipeline(self.params(claim)), "upsert": true }
        };
        claims.iter().map(statement).collect()
    }

    /// Sends the statements of these claims: in one command, or else in one each.
    pub(super) async fn update(&self, claims: &[Claim], statements: Vec<Document>) -> Result<Updated> {
        match statements.len() {
            0 => return Ok(Updated::default()),
            1 => return Ok(self.update_each(statements, self.limit).await),
            _ => {}
        }
        let ttl = claims.iter().map(|claim| claim.ttl).min().unwrap_or(BATCH_MAX);
        let limit = std::cmp::min((ttl / BATCH_PART_OF_TTL).clamp(COMMAND_MIN, BATCH_MAX), self.limit);
        match self.update_once(&statements, limit).await {
            Err(Failure { code: Some(TIME_OVER), .. }) => {
                Ok(Updated { repeated: true, ..self.update_each(statements, limit).await })
            }
            updated => updated.map_err(|failure| failure.error),
        }
    }

    /// Sends statements in one command.
    pub(super) async fn update_once(
        &self,
        statements: &[Document],
        limit: Duration,
    ) -> Result<Updated, Failure> {
        let unexpected = || Failure { code: None, error: self.link.unexpected_reply() };
        let command = doc! { "update": &self.link.collection, "updates": statements, "ordered": false };
        let written = self.link.write(command, limit).await?;
        let errors = written.reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let failed = errors.iter().map(|error| {
            let error = error.as_document()?;
            let index = usize::try_from(error.get_i32("index").ok()?).ok()?;
            let code = error.get_i32("code").ok()?;
            let failure = Failure { code: Some(code), error: error_of_code(code, &self.link.place) };
            Some((index, failure)).filter(|(index, _)| *index < statements.len())
        });
        let failed = failed.collect::<Option<Vec<_>>>().ok_or_else(unexpected)?;
        let Written { unconfirmed, .. } = written;
        Ok(Updated { time: written.time(), unconfirmed, repeated: false, failed })
    }

    /// Sends each statement in a command of its own.
    async fn update_each(&self, statements: Vec<Document>, limit: Duration) -> Updated {
        let send = |(index, statement): (usize, Document)| async move {
            (index, self.update_once(&[statement], limit).await)
        };
        let mut sent =
            stream::iter(statements.into_iter().enumerate().map(send)).buffer_unordered(COMMANDS_MAX);
        let mut all = Updated::default();
        while let Some((index, updated)) = sent.next().await {
            match updated {
                Ok(updated) => {
                    all.time = std::cmp::max(all.time, updated.time);
                    all.unconfirmed = all.unconfirmed.or(updated.unconfirmed);
                    all.failed.extend(updated.failed.into_iter().map(|(_, failure)| (index, failure)));
                }
                Err(failure) => all.failed.push((index, failure)),
            }
        }
        all
    }

    /// Reads the latest documents of these claims. Fails if the primary was deposed.
    pub(super) async fn find_latest(
        &self,
        claims: &[&Claim],
        after: Option<Timestamp>,
    ) -> Result<Vec<Document>> {
        let ids: Vec<_> = claims.iter().map(|claim| self.id(claim)).collect();
        self.link.read_latest(self.query(&ids, &[]), after).await
    }

    /// Reads documents, also those of other programs. They are not older than `after`.
    pub(super) async fn find(
        &self,
        ids: &[String],
        owners: &[String],
        after: Option<Timestamp>,
    ) -> Result<Vec<Document>> {
        self.link.read(self.query(ids, owners), after).await
    }

    fn query(&self, ids: &[String], owners: &[String]) -> Document {
        doc! {
            "find": &self.link.collection,
            "filter": { "_id": { "$in": ids } },
            "projection": projection(owners),
            "batchSize": i64::try_from(ids.len()).unwrap_or(i64::MAX),
        }
    }
}
