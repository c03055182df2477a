//! What an error of the driver, or of the server, means for the caller.

use mongodb::error::{Error as DriverError, ErrorKind as DriverKind};

use crate::error::{Error, ErrorKind};

/// The user may not send the command. Or it was removed since it has logged in.
pub(super) const UNAUTHORIZED: i32 = 13;
/// Another client inserts the document at the same moment, or it belongs to another program.
pub(super) const DUPLICATE_KEY: i32 = 11_000;
/// The server has interrupted the command after its `maxTimeMS`.
pub(super) const TIME_OVER: i32 = 50;
/// No majority has confirmed a write in time.
pub(super) const UNCONFIRMED: i32 = 64;
/// A transaction has changed the document.
pub(super) const WRITE_CONFLICT: i32 = 112;
pub(super) const NOT_PRIMARY: i32 = 10_107;
pub(super) const NOT_PRIMARY_OR_SECONDARY: i32 = 13_435;

/// The server's codes with a meaning for the caller: the kind of the error, and its text.
const CODES: &[(i32, ErrorKind, &str)] = {
    use ErrorKind::{Internal, Invalid, Unavailable, Unsupported};
    const TOO_MANY_WAITERS: &str =
        "the lock has too many waiters for one document; retry when some have gone";
    &[
        (2, Internal, "the server refuses a value"),
        (9, Internal, "the server does not understand a command"),
        (
            UNAUTHORIZED,
            Unsupported,
            "the user may not do that; give it the role `readWrite` on the database of the locks",
        ),
        (14, Internal, "the server refuses the type of a value"),
        (18, Invalid, "the server refuses this user or password; check the URL"),
        (20, Unsupported, "the server does not allow a command; use MongoDB 6.0 or later"),
        (
            TIME_OVER,
            Unavailable,
            "the server did not finish in time; a transaction may have locked the document; retry",
        ),
        (59, Unsupported, "the server does not know a command; use MongoDB 6.0 or later"),
        (UNCONFIRMED, Unavailable, "a majority did not confirm in time; retry when enough members are up"),
        (72, Unsupported, "the server does not know an option of a command; use MongoDB 6.0 or later"),
        (73, Unsupported, "the name of the database or the collection is not allowed; choose another one"),
        (91, Unavailable, "the server shuts down; retry"),
        (100, Unavailable, "too few members can confirm a write; retry when a majority is up"),
        (
            WRITE_CONFLICT,
            Unavailable,
            "a transaction has locked the lock's document; retry when it has ended",
        ),
        (
            121,
            Unsupported,
            "a validator of the collection refuses the lock's document; remove it, or name another collection with \
             the URL option `collection`",
        ),
        (
            166,
            Unsupported,
            "locks need a plain collection, and that is a view; name another one with the URL option `collection`",
        ),
        (189, Unavailable, "the primary steps down; retry"),
        (238, Unsupported, "the server has not implemented a command; use MongoDB 6.0 or later"),
        (323, Unsupported, "the server's API version lacks a command; do not make it strict"),
        (NOT_PRIMARY, Unavailable, "the server is not the primary; retry when there is one"),
        (10_334, Unavailable, TOO_MANY_WAITERS),
        (11_600, Unavailable, "the server shuts down; retry"),
        (11_602, Unavailable, "the primary steps down; retry"),
        (NOT_PRIMARY_OR_SECONDARY, Unavailable, "the server is not the primary; retry when there is one"),
        (14_031, Unavailable, "the server's disk is full; free some and retry"),
        (17_419, Unavailable, TOO_MANY_WAITERS),
    ]
};

/// Returns the error for the caller. The server's own words are left out, because they may repeat what was sent.
pub(super) fn error_of(error: &DriverError, place: &str) -> Error {
    if let Some(code) = code(error) {
        return error_of_code(code, place);
    }
    let (kind, text) = match &*error.kind {
        DriverKind::Authentication { .. } => {
            (ErrorKind::Invalid, "the server refuses this user or password; check the URL")
        }
        DriverKind::InvalidArgument { .. } => (ErrorKind::Invalid, "the driver refuses the URL"),
        DriverKind::InvalidTlsConfig { .. } => {
            (ErrorKind::Invalid, "TLS cannot be set up; check the files that the URL names")
        }
        DriverKind::DnsResolve { .. } => {
            (ErrorKind::Unavailable, "the name of the servers cannot be resolved; check it, and retry")
        }
        DriverKind::ServerSelection { .. } => {
            (ErrorKind::Unavailable, "no primary answers; check the servers, the URL and its TLS, and retry")
        }
        DriverKind::IncompatibleServer { .. } => {
            (ErrorKind::Unsupported, "the server is too old; use MongoDB 6.0 or later")
        }
        _ => (ErrorKind::Unavailable, "the connection to the server broke; retry"),
    };
    Error::new(kind, format!("{text} server=`{place}`"))
}

/// Returns the error for options that the driver refuses before it connects.
pub(super) fn error_of_options(error: &DriverError, place: &str) -> Error {
    match &*error.kind {
        DriverKind::Io(_) => {
            let text = "a file that the URL names cannot be read; check `tlsCertificateKeyFile`";
            Error::new(ErrorKind::Invalid, format!("{text} server=`{place}`"))
        }
        _ => error_of(error, place),
    }
}

/// Returns the error for a code of the server.
pub(super) fn error_of_code(code: i32, place: &str) -> Error {
    let row = CODES.iter().find(|row| row.0 == code);
    let (kind, text) =
        row.map_or((ErrorKind::Unavailable, "the server cannot do it now; retry"), |row| (row.1, row.2));
    Error::new(kind, format!("{text} server=`{place}` code=`{code}`"))
}

/// Returns the server's code, if the server refused the command.
pub(super) fn code(error: &DriverError) -> Option<i32> {
    match &*error.kind {
        DriverKind::Command(error) => Some(error.code),
        _ => None,
    }
}

/// Returns the error for a reply that no known MongoDB sends.
pub(super) fn unexpected_reply(place: &str) -> Error {
    let text = "unexpected reply; check that the URL names a MongoDB";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))
}
