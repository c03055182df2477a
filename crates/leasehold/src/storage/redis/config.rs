use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::storage::net::tls::Tls;
use crate::storage::url::{Authority, Url, bad_value, duration, flag, is_word};

/// The servers of a storage in Redis, and how to use them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    pub(super) servers: Servers,
    pub(super) access: Access,
    pub(super) keys: Keys,
    pub(super) allow_eviction: bool,
    pub(super) wait_replicas: u32,
    pub(super) failover_grace: Option<Duration>,
}

/// The servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// One server.
    One(Place),
    /// The server that the Sentinels report as the primary.
    Sentinels { sentinels: Vec<Place>, primary: String, login: Login },
    /// A Cluster. These nodes report the others.
    Cluster(Vec<Place>),
    /// Independent servers, of which a majority decides.
    Quorum(Vec<Place>),
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// The access to a server, the same for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) login: Login,
    pub(super) tls: Option<Tls>,
    pub(super) database: u32,
}

/// A user and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
const DEFAULT_PREFIX: &str = "leasehold:";
const OPTIONS: [&str; 6] =
    ["prefix", "allow_eviction", "wait_replicas", "failover_grace", "sentinel_user", "sentinel_password"];

impl Config {
    /// Reads a URL: `redis:`, `rediss:`, `redis+unix:`, `redis[s]+sentinel:` or `redis[s]+cluster:`. Does no I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong. The text says what would be right, and repeats no secret.
    pub fn new(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        if !matches!(
            scheme,
            "redis"
                | "rediss"
                | "redis+unix"
                | "redis+sentinel"
                | "rediss+sentinel"
                | "redis+cluster"
                | "rediss+cluster"
        ) {
            return Err(Error::invalid(
                "not the URL of a Redis; it begins with `redis:`, `rediss:` or `redis+…:`",
            ));
        }
        Self::from_url(scheme, &Url::parse(rest)?)
    }

    pub(crate) fn from_url(scheme: &str, url: &Url) -> Result<Self> {
        let mut config = Self::blank(scheme);
        let mut sentinels = Login::default();
        let mut known = OPTIONS[..4].to_vec();
        let kind = scheme.split_once('+').map_or("", |(_, kind)| kind);
        match kind {
            "sentinel" => known.extend(&OPTIONS[4..]),
            "unix" => known.extend(["db", "user", "password"]),
            _ => {}
        }
        if config.access.tls.is_some() {
            known.extend(Tls::OPTIONS);
        }
        url.options(&known, |option, value| config.set(&mut sentinels, option, value))?;
        config.servers = config.place(kind, url, sentinels)?;
        if let (Servers::Cluster(_), Some(_)) = (&config.servers, config.failover_grace) {
            return Err(Error::invalid(
                "a Cluster has no one primary, so it can have no option=`failover_grace`",
            ));
        }
        Ok(config)
    }

    /// Returns the configuration of a URL without options. The place is still missing.
    pub(super) fn blank(scheme: &str) -> Self {
        Self {
            servers: Servers::Cluster(Vec::new()),
            access: Access { tls: scheme.starts_with("rediss").then(Tls::default), ..Access::default() },
            keys: Keys::new(DEFAULT_PREFIX),
            allow_eviction: false,
            wait_replicas: 0,
            failover_grace: None,
        }
    }

    pub(super) fn set(&mut self, sentinels: &mut Login, option: &str, value: &str) -> Result<()> {
        let tls = self.access.tls.as_mut();
        match (option, tls) {
            ("prefix", _) if value.len() <= 256 && !value.contains('\0') => self.keys = Keys::new(value),
            ("prefix", _) => return Err(bad_value(option, "at most 256 bytes without NUL")),
            ("allow_eviction", _) => self.allow_eviction = flag(option, value)?,
            ("wait_replicas", _) => {
                let replicas = value.parse().ok().filter(|replicas| *replicas <= 100);
                self.wait_replicas = replicas.ok_or_else(|| bad_value(option, "0 to 100"))?;
            }
            ("failover_grace", _) => {
                let grace = duration(option, value)?;
                let bounds = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
                if !bounds.contains(&grace) {
                    return Err(bad_value(option, "100ms to 24h, at least the longest TTL that is used"));
                }
                self.failover_grace = Some(grace);
            }
            ("sentinel_user", _) => sentinels.user = Some(value.to_owned()),
            ("sentinel_password", _) => sentinels.password = Some(value.to_owned()),
            ("db", _) => self.access.database = database(value)?,
            ("user", _) => self.access.login.user = Some(value.to_owned()),
            ("password", _) => self.access.login.password = Some(value.to_owned()),
            ("ca", Some(tls)) => tls.ca = Some(value.into()),
            ("cert", Some(tls)) => tls.cert = Some(value.into()),
            ("key", Some(tls)) => tls.key = Some(value.into()),
            ("insecure", Some(tls)) => tls.insecure = flag(option, value)?,
            _ => return Err(bad_value(option, "nothing; the option is not one of this scheme")),
        }
        Ok(())
    }

    /// Reads the part of the URL before its options.
    pub(super) fn place(&mut self, kind: &str, url: &Url, sentinels: Login) -> Result<Servers> {
        if kind == "unix" {
            let path = url.path()?;
            let path = path.strip_prefix("//").unwrap_or(&path);
            if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
                let text = "not the path of a socket; write `redis+unix:///absolute/path?db=0`";
                return Err(Error::invalid(text));
            }
            return Ok(Servers::One(Place::Unix(path.into())));
        }
        let Authority { user, password, hosts, path } = url.authority()?;
        self.access.login = Login { user, password };
        let places = |port: u16| -> Vec<Place> {
            hosts.iter().map(|(host, given)| Place::Tcp(host.clone(), given.unwrap_or(port))).collect()
        };
        let path = path.strip_suffix('/').unwrap_or(&path);
        match kind {
            "sentinel" => {
                let (primary, db) = path.split_once('/').unwrap_or((path, ""));
                if primary.is_empty() {
                    let text = "the URL does not name the primary; write the name that the Sentinels use after the hosts, \
                        as in `redis+sentinel://s1,s2,s3/mymaster/0`";
                    return Err(Error::invalid(text));
                }
                self.access.database = database(db)?;
                Ok(Servers::Sentinels {
                    sentinels: places(SENTINEL_PORT),
                    primary: primary.to_owned(),
                    login: sentinels,
                })
            }
            "quorum" => {
                self.access.database = database(path)?;
                Ok(Servers::Quorum(places(PORT)))
            }
            "cluster" if database(path)? == 0 => Ok(Servers::Cluster(places(PORT))),
            "cluster" => Err(Error::invalid("a Cluster has only database 0; omit the number")),
            _ => {
                self.access.database = database(path)?;
                let mut places = places(PORT);
                match (places.pop(), places.is_empty()) {
                    (Some(place), true) => Ok(Servers::One(place)),
                    _ => Err(Error::invalid(
                        "`redis:` names one server; for several write `redis+sentinel:`, `redis+cluster:` or `redis+quorum:`",
                    )),
                }
            }
        }
    }
}

fn database(text: &str) -> Result<u32> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| bad_value("db", "the number of a database, as in redis://host/0"))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Hides the password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Shows the URL without user, password and options.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.access.tls.is_some() { "s" } else { "" };
        let list = |places: &[Place]| places.iter().map(Place::to_string).collect::<Vec<_>>().join(",");
        match &self.servers {
            Servers::One(place @ Place::Unix(_)) => write!(f, "redis+unix://{place}"),
            Servers::One(place) => write!(f, "redis{tls}://{place}/{}", self.access.database),
            Servers::Sentinels { sentinels, primary, .. } => {
                // A typing error may have put a part of the login here.
                let primary = if is_word(primary) { primary } else { "…" };
                write!(f, "redis{tls}+sentinel://{}/{primary}/{}", list(sentinels), self.access.database)
            }
            Servers::Cluster(nodes) => write!(f, "redis{tls}+cluster://{}", list(nodes)),
            Servers::Quorum(nodes) => {
                write!(f, "redis{tls}+quorum://{}/{}", list(nodes), self.access.database)
            }
        }
    }
}
