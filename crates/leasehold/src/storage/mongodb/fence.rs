//! The check of a token in the transaction that it protects.

use mongodb::bson::{Bson, doc};

use super::config::Config;
use super::pipelines::VERSION;
use crate::storage::{Name, Token};

/// Checks a guard's token inside your own transaction, by any driver: the filter and the update of one document, as BSON.
///
/// The update matches one document if the token is the lock's last and its lease has not ended, and none otherwise. Abort
/// the transaction if it matches none.
///
/// It writes the lock's document, which *pins* the lock until the transaction ends: no other owner is granted the lock
/// meanwhile, even after the lease has ended. So only one holder writes, even if it is paused in the transaction.
///
/// - Run it in a transaction, of the deployment that keeps the locks: a replica set or a sharded cluster. A standalone
///   server refuses transactions. Outside of a transaction the check passes, but pins nothing.
/// - Commit with `w: majority`. With less, a failover may undo the transaction after it has ended.
/// - Until the transaction ends, renewals and the release of this lock wait for it. Keep it shorter than a third of the TTL,
///   and than 4 s, after which waiters may lose their places in the queue.
/// - `WriteConflict` with the label `TransientTransactionError` means that another transaction pins the lock, or that the
///   lock has changed since the snapshot of this one. Retry the transaction; the token decides whether it may go on.
/// - The user needs `readWrite` on the database of the locks.
///
/// ```
/// use leasehold::storage::mongodb::{Config, Fence};
/// use mongodb::bson::{Document, doc};
/// use mongodb::options::WriteConcern;
///
/// /// Returns `false` if the lock is not held any more.
/// async fn pay(
///     client: &mongodb::Client,
///     fence: &Fence,
///     guard: &leasehold::Guard,
/// ) -> Result<bool, Box<dyn std::error::Error>> {
///     let database = client.database(fence.database());
///     let locks = database.collection::<Document>(fence.collection());
///     let filter = Document::from_reader(&fence.filter(guard.name(), guard.token())[..])?;
///     let update = Document::from_reader(fence.update())?;
///
///     let mut session = client.start_session().await?;
///     session.start_transaction().write_concern(WriteConcern::majority()).await?;
///     let pinned = locks.update_one(filter, update).session(&mut session).await?;
///     if pinned.matched_count != 1 {
///         session.abort_transaction().await?;
///         return Ok(false);
///     }
///     let accounts = database.collection::<Document>("accounts");
///     let pay = doc! { "$inc": { "balance": -30 } };
///     accounts.update_one(doc! { "_id": 1 }, pay).session(&mut session).await?;
///     session.commit_transaction().await?;
///     Ok(true)
/// }
///
/// // The URL of the locks. The program's own client has a URL without `prefix`.
/// let fence = Fence::new(&Config::new("mongodb://db/shop?replicaSet=rs&prefix=jobs:")?);
/// assert_eq!((fence.database(), fence.collection()), ("shop", "leasehold"));
/// # let _ = pay;
/// # Ok::<(), leasehold::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    config: Config,
    update: Vec<u8>,
}

impl Fence {
    /// Makes the update for the locks of that URL, without I/O.
    pub fn new(config: &Config) -> Self {
        // It changes the document each time: an update that changes nothing is no write, and pins nothing.
        let update = doc! { "$inc": { "pins": 1_i64 } }.to_vec();
        Self { config: config.clone(), update: update.expect("BUG: a constant is a document") }
    }

    /// Returns the name of the database in which the locks are.
    pub fn database(&self) -> &str {
        &self.config.database
    }

    /// Returns the name of the collection in which the locks are.
    pub fn collection(&self) -> &str {
        &self.config.collection
    }

    /// Returns the filter of the update, as a BSON document.
    pub fn filter(&self, name: &Name, token: Token) -> Vec<u8> {
        // A larger token is none of Leasehold's, and matches no document.
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let filter = doc! {
            "_id": self.config.id(name.as_str()),
            "leasehold": VERSION,
            "token": token,
            "owner": { "$ne": Bson::Null },
            "$expr": { "$gt": ["$until", "$$NOW"] },
        };
        filter.to_vec().expect("BUG: texts and numbers are a document")
    }

    /// Returns the update itself, as a BSON document.
    pub fn update(&self) -> &[u8] {
        &self.update
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::Document;

    use super::*;

    #[test]
    fn it_names_the_document_and_the_token_and_nothing_else() {
        let config = Config::new("mongodb://u:S3CRET@h/d?collection=c&prefix=jobs:").expect("valid");
        let fence = Fence::new(&config);
        assert_eq!((fence.database(), fence.collection()), ("d", "c"));
        let filter = fence.filter(&Name::new("$where").expect("valid"), Token::new(7));
        let filter = Document::from_reader(&filter[..]).expect("BSON");
        assert_eq!(filter.get_str("_id").ok(), Some("jobs:\0$where"));
        assert_eq!(filter.get_i64("token").ok(), Some(7));
        let largest = fence.filter(&Name::new("a").expect("valid"), Token::new(u64::MAX));
        let largest = Document::from_reader(&largest[..]).expect("BSON");
        assert_eq!(largest.get_i64("token").ok(), Some(i64::MAX));
        assert!(Document::from_reader(fence.update()).expect("BSON").contains_key("$inc"));
        assert!(!format!("{fence:?}").contains("S3CRET"));
    }
}
