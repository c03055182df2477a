//! The check of a token in the transaction that it protects.

use mongodb::bson::{Bson, doc};

use super::config::Config;
use super::pipelines::VERSION;
use crate::error::{Error, Result};
use crate::storage::{Name, Token};

/// Checks a guard's token inside your own transaction, by any driver: an update of one document, as BSON.
///
/// The update matches one document if the token is the lock's last and its lease has not ended, and none otherwise. As it
/// writes the lock's document, it also *pins* the lock until the transaction ends: no other owner is granted it meanwhile,
/// however long that takes. So what the transaction writes is written by the only holder, whatever pauses it. Abort the
/// transaction if nothing matches.
///
/// It must run in a transaction, on the deployment that keeps the locks. Until the transaction ends the holder's own
/// renewals wait, too: keep it shorter than a third of the TTL, or use a lease that needs no renewal meanwhile.
///
/// ```
/// use leasehold::storage::mongodb::{Config, Fence};
/// # fn shown(guard: &leasehold::Guard) -> leasehold::Result<()> {
///
/// let fence = Fence::new(&Config::new("mongodb://db/shop?replicaSet=rs&prefix=jobs:")?);
/// let filter = fence.filter(guard.name(), guard.token())?; // BSON
/// // let locks = client.database(fence.database()).collection::<Document>(fence.collection());
/// // let (filter, update) = (Document::from_reader(&filter[..])?, Document::from_reader(fence.update())?);
/// // if locks.update_one(filter, update).session(&mut session).await?.matched_count != 1 { abort }
/// # let _ = filter;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    config: Config,
    update: Vec<u8>,
}

impl Fence {
    /// Makes the update for the locks of that URL. No I/O.
    pub fn new(config: &Config) -> Self {
        // It changes each time: what changes nothing is no write, and pins nothing.
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

    /// Returns the filter of the update, a BSON document.
    ///
    /// # Errors
    ///
    /// `Internal` if it cannot be written as BSON, which no name prevents.
    pub fn filter(&self, name: &Name, token: Token) -> Result<Vec<u8>> {
        // Ours are all smaller; what is larger is of no lock.
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        let filter = doc! {
            "_id": self.config.id(name.as_str()),
            "leasehold": VERSION,
            "token": token,
            "owner": { "$ne": Bson::Null },
            "$expr": { "$gt": ["$until", "$$NOW"] },
        };
        let unwritten =
            |_| Error::new(crate::error::ErrorKind::Internal, "the filter cannot be written as BSON");
        filter.to_vec().map_err(unwritten)
    }

    /// Returns the update itself, a BSON document.
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
        let filter = fence.filter(&Name::new("$where").expect("valid"), Token::new(7)).expect("valid");
        let filter = Document::from_reader(&filter[..]).expect("BSON");
        assert_eq!(filter.get_str("_id").ok(), Some("jobs:\0$where"));
        assert_eq!(filter.get_i64("token").ok(), Some(7));
        assert!(Document::from_reader(fence.update()).expect("BSON").contains_key("$inc"));
        assert!(!format!("{fence:?}").contains("S3CRET"));
    }
}
