//! Why a statement failed, and what that says about its claims.

use tokio_postgres::error::{DbError, Error as PgError, Severity};

use super::errors::{self, Remedy};
use crate::error::{Error, ErrorKind};

/// Why a statement failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// Why the server refused it, if that may be due to one claim of several.
    pub(super) refusal: Option<Refusal>,
    /// Whether the server has replied that it did nothing, and never will.
    is_rolled_back: bool,
}

/// What a server refuses because of one claim. The whole statement is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A text that the database cannot hold.
    Text,
    /// To wait any longer for a row or a table that another transaction has locked.
    LockTimeout,
    /// Something else: a constraint, a trigger or a policy that others have made.
    Rule,
    /// An error that usually concerns all claims, although a trigger may have raised it for one.
    PerhapsRule,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, refusal: None, is_rolled_back: false }
    }
}

impl Failure {
    pub(super) fn new(error: &PgError, server: &str) -> Self {
        let reply = error.as_db_error();
        Self {
            error: errors::statement(error, server),
            refusal: reply.and_then(refusal),
            is_rolled_back: reply.is_some_and(|reply| reply.parsed_severity() == Some(Severity::Error)),
        }
    }

    /// Returns the reply to a claim. If the server has refused it for good, it is marked as definite: nothing of the claim
    /// is left at the server.
    pub(super) fn into_reply(self) -> Error {
        match self.error.kind() {
            ErrorKind::Unavailable => self.error,
            _ if self.is_rolled_back => self.error.definite(),
            _ => self.error,
        }
    }

    /// Returns `true` if the same claims may be sent again in smaller batches.
    pub(super) fn is_of_one_claim(&self) -> bool {
        matches!(self.refusal, Some(Refusal::Text | Refusal::Rule | Refusal::PerhapsRule))
    }
}

/// Classes of errors that are due to the statement, the session or the server, unless a trigger raises them.
const CLASSES_OF_ALL: [&str; 15] =
    ["08", "0A", "25", "26", "28", "34", "3D", "3F", "40", "42", "53", "55", "57", "58", "XX"];

/// Returns what was refused. An error that does not end the connection has rolled back the only statement.
fn refusal(error: &DbError) -> Option<Refusal> {
    let code = error.code().code();
    if error.parsed_severity() != Some(Severity::Error) {
        return None;
    }
    match code {
        "22P05" | "22021" => Some(Refusal::Text),
        "55P03" => Some(Refusal::LockTimeout),
        // A policy, and not a missing right.
        "42501" if error.routine() == Some("ExecWithCheckOptions") => Some(Refusal::Rule),
        _ if errors::known(error.code()).is_some_and(|state| state.remedy == Remedy::Reconnect) => None,
        _ if CLASSES_OF_ALL.iter().any(|class| code.starts_with(class)) => Some(Refusal::PerhapsRule),
        _ => Some(Refusal::Rule),
    }
}
