//! The command line. The doc comments of its fields are the help text.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use leasehold::{Ticket, storage};

/// Distributed locks from the shell, over the database you already run.
///
/// `leasehold run NAME -- CMD` takes the lock, runs the command, and releases the lock. The other commands show locks,
/// break them, and pass leases from one process to another as tickets.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 `doctor` found a fault; 64 bad usage, or no permission; 69 storage unavailable; 70 a bug, or \
nowhere to print; 75 contended; 76 lost. `run`: the command's own; 128+n if signal n ended it; 126 if it cannot be \
executed; 127 if it was not found.";

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The storage, as a URL; `--help` lists the schemes [default: $LEASEHOLD_STORE, else `sqlite:`, a file in the
    /// state directory]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "store_file", long_help = store_help())]
    pub(crate) store: Option<String>,

    /// A file that contains the storage's URL and that only its owner and its group can read
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) store_file: Option<PathBuf>,

    /// Accept a --store-file that other users can read or change, because some mounts of secrets have such files only
    #[arg(long, global = true, requires = "store_file")]
    pub(crate) store_file_any_mode: bool,

    /// Print JSON, one object per line [default: text for people]
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print only results and errors: nothing during a wait, and nothing when `verify` and `release` succeed
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log to stderr: -v what happens to the locks of this command, -vv everything. Lines that nothing reads are dropped
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Returns the help of `--store`, with the schemes that the library knows.
fn store_help() -> String {
    let schemes = storage::schemes().filter(|scheme| *scheme != "memory");
    let schemes: Vec<_> = schemes.map(|scheme| format!("`{scheme}:`")).collect();
    format!(
        "The storage, as a URL [default: $LEASEHOLD_STORE, else `sqlite:`, a file in the state directory]\n\nA URL begins \
         with one of {}. `memory:`, which the library also has, exists in one process only, so no two commands would \
         exclude each other.\n\nOther users of this machine can see the arguments of a process. If the URL contains a \
         password, use --store-file or $LEASEHOLD_STORE.",
        schemes.join(" ")
    )
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a lock, or several, run a command, release them
    ///
    /// The command's environment contains LEASEHOLD_NAME, LEASEHOLD_TOKEN (the fencing token), LEASEHOLD_TICKET,
    /// LEASEHOLD_STORE (the storage's URL, unless --hide-store hides it) and LEASEHOLD_HELD (the leases under which it
    /// runs, so that `leasehold` notices when it would wait for itself).
    ///
    /// With several names, the command runs while all locks are held, and they are lost if one is. The options count for
    /// each of them. Tokens and tickets are in the order of the names, with a blank between them; the names have a line
    /// each. Commands that name the same locks in different orders do not wait for each other for ever.
    ///
    /// The command runs in a process group of its own. The group is ended when the lock is lost, and when `leasehold`
    /// dies, even by kill -9. When the command ends, the lock is released; processes that it left behind live on without
    /// the lock. A job that is suspended (Ctrl-Z) for longer than the TTL loses the lock.
    Run(Run),

    /// Stand for election, and run a command while this process leads
    ///
    /// The election is the lock of that name. This process waits in line until it leads, and then runs the command, as
    /// `run` does. If it loses the lock, it ends the command, stands for election again, and runs the command again when it
    /// leads again. When the command ends by itself, this process resigns, and exits with the command's exit code.
    /// Outages of the storage are waited out. LEASEHOLD_TOKEN is the number of the term.
    Elect(Elect),

    /// Show the leader of an election, and the number of its term
    Leader(Leader),

    /// Take a lock and print its ticket; the lease then ends with its TTL unless it is renewed
    ///
    /// No process renews the lease: run `leasehold renew TICKET` before the TTL is over.
    Acquire(Acquire),

    /// Give the lease of a ticket a full TTL from now
    Renew(Renew),

    /// Release the lease of a ticket; exit code 76 if it has ended already
    Release(OfTicket),

    /// Check, without a renewal, whether the lease of a ticket still holds the lock: exit code 0, or 76
    Verify(OfTicket),

    /// Show the holder of a lock
    Inspect(OfName),

    /// List the locks that are held, and their holders
    List(List),

    /// Print the state of a lock, and then each change: locked, or unlocked
    Watch(OfName),

    /// End the lease of a lock's holder. If that is `leasehold run`, it ends its command as soon as it learns of it
    Break(OfName),

    /// Check the storage: connection, promises, a round trip, latency; exit code 1 if something is wrong
    Doctor(Doctor),

    /// Print a completion script for a shell
    Completions(Completions),
}

#[derive(Args, Debug)]
pub(crate) struct OfName {
    /// The lock; after `--` if it begins with `-`
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct OfTicket {
    /// A ticket, as `acquire` prints it and LEASEHOLD_TICKET contains it
    pub(crate) ticket: Ticket,
}

#[derive(Args, Debug)]
pub(crate) struct Renew {
    /// A ticket, as `acquire` prints it and LEASEHOLD_TICKET contains it
    pub(crate) ticket: Ticket,

    /// How long the lease lasts from now [default: the ticket's TTL]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only locks whose names begin with this; after `--` if it begins with `-` [default: all locks]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Print the SQL that creates the storage's tables and lets the URL's user lock in them; make no connection
    #[arg(long)]
    pub(crate) sql: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct Acquire {
    /// The lock; after `--` if it begins with `-`
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) lock: LockOptions,
}

/// The options of a lock, which `run` and `acquire` share.
#[derive(Args, Debug)]
pub(crate) struct LockOptions {
    /// How long the lease lasts if it is not renewed: 100ms to 24h, or what the storage allows [default: 10s, or
    /// what the storage allows]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,

    /// How long to wait in line for the lock: a duration or `forever`
    #[arg(long, value_name = "D", default_value = "forever", value_parser = wait_limit, conflicts_with_all = ["try_once", "retries"])]
    pub(crate) wait: WaitLimit,

    /// Ask once: exit with 75 if another client has the lock
    #[arg(long = "try", conflicts_with = "retries")]
    pub(crate) try_once: bool,

    /// Ask up to N more times after the first, out of line
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) retries: Option<u32>,

    /// With --retries: how long to pause before each [default: 50ms]
    #[arg(long, value_name = "D", value_parser = duration, requires = "retries")]
    pub(crate) interval: Option<Duration>,

    /// The text by which `inspect` and `list` show this holder [default: `leasehold@host:pid`]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "leasehold run [OPTIONS] NAME… -- CMD…\n       leasehold run [OPTIONS] -- -NAME… -- CMD…",
    after_long_help = crate::cmd::run::help::TEXT
)]
pub(crate) struct Run {
    /// The lock, or several, all of which are held while the command runs; if one begins with `-`, write it first, as
    /// in `run -- NAME… -- CMD…`
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,

    #[command(flatten)]
    pub(crate) lock: LockOptions,

    /// Give the lock up after this time, as if it were lost, however long the command takes [default: no limit]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) max_hold: Option<Duration>,

    /// Hold the lock for at least this time from the grant, even if the command ends earlier; `run` itself does not
    /// wait. At most the longest TTL that the storage allows [default: no minimum]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) at_least: Option<Duration>,

    /// What to do with the command's process group when the lock is lost
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnLost::Term)]
    pub(crate) on_lost: OnLost,

    /// With --on-lost=term: how long after SIGTERM the group gets SIGKILL [default: 5s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) grace: Option<Duration>,

    /// Keep the storage's URL, which may contain a password, out of the command's environment
    ///
    /// LEASEHOLD_STORE is `hidden:` then, which a `leasehold` in the command refuses: it needs a --store of its own. This
    /// is for CI, where other people see what a job prints.
    #[arg(long)]
    pub(crate) hide_store: bool,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "leasehold elect [OPTIONS] NAME -- CMD…\n       leasehold elect [OPTIONS] -- -NAME -- CMD…"
)]
pub(crate) struct Elect {
    /// The election; if it begins with `-`, write `elect -- NAME -- CMD…`
    pub(crate) name: Option<String>,

    /// The text by which `leader`, `inspect` and `list` show this process [default: `leasehold@host:pid`]
    #[arg(long, value_name = "TEXT")]
    pub(crate) value: Option<String>,

    /// How long it takes until another process leads if this one dies: 100ms to 24h, or what the storage allows [default:
    /// 10s, or what the storage allows]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,

    /// Resign after this time, as if the lock were lost [default: no limit]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) max_term: Option<Duration>,

    /// Run the command again after at most N losses, and exit with 76 after the next one. The end of --max-term is none
    #[arg(long, value_name = "N", default_value = "10", value_parser = count)]
    pub(crate) restarts: u32,

    /// How long after SIGTERM the command's process group gets SIGKILL when the lock is lost [default: 5s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) grace: Option<Duration>,

    /// Keep the storage's URL, which may contain a password, out of the command's environment
    #[arg(long)]
    pub(crate) hide_store: bool,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl Elect {
    /// Returns one term as a run.
    pub(crate) fn term(self) -> Run {
        Run {
            names: self.name.into_iter().collect(),
            lock: LockOptions {
                ttl: self.ttl,
                wait: WaitLimit::Forever,
                try_once: false,
                retries: None,
                interval: None,
                label: self.value,
            },
            max_hold: self.max_term,
            at_least: None,
            on_lost: OnLost::Term,
            grace: self.grace,
            hide_store: self.hide_store,
            command: self.command,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Leader {
    /// The election; after `--` if it begins with `-`
    pub(crate) name: String,

    /// Print every change, too
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// SIGTERM, and SIGKILL after the grace time; exit code 76
    Term,
    /// SIGKILL at once; exit code 76
    Kill,
    /// A warning; the command goes on, and its exit code counts
    Ignore,
}

impl OnLost {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Kill => "kill",
            Self::Ignore => "ignore",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitLimit {
    For(Duration),
    Forever,
}

impl LockOptions {
    pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_millis(50);
}

impl Run {
    pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(5);

    /// Returns the names of the locks and the command, or what is wrong with the options.
    pub(crate) fn check(&self, verb: &str) -> Result<(Vec<String>, Vec<OsString>), String> {
        if self.grace.is_some() && self.on_lost != OnLost::Term {
            return Err("--grace goes with --on-lost=term only".to_owned());
        }
        if let (Some(least), Some(most)) = (self.at_least, self.max_hold)
            && least > most
        {
            return Err("--at-least is longer than --max-hold".to_owned());
        }
        if let Some(given) = self.max_hold.filter(|most| *most < SHORTEST_HOLD) {
            let option = if verb == "elect" { "--max-term" } else { "--max-hold" };
            return Err(format!("{option} is at least {SHORTEST_HOLD:?} given=`{given:?}`"));
        }
        if self.at_least.is_some_and(|least| least > LONGEST_TTL) {
            return Err("--at-least is at most 24h, the longest TTL".to_owned());
        }
        let (names, command) = match self.names.as_slice() {
            [] => names_after_dashes(&self.command)
                .ok_or_else(|| format!("no lock was named; write `leasehold {verb} NAME -- CMD…`"))?,
            names => (names.iter().map(OsString::from).collect(), self.command.as_slice()),
        };
        if command.is_empty() {
            return Err(format!("no command was given; write `leasehold {verb} NAME -- CMD…`"));
        }
        let names = names.into_iter().map(OsString::into_string).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| "a lock's name is UTF-8")?;
        if let Some(name) = names.iter().find(|name| names.len() > 1 && name.contains('\n')) {
            return Err(format!(
                "a name with a line break cannot be one of several, because LEASEHOLD_NAME has a line for each name=`{}`",
                name.escape_debug()
            ));
        }
        Ok((names, command.to_vec()))
    }
}

/// Reads `NAME… -- CMD…`, which follows a `--`. The `--` in it is required, so that after a forgotten name no word of the
/// command becomes a lock. For the same reason, several names are read only if the first one begins with `-`: a command,
/// such as `git log -- FILE`, does not.
fn names_after_dashes(words: &[OsString]) -> Option<(Vec<OsString>, &[OsString])> {
    let (names, command) = words.split_at(words.iter().position(|word| word == "--")?);
    let begins_with_dash = |name: &OsString| name.as_encoded_bytes().starts_with(b"-");
    let are_names = names.len() == 1 || names.first().is_some_and(begins_with_dash);
    are_names.then(|| (names.to_vec(), &command[1..]))
}

/// The shortest `max_hold` of the library.
const SHORTEST_HOLD: Duration = Duration::from_millis(100);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);

fn duration(text: &str) -> Result<Duration, String> {
    leasehold::parse_duration(text).map_err(|_| {
        wrong(text, "a duration is a number with a unit (ms s m h d), such as 500ms, 5s, 2m or 1h")
    })
}

fn wait_limit(text: &str) -> Result<WaitLimit, String> {
    if text == "forever" {
        return Ok(WaitLimit::Forever);
    }
    leasehold::parse_duration(text).map(WaitLimit::For).map_err(|_| {
        wrong(text, "a wait is `forever` or a number with a unit (ms s m h d), such as 500ms, 5s, 2m or 1h")
    })
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| wrong(text, "a count is a whole number, such as 3"))
}

/// Returns what is wrong with a number that cannot be read.
fn wrong(text: &str, otherwise: &str) -> String {
    let negative = text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if negative { "it must not be negative".to_owned() } else { otherwise.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(wait_limit("forever"), Ok(WaitLimit::Forever));
        for bad in ["", "5", "-1s", "5 parsecs", "forever", "1M", "1month", "2years", "1m 1M"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
