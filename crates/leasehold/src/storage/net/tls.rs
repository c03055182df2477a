//! TLS to a server, with the same options whatever the storage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};

/// Says whom to trust, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// A PEM file of the authorities to trust, instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// A PEM file of our certificate, for a server that asks for one.
    pub(crate) cert: Option<PathBuf>,
    /// A PEM file of its key.
    pub(crate) key: Option<PathBuf>,
    /// Trusts every server. It may be anybody.
    pub(crate) insecure: bool,
}

impl Tls {
    /// The URL options that this reads.
    pub(crate) const OPTIONS: [&str; 4] = ["ca", "cert", "key", "insecure"];

    /// Reads the files.
    pub(crate) fn connector(&self) -> Result<TlsConnector> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid("TLS cannot be set up here", None).with_source(e))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("key", key, e))?;
                builder.with_client_auth_cert(certificates("cert", cert)?, key_der).map_err(|e| {
                    invalid("the certificate and the key of the URL do not fit each other", Some(key))
                        .with_source(e)
                })?
            }
            _ => return Err(invalid("a client certificate needs both options, `cert` and `key`", None)),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            for certificate in certificates("ca", ca)? {
                roots.add(certificate).map_err(|e| unreadable("ca", ca, e))?;
            }
            return Ok(roots);
        }
        let system = rustls_native_certs::load_native_certs();
        let (added, _ignored) = roots.add_parsable_certificates(system.certs);
        if added == 0 {
            let text = "this machine knows no authority to trust; name one with the URL option `ca`";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(roots)
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match certificates {
        Ok(none) if none.is_empty() => {
            Err(invalid("there is no certificate in the file of the URL option `ca` or `cert`", Some(path)))
        }
        Ok(some) => Ok(some),
        Err(e) => Err(unreadable(option, path, e)),
    }
}

fn unreadable(option: &str, path: &Path, e: impl fmt::Display) -> Error {
    // Without the source: a parser may repeat what it has read, which may be a key.
    let _not_shown = e;
    invalid(&format!("the file of the URL option `{option}` cannot be read as PEM"), Some(path))
}

fn invalid(text: &str, path: Option<&Path>) -> Error {
    let path = path.map(|path| format!(" path=`{}`", path.display())).unwrap_or_default();
    Error::invalid(format!("{text}{path}"))
}

/// Accepts every certificate, but checks that the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
