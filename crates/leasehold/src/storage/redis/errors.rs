//! What an error of a server or a connection means for the caller.

use redis::RedisError;

use crate::error::{Error, ErrorKind};

/// What to do about an error, before or besides returning it to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Send the request again with the script's text, which the server has forgotten.
    SendScript,
    /// Send the request to that node, which serves the slot now, and read the slot map again.
    Moved(String),
    /// Send the request to that node after `ASKING`, because the slot is being moved there.
    Ask(String),
    /// Find the primary again before the next call: this server refuses writes.
    FindPrimary,
    /// Connect again before the next call.
    Reconnect,
    /// Nothing; the caller may retry.
    None,
}

/// The codes of errors that have a meaning of their own: what to do, the kind of the error, and its text.
const TABLE: &[(&str, Remedy, ErrorKind, &str)] = &[
    ("NOSCRIPT", Remedy::SendScript, ErrorKind::Unavailable, "the server keeps forgetting the script; retry"),
    (
        "READONLY",
        Remedy::FindPrimary,
        ErrorKind::Unavailable,
        "the server is a replica now; retry when there is a primary",
    ),
    (
        "MASTERDOWN",
        Remedy::FindPrimary,
        ErrorKind::Unavailable,
        "the server is a replica without a primary; retry when there is one",
    ),
    ("LOADING", Remedy::None, ErrorKind::Unavailable, "the server is loading its data; retry when it has"),
    (
        "BUSY",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server has run another script for too long; retry, or end it with SCRIPT KILL",
    ),
    (
        "CLUSTERDOWN",
        Remedy::FindPrimary,
        ErrorKind::Unavailable,
        "the Cluster does not serve every slot; retry when it does",
    ),
    (
        "TRYAGAIN",
        Remedy::None,
        ErrorKind::Unavailable,
        "the lock's slot is being moved to another node; retry",
    ),
    (
        "MISCONF",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server cannot write to its disk and refuses writes; correct that and retry",
    ),
    (
        "NOREPLICAS",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server has too few replicas (min-replicas-to-write); retry when they are back",
    ),
    (
        "OOM",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server's memory is full (maxmemory); free some and retry",
    ),
    (
        "NOAUTH",
        Remedy::Reconnect,
        ErrorKind::Unavailable,
        "the server asks for a password; check the URL and the server's users",
    ),
    (
        "WRONGPASS",
        Remedy::Reconnect,
        ErrorKind::Invalid,
        "the server refuses this user or password; check the URL",
    ),
    ("NOPERM", Remedy::None, ErrorKind::Unsupported, FORBIDDEN),
    (
        "CROSSSLOT",
        Remedy::None,
        ErrorKind::Unsupported,
        "the server is part of a Cluster; write `redis+cluster:`",
    ),
    (
        "UNKILLABLE",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server runs another script that cannot be ended; retry",
    ),
    ("NOTBUSY", Remedy::None, ErrorKind::Unavailable, "the script was ended by SCRIPT KILL; retry"),
    (
        "DENIED",
        Remedy::None,
        ErrorKind::Unsupported,
        "the server refuses clients of other machines (protected mode); give it a password, or a `bind`",
    ),
    (
        "NOPROTO",
        Remedy::None,
        ErrorKind::Unsupported,
        "the server is too old; it must be a Redis 6 or later, or a Valkey",
    ),
];

/// Returns what to do about an error.
pub(super) fn remedy(error: &RedisError) -> Remedy {
    let code = error.code();
    match code {
        Some("MOVED" | "ASK") => {
            let Some((node, _slot)) = error.redirect_node() else { return Remedy::FindPrimary };
            let node = node.to_owned();
            if code == Some("ASK") { Remedy::Ask(node) } else { Remedy::Moved(node) }
        }
        Some(code) => TABLE.iter().find(|row| row.0 == code).map_or(Remedy::None, |row| row.1.clone()),
        None => Remedy::Reconnect,
    }
}

/// The errors that have no code of their own: a part of the server's text, the kind of the error, and its text. The
/// server's text may begin with a line number of the script.
const TEXTS: &[(&str, ErrorKind, &str)] = &[
    (
        "DB index is out of range",
        ErrorKind::Invalid,
        "the server has no database of that number; name another one",
    ),
    ("invalid DB index", ErrorKind::Invalid, "the server has no database of that number; name another one"),
    (
        "SELECT is not allowed",
        ErrorKind::Unsupported,
        "the server is part of a Cluster; write `redis+cluster:`",
    ),
    ("max number of clients", ErrorKind::Unavailable, "the server takes no more clients (maxclients); retry"),
    ("Client sent AUTH, but no password", ErrorKind::Invalid, NO_PASSWORD),
    ("AUTH <password> called without any password", ErrorKind::Invalid, NO_PASSWORD),
    ("invalid password", ErrorKind::Invalid, "the server refuses this user or password; check the URL"),
    ("unknown command", ErrorKind::Unsupported, UNKNOWN),
    ("unknown subcommand", ErrorKind::Unsupported, UNKNOWN),
    ("Unknown subcommand", ErrorKind::Unsupported, UNKNOWN),
    ("Unknown Redis command", ErrorKind::Unsupported, UNKNOWN),
    ("This Redis command is not allowed", ErrorKind::Unsupported, UNKNOWN),
    ("This Redis instance is not configured", ErrorKind::Unsupported, UNKNOWN),
    (
        "This instance has cluster support disabled",
        ErrorKind::Unsupported,
        "the server is not a node of a Cluster; write `redis:`",
    ),
    ("command not allowed", ErrorKind::Unsupported, UNKNOWN),
    // An ACL applies within a script, too, and there a refusal has no code of its own.
    ("The user executing the script can't", ErrorKind::Unsupported, FORBIDDEN),
    ("ACL failure in script", ErrorKind::Unsupported, FORBIDDEN),
    ("Protocol error", ErrorKind::Unsupported, UNKNOWN),
];
const FORBIDDEN: &str =
    "the user may not do that; give it the commands, keys and channels that the README of this storage lists";
const NO_PASSWORD: &str = "the server has no password for this user; leave it out of the URL";
const UNKNOWN: &str = "the server does not know this command, or forbids it; allow the commands that the README of this storage lists";

/// Returns the error for the caller. `place` is the server.
pub(super) fn explain(error: &RedisError, place: &str) -> Error {
    match error.code() {
        Some("MOVED" | "ASK") => Error::new(
            ErrorKind::Unsupported,
            format!("the server is part of a Cluster; write `redis+cluster:` server=`{place}`"),
        ),
        Some(code) => coded(code, error.detail().unwrap_or_default(), place),
        None if error.kind() == redis::ErrorKind::RESP3NotSupported => Error::new(
            ErrorKind::Unsupported,
            format!("the server is too old; it must be a Redis 6 or later, or a Valkey server=`{place}`"),
        ),
        None if error.is_io_error() => {
            let io = error.to_string();
            Error::new(
                ErrorKind::Unavailable,
                format!("no connection to the server; retry server=`{place}` error=`{io}`"),
            )
        }
        None => {
            let what = error.category();
            Error::new(
                ErrorKind::Unavailable,
                format!("the server's reply is malformed; retry server=`{place}` error=`{what}`"),
            )
        }
    }
}

/// Returns the error for the caller, if it came while a connection was opened. An error that a retry does not mend is
/// not `Unavailable`.
pub(super) fn explain_handshake(error: &RedisError, place: &str) -> Error {
    match error.code() {
        Some("NOAUTH") => {
            let text =
                "the server asks for a password; write it into the URL, as in `redis://:password@host`";
            Error::invalid(format!("{text} server=`{place}`"))
        }
        Some(_) => explain(error, place),
        None if error.kind() == redis::ErrorKind::RESP3NotSupported => explain(error, place),
        None if error.is_io_error() => {
            let text = "the server closed the connection while it was being opened; check the port, and whether the server \
                wants TLS (`rediss` for `redis`), and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}` error=`{error}`"))
        }
        None if error.kind() == redis::ErrorKind::Parse => {
            let text =
                "the server is no Redis, or wants TLS (`rediss` for `redis`); check the host and the port";
            Error::invalid(format!("{text} server=`{place}`"))
        }
        None => explain(error, place),
    }
}

/// Returns the error for the caller, of an error whose text a script has returned.
pub(super) fn explain_script_error(text: &str, place: &str) -> Error {
    let text = text.trim_start_matches('-');
    let (code, detail) = text.split_once([' ', ':']).unwrap_or((text, ""));
    if code == "WRONGTYPE" {
        // A script returns it for one claim.
        let text = "a key of this lock is used for something else; choose another name, or another URL option `prefix`";
        return Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}` code=`{code}`"));
    }
    coded(code, detail, place)
}

fn coded(code: &str, detail: &str, place: &str) -> Error {
    let by_text = || TEXTS.iter().find(|row| detail.contains(row.0));
    let (kind, text) = match TABLE.iter().find(|row| row.0 == code) {
        Some((_, _, kind, text)) => (*kind, *text),
        None => by_text().map_or(
            (ErrorKind::Unavailable, "the server refuses; see its log, and retry"),
            |(_, kind, text)| (*kind, *text),
        ),
    };
    // A code consists of capitals. Other text may contain a secret.
    let shown = if code.bytes().all(|b| b.is_ascii_uppercase()) { code } else { "ERR" };
    let said = redacted(detail);
    let said = if said.is_empty() { said } else { format!(" said=`{said}`") };
    Error::new(kind, format!("{text} server=`{place}` code=`{shown}`{said}"))
}

/// Returns the server's text without quotations: servers quote the arguments of unknown commands, which may be a
/// password. Only plain words are left.
fn redacted(detail: &str) -> String {
    let detail = detail.split(", with args beginning").next().unwrap_or_default();
    let mut said = String::new();
    let mut quote = None;
    for word in detail.split_whitespace() {
        let opens = word.chars().next().filter(|c| matches!(c, '\'' | '"' | '`')).filter(|_| quote.is_none());
        let inside = opens.or(quote);
        if let Some(c) = inside {
            let rest = if opens.is_some() { &word[1..] } else { word };
            quote = if rest.contains(c) { None } else { Some(c) };
        }
        let plain = |c: char| c.is_ascii_alphabetic() || "-_.,:;()/<>'".contains(c);
        let shown = if inside.is_none() && word.chars().all(plain) { word } else { "…" };
        if said.len() + shown.len() > 160 {
            break;
        }
        if !(shown == "…" && said.ends_with('…')) {
            said.push_str(if said.is_empty() { "" } else { " " });
            said.push_str(shown);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn server(code: &str, detail: &str) -> RedisError {
        make_extension_error(code.to_owned(), Some(detail.to_owned()))
    }

    #[test]
    fn an_error_does_not_repeat_what_the_server_quotes() {
        let error = server("ERR", "unknown command 'AUTH', with args beginning with: 'S3CRET'");
        let text = format!("{:?} {}", explain(&error, "h:1"), explain_script_error("ERR S3CRET", "h:1"));
        assert!(!text.contains("S3CRET") && text.contains("code=`ERR`"), "{text}");
    }

    #[test]
    fn only_plain_words_of_the_server_are_repeated() {
        for (detail, said) in [
            ("DB index is out of range", "DB index is out of range"),
            ("unknown command `AUTH`, with args beginning with: `hunter`", "unknown command …"),
            ("unknown command 'AUTH hunter two', with", "unknown command … with"),
            (
                "User app has no permissions to run the 'evalsha' command",
                "User app has no permissions to run the … command",
            ),
            ("a secret S3CRET and hunter2", "a secret … and …"),
            ("two 'quoted hunter' 'and \"more' words", "two … words"),
            ("an open 'quote hides all", "an open …"),
            ("\u{1b}[2J x", "… x"),
            ("", ""),
        ] {
            assert_eq!(redacted(detail), said, "{detail}");
        }
        let long = redacted(&"word ".repeat(1_000));
        assert!(long.len() <= 161, "{}", long.len());
    }

    #[test]
    fn an_error_that_a_retry_does_not_mend_is_not_unavailable() {
        for (code, detail, kind) in [
            ("ERR", "DB index is out of range", ErrorKind::Invalid),
            ("ERR", "SELECT is not allowed in cluster mode", ErrorKind::Unsupported),
            ("ERR", "max number of clients reached", ErrorKind::Unavailable),
            ("ERR", "unknown command 'EVALSHA', with args beginning with: 'x'", ErrorKind::Unsupported),
            ("ERR", "Client sent AUTH, but no password is set", ErrorKind::Invalid),
            ("ERR", "something that no version says", ErrorKind::Unavailable),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand script: f0, on @user_script:7.",
                ErrorKind::Unsupported,
            ),
            (
                "ERR",
                "Error running script (call to f_0): @user_script:7: @user_script: 7: The user executing the script \
                 can't access at least one of the keys mentioned in the command arguments",
                ErrorKind::Unsupported,
            ),
            (
                "NOPERM",
                "ACL failure in script: User u has no permissions to run the 'set' command script: f0, on @user_script:7.",
                ErrorKind::Unsupported,
            ),
            ("DENIED", "Redis is running in protected mode", ErrorKind::Unsupported),
            ("NOPROTO", "unsupported protocol version", ErrorKind::Unsupported),
        ] {
            let error = server(code, detail);
            assert_eq!(explain(&error, "h:1").kind(), kind, "{detail}");
            assert_eq!(explain_handshake(&error, "h:1").kind(), kind, "{detail}");
            assert_eq!(explain_script_error(&format!("{code} {detail}"), "h:1").kind(), kind, "{detail}");
        }
        assert_eq!(
            explain_handshake(&server("NOAUTH", "Authentication required."), "h:1").kind(),
            ErrorKind::Invalid
        );
    }

    #[test]
    fn every_code_has_its_remedy_kind_and_text() {
        for (code, remedy_wanted, kind, text) in TABLE {
            let error = server(code, "x");
            assert_eq!(remedy(&error), *remedy_wanted, "{code}");
            let explained = explain(&error, "h:1");
            assert_eq!(explained.kind(), *kind, "{code}");
            assert!(
                explained.to_string().starts_with(text) && explained.to_string().contains("server=`h:1`")
            );
        }
    }
}
