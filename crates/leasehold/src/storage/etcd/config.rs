use std::fmt;

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::storage::net::tls::Tls;
use crate::storage::url::{Authority, Url, bad_value, is_host};

/// Says which etcd to lock in, and how.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The members, each with its port.
    pub(super) hosts: Vec<(String, u16)>,
    /// A user and a password.
    pub(super) login: Option<(String, String)>,
    pub(super) tls: Option<Tls>,
    /// The name in the servers' certificates, instead of the host of the URL.
    pub(super) server_name: Option<String>,
    pub(super) keys: Keys,
}

const PORT: u16 = 2379;
/// The options of TLS, besides those that every storage has.
const SERVER_NAME: &str = "server_name";

impl Config {
    /// Reads a URL: `etcd:` or `etcds:`. No I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong; the text says what is known, and repeats no secret.
    pub fn new(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        if !matches!(scheme, "etcd" | "etcds") {
            return Err(Error::invalid("not the URL of an etcd; it begins with `etcd:` or `etcds:`"));
        }
        Self::from_url(scheme, &Url::parse(rest)?)
    }

    pub(crate) fn from_url(scheme: &str, url: &Url) -> Result<Self> {
        let Authority { user, password, hosts, path } = url.authority()?;
        if !path.is_empty() {
            return Err(Error::invalid(
                "the URL has a path, which has no meaning here; use the option `prefix`",
            ));
        }
        let login = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password)),
            _ => return Err(Error::invalid("the URL needs both a user and a password, or none of them")),
        };
        let mut config = Self {
            hosts: hosts.into_iter().map(|(host, port)| (host, port.unwrap_or(PORT))).collect(),
            login,
            tls: (scheme == "etcds").then(Tls::default),
            server_name: None,
            keys: Keys::new(""),
        };
        let mut known = vec!["prefix"];
        if config.tls.is_some() {
            known.extend(Tls::OPTIONS);
            known.push(SERVER_NAME);
        }
        url.options(&known, |option, value| config.set(option, value))?;
        Ok(config)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<()> {
        match (option, self.tls.as_mut()) {
            ("prefix", _) if value.len() <= 256 && !value.contains('\0') => self.keys = Keys::new(value),
            ("prefix", _) => return Err(bad_value(option, "at most 256 bytes without NUL")),
            (SERVER_NAME, _) if is_host(value) => self.server_name = Some(value.to_owned()),
            (SERVER_NAME, _) => return Err(bad_value(option, "the name of a host")),
            ("ca", Some(tls)) => tls.ca = Some(value.into()),
            ("cert", Some(tls)) => tls.cert = Some(value.into()),
            ("key", Some(tls)) => tls.key = Some(value.into()),
            ("insecure", Some(tls)) => tls.insecure = crate::storage::url::flag(option, value)?,
            _ => return Err(bad_value(option, "none")),
        }
        Ok(())
    }
}

/// Shows no user and no password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("hosts", &self.hosts)
            .field("tls", &self.tls)
            .field("prefix", &self.keys.prefix())
            .finish_non_exhaustive()
    }
}

/// Shows the servers, and no user or password.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() { "etcds://" } else { "etcd://" })?;
        for (i, place) in self.hosts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", shown(place))?;
        }
        Ok(())
    }
}

/// Returns a member as errors name it.
pub(super) fn shown((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_members_and_a_prefix() {
        let config = Config::new("etcd://a,b:1,[::1]?prefix=shop/").expect("valid");
        let host = |host: &str, port| (host.to_owned(), port);
        assert_eq!(config.hosts, [host("a", 2379), host("b", 1), host("::1", 2379)]);
        assert_eq!(config.keys.prefix(), "shop/");
        assert_eq!(config.to_string(), "etcd://a:2379,b:1,[::1]:2379");
    }

    #[test]
    fn what_is_wrong_is_refused_and_not_shown() {
        for url in [
            "etcd://",
            "etcd:h",
            "etcd://h/S3CRET",
            "etcd://u@h",
            "etcd://u:S3CRET@",
            "etcd://u:S3CRET?@h",
            "etcd://h,",
            "etcd://h:0",
            "etcd://h?ca=x",
            "etcds://h?server_name=S3 CRET",
            "etcds://h?insecure=S3CRET",
            "http://h",
        ] {
            let error = Config::new(url).expect_err(url);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{url}");
            assert!(!format!("{error} {error:?}").contains("S3CRET"), "{url}: {error}");
        }
        let config = Config::new("etcds://u:S3CRET@h?server_name=etcd.internal").expect("valid");
        assert!(!format!("{config} {config:?} {config:#?}").contains("S3CRET"));
    }
}
