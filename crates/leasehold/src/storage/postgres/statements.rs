//! The statements: their texts, with the names of the tables in them, and the types of their parameters.

use tokio_postgres::types::Type;

use super::config::Config;
use crate::clock::millis;
use crate::storage::WAITER_TTL;

/// One kind of statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Grant,
    /// An acquire by those who were told that it is their turn.
    Turn,
    Acquire,
    Shorten,
    Look,
    Renew,
    Free,
    /// A release where somebody may wait, and what has to follow it.
    HandOver,
    Flush,
    /// Those that follow a [`Verb::Renew`] or [`Verb::HandOver`] which found a row locked: they wait for a while.
    RenewLocked,
    ReleaseLocked,
    Pass,
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
pub(super) const VERSION: &str = "leasehold schema 1";
/// What the names of channels begin with; the client's id follows.
pub(super) const CHANNEL: &str = "leasehold_";

const SCHEMA: &str = include_str!("schema.sql");
/// Every commit waits for the disk, whatever the server, the database or the role says.
const DURABLE: &str = "set_config('synchronous_commit', case current_setting('synchronous_commit') \
    when 'remote_apply' then 'remote_apply' else 'on' end, true)";

/// Long enough for a statement of another client that found the row free and is about to find out that it is not.
const LOCK_TIMEOUT: &str = "set_config('lock_timeout', '100ms', true)";

impl Verb {
    /// All of them, each at the place of its number.
    pub(super) const ALL: [Self; 18] = [
        Self::Grant,
        Self::Turn,
        Self::Acquire,
        Self::Shorten,
        Self::Look,
        Self::Renew,
        Self::Free,
        Self::HandOver,
        Self::Flush,
        Self::RenewLocked,
        Self::ReleaseLocked,
        Self::Pass,
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
            Self::Turn => include_str!("turn.sql"),
            Self::Acquire => include_str!("acquire.sql"),
            Self::Shorten => include_str!("shorten.sql"),
            Self::Look => include_str!("look.sql"),
            Self::Renew | Self::RenewLocked => include_str!("renew.sql"),
            Self::Free => include_str!("free.sql"),
            Self::ReleaseLocked => include_str!("release.sql"),
            Self::HandOver => include_str!("handover.sql"),
            Self::Flush => include_str!("flush.sql"),
            Self::Pass => include_str!("pass.sql"),
            Self::Tell => include_str!("tell.sql"),
            Self::Inspect => include_str!("inspect.sql"),
            Self::List => include_str!("list.sql"),
            Self::Watch => include_str!("watch.sql"),
            Self::Unwatch => include_str!("unwatch.sql"),
            Self::Sweep => include_str!("sweep.sql"),
        }
    }

    /// What to do about a row that another transaction has locked. Nobody waits together with those whose rows are not.
    const fn about_locks(self) -> (&'static str, &'static str) {
        match self {
            Self::RenewLocked | Self::ReleaseLocked => ("", LOCK_TIMEOUT),
            _ => ("skip locked", "null"),
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
                &[TEXT, TEXT, Type::INT8, TEXTS, TEXTS, UUIDS, NUMBERS, NUMBERS, FLAGS, TEXTS, TEXT]
            }
            Self::Grant | Self::Turn => {
                &[TEXT, TEXT, Type::INT8, TEXTS, TEXTS, UUIDS, NUMBERS, NUMBERS, TEXTS]
            }
            Self::Look => &[TEXT, TEXTS, UUIDS],
            Self::Renew | Self::RenewLocked => &[TEXT, TEXTS, UUIDS, NUMBERS, NUMBERS, FLAGS],
            Self::Free => &[TEXT, TEXT, TEXTS, UUIDS],
            Self::HandOver | Self::ReleaseLocked => &[TEXT, Type::INT8, TEXTS, UUIDS],
            Self::Pass => &[TEXT, TEXTS, UUIDS],
            Self::Shorten => &[TEXT, TEXTS],
            Self::Tell => &[TEXTS, UUIDS],
            Self::Inspect => &[TEXT, TEXT],
            Self::List => &[TEXT, TEXT, Type::BOOL, TEXT, Type::INT8],
            Self::Watch => &[TEXT, Type::UUID, TEXT, TEXTS],
            Self::Unwatch => &[TEXT, Type::UUID, TEXTS],
            Self::Flush | Self::Sweep => &[],
        }
    }
}

impl Statements {
    pub(super) fn new(config: &Config) -> Self {
        let tables = Tables::new(config);
        let text = |verb: &Verb| {
            let (locked, patient) = verb.about_locks();
            tables.fill(verb.template()).replace("{locked}", locked).replace("{patient}", patient)
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
            .replace("{waiter_ttl}", &format!("{} ms", millis(WAITER_TTL)))
    }
}

#[cfg(test)]
mod tests {
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
            // Of the transaction's time nothing is computed: it stands still while a statement waits.
            assert!(!text.contains("now()") && !text.contains("current_timestamp"), "{text}");
        }
        assert!(statements.text(Verb::Inspect).contains(r#"from "s"."t" l"#));
    }
}
