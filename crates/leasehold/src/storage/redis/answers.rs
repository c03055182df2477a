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
        "the server runs somebody's script that cannot be ended; retry",
    ),
    ("NOTBUSY", Remedy::None, ErrorKind::Unavailable, "somebody ended the script; retry"),
    (
        "DENIED",
        Remedy::None,
        ErrorKind::Unsupported,
        "the server lets in nobody from another machine (protected mode); give it a password, or a `bind`",
    ),
    (
        "NOPROTO",
        Remedy::None,
        ErrorKind::Unsupported,
        "the server is too old; it must be a Redis 6 or later, or a Valkey",
    ),
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

/// What the texts of errors without a code of their own contain: of what kind such an error is, what it means. Some begin
/// with the place in a script.
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
    // The user's rights count within a script, too, and there a refusal has no code of its own.
    ("The user executing the script can't", ErrorKind::Unsupported, FORBIDDEN),
    ("ACL failure in script", ErrorKind::Unsupported, FORBIDDEN),
    ("Protocol error", ErrorKind::Unsupported, UNKNOWN),
];
const FORBIDDEN: &str =
    "the user may not do that; give it the commands, keys and channels that the README of this storage lists";
const NO_PASSWORD: &str = "the server has no password for this user; leave it out of the URL";
const UNKNOWN: &str = "the server does not know what it is asked, or was told not to; allow the commands that the README of this storage lists";

/// Returns `true` if the user lacks a permission for the command itself, so that the server has executed nothing. An
/// error that a command of a script has raised names the script.
pub(in crate::storage) fn is_of_permission_to_begin(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") && !error.detail().unwrap_or_default().contains("script")
}

/// Says what an error means, at `place`.
pub(in crate::storage) fn explain(error: &RedisError, place: &str) -> Error {
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
                format!("no sensible answer from the server; retry server=`{place}` error=`{what}`"),
            )
        }
    }
}

/// Says what an error means that came while a connection was opened. What asking again does not mend is said to be that.
pub(in crate::storage) fn explain_greeting(error: &RedisError, place: &str) -> Error {
    match error.code() {
        Some("NOAUTH") => {
            let text =
                "the server asks for a password; write it into the URL, as in `redis://:password@host`";
            Error::invalid(format!("{text} server=`{place}`"))
        }
        Some(_) => explain(error, place),
        None if error.kind() == redis::ErrorKind::RESP3NotSupported => explain(error, place),
        None if error.is_io_error() => {
            let text = "the server closed the connection while it was opened; check the port, and whether the server \
                wants TLS (`rediss` for `redis`), and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}` error=`{error}`"))
        }
        None if error.kind() == redis::ErrorKind::Parse => {
            let text =
                "what answers is no Redis, or wants TLS (`rediss` for `redis`); check the host and the port";
            Error::invalid(format!("{text} server=`{place}`"))
        }
        None => explain(error, place),
    }
}

/// Says what an error means of which a script has only returned the text.
pub(in crate::storage) fn explain_text(text: &str, place: &str) -> Error {
    let text = text.trim_start_matches('-');
    let (code, detail) = text.split_once([' ', ':']).unwrap_or((text, ""));
    if code == "WRONGTYPE" {
        // A script says so of one claim.
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
    // A code is a word of capitals; anything else could be anything.
    let shown = if code.bytes().all(|b| b.is_ascii_uppercase()) { code } else { "ERR" };
    let said = words(detail);
    let said = if said.is_empty() { said } else { format!(" said=`{said}`") };
    Error::new(kind, format!("{text} server=`{place}` code=`{shown}`{said}"))
}

/// Returns what the server says, without what it repeats: servers quote the arguments of commands that they do not know,
/// and those may be a password. What is left are plain words.
fn words(detail: &str) -> String {
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
    fn a_permission_that_a_script_lacks_is_none_to_begin() {
        for (detail, to_begin) in [
            ("this user has no permissions to run the 'evalsha' command", true),
            ("No permissions to access a key", true),
            (
                "No permissions to access a key script: 4ca238f611c9d0ae4e9a75a5dbac22aedc1e44, on @user_script:8.",
                false,
            ),
        ] {
            assert_eq!(is_of_permission_to_begin(&server("NOPERM", detail)), to_begin, "{detail}");
        }
        assert!(!is_of_permission_to_begin(&server(
            "ERR",
            "The user executing the script can't run this command"
        )));
    }

    #[test]
    fn what_the_server_quotes_is_not_repeated() {
        let error = server("ERR", "unknown command 'AUTH', with args beginning with: 'S3CRET'");
        let text = format!("{:?} {}", explain(&error, "h:1"), explain_text("ERR S3CRET", "h:1"));
        assert!(!text.contains("S3CRET") && text.contains("code=`ERR`"), "{text}");
    }

    #[test]
    fn what_the_server_says_is_repeated_and_nothing_that_it_repeats() {
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
            assert_eq!(words(detail), said, "{detail}");
        }
        let long = words(&"word ".repeat(1_000));
        assert!(long.len() <= 161, "{}", long.len());
    }

    #[test]
    fn what_asking_again_does_not_mend_is_said_to_be_that() {
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
            assert_eq!(explain_greeting(&error, "h:1").kind(), kind, "{detail}");
            assert_eq!(explain_text(&format!("{code} {detail}"), "h:1").kind(), kind, "{detail}");
        }
        assert_eq!(
            explain_greeting(&server("NOAUTH", "Authentication required."), "h:1").kind(),
            ErrorKind::Invalid
        );
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
