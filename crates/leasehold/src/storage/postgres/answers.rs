//! What an error of the server, or of the way to it, means for the caller.

use tokio_postgres::error::{DbError, Error as PgError, Severity, SqlState};

use crate::error::{Error, ErrorKind};

/// What to do about an error before anybody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing has happened: send the same again.
    Again,
    /// Send the same again without a prepared statement: somebody else answers than who has prepared it.
    Unprepared,
    /// Tell the caller, and connect again before the next call.
    Reconnect,
    /// Tell the caller, who may ask again.
    None,
}

/// Why a statement failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// What the server refused, if it says that nothing has happened and that may be due to one claim of several.
    pub(super) refused: Option<Refused>,
    /// Whether the server has answered: it has done nothing, and will not.
    is_answer: bool,
}

/// What a server refuses because of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A text that the database cannot hold.
    Text,
    /// To wait any longer for what another transaction has locked.
    Wait,
    /// Something else: a constraint, a trigger or a policy that others have made says no.
    Claim,
    /// Perhaps all of them; but a trigger that others have made may have raised it for one.
    Perhaps,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, refused: None, is_answer: false }
    }
}

impl Failure {
    pub(super) fn new(error: &PgError, place: &str) -> Self {
        let said = error.as_db_error();
        Self {
            error: explain(error, place),
            refused: said.and_then(refused),
            is_answer: said.is_some_and(|said| said.parsed_severity() == Some(Severity::Error)),
        }
    }

    /// Returns what a claim is told. If the server has refused it for good, nothing of it is left there.
    pub(super) fn refusal(self) -> Error {
        match self.error.kind() {
            ErrorKind::Unavailable => self.error,
            _ if self.is_answer => self.error.definite(),
            _ => self.error,
        }
    }

    /// Returns `true` if the same claims may be asked for again in smaller batches.
    pub(super) fn is_of_one_claim(&self) -> bool {
        matches!(self.refused, Some(Refused::Text | Refused::Claim | Refused::Perhaps))
    }
}

/// Classes of errors that are due to the statement, the session or the server, unless a trigger raises them.
const OF_ALL: [&str; 15] =
    ["08", "0A", "25", "26", "28", "34", "3D", "3F", "40", "42", "53", "55", "57", "58", "XX"];

/// Says what was refused. An error that does not end the connection has rolled back the only statement.
fn refused(error: &DbError) -> Option<Refused> {
    let code = error.code().code();
    if error.parsed_severity() != Some(Severity::Error) {
        return None;
    }
    match code {
        "22P05" | "22021" => Some(Refused::Text),
        "55P03" => Some(Refused::Wait),
        // A policy, and not a missing right.
        "42501" if error.routine() == Some("ExecWithCheckOptions") => Some(Refused::Claim),
        _ if row(error.code()).is_some_and(|row| row.1 == Remedy::Reconnect) => None,
        _ if OF_ALL.iter().any(|class| code.starts_with(class)) => Some(Refused::Perhaps),
        _ => Some(Refused::Claim),
    }
}

/// Returns `true` if a notice says that a commit did not wait for its standby: by the function of the server that says
/// so, since its words are translated and its code is that of every warning. Where something in between has dropped
/// that (`None`), any warning may be the one.
pub(super) fn is_unreplicated(notice: &DbError) -> Option<bool> {
    match notice.routine() {
        Some(routine) => Some(routine == "SyncRepWaitForLSN"),
        None if *notice.code() == SqlState::WARNING => None,
        None => Some(false),
    }
}

/// Every state that says more than that something is wrong: what to do, of what kind it is, what it means.
const TABLE: &[(&str, Remedy, ErrorKind, &str)] = &[
    ("40001", Remedy::Again, ErrorKind::Unavailable, "other transactions keep changing the same; retry"),
    (
        "40P01",
        Remedy::Again,
        ErrorKind::Unavailable,
        "other transactions lock the same in another order; retry",
    ),
    (
        "26000",
        Remedy::Unprepared,
        ErrorKind::Unavailable,
        "the server has forgotten a prepared statement; retry",
    ),
    ("42P05", Remedy::Unprepared, ErrorKind::Unavailable, "a pooler mixes up prepared statements; retry"),
    (
        "0A000",
        Remedy::Unprepared,
        ErrorKind::Unsupported,
        "the server cannot do that; see the versions that are tested",
    ),
    (
        "25006",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "the server does not write now (a standby, or `default_transaction_read_only`); retry when it does",
    ),
    (
        "28P01",
        Remedy::Reconnect,
        ErrorKind::Invalid,
        "the server refuses this user or password; check the URL",
    ),
    (
        "28000",
        Remedy::Reconnect,
        ErrorKind::Invalid,
        "the server refuses this user here (`pg_hba.conf`); check the URL and the server",
    ),
    ("3D000", Remedy::Reconnect, ErrorKind::Invalid, "there is no such database; check the URL"),
    (
        "42501",
        Remedy::None,
        ErrorKind::Unsupported,
        "the user may not do that; give it the rights that `leasehold doctor --sql` prints",
    ),
    (
        "42P01",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "a table of the locks is gone; retry, and it is made again if the user may",
    ),
    (
        "3F000",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "the schema of the locks is gone; retry, and it is made again if the user may",
    ),
    (
        "42703",
        Remedy::Reconnect,
        ErrorKind::Unsupported,
        "a table has that name, and is not one of ours; name another by the URL option `table`",
    ),
    ("53100", Remedy::None, ErrorKind::Unavailable, "the server's disk is full; free some and retry"),
    ("53200", Remedy::None, ErrorKind::Unavailable, "the server's memory is full; free some and retry"),
    (
        "53300",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "the server has no connection left (`max_connections`, or the role's limit); retry",
    ),
    ("55P03", Remedy::None, ErrorKind::Unavailable, "somebody locks the table; retry"),
    (
        "57014",
        Remedy::None,
        ErrorKind::Unavailable,
        "the statement was cancelled (`statement_timeout`, or by somebody); retry",
    ),
    (
        "57P01",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "the server or somebody ended the connection; retry",
    ),
    ("57P02", Remedy::Reconnect, ErrorKind::Unavailable, "the server crashed and recovers; retry"),
    ("57P03", Remedy::Reconnect, ErrorKind::Unavailable, "the server is starting or stopping; retry"),
    ("57P05", Remedy::Reconnect, ErrorKind::Unavailable, "the server ended an idle connection; retry"),
    (
        "22P05",
        Remedy::None,
        ErrorKind::Unsupported,
        "the database's encoding has no such character; use a database in UTF8, or another name",
    ),
    (
        "22021",
        Remedy::None,
        ErrorKind::Unsupported,
        "the database's encoding has no such character; use a database in UTF8, or another name",
    ),
];

/// Says what to do about an error.
pub(super) fn remedy(error: &PgError) -> Remedy {
    match error.code() {
        Some(code) => match row(code) {
            Some(row) => row.1,
            None if is_of_connection(code) => Remedy::Reconnect,
            None => Remedy::None,
        },
        None => Remedy::Reconnect,
    }
}

/// Says what an error means. The server's own words are left out where they may repeat what was sent.
pub(super) fn explain(error: &PgError, place: &str) -> Error {
    let Some(code) = error.code() else {
        let text = "the connection to the server broke; retry";
        return Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"));
    };
    let (kind, text) = match row(code) {
        Some(row) => (row.2, row.3),
        None if is_of_connection(code) || is_passing(code) => {
            (ErrorKind::Unavailable, "the server cannot do it now; retry")
        }
        None => (
            ErrorKind::Unsupported,
            "a rule of the database refuses that (a constraint, a trigger or a policy); change the rule, or the call",
        ),
    };
    let said = error.as_db_error().map(|error| error.message()).unwrap_or_default();
    let said = said.escape_debug();
    Error::new(kind, format!("{text} server=`{place}` code=`{}` said=`{said}`", code.code()))
}

fn row(code: &SqlState) -> Option<&'static (&'static str, Remedy, ErrorKind, &'static str)> {
    TABLE.iter().find(|row| row.0 == code.code())
}

/// Class 08: connection exceptions.
fn is_of_connection(code: &SqlState) -> bool {
    code.code().starts_with("08")
}

/// Classes that pass: transactions rolled back, resources, objects in use, operators, the system, deep trouble.
fn is_passing(code: &SqlState) -> bool {
    ["25", "40", "53", "54", "55", "57", "58", "XX"].iter().any(|class| code.code().starts_with(class))
}
