//! One call of the storage: its claims as statements, and how they are sent.

use mongodb::bson::{Document, doc};

use super::config::Config;
use super::link::Link;
use super::pipelines::{Params, VERSION, projection};
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::Claim;
use crate::storage::net::hints::Hinter;
use crate::storage::net::waiters::LocalWaiters;

/// Everything that a call needs besides its claims.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) link: &'a Link,
    pub(super) config: &'a Config,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// The id of this client.
    pub(super) client: &'a str,
    pub(super) hinter: &'a Hinter,
    pub(super) waiters: &'a LocalWaiters<()>,
}

/// The reply to several statements.
pub(super) struct Updated {
    pub(super) reply: Document,
    /// The indexes of the statements that failed, and the server's codes.
    pub(super) failed: Vec<(usize, i32)>,
}

impl Call<'_> {
    pub(super) fn id(&self, claim: &Claim) -> String {
        self.config.id(claim.name.as_str())
    }

    pub(super) fn ids(&self, claims: &[Claim]) -> Vec<String> {
        claims.iter().map(|claim| self.id(claim)).collect()
    }

    pub(super) fn params<'b>(&'b self, claim: &'b Claim) -> Params<'b> {
        Params {
            claim,
            client: self.client,
            listens: self.hinter.is_listening(),
            not_after: self.link.primary.not_after(self.sent, claim.patience),
        }
    }

    /// Makes a statement for each claim, which fails if its owner does not hold the lock. See
    /// [`REFUSED`](super::pipelines::REFUSED).
    pub(super) fn for_holders(
        &self,
        claims: &[Claim],
        pipeline: impl Fn(Params<'_>) -> Vec<Document>,
    ) -> Vec<Document> {
        let statement = |claim: &Claim| {
            let query = doc! { "_id": self.id(claim), "v": VERSION, "owner": claim.owner.to_string() };
            doc! { "q": query, "u": pipeline(self.params(claim)), "upsert": true }
        };
        claims.iter().map(statement).collect()
    }

    /// Sends statements in one command.
    pub(super) async fn update(&self, statements: Vec<Document>) -> Result<Updated> {
        let sent = statements.len();
        if sent == 0 {
            return Ok(Updated { reply: Document::new(), failed: Vec::new() });
        }
        let command = doc! { "update": &self.link.collection, "updates": statements, "ordered": false };
        let reply = self.link.write(command).await.map_err(|failure| failure.error)?;
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let failed = errors.iter().map(|error| {
            let error = error.as_document()?;
            let index = usize::try_from(error.get_i32("index").ok()?).ok().filter(|index| *index < sent)?;
            Some((index, error.get_i32("code").ok()?))
        });
        let failed = failed.collect::<Option<Vec<_>>>().ok_or_else(|| self.link.unexpected_reply())?;
        Ok(Updated { reply, failed })
    }

    /// Reads documents, also those of other programs. They are not older than the write that `reply` answers.
    pub(super) async fn find(
        &self,
        ids: &[String],
        owners: &[String],
        reply: Option<&Document>,
    ) -> Result<Vec<Document>> {
        let query = doc! {
            "find": &self.link.collection,
            "filter": { "_id": { "$in": ids } },
            "projection": projection(owners),
            "batchSize": i64::try_from(ids.len()).unwrap_or(i64::MAX),
        };
        self.link.read(query, reply).await
    }
}
