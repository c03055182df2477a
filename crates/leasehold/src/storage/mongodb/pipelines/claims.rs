//! The claims of a statement, and the statements that have them.

use mongodb::bson::{Bson, DateTime, Document, doc};

use super::release::{release, withdraw};
use super::renew::renew;
use super::uncontended::{end, grant, is_free, is_last};
use super::{Params, VERSION, literal, millis};
use crate::storage::Claim;

/// The claims of a statement, each with the id of its document.
///
/// The statement looks a document's claim up by its `_id`. It is no upsert, and ends at the first document that it fails at;
/// its reply says how many documents it has updated, and not which.
#[derive(Default)]
pub(in crate::storage::mongodb) struct Claims {
    ids: Vec<String>,
    owners: Vec<Bson>,
    ttls: Vec<Bson>,
    labels: Vec<Bson>,
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
        let mut all = Self::default();
        for (id, claim, not_after) in claims {
            let (owner, latest) = (claim.owner.to_string(), DateTime::from_millis(not_after));
            let (ttl, label) = (millis(claim.ttl), claim.label.as_deref());
            all.ids.push(id);
            all.not_after.push(not_after);
            all.shorten_until.push(if claim.shorten { latest.into() } else { Bson::Null });
            all.ttls.push(ttl.into());
            all.labels.push(label.into());
            let claim = doc! {
                "owner": &owner,
                "ttl": ttl,
                "label": label,
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
        update(self.query(doc! {}, vec![]), self.pipeline(stages))
    }

    /// Makes the query and the pipeline that grant free locks for which no owner waits, unless one of the claims comes too late.
    pub(in crate::storage::mongodb) fn grant(&self, params: Params<'_>) -> (Document, Vec<Document>) {
        let not_after = self.not_after.iter().min().copied().unwrap_or(0);
        let timely = doc! { "$lt": ["$$NOW", DateTime::from_millis(not_after)] };
        let [owner, ttl, label] =
            [&self.owners, &self.ttls, &self.labels].map(|values| self.of_document(values));
        (self.query(is_free(), vec![timely]), grant(params, owner, ttl, label))
    }

    /// Makes the statement that renews the leases of the owners that hold their locks.
    pub(in crate::storage::mongodb) fn renewal(&self, params: Params<'_>) -> Document {
        let may_shorten = self.shorten_until.iter().any(|until| *until != Bson::Null);
        let mut conditions = self.holds();
        if may_shorten {
            let until = self.of_document(&self.shorten_until);
            conditions.push(doc! { "$or": [{ "$eq": [&until, Bson::Null] }, { "$lt": ["$$NOW", &until] }] });
        }
        update(self.query(doc! {}, conditions), self.pipeline(renew(params, may_shorten)))
    }

    /// Makes the statement that ends the leases of the owners that hold their locks.
    pub(in crate::storage::mongodb) fn release(&self, params: Params<'_>) -> Document {
        update(self.query(doc! {}, self.holds()), self.pipeline(release(params)))
    }

    /// Makes the statement that does so for owners of this client, if no other owner waits for the lock.
    pub(in crate::storage::mongodb) fn last_release(&self, params: Params<'_>) -> Document {
        update(self.query(is_last(params), self.holds()), end(params))
    }

    /// Makes the statement that removes what is left of owners. It matches no document that has nothing of its claim's owner.
    pub(in crate::storage::mongodb) fn withdrawal(&self, params: Params<'_>) -> Document {
        let owner = self.of_document(&self.owners);
        let left =
            doc! { "$in": [owner, { "$concatArrays": [["$owner"], { "$ifNull": ["$queue.owner", []] }] }] };
        update(self.query(doc! {}, vec![left]), self.pipeline(withdraw(params)))
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

    /// Makes the query for those of the documents that meet the conditions: `fields` has some, and the others are expressions.
    fn query(&self, fields: Document, expressions: Vec<Document>) -> Document {
        let mut query = match &self.ids[..] {
            [id] => doc! { "_id": id, "leasehold": VERSION },
            ids => doc! { "_id": { "$in": ids }, "leasehold": VERSION },
        };
        query.extend(fields);
        if !expressions.is_empty() {
            query.insert("$expr", doc! { "$and": expressions });
        }
        query
    }

    fn pipeline(&self, stages: Vec<Document>) -> Vec<Document> {
        let claim = doc! { "$set": { "t": { "claim": self.of_document(&self.claims) } } };
        std::iter::once(claim).chain(stages).collect()
    }

    /// Returns an expression for the one of `values` that belongs to the document.
    fn of_document(&self, values: &[Bson]) -> Document {
        if let [value, others @ ..] = values
            && others.iter().all(|other| other == value)
        {
            return literal(value.clone());
        }
        let index = doc! { "$indexOfArray": [literal(self.ids.clone()), "$_id"] };
        doc! { "$arrayElemAt": [literal(values), index] }
    }
}

fn update(query: Document, pipeline: Vec<Document>) -> Document {
    doc! { "q": query, "u": pipeline, "multi": true }
}
