//! What an error of the server, or of the way to it, means for the caller.

use redis::RedisError;

use crate::error::{Error, ErrorKind};

/// What to do about an error before anybody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Remedy {
    /// Send the script's text, and then the same again: the server has forgotten it.
    SendScript,
    /// Send the same to that node, which serves the slot now, and learn the slots anew.
    Moved(String),
    /// Send the same to that node, after `ASKING`: the slot is on its way there.
    Ask(String),
    /// Tell the caller, and find the primary again before the next call: this server does not write.
    FindPrimary,
    /// Tell the caller, and connect again before the next call.
    Reconnect,
    /// Tell the caller, who may ask again.
    None,
}

/// Every code of an error that says more than that something is wrong: what to do, of what kind it is, what it means.
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
        "the server runs somebody's script for too long; retry, or end it with SCRIPT KILL",
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
        "the lock's slot is on its way to another node; retry",
    ),
    (
        "MISCONF",
        Remedy::None,
        ErrorKind::Unavailable,
        "the server cannot write to its disk and refuses writes; mend that and retry",
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
    (
        "NOPERM",
        Remedy::None,
        ErrorKind::Unsupported,
        "the user may not do that; give it the commands, keys and channels that the README of this storage lists",
    ),
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
        "the server runs somebody's script that cannot be ended; retry",
    ),
    ("NOTBUSY", Remedy::None, ErrorKind::Unavailable, "somebody ended the script; retry"),
];

/// Says what to do about an error.
pub(in crate::storage) fn remedy(error: &RedisError) -> Remedy {
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

/// Says what an error means, at `place`.
///
/// Never repeats what the server says in a handshake: servers quote the arguments of commands that they do not know,
/// and those may be a password.
pub(in crate::storage) fn explain(error: &RedisError, place: &str) -> Error {
    match error.code() {
        Some("MOVED" | "ASK") => Error::new(
            ErrorKind::Unsupported,
            format!("the server is part of a Cluster; write `redis+cluster:` server=`{place}`"),
        ),
        Some(code) => coded(code, place),
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
                format!("no sensible answer from the server; retry server=`{place}` error=`{what}`"),
            )
        }
    }
}

/// Says what an error means of which a script has only returned the text.
pub(in crate::storage) fn explain_text(text: &str, place: &str) -> Error {
    coded(text.split([' ', ':']).next().unwrap_or_default().trim_start_matches('-'), place)
}

fn coded(code: &str, place: &str) -> Error {
    let (kind, text) = match TABLE.iter().find(|row| row.0 == code) {
        Some((_, _, kind, text)) => (*kind, *text),
        None => (ErrorKind::Unavailable, "the server refuses; see its log, and retry"),
    };
    // A code is a word of capitals; anything else could be anything.
    let shown = if code.bytes().all(|b| b.is_ascii_uppercase()) { code } else { "ERR" };
    Error::new(kind, format!("{text} server=`{place}` code=`{shown}`"))
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn server(code: &str, detail: &str) -> RedisError {
        make_extension_error(code.to_owned(), Some(detail.to_owned()))
    }

    #[test]
    fn what_the_server_quotes_is_not_repeated() {
        let error = server("ERR", "unknown command 'AUTH', with args beginning with: 'S3CRET'");
        let text = format!("{:?} {}", explain(&error, "h:1"), explain_text("ERR S3CRET", "h:1"));
        assert!(!text.contains("S3CRET") && text.contains("code=`ERR`"), "{text}");
    }

    #[test]
    fn every_code_says_what_to_do() {
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
