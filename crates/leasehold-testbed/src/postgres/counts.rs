//! The counters of a PostgreSQL server.

use super::Postgres;
use crate::{Error, Result};

/// The effects of statements, counted when each of them ends (`pg_stat_statements`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statements {
    /// The number of statements.
    pub calls: u64,
    /// The number of rows that they returned or touched.
    pub rows: u64,
    /// The number of records that they wrote to the log.
    pub wal_records: u64,
    /// The number of images of whole pages among them: one of each page after a checkpoint.
    pub wal_images: u64,
    /// The size of these records, in bytes.
    pub wal_bytes: u64,
}

/// The changes of the rows of a table (`pg_stat_user_tables`). A connection reports them within ten seconds, and when it
/// ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rows {
    /// The number of rows that were inserted.
    pub inserted: u64,
    /// The number of rows that were updated.
    pub updated: u64,
    /// The number of updates that touched no index.
    pub hot: u64,
    /// The number of rows that were deleted.
    pub deleted: u64,
    /// The number of dead versions of rows that still take up space.
    pub dead: u64,
}

impl Postgres {
    /// Counts the connections of clients, except the one of this statement.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn connections(&self) -> Result<u64> {
        self.number(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
    }

    /// Counts the statements since the server started, except those that read the counters. It remembers 5000 texts.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn commands(&self) -> Result<u64> {
        Ok(self.statements("")?.calls)
    }

    /// Counts the statements whose text contains `part`, ignoring case, and their effects.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn statements(&self, part: &str) -> Result<Statements> {
        let part = part.replace('\'', "''");
        let [calls, rows, wal_records, wal_images, wal_bytes] = self.numbers(&format!(
            "select coalesce(sum(calls), 0)::bigint, coalesce(sum(rows), 0)::bigint, \
             coalesce(sum(wal_records), 0)::bigint, coalesce(sum(wal_fpi), 0)::bigint, coalesce(sum(wal_bytes), 0)::bigint \
             from pg_stat_statements where query not like '%pg_stat_statements%' \
             and strpos(lower(query), lower('{part}')) > 0"
        ))?;
        Ok(Statements { calls, rows, wal_records, wal_images, wal_bytes })
    }

    /// Counts the changes of the rows of a table, in the database `leasehold`.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    pub fn rows(&self, table: &str) -> Result<Rows> {
        let [inserted, updated, hot, deleted, dead] = self.numbers(&format!(
            "select n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup \
             from pg_stat_user_tables where relid = '{table}'::regclass"
        ))?;
        Ok(Rows { inserted, updated, hot, deleted, dead })
    }

    /// Measures a table with its indexes, or an index, in bytes.
    ///
    /// # Errors
    ///
    /// If there is no relation of that name.
    pub fn size_of(&self, relation: &str) -> Result<u64> {
        self.number(&format!("select pg_total_relation_size('{relation}'::regclass)"))
    }

    /// Returns the end of the log, in bytes. The difference of two values is what all clients have written between them.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn wal(&self) -> Result<u64> {
        self.number("select (pg_current_wal_insert_lsn() - '0/0')::bigint")
    }

    /// Counts the transactions in all databases since the server was made, including those of this function.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn transactions(&self) -> Result<u64> {
        self.number("select sum(xact_commit + xact_rollback)::bigint from pg_stat_database")
    }

    pub(super) fn number(&self, sql: &str) -> Result<u64> {
        let [number] = self.numbers(sql)?;
        Ok(number)
    }

    fn numbers<const N: usize>(&self, sql: &str) -> Result<[u64; N]> {
        let answer = self.sql(sql)?;
        let numbers: Option<Vec<u64>> = answer.split('|').map(|number| number.parse().ok()).collect();
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or_else(|| Error::new(format!("not {N} numbers answer=`{answer}`")))
    }
}
