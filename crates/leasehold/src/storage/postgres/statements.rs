//! The statements: their texts, with the names of the tables in them, and the types of their parameters.
//!
//! Each text is a file in `statements/`, whose header explains its algorithm, its parameters and its reply.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::config::Config;
use super::qualify::qualify;
use crate::clock::millis;
use crate::storage::WAITER_TTL;

/// How long an observer's row counts unless it is refreshed. Longer than a waiter's, which keeps a lock from others.
pub(super) const OBSERVER_TTL: Duration = Duration::from_secs(30);

/// The comment of the table, which marks it as one of Leasehold.
pub(super) const VERSION: &str = "leasehold schema 2";

/// The beginning of the names of channels; the client's id follows.
pub(super) const CHANNEL: &str = "leasehold_";

/// How long a statement waits for a locked table, and for anything else that the statement itself does not limit.
pub(super) const TABLE_TIMEOUT: &str = "1s";

/// How long a blocking statement waits for a row. Long enough for a statement of another client that found the row free
/// and is about to find out that it is not.
const LOCK_TIMEOUT: &str = "set_config('lock_timeout', '100ms', true)";

/// Has the commit wait for the disk and for the standby, whatever the server, the database or the role has set; and has
/// the server warn if it did not wait.
const DURABLE: &str = "set_config('synchronous_commit', \
    case when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply' else 'on' end, true) \
    || set_config('client_min_messages', 'warning', true)";

const SCHEMA: &str = include_str!("statements/schema.sql");

/// One statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    AcquireUncontended,
    Acquire,
    FindTurns,
    ShortenOverlong,
    Renew,
    /// As [`Statement::Renew`], but waits for rows that another transaction has locked.
    RenewBlocking,
    ReleaseUncontended,
    Release,
    /// As [`Statement::Release`], but waits for rows that another transaction has locked, and hands nothing over.
    ReleaseBlocking,
    /// Notifies behind a [`Statement::Release`].
    Notify,
    /// The same behind a [`Statement::ReleaseUncontended`], or an acquire of an observed lock. It does nothing unless a
    /// client waits or observes.
    NotifyIfAnyWaiter,
    NotifyOwners,
    Inspect,
    List,
    Watch,
    Unwatch,
    DeleteExpired,
}

/// The texts of all statements, for the tables of one configuration.
pub(super) struct Statements {
    texts: Vec<String>,
    /// The tables, as `to_regclass` reads them.
    pub(super) locks: String,
    pub(super) waiters: String,
}

impl Statement {
    /// All of them, each at the place of its number.
    pub(super) const ALL: [Self; 17] = [
        Self::AcquireUncontended,
        Self::Acquire,
        Self::FindTurns,
        Self::ShortenOverlong,
        Self::Renew,
        Self::RenewBlocking,
        Self::ReleaseUncontended,
        Self::Release,
        Self::ReleaseBlocking,
        Self::Notify,
        Self::NotifyIfAnyWaiter,
        Self::NotifyOwners,
        Self::Inspect,
        Self::List,
        Self::Watch,
        Self::Unwatch,
        Self::DeleteExpired,
    ];

    pub(super) const fn number(self) -> usize {
        self as usize
    }

    /// Returns `true` if it waits for rows that another transaction has locked.
    pub(super) const fn is_blocking(self) -> bool {
        matches!(self, Self::RenewBlocking | Self::ReleaseBlocking)
    }

    fn template(self) -> &'static str {
        match self {
            Self::AcquireUncontended => include_str!("statements/acquire_uncontended.sql"),
            Self::Acquire => include_str!("statements/acquire.sql"),
            Self::FindTurns => include_str!("statements/find_turns.sql"),
            Self::ShortenOverlong => include_str!("statements/shorten_overlong.sql"),
            Self::Renew | Self::RenewBlocking => include_str!("statements/renew.sql"),
            Self::ReleaseUncontended => include_str!("statements/release_uncontended.sql"),
            Self::Release | Self::ReleaseBlocking => include_str!("statements/release.sql"),
            Self::Notify | Self::NotifyIfAnyWaiter => include_str!("statements/notify.sql"),
            Self::NotifyOwners => include_str!("statements/notify_owners.sql"),
            Self::Inspect => include_str!("statements/inspect.sql"),
            Self::List => include_str!("statements/list.sql"),
            Self::Watch => include_str!("statements/watch.sql"),
            Self::Unwatch => include_str!("statements/unwatch.sql"),
            Self::DeleteExpired => include_str!("statements/delete_expired.sql"),
        }
    }

    /// Returns what fills the placeholders by which statements with the same template differ.
    const fn variant(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // A batch does not wait for the one row of it that is locked.
            Self::Renew => &[("{locked}", "skip locked"), ("{patient}", "null")],
            Self::RenewBlocking => &[("{locked}", ""), ("{patient}", LOCK_TIMEOUT)],
            // A transaction that pins the row by FOR KEY SHARE keeps it from another owner, and not from being released.
            Self::Release => &[
                ("{locked}", "skip locked"),
                ("{patient}", "null"),
                ("{strength}", "update"),
                ("{hands}", "true"),
            ],
            Self::ReleaseBlocking => &[
                ("{locked}", ""),
                ("{patient}", LOCK_TIMEOUT),
                ("{strength}", "no key update"),
                ("{hands}", "false"),
            ],
            Self::Notify => &[("{if_any_waiter}", "true")],
            Self::NotifyIfAnyWaiter => {
                &[("{if_any_waiter}", "(select exists(select from {waiters} where space = $1))")]
            }
            _ => &[],
        }
    }

    pub(super) const fn types(self) -> &'static [Type] {
        const TEXT: Type = Type::TEXT;
        const TEXTS: Type = Type::TEXT_ARRAY;
        const UUIDS: Type = Type::UUID_ARRAY;
        const NUMBER: Type = Type::INT8;
        const NUMBERS: Type = Type::INT8_ARRAY;
        const FLAG: Type = Type::BOOL;
        const FLAGS: Type = Type::BOOL_ARRAY;
        const ACQUIRE: &[Type] =
            &[TEXT, TEXT, NUMBER, TEXTS, TEXTS, UUIDS, NUMBERS, NUMBERS, FLAGS, TEXTS, TEXT, TEXT, FLAGS];
        match self {
            Self::AcquireUncontended => &[TEXT, TEXT, NUMBER, TEXTS, TEXTS, UUIDS, NUMBERS, NUMBERS, TEXTS],
            Self::Acquire => ACQUIRE,
            Self::FindTurns => &[TEXT, TEXTS, UUIDS],
            Self::ShortenOverlong => &[TEXT, TEXTS],
            Self::Renew | Self::RenewBlocking => &[TEXT, TEXTS, UUIDS, NUMBERS, NUMBERS, FLAGS],
            Self::ReleaseUncontended => &[TEXT, TEXT, TEXTS, UUIDS],
            Self::Release | Self::ReleaseBlocking => &[TEXT, NUMBER, TEXTS, UUIDS, FLAG, TEXT],
            Self::Notify | Self::NotifyIfAnyWaiter => &[TEXT, TEXTS, TEXT, NUMBERS],
            Self::NotifyOwners => &[TEXTS, UUIDS],
            Self::Inspect => &[TEXT, TEXT],
            Self::List => &[TEXT, TEXT, NUMBER, TEXT, NUMBER, TEXT, NUMBER],
            Self::Watch => &[TEXT, Type::UUID, TEXT, TEXTS],
            Self::Unwatch => &[TEXT, Type::UUID, TEXTS],
            Self::DeleteExpired => &[],
        }
    }
}

impl Statements {
    pub(super) fn new(config: &Config) -> Self {
        let tables = Tables::new(config);
        let text = |statement: &Statement| {
            let fill = |text: String, (placeholder, with): &(&str, &str)| text.replace(placeholder, with);
            let template = statement.variant().iter().fold(statement.template().to_owned(), fill);
            qualify(&tables.fill(&template))
        };
        let texts = Statement::ALL.iter().map(text).collect();
        Self { texts, locks: tables.locks, waiters: tables.waiters }
    }

    pub(super) fn text(&self, statement: Statement) -> &str {
        &self.texts[statement.number()]
    }
}

/// Returns the statements that make the tables.
pub(super) fn schema(config: &Config) -> String {
    Tables::new(config).fill(SCHEMA)
}

/// Returns the qualified names of both tables, quoted.
pub(super) fn tables(config: &Config) -> [String; 2] {
    let Tables { locks, waiters, .. } = Tables::new(config);
    [locks, waiters]
}

/// Returns an expression for the bytes of a text, in UTF-8 if its database has an encoding at all.
fn bytes(text: &str) -> String {
    format!(
        "convert_to({text}, case when current_setting('server_encoding') = 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end)"
    )
}

/// Identifiers, quoted. They are checked when the URL is read: letters, digits, `_` and `$`.
struct Tables {
    locks: String,
    waiters: String,
    queue: String,
    observers: String,
}

impl Tables {
    fn new(config: &Config) -> Self {
        let Config { schema, table, .. } = config;
        Self {
            locks: format!(r#""{schema}"."{table}""#),
            waiters: format!(r#""{schema}"."{table}_waiters""#),
            queue: format!(r#""{table}_waiters_queue""#),
            observers: format!(r#""{table}_waiters_observers""#),
        }
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("{holder}", include_str!("statements/holder.sql"))
            .replace("{locks}", &self.locks)
            .replace("{waiters}", &self.waiters)
            .replace("{queue}", &self.queue)
            .replace("{observers}", &self.observers)
            .replace("{version}", VERSION)
            .replace("{channel}", CHANNEL)
            .replace("{durable}", DURABLE)
            .replace("{name}", &bytes("l.name"))
            .replace("{label}", &bytes("l.label"))
            .replace("{held_label}", &bytes("s.held_label"))
            .replace("{waiter_ttl}", &format!("{} ms", millis(WAITER_TTL)))
            .replace("{observer_ttl}", &format!("{} ms", millis(OBSERVER_TTL)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::qualify::ambiguities;
    use super::*;

    #[test]
    fn every_statement_is_complete_and_unambiguous() {
        let config = Config::new("postgres://h/d?schema=s&table=t").expect("valid");
        let statements = Statements::new(&config);
        for (number, statement) in Statement::ALL.into_iter().enumerate() {
            assert_eq!(statement.number(), number);
            let text = statements.text(statement);
            assert!(!text.contains(['{', '}']), "{text}");
            // The header of its file is not sent.
            assert!(!text.contains("--") && !text.contains('\n'), "{text}");
            let parameters = text.split('$').skip(1).map(|rest| {
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                rest[..digits].parse::<usize>().expect("a number")
            });
            let all: BTreeSet<_> = (1..=statement.types().len()).collect();
            assert_eq!(parameters.collect::<BTreeSet<_>>(), all, "{text}");
            let variant = statement.variant().iter();
            let template = statement.template().to_owned();
            let template =
                variant.fold(template, |text, (placeholder, with)| text.replace(placeholder, with));
            assert_eq!(
                ambiguities(&Tables::new(&config).fill(&template)),
                Vec::<String>::new(),
                "{statement:?}"
            );
            // The time of the transaction stands still while a statement waits for a row.
            assert!(!text.contains("now()") && !text.contains("current_timestamp"), "{text}");
        }
        assert!(statements.text(Statement::Inspect).contains(r#"from "s"."t" l"#));
    }
}
