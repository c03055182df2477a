//! etcd: one member, or three.

mod changes;
mod faults;
mod lock;
mod options;
mod setups;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::Arc;

pub use self::changes::Backup;
pub use self::lock::EtcdctlLock;
pub use self::options::EtcdOptions;
pub(crate) use self::setups::SETUPS;
use crate::client::ask;
use crate::error::Context as _;
use crate::install;
use crate::ports::Port;
use crate::process::Server;
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result, count};

/// An etcd of one or three members. Every write is on disk before it is answered.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<EtcdMember>,
    access: Access,
    options: EtcdOptions,
    scratch: Scratch,
}

/// One member. Dereferences to its [`Server`].
#[derive(Debug)]
pub struct EtcdMember {
    name: String,
    server: Server,
    ports: Arc<Ports>,
    access: Access,
}

impl Etcd {
    /// Starts one member with the default options.
    ///
    /// # Errors
    ///
    /// If etcd is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Returns the default options.
    #[must_use]
    pub fn options() -> EtcdOptions {
        EtcdOptions::default()
    }

    /// Returns its URL, with every member: `etcd://`, or `etcds://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.port())).collect();
        let scheme = if self.access.tls.is_some() { "etcds" } else { "etcd" };
        let credentials = match &self.access.password {
            Some(password) => format!("root:{password}@"),
            None => String::new(),
        };
        format!("{scheme}://{credentials}{}", hosts.join(","))
    }

    /// Returns the port of the first member.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.members[0].port()
    }

    /// Returns the certificates, if it uses TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.access.tls.as_ref()
    }

    /// Returns the members.
    #[must_use]
    pub fn members(&self) -> &[EtcdMember] {
        &self.members
    }

    /// Sends one command through `etcdctl` to any member that answers.
    ///
    /// # Errors
    ///
    /// If it is refused, or no member answers.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let ports: Vec<_> = self.members.iter().map(EtcdMember::port).collect();
        self.access.command(&ports, args)
    }

    /// Sends a transaction, in the form in which `etcdctl txn` reads it. Returns whether its compares held.
    ///
    /// # Errors
    ///
    /// If it is refused, or no member answers.
    pub fn transaction(&self, text: &str) -> Result<bool> {
        let ports: Vec<_> = self.members.iter().map(EtcdMember::port).collect();
        let mut command = self.access.etcdctl(&ports)?;
        let command = command.arg("txn").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("cannot start etcdctl")?;
        let mut stdin = process.stdin.take().ok_or_else(|| Error::new("etcdctl has no input"))?;
        stdin.write_all(text.as_bytes()).context("cannot write to etcdctl")?;
        drop(stdin);
        let output = process.wait_with_output().context("etcdctl does not end")?;
        match String::from_utf8_lossy(&output.stdout).lines().next() {
            Some("SUCCESS") => Ok(true),
            Some("FAILURE") => Ok(false),
            _ => Err(Error::new(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// Runs `etcdctl lock`, which waits for the lock, and holds it until it is released.
    ///
    /// # Errors
    ///
    /// If `etcdctl` does not start.
    pub fn lock(&self, name: &str, ttl: u32) -> Result<EtcdctlLock> {
        let ports: Vec<_> = self.members.iter().map(EtcdMember::port).collect();
        EtcdctlLock::start(self.access.etcdctl(&ports)?.args(["lock", "--ttl", &ttl.to_string(), name]))
    }

    /// Counts the connections of clients to all members.
    ///
    /// # Errors
    ///
    /// If the kernel does not report them.
    pub fn connections(&self) -> Result<u64> {
        self.members.iter().map(EtcdMember::connections).sum()
    }

    /// Counts the calls of all members since they started.
    ///
    /// # Errors
    ///
    /// If a member does not report them.
    pub fn commands(&self) -> Result<u64> {
        self.members.iter().map(EtcdMember::commands).sum()
    }

    /// Counts the open watches of all members.
    ///
    /// # Errors
    ///
    /// If a member does not report them.
    pub fn watchers(&self) -> Result<u64> {
        self.members.iter().map(|member| member.metric("etcd_debugging_mvcc_watcher_total")).sum()
    }

    /// Waits until there is a leader, and returns it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn leader(&self) -> Result<&EtcdMember> {
        until("a leader", || {
            let leader = self.members.iter().find(|member| member.leads());
            leader.ok_or_else(|| Error::new("no member leads"))
        })
    }

    /// Makes another member the leader, and returns it.
    ///
    /// # Errors
    ///
    /// If no other member becomes the leader.
    pub fn failover(&self) -> Result<&EtcdMember> {
        let old = self.leader()?;
        // On a loaded machine a member may answer too late, or the old leader may lose an election
        // meanwhile.
        until("the leader to hand over", || {
            if !old.leads() {
                return Ok(());
            }
            let other = self.members.iter().find(|member| member.port() != old.port() && member.is_running());
            let other = other.ok_or_else(|| Error::new("there is no other member to lead"))?;
            let id = format!("{:x}", other.status()?.member);
            old.command(&["move-leader", &id]).map(drop)
        })?;
        self.await_leader_other_than(old)
    }

    /// Waits until another member leads, for example after the leader was killed.
    ///
    /// # Errors
    ///
    /// If no other member becomes the leader.
    pub fn await_leader_other_than(&self, old: &EtcdMember) -> Result<&EtcdMember> {
        until("another leader", || {
            let leader = self.members.iter().find(|member| member.port() != old.port() && member.leads());
            leader.ok_or_else(|| Error::new("no other member leads"))
        })
    }
}

/// A cluster of one member can be used as that member's server.
impl Deref for Etcd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.members[0].server
    }
}

impl EtcdMember {
    /// Returns the port of its clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.client.number()
    }

    /// Sends one command through `etcdctl` to this member.
    ///
    /// # Errors
    ///
    /// If it is refused, or the member does not answer.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.access.command(&[self.port()], args)
    }

    /// Counts the connections of its clients.
    ///
    /// # Errors
    ///
    /// If the kernel does not report them.
    pub fn connections(&self) -> Result<u64> {
        count::connections(self.port())
    }

    /// Counts the calls since its start. An open watch or lease counts as one.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn commands(&self) -> Result<u64> {
        Ok(self.command_counts()?.values().sum())
    }

    /// Counts the calls since its start by method, such as `Txn`.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn command_counts(&self) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for line in count::metrics(self.ports.metrics.number())?.lines() {
            let Some(line) = line.strip_prefix("grpc_server_started_total{") else { continue };
            let method = line.split_once("grpc_method=\"").and_then(|(_, rest)| rest.split_once('"'));
            let calls = line.rsplit_once(' ').and_then(|(_, calls)| calls.parse().ok());
            if let (Some((method, _)), Some(calls @ 1..)) = (method, calls) {
                *counts.entry(method.to_owned()).or_default() += calls;
            }
        }
        Ok(counts)
    }

    /// Returns a whole number that it measures.
    fn metric(&self, name: &str) -> Result<u64> {
        let metrics = count::metrics(self.ports.metrics.number())?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .ok_or_else(|| Error::new(format!("no metric name=`{name}`")))
    }

    fn leads(&self) -> bool {
        // A member that is down cannot be the leader, and a request to it would take two seconds.
        self.is_running() && self.status().is_ok_and(|status| status.leader == status.member)
    }

    fn status(&self) -> Result<Status> {
        let fields = self.command(&["endpoint", "status", "--write-out=fields"])?;
        let field = |name: &str| {
            let value = fields.lines().find_map(|line| line.strip_prefix(name)?.split_once(" : "));
            let value = value.and_then(|(_, value)| value.trim().parse::<u64>().ok());
            value.ok_or_else(|| Error::new(format!("the member does not tell its state field=`{name}`")))
        };
        Ok(Status { member: field("\"MemberID\"")?, leader: field("\"Leader\"")? })
    }
}

struct Status {
    member: u64,
    leader: u64,
}

impl Deref for EtcdMember {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The ports of one member.
#[derive(Debug)]
struct Ports {
    client: Port,
    peer: Port,
    metrics: Port,
}

impl Ports {
    fn free() -> Result<Self> {
        Ok(Self { client: Port::free()?, peer: Port::free()?, metrics: Port::free()? })
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer.number())
    }
}

/// How clients authenticate.
#[derive(Clone, Debug)]
struct Access {
    password: Option<String>,
    tls: Option<Tls>,
}

impl Access {
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn command(&self, ports: &[u16], args: &[&str]) -> Result<String> {
        ask(self.etcdctl(ports)?.args(args))
    }

    fn etcdctl(&self, ports: &[u16]) -> Result<Command> {
        let endpoints: Vec<_> =
            ports.iter().map(|port| format!("{}://127.0.0.1:{port}", self.scheme())).collect();
        let mut command = Command::new(install::program("etcdctl")?);
        command
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoints.join(","))
            .env("ETCDCTL_COMMAND_TIMEOUT", "5s");
        if let Some(password) = &self.password {
            command.env("ETCDCTL_USER", format!("root:{password}"));
        }
        if let Some(tls) = &self.tls {
            command
                .env("ETCDCTL_CACERT", tls.ca())
                .env("ETCDCTL_CERT", tls.client_cert())
                .env("ETCDCTL_KEY", tls.client_key());
        }
        Ok(command)
    }
}
