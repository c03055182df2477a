//! libpq's `ssl…` options, and the TLS client that they configure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsConnector;

use super::certificate::CertificateVerifier;
use crate::error::{Error, Result};
use crate::storage::net::tls::{self, Anybody};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ssl {
    /// The option `sslmode`; see [`Ssl::mode`] for the default.
    pub(super) mode: Option<Mode>,
    /// Whether TLS begins at once, without asking the server first.
    pub(super) direct: bool,
    pub(super) root: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// Whether the client shows its certificate to a server that asks for one.
    pub(super) identify: bool,
    pub(super) sni: bool,
    pub(super) min: Option<Version>,
    pub(super) max: Option<Version>,
}

/// How much TLS, from none to full verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// No TLS.
    Disable,
    /// No TLS, unless the server demands it.
    Allow,
    /// TLS if the server supports it.
    Prefer,
    /// TLS, without checking the certificate.
    Require,
    /// TLS with a certificate that an authority has signed, for any name.
    VerifyCa,
    /// TLS with a certificate that an authority has signed for that name.
    VerifyFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// The value of `sslrootcert` that means the system's authorities.
const SYSTEM: &str = "system";
/// The folder in the user's home with libpq's default files.
const FOLDER: &str = ".postgresql";

impl Default for Ssl {
    fn default() -> Self {
        Self {
            mode: None,
            direct: false,
            root: None,
            cert: None,
            key: None,
            identify: true,
            sni: true,
            min: None,
            max: None,
        }
    }
}

impl Ssl {
    /// Returns the mode. As in libpq, the system's authorities require a check of the name, since they sign for so many.
    pub(super) fn mode(&self) -> Mode {
        self.mode.unwrap_or(if self.system() { Mode::VerifyFull } else { Mode::Prefer })
    }

    /// Checks that the options do not contradict each other.
    pub(super) fn check(&self) -> Result<()> {
        let mode = self.mode();
        if self.system() && mode != Mode::VerifyFull {
            let text = "`sslrootcert=system` needs `sslmode=verify-full`: everyone can get a certificate for some name";
            return Err(Error::invalid(text));
        }
        if self.direct && mode < Mode::Require {
            return Err(Error::invalid(
                "`sslnegotiation=direct` needs `sslmode=require`, `verify-ca` or `verify-full`",
            ));
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            let text = "`ssl_min_protocol_version` is later than `ssl_max_protocol_version`; exchange them";
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// Makes the client, and reads the files it needs.
    pub(super) fn connector(&self) -> Result<TlsConnector> {
        let versions = match (self.min, self.max) {
            (_, Some(Version::Tls12)) => vec![&TLS12],
            (Some(Version::Tls13), _) => vec![&TLS13],
            _ => vec![&TLS12, &TLS13],
        };
        let identity = if self.identify { self.identity()? } else { None };
        let identity = identity.as_ref();
        let identity = identity.map(|(cert, key)| (("sslcert", cert.as_path()), ("sslkey", key.as_path())));
        let mut client = tls::client(&versions, self.verifier()?, identity)?;
        client.enable_sni = self.sni;
        client.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(TlsConnector::from(Arc::new(client)))
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>> {
        let mode = self.mode();
        let root = match &self.root {
            Some(_) if self.system() => None,
            Some(root) => Some(root.clone()),
            None => default("root.crt"),
        };
        // As in libpq: an authority that is named is checked.
        let verifies = mode >= Mode::VerifyCa || root.is_some();
        if !verifies {
            return Ok(Arc::new(Anybody::new()));
        }
        let roots = tls::roots("sslrootcert", root.as_deref())?;
        let pinned = match &root {
            Some(root) => tls::certificates(("sslrootcert", root))?,
            None => Vec::new(),
        };
        Ok(Arc::new(CertificateVerifier::new(roots, pinned, mode == Mode::VerifyFull)))
    }

    fn identity(&self) -> Result<Option<(PathBuf, PathBuf)>> {
        let Some(cert) = self.cert.clone().or_else(|| default("postgresql.crt")) else {
            if self.key.is_some() {
                return Err(Error::invalid(
                    "a client certificate needs both options, `sslcert` and `sslkey`",
                ));
            }
            return Ok(None);
        };
        let Some(key) = self.key.clone().or_else(|| default("postgresql.key")) else {
            return Err(Error::invalid("a client certificate needs both options, `sslcert` and `sslkey`"));
        };
        private(&key)?;
        Ok(Some((cert, key)))
    }

    fn system(&self) -> bool {
        self.root.as_deref() == Some(Path::new(SYSTEM))
    }
}

impl Mode {
    pub(super) fn read(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// Returns a default file of libpq, if it exists.
fn default(name: &str) -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(FOLDER).join(name)).filter(|path| path.exists())
}

/// Refuses a key that others can read. A key of root may be readable by a group.
#[cfg(unix)]
fn private(key: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    // A missing file is reported when it is read.
    let Ok(metadata) = std::fs::metadata(key) else { return Ok(()) };
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(Error::invalid(format!(
            "others can read the file of the URL option `sslkey`; run `chmod 600` on it path=`{}`",
            key.display()
        )));
    }
    Ok(())
}

#[cfg(not(unix))]
fn private(_: &Path) -> Result<()> {
    Ok(())
}
