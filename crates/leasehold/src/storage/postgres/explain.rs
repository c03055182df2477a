//! What an error while a connection is opened means for the caller.

use std::error::Error as StdError;

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Codes of an error with which a server ends a login, of what kind each is, and what it means. Whatever a code does
/// not say is in the server's own words, which are added where they name no more than the URL does.
const TABLE: &[(&str, ErrorKind, &str)] = &[
    ("28P01", ErrorKind::Invalid, "the server refuses the user or the password; check the URL"),
    ("28000", ErrorKind::Invalid, "the server lets nobody in like that; check the URL, or its pg_hba.conf"),
    ("3D000", ErrorKind::Invalid, "the server has no such database; check the URL, or create it"),
    ("42501", ErrorKind::Invalid, "the user may not connect to the database; grant it CONNECT"),
    ("42704", ErrorKind::Invalid, "the server does not know a setting of the URL's `options`; check them"),
    ("22023", ErrorKind::Invalid, "the server does not take a setting of the URL's `options`; check them"),
    ("55P02", ErrorKind::Invalid, "the server does not take a setting of the URL's `options`; check them"),
    (
        "0A000",
        ErrorKind::Unsupported,
        "the server does not speak this version of the protocol; it is too old",
    ),
    (
        "53300",
        ErrorKind::Unavailable,
        "the server has no connection left; raise its max_connections or the role's limit, or use fewer clients",
    ),
    ("57P03", ErrorKind::Unavailable, "the server is starting, stopping or recovering; retry"),
    ("55000", ErrorKind::Unavailable, "the database takes no connections at the moment; retry"),
];
/// A pooler says much with the code of a protocol violation. These are the URL's fault; the rest may pass.
const POOLER: [&str; 4] =
    ["unsupported startup parameter", "no such database", "no such user", "does not exist"];
/// As much as is shown of what a server says.
const SHOWN: usize = 300;

/// Explains what the driver says. `place` is shown, `secrets` are not, whoever repeats them.
pub(super) fn login(error: &tokio_postgres::Error, place: &str, secrets: &[&str]) -> Error {
    if let Some(db) = error.as_db_error() {
        return refusal(db.code(), db.message(), place, secrets);
    }
    let causes = causes(error);
    // The driver has no codes for these.
    if causes.contains("password missing") {
        let text = "the server asks for a password; give one in the URL, or by the option `passfile`";
        return Error::invalid(format!("{text} server=`{place}`"));
    }
    if causes.contains("did not use channel binding") {
        let text = "the server does not tie the login to TLS, which `channel_binding=require` asks for";
        return Error::invalid(format!("{text} server=`{place}`"));
    }
    if causes.contains("unsupported authentication method") || causes.contains("unsupported SASL mechanism") {
        let text = "the server asks for a login that is not spoken here; use scram-sha-256 or a certificate";
        return Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`"));
    }
    if causes.contains("authentication error") {
        let text = "the server could not show that it knows the password; check who answers there";
        return Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"));
    }
    broken(&causes, place, secrets)
}

/// Explains why there is no connection, or not any more.
pub(super) fn unreachable(error: &(dyn StdError + 'static), place: &str) -> Error {
    let causes_of = std::iter::successors(Some(error), |&error| error.source());
    if let Some(why) = causes_of.filter_map(|e| e.downcast_ref()).find_map(crate::system::exhausted) {
        return Error::new(
            ErrorKind::Internal,
            format!("no connection to the server; {why} server=`{place}`"),
        );
    }
    broken(&causes(error), place, &[])
}

/// Explains why there is no TLS.
pub(super) fn untrusted(error: &(dyn StdError + 'static), place: &str) -> Error {
    let text = "no TLS with the server; check its certificate and the URL's `ssl…` options";
    let shown = cut(&causes(error), &[]);
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}` error=`{shown}`"))
}

fn refusal(code: &SqlState, message: &str, place: &str, secrets: &[&str]) -> Error {
    let (kind, text) = match TABLE.iter().find(|(known, ..)| *known == code.code()) {
        Some((_, kind, text)) => (*kind, *text),
        None if POOLER.iter().any(|theirs| message.contains(theirs)) => {
            (ErrorKind::Invalid, "the pooler does not take what the URL says; check it")
        }
        None => (ErrorKind::Unavailable, "the server refuses the connection; retry"),
    };
    let code =
        Some(code.code()).filter(|code| code.bytes().all(|b| b.is_ascii_alphanumeric()) && code.len() == 5);
    let (code, message) = (code.unwrap_or("none"), cut(message, secrets));
    Error::new(kind, format!("{text} server=`{place}` code=`{code}` error=`{message}`"))
}

fn broken(causes: &str, place: &str, secrets: &[&str]) -> Error {
    let text = "no connection to the server; check the URL and the server, and retry";
    let shown = cut(causes, secrets);
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}` error=`{shown}`"))
}

/// An error and what it came from, in one line.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}

/// Takes out what nobody may see, and what makes a log unreadable.
fn cut(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(end, _)| end);
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text[..end].chars().map(printable).collect::<String>().replace('`', "'")
}
