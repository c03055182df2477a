//! One call of the storage: its claims as statements, and how they are sent.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use mongodb::bson::{Document, doc};
use tokio::time::{sleep, timeout};

use super::config::Config;
use super::link::{Failure, Link};
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
#[derive(Default)]
pub(super) struct Updated {
    /// The last reply of the server.
    pub(super) reply: Document,
    /// The indexes of the statements that failed, and the server's codes.
    pub(super) failed: Vec<(usize, i32)>,
    /// Whether statements may have been executed twice.
    pub(super) apart: bool,
}

/// The code of a command that the server has not finished in time.
pub(super) const TIMED_OUT: i32 = 50;
/// How long a command of several statements may take before each is sent by itself, and how long these may take then, at
/// least and at most. Within that it is a fifteenth of the shortest TTL: the engine waits for a sixth.
const PROMPT_MIN: Duration = Duration::from_millis(100);
const PROMPT_MAX: Duration = Duration::from_millis(1_500);
/// How many statements are sent by themselves at the same time.
const AT_A_TIME: usize = 16;

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

    /// Makes the statement for a claim, which fails if its owner does not hold the lock. See
    /// [`REFUSED`](super::pipelines::REFUSED).
    pub(super) fn for_holder(
        &self,
        claim: &Claim,
        pipeline: impl Fn(Params<'_>) -> Vec<Document>,
    ) -> Document {
        let query = doc! { "_id": self.id(claim), "v": VERSION, "owner": claim.owner.to_string() };
        doc! { "q": query, "u": pipeline(self.params(claim)), "upsert": true }
    }

    /// Sends a statement for each claim in one command.
    ///
    /// The server executes them one after the other, and at a document that a transaction has written it waits for the
    /// end of that transaction. So if the reply takes long, each statement is sent by itself as well, and only the
    /// claims of such documents fail.
    pub(super) async fn update(
        &self,
        claims: &[&Claim],
        statement: impl Fn(&Claim) -> Document,
    ) -> Result<Updated> {
        if claims.is_empty() {
            return Ok(Updated::default());
        }
        let mut together = pin!(self.update_together(claims.iter().copied().map(&statement).collect()));
        if claims.len() == 1 {
            return together.await.map_err(|failure| failure.error);
        }
        let shortest = claims.iter().map(|claim| claim.ttl).min().unwrap_or_default();
        let prompt = (shortest / 15).clamp(PROMPT_MIN, PROMPT_MAX);
        match timeout(prompt, &mut together).await {
            Ok(updated) => updated.map_err(|failure| failure.error),
            Err(_) => self.update_apart(claims, statement, together, prompt).await,
        }
    }

    async fn update_together(&self, statements: Vec<Document>) -> Result<Updated, Failure> {
        let sent = statements.len();
        let command = doc! { "update": &self.link.collection, "updates": statements, "ordered": false };
        let reply = self.link.write(command).await?;
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let failed = errors.iter().map(|error| {
            let error = error.as_document()?;
            let index = usize::try_from(error.get_i32("index").ok()?).ok().filter(|index| *index < sent)?;
            Some((index, error.get_i32("code").ok()?))
        });
        let failed = failed.collect::<Option<Vec<_>>>();
        let failed = failed.ok_or_else(|| Failure { code: None, error: self.link.unexpected_reply() })?;
        Ok(Updated { reply, failed, apart: false })
    }

    /// Sends each statement in a command of its own, several at a time, while they are on their way `together`. Returns
    /// what is answered within the limit; the others count as timed out.
    async fn update_apart(
        &self,
        claims: &[&Claim],
        statement: impl Fn(&Claim) -> Document,
        mut together: Pin<&mut impl Future<Output = Result<Updated, Failure>>>,
        limit: Duration,
    ) -> Result<Updated> {
        let statement = &statement;
        let send = |i: usize| async move { (i, self.update_together(vec![statement(claims[i])]).await) };
        let mut apart = stream::iter((0..claims.len()).map(send)).buffer_unordered(AT_A_TIME);
        let mut over = pin!(sleep(limit));
        let (mut reply, mut codes) = (Document::new(), vec![Some(TIMED_OUT); claims.len()]);
        let mut is_together = true;
        loop {
            tokio::select! {
                biased;
                updated = &mut together, if is_together => match updated {
                    Err(Failure { code: Some(TIMED_OUT), .. }) => is_together = false,
                    updated => return updated.map_err(|failure| failure.error),
                },
                next = apart.next() => match next {
                    Some((i, Ok(updated))) => {
                        codes[i] = updated.failed.first().map(|(_, code)| *code);
                        reply = updated.reply;
                    }
                    Some((i, Err(Failure { code: Some(code), .. }))) => codes[i] = Some(code),
                    Some((_, Err(Failure { error, .. }))) => return Err(error),
                    None => break,
                },
                () = &mut over => break,
            }
        }
        let failed = codes.into_iter().enumerate().filter_map(|(i, code)| Some((i, code?))).collect();
        Ok(Updated { reply, failed, apart: true })
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
