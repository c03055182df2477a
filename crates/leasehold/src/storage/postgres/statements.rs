//! The statements: their texts, with the names of the tables in them, and the types of their parameters.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::config::Config;
use super::qualify::qualify;
use crate::clock::millis;
use crate::storage::WAITER_TTL;

/// How long an observer's row counts unless it is refreshed: longer than a waiter's, which keeps others from a lock.
pub(super) const OBSERVER_TTL: Duration = Duration::from_secs(30);

/// One kind of statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Grant,
    Acquire,
    Shorten,
    Look,
    Renew,
    Free,
    /// A release where somebody may wait.
    HandOver,
    /// Those that follow a [`Verb::Renew`] or [`Verb::HandOver`] which found a row locked: they wait for a while.
    RenewLocked,
    ReleaseLocked,
    /// Tells whose turn it is, behind a [`Verb::Free`] or an acquire of a lock that somebody observes.
    Pass,
    /// The same behind the other releases, also to whom a lock was handed over.
    PassOn,
    Tell,
    Inspect,
    List,
    Watch,
    Unwatch,
    Sweep,
}

/// All of them, for the tables of one configuration.
pub(super) struct Statements {
    texts: Vec<String>,
    /// The tables, as `to_regclass` wants them.
    pub(super) locks: String,
    pub(super) waiters: String,
}

/// What a table's comment says, which makes it ours.
pub(super) const VERSION: &str = "leasehold schema 2";
/// What the names of channels begin with; the client's id follows.
pub(super) const CHANNEL: &str = "leasehold_";

const SCHEMA: &str = include_str!("schema.sql");
/// Every commit waits for the disk and for the standby, and the server says so if it did not, whatever the server, the
/// database or the role has set.
const DURABLE: &str = "set_config('synchronous_commit', \
    case when current_setting('synchronous_commit') = 'remote_apply' then 'remote_apply' else 'on' end, true) \
    || set_config('client_min_messages', 'warning', true)";

/// Long enough for a statement of another client that found the row free and is about to find out that it is not.
const LOCK_TIMEOUT: &str = "set_config('lock_timeout', '100ms', true)";
/// How long a statement of a session of ours waits for a table that is locked, and for whatever else.
pub(super) const TABLE_TIMEOUT: &str = "1s";

impl Verb {
    /// All of them, each at the place of its number.
    pub(super) const ALL: [Self; 17] = [
        Self::Grant,
        Self::Acquire,
        Self::Shorten,
        Self::Look,
        Self::Renew,
        Self::Free,
        Self::HandOver,
        Self::RenewLocked,
        Self::ReleaseLocked,
        Self::Pass,
        Self::PassOn,
        Self::Tell,
        Self::Inspect,
        Self::List,
        Self::Watch,
        Self::Unwatch,
        Self::Sweep,
    ];

    pub(super) const fn number(self) -> usize {
        self as usize
    }

    fn template(self) -> &'static str {
        match self {
            Self::Grant => include_str!("grant.sql"),
            Self::Acquire => include_str!("acquire.sql"),
            Self::Shorten => include_str!("shorten.sql"),
            Self::Look => include_str!("look.sql"),
            Self::Renew | Self::RenewLocked => include_str!("renew.sql"),
            Self::Free => include_str!("free.sql"),
            Self::HandOver | Self::ReleaseLocked => include_str!("release.sql"),
            Self::Pass | Self::PassOn => include_str!("pass.sql"),
            Self::Tell => include_str!("tell.sql"),
            Self::Inspect => include_str!("inspect.sql"),
            Self::List => include_str!("list.sql"),
            Self::Watch => include_str!("watch.sql"),
            Self::Unwatch => include_str!("unwatch.sql"),
            Self::Sweep => include_str!("sweep.sql"),
        }
    }

    /// What fills the holes that a template has, where statements share one.
    const fn differs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Nobody waits together with those whose rows are not locked.
            Self::Renew => &[("{locked}", "skip locked"), ("{patient}", "null")],
            Self::RenewLocked => &[("{locked}", ""), ("{patient}", LOCK_TIMEOUT)],
            // Whoever pins the row by FOR KEY SHARE keeps it from another owner, and not from being released.
            Self::HandOver => &[
                ("{locked}", "skip locked"),
                ("{patient}", "null"),
                ("{strength}", "update"),
                ("{hands}", "true"),
            ],
            Self::ReleaseLocked => &[
                ("{locked}", ""),
                ("{patient}", LOCK_TIMEOUT),
                ("{strength}", "no key update"),
                ("{hands}", "false"),
            ],
            Self::Pass => &[("{anybody}", "(select exists(select from {waiters} where space = $1))")],
            Self::PassOn => &[("{anybody}", "true")],
            _ => &[],
        }
    }

    pub(super) const fn types(self) -> &'static [Type] {
        const TEXT: Type = Type::TEXT;
        const TEXTS: Type = Type::TEXT_ARRAY;
        const UUIDS: Type = Type::UUID_ARRAY;
        const NUMBERS: Type = Type::INT8_ARRAY;
        const FLAGS: Type = Type::BOOL_ARRAY;
        match self {
            Self::Acquire => {
                const ACQUIRE: &[Type] = &[
                    TEXT,
                    TEXT,
                    Type::INT8,
                    TEXTS,
                    TEXTS,
                    UUIDS,
                    NUMBERS,
                    NUMBERS,
                    FLAGS,
                    TEXTS,
                    TEXT,
                    TEXT,
                    FLAGS,
                ];
                ACQUIRE
            }
            Self::Grant => &[TEXT, TEXT, Type::INT8, TEXTS, TEXTS, UUIDS, NUMBERS, NUMBERS, TEXTS],
            Self::Look => &[TEXT, TEXTS, UUIDS],
            Self::Renew | Self::RenewLocked => &[TEXT, TEXTS, UUIDS, NUMBERS, NUMBERS, FLAGS],
            Self::Free => &[TEXT, TEXT, TEXTS, UUIDS],
            Self::HandOver | Self::ReleaseLocked => &[TEXT, Type::INT8, TEXTS, UUIDS, Type::BOOL, TEXT],
            Self::Pass | Self::PassOn => &[TEXT, TEXTS, TEXT, NUMBERS],
            Self::Shorten => &[TEXT, TEXTS],
            Self::Tell => &[TEXTS, UUIDS],
            Self::Inspect => &[TEXT, TEXT],
            Self::List => &[TEXT, TEXT, Type::INT8, TEXT, Type::INT8, TEXT, Type::INT8],
            Self::Watch => &[TEXT, Type::UUID, TEXT, TEXTS],
            Self::Unwatch => &[TEXT, Type::UUID, TEXTS],
            Self::Sweep => &[],
        }
    }
}

impl Statements {
    pub(super) fn new(config: &Config) -> Self {
        let tables = Tables::new(config);
        let text = |verb: &Verb| {
            let fill = |text: String, (hole, what): &(&str, &str)| text.replace(hole, what);
            qualify(&tables.fill(&verb.differs().iter().fold(verb.template().to_owned(), fill)))
        };
        let texts = Verb::ALL.iter().map(text).collect();
        Self { texts, locks: tables.locks, waiters: tables.waiters }
    }

    pub(super) fn text(&self, verb: Verb) -> &str {
        &self.texts[verb.number()]
    }
}

/// What makes the tables.
pub(super) fn schema(config: &Config) -> String {
    Tables::new(config).fill(SCHEMA)
}

/// Returns the qualified names of both tables, quoted.
pub(super) fn tables(config: &Config) -> [String; 2] {
    let Tables { locks, waiters, .. } = Tables::new(config);
    [locks, waiters]
}

/// The bytes of a text, in UTF-8 if its database knows an encoding at all.
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
            .replace("{holder}", include_str!("holder.sql"))
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
    use super::super::qualify::doubts;
    use super::*;

    #[test]
    fn every_statement_is_at_its_number_and_complete() {
        let config = Config::new("postgres://h/d?schema=s&table=t").expect("valid");
        let statements = Statements::new(&config);
        for (number, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb.number(), number);
            let text = statements.text(verb);
            assert!(!text.contains(['{', '}']), "{text}");
            let parameters = (1..=verb.types().len()).filter(|i| text.contains(&format!("${i}")));
            assert_eq!(parameters.count(), verb.types().len(), "{text}");
            let differs = verb.differs().iter();
            let plain =
                differs.fold(verb.template().to_owned(), |text, (hole, what)| text.replace(hole, what));
            assert_eq!(doubts(&Tables::new(&config).fill(&plain)), Vec::<String>::new(), "{verb:?}");
            // Of the transaction's time nothing is computed: it stands still while a statement waits.
            assert!(!text.contains("now()") && !text.contains("current_timestamp"), "{text}");
        }
        assert!(statements.text(Verb::Inspect).contains(r#"from "s"."t" l"#));
    }
}
