//! The configuration of this storage, and its URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::ChannelBinding;

use super::hosts::{self, Host};
use super::login::Login;
use super::ssl::{Mode, Ssl, Version};
use super::unsupported;
use crate::error::{Error, Result};
use crate::storage::url::{RawAuthority, Url, bad_value, is_word};

/// The configuration of the storage: where PostgreSQL is, how to log in, and where the locks are kept.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The option `prefix`, kept in a column of its own.
    pub(super) space: String,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) notify: Choice,
    pub(super) prepared: Choice,
    /// At least one host.
    pub(super) hosts: Vec<Host>,
    /// Whether the hosts are tried in a random order.
    pub(super) shuffle: bool,
    pub(super) login: Login,
    pub(super) ssl: Ssl,
    pub(super) sockets: Sockets,
    /// How long opening a connection may take, over all hosts.
    pub(super) limit: Duration,
}

/// A choice that may be left to what is found out when the storage connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    #[default]
    Auto,
    On,
    Off,
}

/// How the kernel notices that a server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sockets {
    pub(super) keepalives: bool,
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
    pub(super) user_timeout: Option<Duration>,
}

/// The default of `connect_timeout`.
const LIMIT: Duration = Duration::from_secs(3);

/// The options of Leasehold, then those of libpq in the order of its documentation.
const OPTIONS: [&str; 37] = [
    "prefix",
    "schema",
    "table",
    "notify",
    "prepared",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslnegotiation",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslrootcert",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "load_balance_hosts",
    "min_protocol_version",
    "max_protocol_version",
    "replication",
];

/// The lists of addresses, until all three are known.
#[derive(Default)]
struct Lists {
    hosts: Option<String>,
    addresses: Option<String>,
    ports: Option<String>,
}

impl Config {
    /// Reads a URL, which begins with `postgres:` or `postgresql:`, without I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong, `Unsupported` if it uses an option that only libpq supports. The text lists the valid
    /// values, and shows no secret.
    pub fn new(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(Error::invalid(
                "not the URL of a PostgreSQL; it begins with `postgres:` or `postgresql:`",
            ));
        }
        Self::from_url(Url::parse(rest)?)
    }

    pub(crate) fn from_url(mut url: Url) -> Result<Self> {
        let mut config = Self::blank();
        let mut lists = Lists::default();
        config.set_authority(&url, &mut lists)?;
        unsupported::take(&mut url)?;
        url.options(&OPTIONS, |option, value| config.set(&mut lists, option, value))?;
        config.hosts = hosts::read(lists.hosts, lists.addresses, lists.ports)?;
        config.ssl.check()?;
        Ok(config)
    }

    /// Returns the configuration of a URL without hosts and options.
    fn blank() -> Self {
        Self {
            space: String::new(),
            schema: "public".into(),
            table: "leasehold".into(),
            notify: Choice::Auto,
            prepared: Choice::Auto,
            hosts: Vec::new(),
            shuffle: false,
            login: Login::default(),
            ssl: Ssl::default(),
            sockets: Sockets::default(),
            limit: LIMIT,
        }
    }

    /// Reads the part before the options.
    fn set_authority(&mut self, url: &Url, lists: &mut Lists) -> Result<()> {
        let RawAuthority { user, password, hosts, path } = url.raw_authority()?;
        if [user.as_deref(), password.as_deref(), Some(&path)].into_iter().flatten().any(|t| t.contains('\0'))
        {
            return Err(Error::invalid("the URL contains a NUL, which PostgreSQL does not allow"));
        }
        self.login.user = user;
        self.login.password = password.filter(|password| !password.is_empty());
        self.login.database = Some(path).filter(|path| !path.is_empty());
        if !hosts.is_empty() {
            let (hosts, ports) = hosts::split(hosts)?;
            (lists.hosts, lists.ports) = (Some(hosts), Some(ports));
        }
        Ok(())
    }

    fn set(&mut self, lists: &mut Lists, option: &str, value: &str) -> Result<()> {
        if value.contains('\0') {
            return Err(Error::invalid(format!("a value cannot contain a NUL option=`{option}`")));
        }
        let is_known = self.set_tables(option, value)?
            || self.set_login(lists, option, value)?
            || self.set_socket(option, value)?
            || self.set_tls(option, value)?
            || self.set_server(option, value)?;
        if is_known {
            Ok(())
        } else {
            Err(bad_value(option, "nothing; the option is not one of this scheme"))
        }
    }

    /// Sets an option of Leasehold. Returns `false` if this is none. The others below do so for options of libpq.
    fn set_tables(&mut self, option: &str, value: &str) -> Result<bool> {
        match (option, value) {
            ("prefix", _) if value.len() <= 256 => self.space = value.to_owned(),
            ("prefix", _) => return Err(bad_value(option, "at most 256 bytes without NUL")),
            ("schema", _) => self.schema = identifier(option, value, 63)?,
            // The longest name that is derived from it is that of an index, `…_waiters_observers`.
            ("table", _) => self.table = identifier(option, value, 45)?,
            ("notify", _) => self.notify = choice(option, value)?,
            ("prepared", _) => self.prepared = choice(option, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_login(&mut self, lists: &mut Lists, option: &str, value: &str) -> Result<bool> {
        let bad = |valid: &str| Err(bad_value(option, valid));
        let given = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match (option, value) {
            ("host", _) => lists.hosts = given(),
            ("hostaddr", _) => lists.addresses = given(),
            ("port", _) => lists.ports = given(),
            ("dbname", _) if value.contains(['=', ':']) => return bad("the name of a database, no URL"),
            ("dbname", _) => self.login.database = given(),
            ("user", _) => self.login.user = given(),
            ("password", _) => self.login.password = given(),
            ("passfile", _) => self.login.passfile = given().map(PathBuf::from),
            ("channel_binding", "disable") => self.login.channel_binding = ChannelBinding::Disable,
            ("channel_binding", "prefer") => self.login.channel_binding = ChannelBinding::Prefer,
            ("channel_binding", "require") => self.login.channel_binding = ChannelBinding::Require,
            ("channel_binding", _) => return bad("disable, prefer, require"),
            ("client_encoding", _) => {
                if !["utf8", "utf-8", "unicode"].contains(&value.to_lowercase().as_str()) {
                    return bad("UTF8");
                }
            }
            ("options", _) => self.login.options = given(),
            ("application_name", _) => self.login.application = given(),
            ("fallback_application_name", _) => self.login.fallback_application = given(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_socket(&mut self, option: &str, value: &str) -> Result<bool> {
        let secs = |limit| number(option, value, limit, "seconds").map(|n| Duration::from_secs(n.into()));
        match (option, value) {
            ("connect_timeout", _) => {
                self.limit = Some(secs(3600)?).filter(|limit| !limit.is_zero()).unwrap_or(LIMIT);
            }
            ("keepalives", _) => self.sockets.keepalives = number(option, value, 1, "")? == 1,
            ("keepalives_idle", _) => set(&mut self.sockets.idle, secs(32_767)?),
            ("keepalives_interval", _) => set(&mut self.sockets.interval, secs(32_767)?),
            ("keepalives_count", _) => set(&mut self.sockets.count, number(option, value, 127, "")?),
            ("tcp_user_timeout", _) => {
                let ms = number(option, value, 3_600_000, "milliseconds")?;
                self.sockets.user_timeout = (ms > 0).then(|| Duration::from_millis(ms.into()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_tls(&mut self, option: &str, value: &str) -> Result<bool> {
        let bad = |valid: &str| Err(bad_value(option, valid));
        let file = || Some(PathBuf::from(value)).filter(|_| !value.is_empty());
        match (option, value) {
            ("sslmode", _) => {
                let mode = Mode::read(value);
                let valid = "disable, allow, prefer, require, verify-ca, verify-full";
                self.ssl.mode = Some(mode.ok_or_else(|| bad_value(option, valid))?);
            }
            ("sslnegotiation", "postgres" | "direct") => self.ssl.direct = value == "direct",
            ("sslnegotiation", _) => return bad("postgres, direct"),
            ("sslcert", _) => self.ssl.cert = file(),
            ("sslkey", _) => self.ssl.key = file(),
            ("sslcertmode", "disable" | "allow") => self.ssl.identify = value == "allow",
            ("sslcertmode", _) => return bad("disable, allow"),
            ("sslrootcert", _) => self.ssl.root = file(),
            ("sslsni", "0" | "1") => self.ssl.sni = value == "1",
            ("sslsni", _) => return bad("0, 1"),
            ("ssl_min_protocol_version", _) => self.ssl.min = version(option, value)?,
            ("ssl_max_protocol_version", _) => self.ssl.max = version(option, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sets the choice of a server. Some options have only one value that makes sense here.
    fn set_server(&mut self, option: &str, value: &str) -> Result<bool> {
        let bad = |valid: &str| Err(bad_value(option, valid));
        match (option, value) {
            ("target_session_attrs", "any" | "read-write" | "primary") => {}
            ("target_session_attrs", "read-only" | "standby" | "prefer-standby") => {
                return bad("read-write, primary, any; locks are written, and only a primary allows that");
            }
            ("target_session_attrs", _) => return bad("read-write, primary, any"),
            ("load_balance_hosts", "disable" | "random") => self.shuffle = value == "random",
            ("load_balance_hosts", _) => return bad("disable, random"),
            ("min_protocol_version", "3.0") => {}
            ("min_protocol_version", _) => return bad("3.0, the supported version"),
            ("max_protocol_version", "3.0" | "3.2" | "latest") => {}
            ("max_protocol_version", _) => return bad("3.0, 3.2, latest"),
            ("replication", "false" | "off" | "no" | "0") => {}
            ("replication", _) => return bad("false; a connection for replication holds no locks"),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Default for Sockets {
    /// Returns settings by which the kernel notices within half a minute that a server is gone, even on a connection on which
    /// nothing is sent. The kernel's default of two hours is longer than any lease.
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { keepalives: true, idle: secs(15), interval: secs(5), count: 3, user_timeout: None }
    }
}

/// Sets `field`, unless the value asks for the default.
fn set<T: Default + PartialEq>(field: &mut T, value: T) {
    if value != T::default() {
        *field = value;
    }
}

fn identifier(option: &str, value: &str, longest: usize) -> Result<String> {
    let valid = value.bytes().enumerate().all(|(i, byte)| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'_' => true,
        b'0'..=b'9' | b'$' => i > 0,
        _ => false,
    });
    if !valid || value.is_empty() || value.len() > longest {
        let valid = format!("at most {longest} of A-Z a-z 0-9 _ $, and neither a digit nor $ first");
        return Err(bad_value(option, &valid));
    }
    Ok(value.to_owned())
}

fn choice(option: &str, value: &str) -> Result<Choice> {
    match value {
        "auto" => Ok(Choice::Auto),
        "on" => Ok(Choice::On),
        "off" => Ok(Choice::Off),
        _ => Err(bad_value(option, "auto, on, off")),
    }
}

fn number(option: &str, value: &str, limit: u32, unit: &str) -> Result<u32> {
    let number = value.parse().ok().filter(|number| *number <= limit);
    let valid = || format!("0 to {limit} {unit}");
    number.ok_or_else(|| bad_value(option, valid().trim_end()))
}

fn version(option: &str, value: &str) -> Result<Option<Version>> {
    match value {
        "" => Ok(None),
        "TLSv1.2" => Ok(Some(Version::Tls12)),
        "TLSv1.3" => Ok(Some(Version::Tls13)),
        _ => Err(bad_value(option, "TLSv1.2, TLSv1.3; older ones are not safe")),
    }
}

/// Shows the hosts and the database, as a URL without user, password and options.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "postgres://{}", hosts.join(","))?;
        match &self.login.database {
            Some(database) if is_word(database) => write!(f, "/{database}"),
            // After a typing error it may be a part of a password.
            Some(_) => f.write_str("/…"),
            None => Ok(()),
        }
    }
}

/// Shows no user and no password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &format_args!("{self}"))
            .field("space", &self.space)
            .field("schema", &self.schema)
            .field("table", &self.table)
            .field("notify", &self.notify)
            .field("prepared", &self.prepared)
            .field("ssl", &self.ssl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
