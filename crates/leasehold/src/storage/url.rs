//! Storage URLs: `scheme:rest?option=value`. An unknown part is an error that lists what is valid.
//!
//! No error repeats a part of the URL: a wrong part may belong to a password.
#![cfg_attr(
    not(all(feature = "redis", feature = "postgres")),
    allow(dead_code, reason = "each storage uses some of it")
)]

use std::fmt;
#[cfg(feature = "_net")]
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// The part of a URL after the scheme, decoded. Its `Debug` shows no values, which may be secrets.
pub(crate) struct Url {
    /// The part before the `?`, not decoded.
    raw: String,
    options: Vec<(String, String)>,
    /// Whether the options may be the rest of a password with a `?` in it.
    torn: bool,
}

/// The part between the `//` and the `?` of a URL that names servers, decoded.
#[cfg(feature = "_net")]
pub(crate) struct Authority {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The hosts, each with its port if one is given.
    pub(crate) hosts: Vec<(String, Option<u16>)>,
    /// The part after the first `/` behind the hosts.
    pub(crate) path: String,
}

/// The same, with the hosts not decoded.
#[cfg(feature = "_net")]
pub(crate) struct RawAuthority<'a> {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) hosts: &'a str,
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(rest: &str) -> Result<Self> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        check_visible(path, query)?;
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let options = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Self {
            raw: path.to_owned(),
            options: options.collect::<Result<_>>()?,
            torn: query.contains('@') && !path.contains('@'),
        })
    }

    /// Returns the options in their order, as often as they are given.
    #[cfg(feature = "mongodb")]
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(option, value)| (option.as_str(), value.as_str()))
    }

    /// Returns the part before the `?`, decoded.
    pub(crate) fn path(&self) -> Result<String> {
        decode(&self.raw)
    }

    /// Returns the part before the `?` as the path of a file. On Unix it may contain any bytes.
    #[cfg(all(feature = "sqlite", unix))]
    pub(crate) fn file(&self) -> Result<std::path::PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        Ok(std::ffi::OsString::from_vec(percent_decode_str(&self.raw).collect()).into())
    }

    #[cfg(all(feature = "sqlite", not(unix)))]
    pub(crate) fn file(&self) -> Result<std::path::PathBuf> {
        self.path().map(Into::into)
    }

    /// Reads `//[user[:password]@]host[:port][,host[:port]…][/path]`.
    #[cfg(feature = "_net")]
    pub(crate) fn authority(&self) -> Result<Authority> {
        let RawAuthority { user, password, hosts, path } = self.raw_authority()?;
        let hosts = hosts
            .split(',')
            .map(|host| host_and_port(host).ok_or_else(|| wrong_authority("a host or its port")));
        Ok(Authority { user, password, hosts: hosts.collect::<Result<_>>()?, path })
    }

    /// Reads the same, but leaves the list of hosts to the caller.
    #[cfg(feature = "_net")]
    pub(crate) fn raw_authority(&self) -> Result<RawAuthority<'_>> {
        let rest = self.raw.strip_prefix("//").ok_or_else(|| wrong_authority("no `//`"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A `/` in a password ends the authority early. The rest of the password would be shown as a path.
        if path.contains('@') {
            return Err(wrong_authority("an `@` after the first `/`"));
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (user, password) =
            match login.map(|login| login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p)))) {
                Some((user, password)) => (Some(user).filter(|user| !user.is_empty()), password),
                None => (None, None),
            };
        if [user, password].into_iter().flatten().any(|text| text.contains(['@', ':'])) {
            return Err(wrong_authority("the user or the password"));
        }
        Ok(RawAuthority {
            user: user.map(decode).transpose()?,
            password: password.map(decode).transpose()?,
            hosts,
            path: decode(path)?,
        })
    }

    /// Passes each option to `set`. An option that is not in `known`, or is given twice, is an error that lists `known`.
    pub(crate) fn options(
        &self,
        known: &[&str],
        mut set: impl FnMut(&str, &str) -> Result<()>,
    ) -> Result<()> {
        let valid = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        for (i, (key, value)) in self.options.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                if self.torn {
                    return Err(Error::invalid(format!(
                        "unknown option in the URL, or a `?` in its password, which is written %3F valid=`{valid}`"
                    )));
                }
                return Err(Error::invalid(format!(
                    "unknown option in the URL; it is not repeated, because it may be part of a password number=`{}` valid=`{valid}`",
                    i + 1
                )));
            }
            if self.options.iter().skip(i + 1).any(|(other, _)| other == key) {
                return Err(Error::invalid(format!(
                    "option given twice in the URL option=`{key}` valid=`{valid}`"
                )));
            }
            set(key, value)?;
        }
        Ok(())
    }

    /// Removes an option and returns its value. [`Url::options`] does not pass it on.
    #[cfg(feature = "_net")]
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(key, _)| key == name)?;
        Some(self.options.remove(at).1)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Url")
    }
}

/// Refuses invisible characters.
///
/// A line break at the end of a variable would name another storage, and clients of the two would not exclude each other.
fn check_visible(path: &str, query: &str) -> Result<()> {
    // The names of servers end with the first `/`, and consist of several parts.
    let (authority, path) = match path.strip_prefix("//") {
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
        None => ("", path),
    };
    let mut parts = authority
        .split([':', '@', ',', '[', ']'])
        .chain([path])
        .chain(query.split('&').flat_map(|pair| pair.splitn(2, '=')));
    if parts.any(has_invisible) {
        return Err(Error::invalid(
            "the URL has a control character, or a blank at the beginning or the end of a part; remove it, or write it \
             as %XX",
        ));
    }
    Ok(())
}

/// Returns `true` if a text has a control character or a line break, or a blank at an end.
pub(crate) fn has_invisible(text: &str) -> bool {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    // Characters without a width count as blanks. They are allowed between others.
    let blank = |c: char| {
        c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.contains(breaks) || text.starts_with(blank) || text.ends_with(blank)
}

/// Returns the error for a wrong part before the options. `what` names the part.
#[cfg(feature = "_net")]
pub(crate) fn wrong_authority(what: &str) -> Error {
    let shape = "`//[user[:password]@]host[:port][,…][/path]`";
    let text = "the URL is not of that shape; write special characters as %XX";
    Error::invalid(format!("{text} wrong=`{what}` valid={shape}"))
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
#[cfg(feature = "_net")]
pub(crate) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port
        .map(|port| port.parse::<u16>().ok().filter(|port| *port != 0))
        .map_or(Some(None), |port| port.map(Some))?;
    let host =
        decode(host).ok().filter(|host| is_host(host) && text.starts_with('[') == host.contains(':'))?;
    Some((host, port))
}

/// Reads an option that is `true` or `false`.
#[cfg(feature = "_net")]
pub(crate) fn flag(option: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad_value(option, "true, false")),
    }
}

/// Reads an option that is a duration; see [`parse_duration`](crate::parse_duration).
#[cfg(feature = "_net")]
pub(crate) fn duration(option: &str, value: &str) -> Result<Duration> {
    crate::parse_duration(value).map_err(|_| bad_value(option, "a number with ms, s, m, h or d, as in 30s"))
}

/// Returns the error for a wrong value of an option. It lists the valid ones.
#[cfg(feature = "_net")]
pub(crate) fn bad_value(option: &str, valid: &str) -> Error {
    Error::invalid(format!("unknown value in the URL option=`{option}` valid=`{valid}`"))
}

/// Returns `true` if the text can be the name or the address of a host. Any other text may be a login in a wrong place.
#[cfg(feature = "_net")]
pub(crate) fn is_host(text: &str) -> bool {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return zone.is_none_or(is_word);
    }
    is_word(text)
}

/// Returns `true` if the text consists of letters, digits, `-`, `_` and `.`, so that it can be shown as a name.
#[cfg(feature = "_net")]
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

pub(crate) fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::invalid("the URL is not UTF-8 after percent-decoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_given_once() {
        let url = Url::parse("x?a=1&b=2&a=3").expect("reads");
        let text = url.options(&["a", "b"], |_, _| Ok(())).expect_err("twice").to_string();
        assert!(text.contains("twice") && text.contains("valid=`a, b`"), "{text}");
    }
}
