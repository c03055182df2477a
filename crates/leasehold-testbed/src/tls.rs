//! Certificates for the servers and their clients, made with `openssl`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::ask;
use crate::error::Context as _;
use crate::scratch::Scratch;
use crate::{Result, install};

/// Is a certificate authority, and what it signed: for a server on `localhost` and `127.0.0.1`, for a client, and
/// two for servers that nobody should trust: an expired one, and one for another host.
#[derive(Clone, Debug)]
pub struct Tls {
    directory: PathBuf,
}

impl Tls {
    /// Makes the certificates in a directory of `scratch`, or finds those that are there.
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

    /// Returns the server's key. Everybody on this machine may read it, since servers run as several users.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.key("server")
    }

    /// Returns the client's certificate; it is for the user `leasehold`.
    #[must_use]
    pub fn client_cert(&self) -> PathBuf {
        self.cert("client")
    }

    /// Returns the client's key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.key("client")
    }

    /// Returns a file with the server's certificate and its key, which is what MongoDB wants.
    #[must_use]
    pub fn server_pem(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// Makes the server's certificate one that has expired; for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_expired(&self) -> Result<()> {
        self.use_for_server("expired")
    }

    /// Makes the server's certificate one for another host; for servers that start from now on.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn use_wrong_host(&self) -> Result<()> {
        self.use_for_server("wronghost")
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
        self.make_key("ca")?;
        self.openssl(&[
            &["req", "-x509", "-subj", "/CN=leasehold test authority", "-days", "30"],
            &["-key", "ca.key", "-out", "ca.crt"],
            &["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign,cRLSign"],
        ])?;
        self.make_key("server")?;
        self.make_key("client")?;
        let here = "DNS:localhost,IP:127.0.0.1";
        self.sign("server", "server", "localhost", here, "30")?;
        self.sign("client", "client", "leasehold", "DNS:leasehold", "30")?;
        // The same key, so that only the certificate changes.
        self.sign("expired", "server", "localhost", here, "-1")?;
        self.sign("wronghost", "server", "elsewhere.example", "DNS:elsewhere.example", "30")?;
        self.join_server()
    }

    fn make_key(&self, name: &str) -> Result<()> {
        let file = format!("{name}.key");
        self.openssl(&[&["ecparam", "-name", CURVE, "-genkey", "-noout", "-out", &file]])?;
        std::fs::set_permissions(self.key(name), Permissions::from_mode(0o644)).context("cannot share a key")
    }

    fn sign(&self, name: &str, key: &str, subject: &str, names: &str, days: &str) -> Result<()> {
        let (key, request, cert) = (format!("{key}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={subject}");
        self.openssl(&[&["req", "-new", "-subj", &subject, "-key", &key, "-out", &request]])?;
        let extensions = format!("{name}.ext");
        let text = format!(
            "subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"
        );
        std::fs::write(self.directory.join(&extensions), text).context("cannot write a file")?;
        self.openssl(&[
            &["x509", "-req", "-in", &request, "-out", &cert, "-days", days],
            &["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extensions],
        ])
    }

    fn join_server(&self) -> Result<()> {
        let read = |path: &Path| std::fs::read_to_string(path).context("cannot read a certificate");
        let joined = read(&self.server_cert())? + &read(&self.server_key())?;
        std::fs::write(self.server_pem(), joined).context("cannot write a certificate")
    }

    fn openssl(&self, args: &[&[&str]]) -> Result<()> {
        let mut command = Command::new(install::program("openssl")?);
        ask(command.args(args.concat()).current_dir(&self.directory)).map(drop)
    }
}

const CURVE: &str = "prime256v1";
