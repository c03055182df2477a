//! What an error of the server, or of the connection to it, means for the caller.

use std::error::Error as StdError;

use tokio_postgres::error::{Error as PgError, SqlState};

use crate::error::{Error, ErrorKind};

/// What to do about an error before the caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing has happened: send the same again.
    Resend,
    /// Send the same again without a prepared statement: another process of the server has prepared it.
    ResendUnprepared,
    /// Return the error, and connect again before the next call.
    Reconnect,
    /// Return the error.
    None,
}

/// What an SQLSTATE means.
pub(super) struct State {
    code: &'static str,
    pub(super) remedy: Remedy,
    kind: ErrorKind,
    text: &'static str,
}

const fn state(code: &'static str, remedy: Remedy, kind: ErrorKind, text: &'static str) -> State {
    State { code, remedy, kind, text }
}

/// The states that say more than that something is wrong.
const STATES: &[State] = {
    use ErrorKind::{Invalid, Unavailable, Unsupported};
    use Remedy::{Reconnect, Resend, ResendUnprepared};
    const NO_SUCH_CHARACTER: &str =
        "the database's encoding has no such character; use a database in UTF8, or another name";
    &[
        state("40001", Resend, Unavailable, "other transactions keep changing the same rows; retry"),
        state("40P01", Resend, Unavailable, "other transactions lock the same rows in another order; retry"),
        state("26000", ResendUnprepared, Unavailable, "the server has forgotten a prepared statement; retry"),
        state("42P05", ResendUnprepared, Unavailable, "a pooler mixes up prepared statements; retry"),
        state(
            "0A000",
            ResendUnprepared,
            Unsupported,
            "the server cannot do that; see the versions that are tested",
        ),
        state(
            "25006",
            Reconnect,
            Unavailable,
            "the server does not write now (a standby, or `default_transaction_read_only`); retry when it does",
        ),
        state("28P01", Reconnect, Invalid, "the server refuses the user or the password; check the URL"),
        state(
            "28000",
            Reconnect,
            Invalid,
            "the server's rules do not allow this login; check the URL, or `pg_hba.conf` on the server",
        ),
        state("3D000", Reconnect, Invalid, "the server has no such database; check the URL, or create it"),
        state(
            "42501",
            Remedy::None,
            Unsupported,
            "the user may not do that; give it the rights that `leasehold doctor --sql` prints",
        ),
        state(
            "42P01",
            Reconnect,
            Unavailable,
            "a table of the locks is gone; retry, and it is made again if the user may",
        ),
        state(
            "3F000",
            Reconnect,
            Unavailable,
            "the schema of the locks is gone; retry, and it is made again if the user may",
        ),
        state(
            "42703",
            Reconnect,
            Unsupported,
            "a table has that name, and is not one of Leasehold; name another by the URL option `table`",
        ),
        state("53100", Remedy::None, Unavailable, "the server's disk is full; free some and retry"),
        state("53200", Remedy::None, Unavailable, "the server's memory is full; free some and retry"),
        state(
            "53300",
            Reconnect,
            Unavailable,
            "the server has no connection left; raise its max_connections or the role's limit, or use fewer clients",
        ),
        state("55P03", Remedy::None, Unavailable, "another transaction locks the table; retry"),
        state(
            "57014",
            Remedy::None,
            Unavailable,
            "the statement was canceled (`statement_timeout`, or by an administrator); retry",
        ),
        state("57P01", Reconnect, Unavailable, "the server or an administrator ended the connection; retry"),
        state("57P02", Reconnect, Unavailable, "the server crashed and recovers; retry"),
        state("57P03", Reconnect, Unavailable, "the server is starting, stopping or recovering; retry"),
        state("57P05", Reconnect, Unavailable, "the server ended an idle connection; retry"),
        state("22P05", Remedy::None, Unsupported, NO_SUCH_CHARACTER),
        state("22021", Remedy::None, Unsupported, NO_SUCH_CHARACTER),
    ]
};

/// The states that mean something else when they end a login.
const STATES_AT_LOGIN: &[State] = {
    use ErrorKind::{Invalid, Unavailable, Unsupported};
    const BAD_SETTING: &str = "the server does not accept a setting of the URL's `options`; check them";
    &[
        state("42501", Remedy::None, Invalid, "the user may not connect to the database; grant it CONNECT"),
        state("42704", Remedy::None, Invalid, BAD_SETTING),
        state("22023", Remedy::None, Invalid, BAD_SETTING),
        state("55P02", Remedy::None, Invalid, BAD_SETTING),
        state(
            "0A000",
            Remedy::None,
            Unsupported,
            "the server does not speak this version of the protocol; it is too old",
        ),
        state("55000", Remedy::None, Unavailable, "the database takes no connections at the moment; retry"),
    ]
};

/// The other states with which a server ends a login. They mean what they always do.
const ALSO_AT_LOGIN: [&str; 5] = ["28P01", "28000", "3D000", "53300", "57P03"];

/// Parts of messages by which a pooler refuses a login because of the URL. Their code is that of any protocol violation.
const POOLER_REFUSALS: [&str; 4] =
    ["unsupported startup parameter", "no such database", "no such user", "does not exist"];

/// How many characters of a server's message are shown.
const MESSAGE_MAX: usize = 300;

/// Returns what to do about the error of a statement.
pub(super) fn remedy(error: &PgError) -> Remedy {
    match error.code() {
        Some(code) => match known(code) {
            Some(state) => state.remedy,
            None if is_of_connection(code) => Remedy::Reconnect,
            None => Remedy::None,
        },
        None => Remedy::Reconnect,
    }
}

/// Returns what is known of a state.
pub(super) fn known(code: &SqlState) -> Option<&'static State> {
    STATES.iter().find(|state| state.code == code.code())
}

/// Explains why a statement failed.
pub(super) fn statement(error: &PgError, server: &str) -> Error {
    let Some(db) = error.as_db_error() else {
        let text = "the connection to the server broke; retry";
        return Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}`"));
    };
    let code = db.code();
    let (kind, text) = match known(code) {
        Some(State { kind, text, .. }) => (*kind, *text),
        None if is_of_connection(code) || is_passing(code) => {
            (ErrorKind::Unavailable, "the server cannot do it now; retry")
        }
        None => (
            ErrorKind::Unsupported,
            "a rule of the database refuses that (a constraint, a trigger or a policy); change the rule, or the call",
        ),
    };
    with_message(kind, text, code, db.message(), server, &[])
}

/// Explains why a login failed. `secrets` are left out of the message, even if the server repeats them.
pub(super) fn login(error: &PgError, server: &str, secrets: &[&str]) -> Error {
    if let Some(db) = error.as_db_error() {
        let (kind, text) = login_refusal(db.code(), db.message());
        return with_message(kind, text, db.code(), db.message(), server, secrets);
    }
    let causes = causes(error);
    // The driver has no codes for these.
    if causes.contains("password missing") {
        let text = "the server asks for a password; give one in the URL, or by the option `passfile`";
        return Error::invalid(format!("{text} server=`{server}`"));
    }
    if causes.contains("did not use channel binding") {
        let text = "the server does not bind the login to TLS, which `channel_binding=require` asks for";
        return Error::invalid(format!("{text} server=`{server}`"));
    }
    if causes.contains("unsupported authentication method") || causes.contains("unsupported SASL mechanism") {
        let text =
            "the server asks for a kind of login that is not supported; use scram-sha-256 or a certificate";
        return Error::new(ErrorKind::Unsupported, format!("{text} server=`{server}`"));
    }
    if causes.contains("authentication error") {
        let text = "the server could not prove that it knows the password; check which server answers there";
        return Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}`"));
    }
    no_connection(&causes, server, secrets)
}

/// Explains why there is no connection, or not any more.
pub(super) fn connection(error: &(dyn StdError + 'static), server: &str) -> Error {
    let mut sources = std::iter::successors(Some(error), |&error| error.source());
    if let Some(why) = sources.by_ref().filter_map(|e| e.downcast_ref()).find_map(crate::system::exhausted) {
        return Error::new(
            ErrorKind::Internal,
            format!("no connection to the server; {why} server=`{server}`"),
        );
    }
    no_connection(&causes(error), server, &[])
}

/// Explains why TLS was not established.
pub(super) fn tls(error: &(dyn StdError + 'static), server: &str) -> Error {
    let text = "no TLS with the server; check its certificate and the URL's `ssl…` options";
    let shown = shown(&causes(error), &[]);
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}` error=`{shown}`"))
}

/// Returns the error for a reply that PostgreSQL does not give.
pub(super) fn unexpected_reply(server: &str) -> Error {
    let text = "the server's reply is not one of PostgreSQL; check that the URL names a PostgreSQL";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}`"))
}

fn login_refusal(code: &SqlState, message: &str) -> (ErrorKind, &'static str) {
    let at_login = STATES_AT_LOGIN.iter().find(|state| state.code == code.code());
    match at_login.or_else(|| known(code).filter(|state| ALSO_AT_LOGIN.contains(&state.code))) {
        Some(state) => (state.kind, state.text),
        None if POOLER_REFUSALS.iter().any(|part| message.contains(part)) => {
            (ErrorKind::Invalid, "the pooler does not accept the URL; check it")
        }
        None => (ErrorKind::Unavailable, "the server refuses the connection; retry"),
    }
}

fn with_message(
    kind: ErrorKind,
    text: &str,
    code: &SqlState,
    message: &str,
    server: &str,
    secrets: &[&str],
) -> Error {
    // What answers may be no PostgreSQL, and its code anything.
    let is_code = |code: &&str| code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    let code = Some(code.code()).filter(is_code).unwrap_or("none");
    let message = shown(message, secrets);
    Error::new(kind, format!("{text} server=`{server}` code=`{code}` error=`{message}`"))
}

fn no_connection(causes: &str, server: &str, secrets: &[&str]) -> Error {
    let text = "no connection to the server; check the URL and the server, and retry";
    let shown = shown(causes, secrets);
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}` error=`{shown}`"))
}

/// Returns an error and its sources, in one line.
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

/// Returns what is shown of a message: without secrets, in one line, and not too long.
pub(super) fn shown(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    let end = text.char_indices().nth(MESSAGE_MAX).map_or(text.len(), |(end, _)| end);
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text[..end].chars().map(printable).collect::<String>().replace('`', "'")
}

/// Returns `true` for the class of connection exceptions.
fn is_of_connection(code: &SqlState) -> bool {
    code.code().starts_with("08")
}

/// Returns `true` for the classes of errors that pass: transactions rolled back, resources, objects in use, operator
/// intervention, the system, internal errors.
fn is_passing(code: &SqlState) -> bool {
    ["25", "40", "53", "54", "55", "57", "58", "XX"].iter().any(|class| code.code().starts_with(class))
}
