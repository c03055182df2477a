//! The hosts of a URL: libpq's three lists `host`, `hostaddr` and `port`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::error::{Error, Result};
use crate::storage::url::{bad_value, decode, is_host, wrong_authority};

/// One server, or a name that resolves to several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name, and the address to use instead of resolving it.
    Tcp { name: String, address: Option<IpAddr> },
    /// The directory of a socket.
    Unix(PathBuf),
    /// No host: the directory where PostgreSQL has its socket on this machine.
    Default,
}

const PORT: u16 = 5432;
/// Where the packages of distributions put the socket, and where PostgreSQL does by default.
pub(super) const DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// Characters that have another meaning in a URL.
const SPECIAL: &AsciiSet =
    &CONTROLS.add(b' ').add(b'/').add(b'?').add(b'#').add(b'@').add(b'%').add(b',').add(b':').add(b'`');

/// Splits `host[:port][,…]` into a list of hosts, decoded, and one of ports.
pub(super) fn split(authority: &str) -> Result<(String, String)> {
    let wrong = || wrong_authority("a host or its port");
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for text in authority.split(',') {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                let address = host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                let port = if rest.is_empty() { "" } else { rest.strip_prefix(':').ok_or_else(wrong)? };
                (address.to_string(), port)
            }
            None => {
                let (host, port) = text.split_once(':').unwrap_or((text, ""));
                (decode(host)?, port)
            }
        };
        if host.contains([',', '\0']) || !(port.is_empty() || number(port).is_some()) {
            return Err(wrong());
        }
        hosts.push(host);
        ports.push(port);
    }
    Ok((hosts.join(","), ports.join(",")))
}

/// Combines the three lists.
pub(super) fn read(
    hosts: Option<String>,
    addresses: Option<String>,
    ports: Option<String>,
) -> Result<Vec<Host>> {
    let hosts = list(hosts.as_deref());
    let addresses = list(addresses.as_deref());
    let ports = list(ports.as_deref());
    let count = if hosts.is_empty() { std::cmp::max(addresses.len(), 1) } else { hosts.len() };
    if !addresses.is_empty() && addresses.len() != count {
        return Err(Error::invalid(format!(
            "the URL has to name as many addresses as hosts, or no addresses hosts=`{count}` hostaddr=`{}`",
            addresses.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::invalid(format!(
            "the URL has to name as many ports as hosts, or one for all hosts=`{count}` port=`{}`",
            ports.len()
        )));
    }
    let host = |i: usize| {
        let name = hosts.get(i).copied().unwrap_or_default();
        let address = addresses.get(i).copied().unwrap_or_default();
        let port = ports.get(i).or(ports.first()).copied().unwrap_or_default();
        let port = if port.is_empty() { Some(PORT) } else { number(port) };
        let port = port.ok_or_else(|| bad_value("port", "1 to 65535, or a list of those"))?;
        Ok(Host { place: place(name, address)?, port })
    };
    (0..count).map(host).collect()
}

fn list(text: Option<&str>) -> Vec<&str> {
    text.map(|text| text.split(',').collect()).unwrap_or_default()
}

fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port != 0)
}

fn place(name: &str, address: &str) -> Result<Place> {
    if !address.is_empty() {
        let valid = "an IP address, or a list of those";
        let address: IpAddr = address.parse().map_err(|_| bad_value("hostaddr", valid))?;
        let name = if name.is_empty() { address.to_string() } else { host(name)? };
        return Ok(Place::Tcp { name, address: Some(address) });
    }
    match name.as_bytes() {
        [] => Ok(Place::Default),
        [b'/', ..] => Ok(Place::Unix(name.into())),
        [b'@', ..] => {
            let valid = "a name, an address, or the absolute path of a directory; abstract sockets are not";
            Err(bad_value("host", valid))
        }
        _ => Ok(Place::Tcp { name: host(name)?, address: name.parse().ok() }),
    }
}

/// Refuses text that cannot be a host, since errors show hosts: it may be a part of a password.
fn host(name: &str) -> Result<String> {
    if is_host(name) {
        return Ok(name.to_owned());
    }
    Err(bad_value("host", "a name, an address, or the absolute path of a directory, or a list of those"))
}

pub(super) fn encode(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, SPECIAL)
}

/// Shows the host as the URL names it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]")?,
            Place::Tcp { name, .. } => write!(f, "{}", encode(name))?,
            Place::Unix(directory) => write!(f, "{}", encode(&directory.to_string_lossy()))?,
            Place::Default => {}
        }
        if self.port == PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}
