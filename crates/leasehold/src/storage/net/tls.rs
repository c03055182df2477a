//! TLS to a server, with the same rules for every storage.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::DEFAULT_VERSIONS;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, Result};

/// The servers to trust, and the client's own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// A PEM file of the authorities to trust, instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// A PEM file of the client's certificate, for a server that requests one.
    pub(crate) cert: Option<PathBuf>,
    /// A PEM file of its key.
    pub(crate) key: Option<PathBuf>,
    /// Whether every server is trusted, so that any machine can take its place.
    pub(crate) insecure: bool,
}

impl Tls {
    /// The URL options that this reads.
    pub(crate) const OPTIONS: [&str; 4] = ["ca", "cert", "key", "insecure"];

    /// Reads the files.
    pub(crate) fn connector(&self) -> Result<TlsConnector> {
        let verifier: Arc<dyn ServerCertVerifier> = if self.insecure {
            Arc::new(AnyCertificate::new())
        } else {
            let roots = roots("ca", self.ca.as_deref())?;
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|e| invalid("the authorities to trust cannot be used", None).with_source(e))?
        };
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((("cert", cert.as_path()), ("key", key.as_path()))),
            _ => return Err(invalid("a client certificate needs both options, `cert` and `key`", None)),
        };
        Ok(TlsConnector::from(Arc::new(client(DEFAULT_VERSIONS, verifier, identity)?)))
    }
}

/// The URL option that names a file, and the file.
pub(crate) type Named<'a> = (&'a str, &'a Path);

/// Returns the configuration of a client. Its `identity`, a certificate and its key, is for a server that requests one.
pub(crate) fn client(
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<(Named<'_>, Named<'_>)>,
) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|e| invalid("TLS cannot be set up here", None).with_source(e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((cert, (option, key))) = identity else { return Ok(builder.with_no_client_auth()) };
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(option, key, e))?;
    builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(|e| {
        invalid("the certificate and the key of the URL do not fit each other", Some(key)).with_source(e)
    })
}

/// Returns the cryptography of `ring`, whatever the rest of the process uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the authorities to trust: those of the file, or else the system's. `option` is the URL option for the file.
pub(crate) fn roots(option: &str, ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates((option, ca))? {
            roots.add(certificate).map_err(|e| unreadable(option, ca, e))?;
        }
        return Ok(roots);
    }
    let system = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(system.certs);
    if added == 0 {
        let text = format!("this machine has no authority to trust; name one with the URL option `{option}`");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(roots)
}

/// Reads the certificates of a file, which must contain at least one.
pub(crate) fn certificates((option, path): Named<'_>) -> Result<Vec<CertificateDer<'static>>> {
    let certificates =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match certificates {
        Ok(none) if none.is_empty() => {
            let text = format!("there is no certificate in the file of the URL option `{option}`");
            Err(invalid(&text, Some(path)))
        }
        Ok(some) => Ok(some),
        Err(e) => Err(unreadable(option, path, e)),
    }
}

fn unreadable(option: &str, path: &Path, e: impl fmt::Display) -> Error {
    // The error has no source: a parser may repeat what it has read, which may be a key.
    let _not_shown = e;
    invalid(&format!("the file of the URL option `{option}` cannot be read as PEM"), Some(path))
}

fn invalid(text: &str, path: Option<&Path>) -> Error {
    let path = path.map(|path| format!(" path=`{}`", path.display())).unwrap_or_default();
    Error::invalid(format!("{text}{path}"))
}

/// A verifier that accepts every certificate, and checks only that the server has its key.
#[derive(Debug)]
pub(crate) struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    pub(crate) fn new() -> Self {
        Self(provider())
    }
}

impl ServerCertVerifier for AnyCertificate {
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
