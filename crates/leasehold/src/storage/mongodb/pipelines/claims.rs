//! The claims of a statement, and the statements that have them.

use mongodb::bson::{Bson, DateTime, Document, doc};

use super::release::{release, withdraw};
use super::renew::renew;
use super::{Params, VERSION, literal, millis};
use crate::storage::Claim;

/// The claims of a statement, each with the id of its document.
///
/// The statement looks a document's claim up by its `_id`. It is no upsert, and ends at the first document that it fails at;
/// its reply says how many documents it has updated, and not which.
pub(in crate::storage::mongodb) struct Claims {
    ids: Vec<String>,
    owners: Vec<Bson>,
    not_after: Vec<i64>,
    /// Until when each claim may shorten its lease; null if it does not.
    shorten_until: Vec<Bson>,
    claims: Vec<Bson>,
}

/// The code of the error with which [`Claims::pipeline_unless_late`] fails.
pub(in crate::storage::mongodb) const REFUSED: i32 = 241;

impl Claims {
    /// Takes the ids of the documents and their claims, and the moment of the server's clock before which each may be
    /// executed, in milliseconds.
    pub(in crate::storage::mongodb) fn new<'a>(
        claims: impl Iterator<Item = (String, &'a Claim, i64)>,
    ) -> Self {
        let (ids, owners, not_after) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = Self { ids, owners, not_after, shorten_until: Vec::new(), claims: Vec::new() };
        for (id, claim, not_after) in claims {
            let (owner, latest) = (claim.owner.to_string(), DateTime::from_millis(not_after));
            all.ids.push(id);
            all.not_after.push(not_after);
            all.shorten_until.push(if claim.shorten { latest.into() } else { Bson::Null });
            let claim = doc! {
                "owner": &owner,
                "ttl": millis(claim.ttl),
                "label": claim.label.as_deref(),
                "not_after": latest,
                "wait": claim.wait,
                "shorten": claim.shorten,
            };
            all.owners.push(owner.into());
            all.claims.push(claim.into());
        }
        all
    }

    pub(in crate::storage::mongodb) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Makes the statement that executes these stages on each document.
    pub(in crate::storage::mongodb) fn statement(&self, stages: Vec<Document>) -> Document {
        self.statement_where(None, stages)
    }

    /// Makes the statement that renews the leases of the owners that hold their locks.
    pub(in crate::storage::mongodb) fn renewal(&self, params: Params<'_>) -> Document {
        let may_shorten = self.shorten_until.iter().any(|until| *until != Bson::Null);
        let mut conditions = self.holds();
        if may_shorten {
            let until = self.of_document(&self.shorten_until);
            conditions.push(doc! { "$or": [{ "$eq": [&until, Bson::Null] }, { "$lt": ["$$NOW", &until] }] });
        }
        self.statement_where(Some(doc! { "$and": conditions }), renew(params, may_shorten))
    }

    /// Makes the statement that ends the leases of the owners that hold their locks.
    pub(in crate::storage::mongodb) fn release(&self, params: Params<'_>) -> Document {
        self.statement_where(Some(doc! { "$and": self.holds() }), release(params))
    }

    /// Makes the statement that removes what is left of owners. It matches no document that has nothing of its claim's owner.
    pub(in crate::storage::mongodb) fn withdrawal(&self, params: Params<'_>) -> Document {
        let owner = self.of_document(&self.owners);
        let left =
            doc! { "$in": [owner, { "$concatArrays": [["$owner"], { "$ifNull": ["$queue.owner", []] }] }] };
        self.statement_where(Some(left), withdraw(params))
    }

    /// Makes the pipeline for the document of a single claim. It fails if the claim comes too late, because the document may not
    /// exist, and a late claim must not insert it: it converts a text that is no number. The text depends on the document,
    /// because the server evaluates constants at once, and then fails always.
    pub(in crate::storage::mongodb) fn pipeline_unless_late(&self, stages: Vec<Document>) -> Vec<Document> {
        let claim = self.of_document(&self.claims);
        let not_after = self.not_after.first().copied().unwrap_or(0);
        let timely = doc! { "$lt": ["$$NOW", DateTime::from_millis(not_after)] };
        let failure = doc! { "$toLong": { "$concat": ["refused: ", "$_id"] } };
        let first = doc! { "$set": { "t": { "$cond": [timely, { "claim": claim }, failure] } } };
        std::iter::once(first).chain(stages).collect()
    }

    /// Returns the conditions that the claim's owner holds the lock.
    fn holds(&self) -> Vec<Document> {
        let is_owner = doc! { "$eq": ["$owner", self.of_document(&self.owners)] };
        vec![is_owner, doc! { "$gt": ["$until", "$$NOW"] }]
    }

    fn statement_where(&self, condition: Option<Document>, stages: Vec<Document>) -> Document {
        let mut query = match &self.ids[..] {
            [id] => doc! { "_id": id, "leasehold": VERSION },
            ids => doc! { "_id": { "$in": ids }, "leasehold": VERSION },
        };
        if let Some(condition) = condition {
            query.insert("$expr", condition);
        }
        let claim = doc! { "$set": { "t": { "claim": self.of_document(&self.claims) } } };
        let pipeline: Vec<_> = std::iter::once(claim).chain(stages).collect();
        doc! { "q": query, "u": pipeline, "multi": true }
    }

    /// Returns an expression for the one of `values` that belongs to the document.
    fn of_document(&self, values: &[Bson]) -> Document {
        if let [value] = values {
            return literal(value.clone());
        }
        let index = doc! { "$indexOfArray": [literal(self.ids.clone()), "$_id"] };
        doc! { "$arrayElemAt": [literal(values), index] }
    }
}
