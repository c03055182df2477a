//! The facts of a server, and what the storage can promise with it.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::config::Choice;
use super::errors::{self, shown, unexpected_reply};
use super::qualify::qualify;
use super::standbys::Synchronous;
use super::statements::{Statements, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Guarantees, LeaseClock, Tier};

/// The facts of a server, as found when it was connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Changes when the server is restarted, or another one answers in its place.
    pub(super) identity: Identity,
    /// The process that answered; with a pooler it is not always the same.
    pub(super) backend: i32,
    /// Its clock, in microseconds.
    pub(super) now_us: u64,
    standby: bool,
    read_only: bool,
    pub(super) version: String,
    pub(super) version_number: i32,
    pub(super) fsync: Option<bool>,
    pub(super) full_page_writes: Option<bool>,
    /// The setting `synchronous_standby_names`, if it is known.
    synchronous: Option<String>,
    /// The names of the standbys that are connected, if they are known.
    pub(super) standbys: Option<Vec<String>>,
    /// The names of other receivers of the log.
    receivers: Vec<String>,
    pub(super) isolation: String,
    /// Whether the database keeps text in UTF8, whose order is that of the characters.
    pub(super) utf8: bool,
    /// The optional facts that the server refuses, and its message.
    pub(super) unknown: Vec<(&'static OptionalFact, String)>,
    /// Whether there is a table with the name of the locks' table.
    pub(super) there: bool,
    /// Whether both tables exist.
    pub(super) made: bool,
    pub(super) logged: bool,
    comment: Option<String>,
}

/// The identity of a server: it changes when the server is restarted, or another one takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    system: Option<i64>,
    timeline: Option<i32>,
    started_us: Option<i64>,
}

impl Identity {
    /// Returns `true` if a restart changes it.
    pub(super) fn is_known(&self) -> bool {
        self.started_us.is_some()
    }
}

/// A fact that a role may not be allowed to read. Locks work without it.
#[derive(Debug)]
pub(super) struct OptionalFact {
    /// The column of the statement.
    column: &'static str,
    /// The expression, whose value is a list of texts.
    sql: &'static str,
    /// The right that a role needs to read it.
    pub(super) right: &'static str,
    /// The consequence of not knowing it.
    pub(super) without: &'static str,
}

const OPTIONAL_FACTS: [OptionalFact; 7] = [
    OptionalFact {
        column: "fsync",
        sql: "array[current_setting('fsync')]",
        right: "to read the setting `fsync`",
        without: "restart-safe cannot be promised",
    },
    OptionalFact {
        column: "full_page_writes",
        sql: "array[current_setting('full_page_writes')]",
        right: "to read the setting `full_page_writes`",
        without: "restart-safe cannot be promised",
    },
    OptionalFact {
        column: "synchronous",
        sql: "array[current_setting('synchronous_standby_names')]",
        right: "to read the setting `synchronous_standby_names`",
        without: "failover-safe cannot be promised",
    },
    // `+` before the name of a standby. `-` before that of a receiver that only copies, keeps or decodes the log: a backup,
    // an archive, a subscriber. Such a receiver cannot be promoted, but a commit may wait for it instead of a standby.
    // Columns that a role may not see are null.
    OptionalFact {
        column: "standbys",
        sql: "array(
            select case when
                    coalesce(r.state = 'streaming' and r.flush_lsn is not null and r.replay_lsn is null, false)
                    or coalesce(r.application_name = any (array[
                        'pg_basebackup', 'pg_receivewal', 'pg_recvlogical', 'barman_receive_wal'
                    ]), false)
                    or exists(
                        select from pg_catalog.pg_replication_slots s
                        where s.active_pid = r.pid and s.slot_type = 'logical'
                    )
                then '-' else '+' end || coalesce(r.application_name, '')
            from pg_catalog.pg_stat_replication r
            where not coalesce(r.state = 'backup', false)
        )",
        right: "to read `pg_stat_replication` and `pg_replication_slots`",
        without: "standbys are not known, so neither restart-safe nor failover-safe can be promised",
    },
    OptionalFact {
        column: "started",
        sql: "array[((date_part('epoch', pg_postmaster_start_time()) * 1e6)::bigint)::text]",
        right: "to execute `pg_postmaster_start_time()`",
        without: "a restart is noticed by the next renewals only",
    },
    OptionalFact {
        column: "system",
        sql: "array(select c.system_identifier::text from pg_control_system() c)",
        right: "to execute `pg_control_system()`",
        without: "a failover is noticed by when the new server was started",
    },
    OptionalFact {
        column: "timeline",
        sql: "array(select c.timeline_id::text from pg_control_checkpoint() c)",
        right: "to execute `pg_control_checkpoint()`",
        without: "a failover is noticed by when the new server was started",
    },
];

/// The oldest version that supports everything that the statements use.
const OLDEST: i32 = 120_000;

impl Facts {
    /// Asks the server for everything at once. If it refuses that, asks for what is needed, and for each optional fact by
    /// itself.
    pub(super) async fn ask(
        client: &Client,
        statements: &Statements,
        space: &str,
        server: &str,
    ) -> Result<Self> {
        let Statements { locks, waiters, .. } = statements;
        let ask = async |more: &str| {
            let text = qualify(&include_str!("statements/facts.sql").replace("{more}", more));
            let params: [(&(dyn ToSql + Sync), Type); 3] =
                [(locks, Type::TEXT), (waiters, Type::TEXT), (&space, Type::TEXT)];
            client.query_typed(&text, &params).await
        };
        let more =
            OPTIONAL_FACTS.iter().map(|OptionalFact { column, sql, .. }| format!(", {sql} as {column}"));
        let more: String = more.collect();
        let (rows, refused) = match ask(&more).await {
            Err(error) if error.code().is_some() => (ask("").await, true),
            reply => (reply, false),
        };
        let rows = rows.map_err(|e| errors::statement(&e, server))?;
        let row = rows.first().ok_or_else(|| unexpected_reply(server))?;
        let mut facts = Self::read(row).map_err(|_| unexpected_reply(server))?;
        for fact in &OPTIONAL_FACTS {
            let value = if refused {
                match client.query_typed(&qualify(&format!("select {}", fact.sql)), &[]).await {
                    Ok(rows) => rows.first().ok_or_else(|| unexpected_reply(server))?.try_get(0),
                    Err(error) if error.code().is_some() => {
                        let message = error.as_db_error().map(|error| error.message()).unwrap_or_default();
                        facts.unknown.push((fact, shown(message, &[])));
                        continue;
                    }
                    Err(error) => return Err(errors::statement(&error, server)),
                }
            } else {
                row.try_get(fact.column)
            };
            facts.set(fact, value.map_err(|_| unexpected_reply(server))?);
        }
        Ok(facts)
    }

    /// Sets an optional fact to its value, which is a list.
    fn set(&mut self, fact: &OptionalFact, value: Vec<Option<String>>) {
        let first = || value.first().cloned().flatten();
        let is_on = || first().map(|value| value == "on");
        match fact.column {
            "fsync" => self.fsync = is_on(),
            "full_page_writes" => self.full_page_writes = is_on(),
            "synchronous" => self.synchronous = first(),
            "standbys" => {
                let all = || value.iter().flatten();
                let with = |sign| all().filter_map(move |name| name.strip_prefix(sign)).map(str::to_owned);
                (self.standbys, self.receivers) = (Some(with('+').collect()), with('-').collect());
            }
            "started" => self.identity.started_us = first().and_then(|value| value.parse().ok()),
            "system" => self.identity.system = first().and_then(|value| value.parse().ok()),
            _ => self.identity.timeline = first().and_then(|value| value.parse().ok()),
        }
    }

    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let persistence: Option<String> = row.try_get("persistence")?;
        Ok(Self {
            backend: row.try_get("backend")?,
            now_us: u64::try_from(row.try_get::<_, i64>("now")?).unwrap_or(0),
            standby: row.try_get("standby")?,
            read_only: row.try_get("read_only")?,
            version: row.try_get("version")?,
            version_number: row.try_get("version_number")?,
            isolation: row.try_get("isolation")?,
            utf8: row.try_get::<_, &str>("encoding")? == "UTF8",
            // `to_regclass` sees the newest tables, the subqueries those of a moment before.
            there: persistence.is_some(),
            made: row.try_get("made")? && persistence.is_some(),
            logged: persistence.as_deref() == Some("p"),
            comment: row.try_get("comment")?,
            ..Self::default()
        })
    }

    /// Refuses a server that cannot be written to, or is too old.
    pub(super) fn check(&self, server: &str) -> Result<()> {
        let version = &self.version;
        if self.version_number < OLDEST {
            let text = "the server is too old; use PostgreSQL 12 or later";
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{text} server=`{server}` version=`{version}`"),
            ));
        }
        let text = if self.standby {
            "the server is a standby; name its primary too, or retry when it is promoted"
        } else if self.read_only {
            "the server does not write (`default_transaction_read_only`); retry when it does"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}`")))
    }

    /// Refuses tables of others, and of an unknown version of Leasehold.
    pub(super) fn check_tables(&self, statements: &Statements) -> Result<()> {
        if self.comment.as_deref() == Some(VERSION) {
            return Ok(());
        }
        let locks = &statements.locks;
        let text = match &self.comment {
            Some(comment) if comment.starts_with("leasehold schema ") => format!(
                "the table is of another version of Leasehold; use that version, or another table by the URL option `table` \
                 table=`{locks}` found=`{}` wanted=`{VERSION}`",
                comment.escape_debug()
            ),
            _ => format!(
                "the table is not marked as one of Leasehold; name another by the URL option `table`, or mark it: \
                 comment on table {locks} is '{VERSION}' table=`{locks}`"
            ),
        };
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Returns `true` if a pooler is between: another process has answered than the one of the login.
    pub(super) fn is_pooled(&self, backend_at_login: i32) -> bool {
        self.backend != backend_at_login
    }

    /// Returns the tier that the storage promises with this server.
    pub(super) fn tier(&self) -> Tier {
        match self.synchronous() {
            _ if !self.survives_restart() => Tier::CrashSafe,
            Some(_) if self.reaches_every_standby() => Tier::FailoverSafe,
            // Each grant is on two servers, but a third one may be promoted.
            Some(_) => Tier::RestartSafe,
            None if self.standbys.as_ref().is_some_and(Vec::is_empty) => Tier::RestartSafe,
            // A standby may be promoted without the last grants.
            None => Tier::CrashSafe,
        }
    }

    /// Returns the standbys that a commit waits for, if it waits for any.
    pub(super) fn synchronous(&self) -> Option<Synchronous> {
        self.synchronous.as_deref().and_then(Synchronous::read)
    }

    /// Returns `true` if a commit waits for every standby that may be promoted.
    pub(super) fn reaches_every_standby(&self) -> bool {
        let covers = |synchronous: Synchronous| {
            self.standbys.as_ref().is_some_and(|standbys| synchronous.covers(standbys, &self.receivers))
        };
        self.synchronous().is_some_and(covers)
    }

    /// Returns `true` if a commit waits for a standby, or may do so.
    pub(super) fn is_synchronous(&self) -> bool {
        self.synchronous.as_deref() != Some("")
    }

    /// Returns `true` if no grant is lost by a crash and a restart.
    pub(super) fn survives_restart(&self) -> bool {
        self.logged && self.fsync == Some(true) && self.full_page_writes == Some(true)
    }

    pub(super) fn guarantees(&self, push: bool) -> Guarantees {
        Guarantees { fencing: true, fair: true, push, ..Guarantees::new(self.tier(), LeaseClock::ServerWall) }
    }
}

impl Choice {
    /// Returns the choice; for [`Choice::Auto`] the one that was found out.
    pub(super) fn or(self, automatic: bool) -> bool {
        match self {
            Self::Auto => automatic,
            Self::On => true,
            Self::Off => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::qualify::ambiguities;
    use super::*;

    #[test]
    fn the_first_statements_do_not_depend_on_the_search_path() {
        let statements =
            [include_str!("statements/facts.sql"), include_str!("statements/settings.sql")].into_iter();
        for sql in statements.chain(OPTIONAL_FACTS.iter().map(|fact| fact.sql)) {
            let sql = sql.replace("{more}", "").replace("{backend}", "1").replace("{lock_timeout}", "1s");
            assert_eq!(ambiguities(&sql), Vec::<String>::new(), "{sql}");
        }
    }
}
