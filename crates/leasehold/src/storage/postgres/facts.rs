//! What a server tells of itself, and what can be promised of it.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::answers::explain;
use super::config::Choice;
use super::qualify::qualify;
use super::standbys::Synchronous;
use super::statements::{Statements, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Guarantees, LeaseClock, Tier};

/// What a server told when it was connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Changes when the server is restarted, or another one answers in its place.
    pub(super) identity: Identity,
    /// The process that serves us; with a pooler it is not always the same.
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
    /// What the standbys that are connected call themselves, if it is known.
    pub(super) standbys: Option<Vec<String>>,
    /// What else receives the log calls itself.
    receivers: Vec<String>,
    pub(super) isolation: String,
    /// Whether the database keeps text in UTF8, whose order is that of the characters.
    pub(super) utf8: bool,
    /// What the server does not tell, and in which words it says so.
    pub(super) unknown: Vec<(&'static Detail, String)>,
    /// Whether there is a table with the name of that of the locks.
    pub(super) there: bool,
    /// Whether both tables are there.
    pub(super) made: bool,
    pub(super) logged: bool,
    comment: Option<String>,
}

/// Which server, and which life of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    system: Option<i64>,
    timeline: Option<i32>,
    started_us: Option<i64>,
}

impl Identity {
    /// Whether a restart changes it.
    pub(super) fn is_known(&self) -> bool {
        self.started_us.is_some()
    }
}

/// Something that informs, and without which locks can be had all the same.
#[derive(Debug)]
pub(super) struct Detail {
    /// What it is called in the statement.
    column: &'static str,
    /// What is asked, of which the answer is a list.
    sql: &'static str,
    /// What a role is allowed that may ask for it.
    pub(super) right: &'static str,
    /// What does not hold or is not noticed without it.
    pub(super) without: &'static str,
}

const DETAILS: [Detail; 7] = [
    Detail {
        column: "fsync",
        sql: "array[current_setting('fsync')]",
        right: "to read the setting `fsync`",
        without: "restart-safe cannot be promised",
    },
    Detail {
        column: "full_page_writes",
        sql: "array[current_setting('full_page_writes')]",
        right: "to read the setting `full_page_writes`",
        without: "restart-safe cannot be promised",
    },
    Detail {
        column: "synchronous",
        sql: "array[current_setting('synchronous_standby_names')]",
        right: "to read the setting `synchronous_standby_names`",
        without: "failover-safe cannot be promised",
    },
    // `+` before the name of a standby. `-` before that of what only copies or keeps the log, or decodes it: a backup, an
    // archive, a subscriber. Such a receiver cannot be promoted, but a commit may wait for it instead of a standby. What a
    // role may not see is null.
    Detail {
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
        without: "no standby is known of, so neither restart-safe nor failover-safe can be promised",
    },
    Detail {
        column: "started",
        sql: "array[((date_part('epoch', pg_postmaster_start_time()) * 1e6)::bigint)::text]",
        right: "to execute `pg_postmaster_start_time()`",
        without: "a restart is noticed by the next renewals only",
    },
    Detail {
        column: "system",
        sql: "array(select c.system_identifier::text from pg_control_system() c)",
        right: "to execute `pg_control_system()`",
        without: "a failover is noticed by when the new server was started",
    },
    Detail {
        column: "timeline",
        sql: "array(select c.timeline_id::text from pg_control_checkpoint() c)",
        right: "to execute `pg_control_checkpoint()`",
        without: "a failover is noticed by when the new server was started",
    },
];

#[cfg(test)]
impl Identity {
    pub(super) fn another(self) -> Self {
        Self { started_us: Some(self.started_us.unwrap_or(0) + 1), ..self }
    }
}

/// The first version that knows all that the statements use.
const OLDEST: i32 = 120_000;

impl Facts {
    /// Asks the server: for everything at once; if it refuses that, for what is needed, and for each detail apart.
    pub(super) async fn ask(
        client: &Client,
        statements: &Statements,
        space: &str,
        place: &str,
    ) -> Result<Self> {
        let Statements { locks, waiters, .. } = statements;
        let ask = async |more: &str| {
            let text = qualify(&include_str!("facts.sql").replace("{more}", more));
            let params: [(&(dyn ToSql + Sync), Type); 3] =
                [(locks, Type::TEXT), (waiters, Type::TEXT), (&space, Type::TEXT)];
            client.query_typed(&text, &params).await
        };
        let details: String =
            DETAILS.iter().map(|Detail { column, sql, .. }| format!(",\n    {sql} as {column}")).collect();
        let (rows, refused) = match ask(&details).await {
            Err(error) if error.code().is_some() => (ask("").await, true),
            answer => (answer, false),
        };
        let rows = rows.map_err(|e| explain(&e, place))?;
        let row = rows.first().ok_or_else(|| senseless(place))?;
        let mut facts = Self::read(row).map_err(|_| senseless(place))?;
        for detail in &DETAILS {
            let told = if refused {
                match client.query_typed(&qualify(&format!("select {}", detail.sql)), &[]).await {
                    Ok(rows) => rows.first().ok_or_else(|| senseless(place))?.try_get(0),
                    Err(error) if error.code().is_some() => {
                        let said = error.as_db_error().map(|error| error.message()).unwrap_or_default();
                        facts.unknown.push((detail, said.escape_debug().to_string()));
                        continue;
                    }
                    Err(error) => return Err(explain(&error, place)),
                }
            } else {
                row.try_get(detail.column)
            };
            facts.take(detail, told.map_err(|_| senseless(place))?);
        }
        Ok(facts)
    }

    /// Takes in what was told of a detail.
    fn take(&mut self, detail: &Detail, told: Vec<Option<String>>) {
        let first = || told.first().cloned().flatten();
        let is_on = || first().map(|value| value == "on");
        match detail.column {
            "fsync" => self.fsync = is_on(),
            "full_page_writes" => self.full_page_writes = is_on(),
            "synchronous" => self.synchronous = first(),
            "standbys" => {
                let all = || told.iter().flatten();
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
            // The first half sees the newest tables, the others those of a moment before.
            there: persistence.is_some(),
            made: row.try_get("made")? && persistence.is_some(),
            logged: persistence.as_deref() == Some("p"),
            comment: row.try_get("comment")?,
            ..Self::default()
        })
    }

    /// Refuses a server that cannot be written to, or is too old.
    pub(super) fn check(&self, place: &str) -> Result<()> {
        let version = &self.version;
        if self.version_number < OLDEST {
            let text = "the server is too old; use PostgreSQL 12 or later";
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{text} server=`{place}` version=`{version}`"),
            ));
        }
        let text = if self.standby {
            "the server is a standby; name its primary too, or retry when it is promoted"
        } else if self.read_only {
            "the server does not write (`default_transaction_read_only`); retry when it does"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`")))
    }

    /// Refuses tables that are not ours, or of a version that we do not know.
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
                "the table is not marked as ours; name another by the URL option `table`, or mark it: \
                 comment on table {locks} is '{VERSION}' table=`{locks}`"
            ),
        };
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    /// Whether the server's answers come from whoever holds the connection at that moment.
    pub(super) fn is_pooled(&self, greeted_by: i32) -> bool {
        self.backend != greeted_by
    }

    pub(super) fn tier(&self) -> Tier {
        match self.synchronous() {
            _ if !self.survives_restart() => Tier::CrashSafe,
            Some(_) if self.reaches_every_standby() => Tier::FailoverSafe,
            // Each grant is on two servers, of which the second may not be the one that is promoted.
            Some(_) => Tier::RestartSafe,
            None if self.standbys.as_ref().is_some_and(Vec::is_empty) => Tier::RestartSafe,
            // One of them may take its place, without the last grants.
            None => Tier::CrashSafe,
        }
    }

    /// What a commit waits for, if it waits for a standby.
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

    /// Whether a commit waits for a standby, or may.
    pub(super) fn is_synchronous(&self) -> bool {
        self.synchronous.as_deref() != Some("")
    }

    /// Whether a restart makes it forget nothing that it has answered.
    pub(super) fn survives_restart(&self) -> bool {
        self.logged && self.fsync == Some(true) && self.full_page_writes == Some(true)
    }

    pub(super) fn guarantees(&self, push: bool) -> Guarantees {
        Guarantees { fencing: true, fair: true, push, ..Guarantees::new(self.tier(), LeaseClock::ServerWall) }
    }
}

impl Choice {
    /// What is right, if it is to be found out: `natural`.
    pub(super) fn or(self, natural: bool) -> bool {
        match self {
            Self::Auto => natural,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Somebody else answers than a PostgreSQL.
pub(super) fn senseless(place: &str) -> Error {
    let text = "the server's answer makes no sense; check that the URL names a PostgreSQL";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))
}

#[cfg(test)]
mod tests {
    use super::super::qualify::doubts;
    use super::*;

    #[test]
    fn what_is_asked_at_first_means_the_same_whatever_the_search_path() {
        let questions = [include_str!("facts.sql"), include_str!("settings.sql")].into_iter();
        for sql in questions.chain(DETAILS.iter().map(|detail| detail.sql)) {
            let sql = sql.replace("{more}", "").replace("{backend}", "1").replace("{lock_timeout}", "1s");
            assert_eq!(doubts(&sql), Vec::<String>::new(), "{sql}");
        }
    }
}
