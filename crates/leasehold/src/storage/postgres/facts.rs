//! What a server tells of itself, and what can be promised of it.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::answers::explain;
use super::config::Choice;
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
    pub(super) fsync: bool,
    pub(super) full_page_writes: bool,
    /// Whether a commit waits for a standby.
    pub(super) synchronous: bool,
    pub(super) standbys: i64,
    pub(super) isolation: String,
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
    system: i64,
    timeline: i32,
    started_us: i64,
}

#[cfg(test)]
impl Identity {
    pub(super) fn another(self) -> Self {
        Self { started_us: self.started_us + 1, ..self }
    }
}

/// The first version that knows all that the statements use.
const OLDEST: i32 = 120_000;

impl Facts {
    /// Asks the server.
    pub(super) async fn ask(client: &Client, statements: &Statements, place: &str) -> Result<Self> {
        let tables = [&statements.locks, &statements.waiters];
        let rows = client
            .query_typed(include_str!("facts.sql"), &[(tables[0], Type::TEXT), (tables[1], Type::TEXT)])
            .await
            .map_err(|e| explain(&e, place))?;
        let row = rows.first().ok_or_else(|| senseless(place))?;
        Self::read(row).map_err(|_| senseless(place))
    }

    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let persistence: Option<String> = row.try_get("persistence")?;
        Ok(Self {
            identity: Identity {
                system: row.try_get("system")?,
                timeline: row.try_get("timeline")?,
                started_us: row.try_get("started")?,
            },
            backend: row.try_get("backend")?,
            now_us: u64::try_from(row.try_get::<_, i64>("now")?).unwrap_or(0),
            standby: row.try_get("standby")?,
            read_only: row.try_get("read_only")?,
            version: row.try_get("version")?,
            version_number: row.try_get("version_number")?,
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            synchronous: row.try_get("synchronous")?,
            standbys: row.try_get("standbys")?,
            isolation: row.try_get("isolation")?,
            // The first half sees the newest tables, the others those of a moment before.
            there: persistence.is_some(),
            made: row.try_get("made")? && persistence.is_some(),
            logged: persistence.as_deref() == Some("p"),
            comment: row.try_get("comment")?,
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
        if !self.survives_restart() {
            Tier::CrashSafe
        } else if self.synchronous {
            Tier::FailoverSafe
        } else if self.standbys > 0 {
            // One of them may take its place, without the last grants.
            Tier::CrashSafe
        } else {
            Tier::RestartSafe
        }
    }

    /// Whether a restart makes it forget nothing that it has answered.
    pub(super) fn survives_restart(&self) -> bool {
        self.logged && self.fsync && self.full_page_writes
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
