use std::fmt;

use mongodb::options::ConnectionString;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, Result};
use crate::storage::url::{RawAuthority, Url, bad_value, decode, host_and_port, is_word, wrong_authority};

/// Says which MongoDB to lock in, and how.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The URL that the driver reads: everything but the options of this storage. It may contain a password.
    driver: String,
    scheme: &'static str,
    /// The hosts, as they were written.
    hosts: String,
    pub(super) database: String,
    pub(super) collection: String,
    /// What keeps the locks of one application apart from those of others.
    pub(super) prefix: String,
    /// Whether waiters are woken by a change stream, where the server has any.
    pub(super) notify: bool,
}

/// The options of this storage.
const OWN: [&str; 4] = ["prefix", "database", "collection", "notify"];

/// The options of the driver, which reads them in any case.
const DRIVERS: [&str; 34] = [
    "appName",
    "authMechanism",
    "authMechanismProperties",
    "authSource",
    "connectTimeoutMS",
    "directConnection",
    "heartbeatFrequencyMS",
    "journal",
    "loadBalanced",
    "localThresholdMS",
    "maxConnecting",
    "maxIdleTimeMS",
    "maxPoolSize",
    "maxStalenessSeconds",
    "minPoolSize",
    "readConcernLevel",
    "readPreference",
    "readPreferenceTags",
    "replicaSet",
    "retryReads",
    "retryWrites",
    "serverMonitoringMode",
    "serverSelectionTimeoutMS",
    "srvMaxHosts",
    "srvServiceName",
    "ssl",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsInsecure",
    "uuidRepresentation",
    "w",
    "wTimeoutMS",
];

/// The options of other drivers that the Rust driver does not have. They are accepted, and without effect.
const IGNORED: [&str; 2] = ["socketTimeoutMS", "waitQueueTimeoutMS"];

impl Config {
    /// Reads a URL: `mongodb:` or `mongodb+srv:`. No I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong; the text says what is known, and repeats no secret.
    pub fn new(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        if !matches!(scheme, "mongodb" | "mongodb+srv") {
            let text = "not the URL of a MongoDB; it begins with `mongodb:` or `mongodb+srv:`";
            return Err(Error::invalid(text));
        }
        Self::from_url(scheme, &Url::parse(rest)?)
    }

    pub(crate) fn from_url(scheme: &str, url: &Url) -> Result<Self> {
        let RawAuthority { user, password, hosts, path } = url.raw_authority()?;
        if !hosts.split(',').all(is_server) {
            // It is not repeated: without an `@`, a password stands there.
            return Err(wrong_authority("a host or its port"));
        }
        let mut config = Self {
            driver: String::new(),
            scheme: if scheme == "mongodb+srv" { "mongodb+srv" } else { "mongodb" },
            hosts: hosts.to_owned(),
            database: database("database", if path.is_empty() { "leasehold" } else { &path })?,
            collection: "leasehold".into(),
            prefix: String::new(),
            notify: true,
        };
        let known: Vec<_> = OWN.iter().chain(&DRIVERS).chain(&IGNORED).copied().collect();
        let mut passed = Vec::new();
        let mut own = Vec::new();
        for (option, value) in url.pairs() {
            if OWN.contains(&option) {
                own.push((option, value));
            } else if IGNORED.iter().any(|known| known.eq_ignore_ascii_case(option)) {
                // The driver would refuse it.
            } else if DRIVERS.iter().any(|known| known.eq_ignore_ascii_case(option)) {
                passed.push(format!("{option}={}", encode(value)));
            } else {
                // It is not one of these, which is said there.
                url.options(&known, |_, _| Ok(()))?;
            }
        }
        for (i, (option, value)) in own.iter().enumerate() {
            if own.iter().skip(i + 1).any(|(other, _)| other == option) {
                return Err(Error::invalid(format!("option given twice in the URL option=`{option}`")));
            }
            config.set(option, value)?;
        }
        let login = match (&user, &password) {
            (Some(user), Some(password)) => format!("{}:{}@", encode(user), encode(password)),
            (Some(user), None) => format!("{}@", encode(user)),
            (None, _) => String::new(),
        };
        let path = encode(&path);
        config.driver = format!("{scheme}://{login}{hosts}/{path}?{}", passed.join("&"));
        if ConnectionString::parse(&config.driver).is_err() {
            // What the driver says may repeat what it reads, so it reads it again without what may be a secret.
            passed.retain(|option| !is_of_login(option));
            let shown = format!("{scheme}://host/?{}", passed.join("&"));
            let said = ConnectionString::parse(shown).err().map(|error| error.kind.to_string());
            let said = said.map_or(String::new(), |text| format!(" said=`{}`", text.escape_debug()));
            let text = "the driver refuses the URL; compare it with the options on the page of this storage";
            return Err(Error::invalid(format!("{text}{said}")));
        }
        Ok(config)
    }

    /// Returns the URL for the driver, which may contain a password.
    pub(super) fn driver_url(&self) -> &str {
        &self.driver
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        match (option, value) {
            ("prefix", _) if value.len() <= 256 && !value.contains('\0') => self.prefix = value.to_owned(),
            ("prefix", _) => return Err(bad_value(option, "at most 256 bytes without NUL")),
            ("database", _) => self.database = database(option, value)?,
            ("collection", _) => self.collection = collection(option, value)?,
            ("notify", "auto" | "off") => self.notify = value == "auto",
            _ => return Err(bad_value(option, "auto, off")),
        }
        Ok(())
    }

    /// Returns the `_id` of a lock's document. Neither a prefix nor a name has a NUL in it, so no two pairs give the same.
    pub(super) fn id(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}\0{name}", self.prefix) }
    }

    /// Returns the name in an `_id` that [`Config::id`] has made with this prefix.
    pub(super) fn name<'a>(&self, id: &'a str) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(id).filter(|id| !id.contains('\0')),
            prefix => id.strip_prefix(prefix)?.strip_prefix('\0'),
        }
    }
}

/// Returns `true` if that is a host, with or without a port, or the path of a socket.
fn is_server(text: &str) -> bool {
    let is_path = |path: String| path.starts_with('/') && path.split('/').skip(1).all(is_word);
    host_and_port(text).is_some() || decode(text).is_ok_and(is_path)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn is_of_login(option: &str) -> bool {
    option.to_ascii_lowercase().starts_with("auth")
}

fn database(option: &str, value: &str) -> Result<String> {
    let bad = |c: char| c.is_control() || "/\\. \"$*<>:|?".contains(c);
    if value.is_empty() || value.len() > 63 || value.contains(bad) {
        return Err(bad_value(option, "1 to 63 bytes without / \\ . \" $ * < > : | ? and spaces"));
    }
    Ok(value.to_owned())
}

fn collection(option: &str, value: &str) -> Result<String> {
    let bad = value.is_empty()
        || value.len() > 120
        || value.starts_with("system.")
        || value.contains(|c: char| c.is_control() || c == '$');
    if bad {
        return Err(bad_value(option, "1 to 120 bytes without $, not beginning with `system.`"));
    }
    Ok(value.to_owned())
}

/// Shows where, as a URL without user, password and options.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // After a typing error, the name of the database may be a part of a password.
        let database = if is_word(&self.database) { &self.database } else { "…" };
        write!(f, "{}://{}/{database}", self.scheme, self.hosts)
    }
}

/// Shows nothing of the login.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &format_args!("{self}"))
            .field("collection", &self.collection)
            .field("prefix", &self.prefix)
            .field("notify", &self.notify)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_options_are_taken_out_and_the_rest_is_the_drivers() {
        let url = "mongodb://u:S3CRET%40@a:1,b/app?replicaSet=rs&prefix=jobs:&collection=locks&w=1&TLS=true";
        let config = Config::new(url).expect("valid");
        assert_eq!(config.driver, "mongodb://u:S3CRET%40@a:1,b/app?replicaSet=rs&w=1&TLS=true");
        assert_eq!((&*config.database, &*config.collection, &*config.prefix), ("app", "locks", "jobs:"));
        assert_eq!(config.to_string(), "mongodb://a:1,b/app");
        assert!(!format!("{config:?} {config}").contains("S3CRET"));
        let other = Config::new("mongodb://a/app?database=locks").expect("valid");
        assert_eq!((&*other.database, &*other.driver), ("locks", "mongodb://a/app?"));
        assert_eq!(Config::new("mongodb://a").expect("valid").database, "leasehold");
        for server in ["a_b-c.example", "127.0.0.1:1", "[::1]", "[::1]:27017", "%2Ftmp%2Fmongodb-27017.sock"]
        {
            let config = Config::new(&format!("mongodb://{server}/d")).expect(server);
            assert_eq!(config.to_string(), format!("mongodb://{server}/d"));
        }
        let hidden = Config::new("mongodb://a/user%2540S3CRET").expect("valid").to_string();
        assert_eq!(hidden, "mongodb://a/…");
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for (url, says) in [
            ("mongodb://u:S3CRET@a/?ttl=5", "unknown option"),
            ("mongodb://u:S3CRET@a/?prefix=a&prefix=b", "twice"),
            ("mongodb://u:S3CRET@a/?collection=a$b", "option=`collection`"),
            ("mongodb://u:S3CRET@a/?database=a.b", "option=`database`"),
            ("mongodb://u:S3CRET@a/?notify=on", "valid=`auto, off`"),
            ("mongodb://u:S3CRET@a/?w=-7", "the driver refuses the URL"),
            ("mongodb://u:S3C/RET@a/", "not of that shape"),
            ("mongodb:S3CRET", "not of that shape"),
            ("mongodb://user:S3CRET", "a host or its port"),
            ("mongodb://h,user:S3CRET/db", "a host or its port"),
            ("mongodb://user%3AS3CRET%40h/db", "a host or its port"),
            ("mongodb+srv://user%3AS3CRET%40h/db", "a host or its port"),
            ("mongodb://%2Ftmp%2Fuser%3AS3CRET%40h/db", "a host or its port"),
            ("mongodb://h:0/db", "a host or its port"),
        ] {
            let error = Config::new(url).expect_err(url);
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("S3C"), "{url}: {error}");
        }
    }

    #[test]
    fn a_prefix_and_a_name_are_never_another_prefix_and_another_name() {
        let with = |prefix: &str| Config::new(&format!("mongodb://a/?prefix={prefix}")).expect("valid");
        assert_ne!(with("a:").id("b"), with("a").id(":b"));
        assert_ne!(with("").id("a:b"), with("a:").id("b"));
        for prefix in ["", "a:", "é"] {
            let config = with(prefix);
            assert_eq!(config.name(&config.id("x/y")), Some("x/y"));
        }
        assert_eq!(with("").name("a:\0b"), None);
        assert_eq!(with("a").name("a:\0b"), None);
    }
}
