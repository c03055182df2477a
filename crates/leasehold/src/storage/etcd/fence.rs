//! The check of a token in the transaction that it protects.

use prost::Message as _;

use super::config::Config;
use super::ops::created_by;
use crate::storage::{Name, Owner, Token};

/// Checks a guard's token inside your own transaction, by any client of etcd: one compare of the transaction.
///
/// The compare holds as long as the guard's key exists, and that is as long as the lock is held. etcd executes a
/// transaction as a whole, so it changes nothing after the lock was lost, however late it arrives.
///
/// - Run it in the cluster that keeps the locks.
/// - The transaction's `else` branch means that the lock is lost: stop.
/// - The user needs to read the keys with the prefix of the locks.
///
/// ```
/// use leasehold::storage::etcd::{Config, Fence};
/// use leasehold::storage::{Name, Owner};
///
/// let fence = Fence::new(&Config::new("etcd://db?prefix=shop/")?);
/// # let owner = Owner::from_bytes([0xab; 16]);
/// # let (name, token) = (Name::new("invoice/42")?, leasehold::Token::new(7));
/// // With `guard.name()`, `guard.owner()` and `guard.token()`:
/// let compare = fence.compare(&name, owner, token);
/// assert_eq!(compare.key, b"shop/invoice/42/abababababababababababababababab");
/// assert_eq!(compare.create_revision, 7);
/// // In Go: clientv3.Compare(clientv3.CreateRevision(string(key)), "=", create_revision)
/// // With etcd-client: Compare::create_revision(key, CompareOp::Equal, create_revision)
/// # Ok::<(), leasehold::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    config: Config,
}

/// A compare of a transaction: the key was created by that revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compare {
    /// The key of the holder.
    pub key: Vec<u8>,
    /// The revision that created it, which is the guard's token.
    pub create_revision: i64,
}

impl Fence {
    /// Makes the compares for the locks of that URL, without I/O.
    pub fn new(config: &Config) -> Self {
        Self { config: config.clone() }
    }

    /// Returns the compare for a lock, its owner, and its token.
    pub fn compare(&self, name: &Name, owner: Owner, token: Token) -> Compare {
        // A larger token is none of Leasehold's, and no key has it.
        let create_revision = i64::try_from(token.get()).unwrap_or(i64::MAX);
        Compare { key: self.config.keys.key(name, owner), create_revision }
    }
}

impl Compare {
    /// Returns it as etcd's message `etcdserverpb.Compare`, for a client that takes messages.
    pub fn to_message(&self) -> Vec<u8> {
        created_by(self.key.clone(), self.create_revision).encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_key_and_the_token_and_no_secret() {
        let fence = Fence::new(&Config::new("etcd://u:S3CRET@h?prefix=p:").expect("valid"));
        let name = Name::new("a").expect("valid");
        let compare = fence.compare(&name, Owner::from_bytes([1; 16]), Token::new(7));
        assert_eq!(compare.key, b"p:a/01010101010101010101010101010101");
        assert!(compare.to_message().windows(compare.key.len()).any(|bytes| bytes == compare.key));
        assert_eq!(fence.compare(&name, Owner::random(), Token::new(u64::MAX)).create_revision, i64::MAX);
        assert!(!format!("{fence:?} {compare:?}").contains("S3CRET"));
    }
}
