//! Certificates for the servers and their clients, made with `openssl`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::ask;
use crate::error::Context as _;
use crate::scratch::Scratch;
use crate::{Result, install};

/// A certificate authority and its certificates: for a server on `localhost`, `127.0.0.1` and
/// `db.locks.test`, and for a client. There are also certificates that must not be trusted: expired, for another host, self-signed,
/// and signed by another authority.
#[derive(Clone, Debug)]
pub struct Tls {
    directory: PathBuf,
}

impl Tls {
    /// Makes the certificates in a directory of `scratch`, or reuses existing ones.
    ///
    /// # Errors
    ///
    /// If `openssl` is not installed, or fails.
    pub fn in_scratch(scratch: &Scratch) -> Result<Self> {
        let directory = scratch.path().join("tls");
        let tls = Self { directory };
        if !tls.directory.exists() {
            std::fs::create_dir(&tls.directory).context("cannot make a directory")?;
            tls.make()?;
        }
        Ok(tls)
    }

    /// Returns the authority's certificate, which clients trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Returns the server's certificate.
    #[must_use]
    pub fn server_cert(&self) -> PathBuf {
        self.cert("server")
    }

    /// Returns the server's key. All users of this machine may read it, because servers run as several
    /// users.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.key("server")
    }

    /// Returns the client's certificate, which is for the user `leasehold`.
    #[must_use]
    pub fn client_cert(&self) -> PathBuf {
        self.cert("client")
    }

    /// Returns the client's key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.key("client")
    }

    /// Returns a file with the server's certificate and key, as MongoDB requires.
    #[must_use]
    pub fn server_pem(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// Returns a file with the client's certificate and key, as drivers of MongoDB require.
    #[must_use]
    pub fn client_pem(&self) -> PathBuf {
        self.directory.join("client.pem")
    }

    /// Replaces the server's certificate by an expired one, for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_expired(&self) -> Result<()> {
        self.use_for_server("expired")
    }

    /// Replaces the server's certificate by one for another host, for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_wrong_host(&self) -> Result<()> {
        self.use_for_server("wronghost")
    }

    /// Replaces the server's certificate by a self-signed one, for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_self_signed(&self) -> Result<()> {
        self.use_for_server("selfsigned")
    }

    /// Replaces the server's certificate by one of another authority, for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_unknown_authority(&self) -> Result<()> {
        self.use_for_server("unknown")
    }

    /// Restores the server's original certificate, for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_trusted(&self) -> Result<()> {
        self.use_for_server("trusted")
    }

    /// Returns the certificate of another authority, which no server or client should trust.
    #[must_use]
    pub fn other_ca(&self) -> PathBuf {
        self.cert("otherca")
    }

    /// Returns a certificate for the user `leasehold` that another authority has signed. Its key is the
    /// client's.
    #[must_use]
    pub fn stranger_cert(&self) -> PathBuf {
        self.cert("stranger")
    }

    fn use_for_server(&self, name: &str) -> Result<()> {
        std::fs::copy(self.cert(name), self.server_cert()).context("cannot copy a certificate")?;
        self.join_server()
    }

    fn cert(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.crt"))
    }

    fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    fn make(&self) -> Result<()> {
        self.make_authority("ca", "leasehold test authority")?;
        self.make_authority("otherca", "another authority")?;
        self.make_key("server")?;
        self.make_key("client")?;
        let here = "DNS:localhost,DNS:db.locks.test,IP:127.0.0.1";
        self.sign("trusted", "server", "localhost", here, "30", "ca")?;
        self.sign("client", "client", "leasehold", "DNS:leasehold", "30", "ca")?;
        // All use the same key, so that only the certificate differs.
        self.sign("expired", "server", "localhost", here, "-1", "ca")?;
        self.sign("wronghost", "server", "elsewhere.example", "DNS:elsewhere.example", "30", "ca")?;
        self.sign("unknown", "server", "localhost", here, "30", "otherca")?;
        self.sign("stranger", "client", "leasehold", "DNS:leasehold", "30", "otherca")?;
        self.openssl(&[
            &["req", "-x509", "-subj", "/CN=localhost", "-days", "30", "-key", "server.key"],
            &["-out", "selfsigned.crt", "-addext", &format!("subjectAltName={here}")],
        ])?;
        join(&self.client_cert(), &self.client_key(), &self.client_pem())?;
        self.use_trusted()
    }

    fn make_authority(&self, name: &str, subject: &str) -> Result<()> {
        self.make_key(name)?;
        let (subject, key, cert) = (format!("/CN={subject}"), format!("{name}.key"), format!("{name}.crt"));
        self.openssl(&[
            &["req", "-x509", "-subj", &subject, "-days", "30", "-key", &key, "-out", &cert],
            &["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign,cRLSign"],
        ])
    }

    fn make_key(&self, name: &str) -> Result<()> {
        let file = format!("{name}.key");
        self.openssl(&[&["ecparam", "-name", CURVE, "-genkey", "-noout", "-out", &file]])?;
        std::fs::set_permissions(self.key(name), Permissions::from_mode(0o644)).context("cannot share a key")
    }

    fn sign(
        &self,
        name: &str,
        key: &str,
        subject: &str,
        names: &str,
        days: &str,
        authority: &str,
    ) -> Result<()> {
        let (key, request, cert) = (format!("{key}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={subject}");
        self.openssl(&[&["req", "-new", "-subj", &subject, "-key", &key, "-out", &request]])?;
        let extensions = format!("{name}.ext");
        let text = format!(
            "subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"
        );
        std::fs::write(self.directory.join(&extensions), text).context("cannot write a file")?;
        let (ca, ca_key) = (format!("{authority}.crt"), format!("{authority}.key"));
        self.openssl(&[
            &["x509", "-req", "-in", &request, "-out", &cert, "-days", days],
            &["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-extfile", &extensions],
        ])
    }

    fn join_server(&self) -> Result<()> {
        join(&self.server_cert(), &self.server_key(), &self.server_pem())
    }

    fn openssl(&self, args: &[&[&str]]) -> Result<()> {
        let mut command = Command::new(install::program("openssl")?);
        ask(command.args(args.concat()).current_dir(&self.directory)).map(drop)
    }
}

/// Writes a certificate and its key into one file.
fn join(cert: &Path, key: &Path, both: &Path) -> Result<()> {
    let read = |path: &Path| std::fs::read_to_string(path).context("cannot read a certificate");
    std::fs::write(both, read(cert)? + &read(key)?).context("cannot write a certificate")
}

const CURVE: &str = "prime256v1";
