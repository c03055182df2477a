//! The check of a token in the transaction that it protects.

use super::config::Config;
use super::qualify::qualify;
use super::statements;
use crate::storage::{Name, Token};

/// Checks a guard's token inside your own transaction, by any driver: a statement, and its three parameters.
///
/// The statement returns one row if the token is the lock's last and its lease has not ended, and none otherwise. It also
/// pins the lock's row (`FOR KEY SHARE`) until the transaction ends: nobody else is granted the lock meanwhile, however
/// long that takes, while the holder's renewals and its release go on. So what the transaction writes is written by the
/// only holder, whatever pauses it. Roll back if no row comes.
///
/// It must run in the database in which the locks are kept, on its primary, in a transaction, by a role that may select
/// from the locks' table and update it (`FOR KEY SHARE` asks for that right). A transaction that stays open keeps the
/// lock from everybody else.
///
/// ```
/// use leasehold::storage::postgres::{Config, Fence};
/// # fn shown(guard: &leasehold::Guard) -> leasehold::Result<()> {
///
/// let fence = Fence::new(&Config::new("postgres://app@db/shop?prefix=jobs:")?);
/// let (space, name, token) = fence.params(guard.name(), guard.token());
/// // tokio-postgres: transaction.query_opt(fence.sql(), &[&space, &name, &token]).await?
/// // sqlx: query(AssertSqlSafe(fence.sql())).bind(space).bind(name).bind(token).fetch_optional(&mut *transaction).await?
/// // diesel: sql_query(fence.sql()).bind::<Text, _>(space).bind::<Text, _>(name).bind::<BigInt, _>(token).execute(c)?
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    sql: String,
    space: String,
}

impl Fence {
    /// Makes the statement for the locks of that URL. No I/O.
    pub fn new(config: &Config) -> Self {
        let [locks, _] = statements::tables(config);
        let sql = qualify(&format!(
            "select 1 from {locks} where space = $1 and name = $2 and token = $3 \
             and owner is not null and expires_at > clock_timestamp() for key share"
        ));
        Self { sql, space: config.space.clone() }
    }

    /// Returns the statement. It selects one integer, and nothing else of the lock.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Returns `$1`: the URL's option `prefix`.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Returns all three: `$1`, the URL's option `prefix` (text); `$2`, the lock's name (text); and `$3`, the token (bigint).
    pub fn params<'a>(&'a self, name: &'a Name, token: Token) -> (&'a str, &'a str, i64) {
        // Ours are all smaller; what is larger is nobody's.
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        (&self.space, name.as_str(), token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_table_and_binds_the_rest() {
        let config = Config::new("postgres://h/d?schema=s&table=t&prefix=jobs':").expect("valid");
        let fence = Fence::new(&config);
        let name = Name::new("it's").expect("valid");
        assert_eq!(fence.params(&name, Token::new(7)), ("jobs':", "it's", 7));
        assert_eq!(fence.params(&name, Token::new(u64::MAX)).2, i64::MAX);
        assert!(fence.sql().contains("from \"s\".\"t\" where") && !fence.sql().contains('\''));
    }
}
