//! How an etcd is configured and started.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::Signal;

use super::{Access, Etcd, EtcdMember, Ports};
use crate::Result;
use crate::install::{self, User};
use crate::ports::retry_ports;
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;

/// The options of an [`Etcd`]. By default it needs no password, speaks plain HTTP/2, and keeps etcd's
/// timing: a new leader is elected after a second.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    password: Option<String>,
    tls: bool,
    client_certificates: bool,
    args: Vec<String>,
}

impl EtcdOptions {
    /// Sets the password of the user `root`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Requires TLS of clients.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Accepts only TLS with a client certificate: [`Tls::client_cert`], [`Tls::client_key`].
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    /// Adds an argument, such as `--quota-backend-bytes=1000000`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Starts one member.
    ///
    /// # Errors
    ///
    /// If etcd is not installed, or does not start.
    pub fn start(&self) -> Result<Etcd> {
        self.start_members(1)
    }

    /// Starts three members.
    ///
    /// # Errors
    ///
    /// If a member does not start.
    pub fn start_three(&self) -> Result<Etcd> {
        self.start_members(3)
    }

    fn start_members(&self, n: usize) -> Result<Etcd> {
        install::program("etcdctl")?;
        retry_ports(|| self.try_start(n))
    }

    fn try_start(&self, n: usize) -> Result<Etcd> {
        let scratch = Scratch::new()?;
        let tls = if self.tls { Some(Tls::in_scratch(&scratch)?) } else { None };
        let access = Access { password: self.password.clone(), tls };
        let ports = (0..n).map(|_| Ports::free().map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let names: Vec<_> = (0..n).map(|i| format!("member-{i}")).collect();
        let cluster = cluster(names.iter().zip(&ports));
        let members = names.iter().zip(ports).map(|(name, ports)| {
            let member = self.prepare(&scratch, name, &cluster, ports, &access, &[])?;
            // A member answers only once most members run, so this does not wait.
            member.launch()?;
            Ok(member)
        });
        let members = members.collect::<Result<_>>()?;
        let etcd = Etcd { members, access, options: self.clone(), scratch };
        if let Some(password) = &self.password {
            etcd.protect(password)?;
        }
        for member in &etcd.members {
            member.await_ready()?;
        }
        Ok(etcd)
    }

    /// Prepares a member, which [`Server::launch`] starts.
    pub(super) fn prepare(
        &self,
        scratch: &Scratch,
        name: &str,
        cluster: &str,
        ports: Arc<Ports>,
        access: &Access,
        more: &[&str],
    ) -> Result<EtcdMember> {
        let args = self.args(name, cluster, &ports, access).into_iter();
        let program = Program {
            name: "etcd",
            args: args.chain(more.iter().map(|&arg| arg.to_owned())).map(Into::into).collect(),
            user: User::Own,
            env: Vec::new(),
            stale: Vec::new(),
            terminate: Signal::TERM,
            directory: scratch.directory(name, &User::Own)?,
        };
        let (asked, port) = (access.clone(), ports.client.number());
        let ready = move || asked.command(&[port], &["endpoint", "health"]).map(drop);
        let server = Server::prepare(scratch, program, ready);
        Ok(EtcdMember { name: name.to_owned(), server, ports, access: access.clone() })
    }

    fn args(&self, name: &str, cluster: &str, ports: &Ports, access: &Access) -> Vec<String> {
        let client = format!("{}://127.0.0.1:{}", access.scheme(), ports.client.number());
        let mut args = vec![
            format!("--name={name}"),
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={}", ports.peer_url()),
            format!("--initial-advertise-peer-urls={}", ports.peer_url()),
            format!("--initial-cluster={cluster}"),
            format!("--listen-metrics-urls=http://127.0.0.1:{}", ports.metrics.number()),
            "--logger=zap".to_owned(),
            // The gateway is a client itself, which would be counted.
            "--enable-grpc-gateway=false".to_owned(),
        ];
        if let Some(tls) = &access.tls {
            args.push(format!("--cert-file={}", tls.server_cert().display()));
            args.push(format!("--key-file={}", tls.server_key().display()));
            if self.client_certificates {
                args.push("--client-cert-auth".to_owned());
                args.push(format!("--trusted-ca-file={}", tls.ca().display()));
            }
        }
        args.extend(self.args.iter().cloned());
        args
    }
}

impl Etcd {
    /// Sets the password, which requires a running server.
    fn protect(&self, password: &str) -> Result<()> {
        let ports: Vec<_> = self.members.iter().map(EtcdMember::port).collect();
        let open = Access { password: None, tls: self.access.tls.clone() };
        until("etcd to answer", || match self.members.iter().find(|member| !member.is_running()) {
            // `await_ready` reports this error together with the log.
            Some(_) => Ok(String::new()),
            None => open.command(&ports, &["endpoint", "health"]),
        })?;
        if let Some(ended) = self.members.iter().find(|member| !member.is_running()) {
            return ended.await_ready();
        }
        open.command(&ports, &["user", "add", &format!("root:{password}")])?;
        open.command(&ports, &["user", "grant-role", "root", "root"])?;
        open.command(&ports, &["auth", "enable"]).map(drop)
    }
}

/// Returns the members of a cluster as etcd takes them, by their names.
pub(super) fn cluster<'a>(members: impl Iterator<Item = (&'a String, &'a Arc<Ports>)>) -> String {
    let members: Vec<_> = members.map(|(name, ports)| format!("{name}={}", ports.peer_url())).collect();
    members.join(",")
}

/// Returns the directory in which a member keeps its data.
pub(super) fn data(scratch: &Scratch, member: &EtcdMember) -> PathBuf {
    scratch.path().join(&member.name).join("data")
}
