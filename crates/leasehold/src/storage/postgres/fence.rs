//! The check of a token in the transaction that it protects.

use super::config::Config;
use super::qualify::qualify;
use super::statements;
use crate::storage::{Name, Token};

/// Checks a guard's token inside your own transaction, by any driver: a statement, and its three parameters.
///
/// The statement returns one row if the token is the lock's last and its lease has not ended, and none otherwise. Roll
/// back if there is no row.
///
/// It also pins the lock's row (`FOR KEY SHARE`) until the transaction ends: no other owner is granted the lock meanwhile,
/// even after the lease has ended. The holder's renewals and its release go on. So only one holder writes, even if it is
/// paused in the transaction. A transaction that stays open keeps the lock from every other owner.
///
/// Run it in the database in which the locks are kept, on the primary, inside a transaction. The role needs the rights to
/// select from the locks' table and to update it, which `FOR KEY SHARE` requires.
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
    /// Makes the statement for the locks of that URL, without I/O.
    pub fn new(config: &Config) -> Self {
        let [locks, _] = statements::tables(config);
        let sql = qualify(&format!(
            "select 1 from {locks} where space = $1 and name = $2 and token = $3 \
             and owner is not null and expires_at > clock_timestamp() for key share"
        ));
        Self { sql, space: config.space.clone() }
    }

    /// Returns the statement. It selects one integer.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Returns `$1`: the URL's option `prefix`.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Returns all three: `$1`, the URL's option `prefix` (text); `$2`, the lock's name (text); and `$3`, the token (bigint).
    pub fn params<'a>(&'a self, name: &'a Name, token: Token) -> (&'a str, &'a str, i64) {
        // A larger token is none of Leasehold's, and matches no row.
        let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
        (&self.space, name.as_str(), token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_the_table_and_binds_the_rest() {
        let config = Config::new("postgres://h/d?schema=s&table=t&prefix=jobs':").expect("valid");
        let fence = Fence::new(&config);
        let name = Name::new("it's").expect("valid");
        assert_eq!(fence.params(&name, Token::new(7)), ("jobs':", "it's", 7));
        assert_eq!(fence.params(&name, Token::new(u64::MAX)).2, i64::MAX);
        assert!(fence.sql().contains("from \"s\".\"t\" where") && !fence.sql().contains('\''));
    }
}
