//! A primary, a replica, and three Sentinels that promote the replica when two of them miss the primary.

use std::ops::Deref;

use rustix::process::Signal;

use super::{Address, MISSED_MS, Redis, RedisOptions};
use crate::install::User;
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::wait::until;
use crate::{Error, Result};

/// The name of the primary at the Sentinels.
const NAME: &str = "leasehold";

/// A primary with one replica, and three Sentinels with a quorum of two that miss a primary after two seconds.
#[derive(Debug)]
pub struct RedisSentinels {
    sentinels: Vec<Sentinel>,
    servers: Vec<Redis>,
}

/// One Sentinel. It has all methods of [`Server`].
#[derive(Debug)]
pub struct Sentinel {
    server: Server,
    address: Address,
}

impl RedisSentinels {
    /// Starts all five servers, and waits until they know each other.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Redis::options())
    }

    /// Starts all five with these options for the servers. The Sentinels have the same kind of TLS, and credentials of their
    /// own.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start_with(options: RedisOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let primary = options.clone().start_in(&scratch, "primary")?;
        let replicaof = format!("127.0.0.1 {}", primary.port());
        let replica = options.clone().setting("replicaof", &replicaof).start_in(&scratch, "replica")?;
        primary.await_replicas(1)?;
        let sentinels = (0..3)
            .map(|i| Sentinel::start(&scratch, &format!("sentinel-{i}"), &primary, &options))
            .collect::<Result<_>>()?;
        let all = Self { sentinels, servers: vec![primary, replica] };
        all.await_ready()?;
        Ok(all)
    }

    /// Returns the URL: `redis+sentinel://`, every Sentinel, the primary's name and the database, and as options the user
    /// and password of the Sentinels, if they require them.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.address.host()).collect();
        let tls = if self.servers[0].tls().is_some() { "s" } else { "" };
        let credentials = self.servers[0].address.credentials();
        let Address { user, password, .. } = &self.sentinels[0].address;
        let user = user.iter().map(|user| format!("sentinel_user={user}"));
        let options: Vec<_> =
            user.chain(password.iter().map(|password| format!("sentinel_password={password}"))).collect();
        let options = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("redis{tls}+sentinel://{credentials}{}/{NAME}/0{options}", hosts.join(","))
    }

    /// Returns the servers. At the start the first one is the primary.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// Returns the Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[Sentinel] {
        &self.sentinels
    }

    /// Returns the primary that a majority of the Sentinels reports.
    ///
    /// # Errors
    ///
    /// If they do not agree.
    pub fn primary(&self) -> Result<&Redis> {
        let seen: Vec<_> =
            self.sentinels.iter().filter_map(|sentinel| sentinel.primary_port().ok()).collect();
        let primary = self.servers.iter().find(|server| {
            seen.iter().filter(|port| **port == server.port()).count() * 2 > self.sentinels.len()
        });
        primary.ok_or_else(|| Error::new("the Sentinels do not agree on a primary"))
    }

    /// Requests a failover from a Sentinel, and waits until another server is the primary.
    ///
    /// # Errors
    ///
    /// If it does not happen.
    pub fn failover(&self) -> Result<&Redis> {
        let old = self.primary()?.port();
        // A Sentinel that still takes the replica for a primary would make it a replica again.
        until("the Sentinels to see that the replica is one", || {
            self.sentinels.iter().try_for_each(Sentinel::sees_replicas)
        })?;
        let leader = &self.sentinels[0];
        // A Sentinel gives up a failover that began before it had seen that the replica is healthy.
        until("the Sentinels to fail over", || {
            if leader.primary_port()? == old {
                leader.address.command(&["sentinel", "failover", NAME])?;
                return Err(Error::new("the Sentinel has begun"));
            }
            Ok(())
        })?;
        self.await_primary_other_than(old)
    }

    /// Waits until another server is the primary, for example after the old one was killed.
    ///
    /// # Errors
    ///
    /// If it does not happen.
    pub fn await_primary_other_than(&self, port: u16) -> Result<&Redis> {
        until("another primary", || {
            let primary = self.primary()?;
            if primary.port() == port || !primary.is_primary()? {
                return Err(Error::new("the primary is the old one"));
            }
            Ok(primary)
        })
    }

    /// Waits until each Sentinel knows the others and the replica, so that a failover can begin.
    fn await_ready(&self) -> Result<()> {
        until("the Sentinels to know each other", || {
            for sentinel in &self.sentinels {
                sentinel.address.command(&["sentinel", "ckquorum", NAME])?;
                let known = sentinel.address.command(&["sentinel", "master", NAME])?;
                let mut lines = known.lines();
                let mut field = |name| {
                    lines.find(|line| *line == name)?;
                    lines.next()?.parse::<usize>().ok()
                };
                let (replicas, others) = (field("num-slaves"), field("num-other-sentinels"));
                if replicas != Some(self.servers.len() - 1) || others != Some(self.sentinels.len() - 1) {
                    return Err(Error::new(format!("replicas=`{replicas:?}` other Sentinels=`{others:?}`")));
                }
            }
            Ok(())
        })
    }
}

impl Sentinel {
    fn start(scratch: &Scratch, name: &str, primary: &Redis, options: &RedisOptions) -> Result<Self> {
        let directory = scratch.directory(name, &User::Own)?;
        retry_ports(|| {
            let address = Address {
                port: Port::free()?.into(),
                socket: None,
                user: options.sentinel.user.clone(),
                password: options.sentinel.password.clone(),
                tls: primary.tls().cloned(),
            };
            let config = config(&directory.display().to_string(), &address, primary, options);
            let program = Program {
                name: options.program(),
                args: vec![
                    scratch.file(&format!("{name}.conf"), &config, &User::Own)?.into(),
                    "--sentinel".into(),
                ],
                user: User::Own,
                env: Vec::new(),
                stale: Vec::new(),
                terminate: Signal::TERM,
                directory: directory.clone(),
            };
            let asked = address.clone();
            let server = Server::start(scratch, program, move || asked.command(&["ping"]).map(drop))?;
            Ok(Self { server, address })
        })
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port.number()
    }

    /// Returns the port of the primary, according to this Sentinel.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn primary_port(&self) -> Result<u16> {
        let answer = self.address.command(&["sentinel", "get-master-addr-by-name", NAME])?;
        let port = answer.lines().nth(1).and_then(|line| line.parse().ok());
        port.ok_or_else(|| Error::new("the Sentinel knows no primary"))
    }

    /// Checks that the Sentinel sees each replica up and as a replica. One that does not answer is ignored.
    fn sees_replicas(&self) -> Result<()> {
        let Ok(answer) = self.address.command(&["sentinel", "replicas", NAME]) else { return Ok(()) };
        let lines: Vec<_> = answer.lines().collect();
        for (name, wanted) in [("flags", "slave"), ("role-reported", "slave"), ("master-link-status", "ok")] {
            for pair in lines.chunks(2).filter(|pair| pair[0] == name) {
                if pair.get(1) != Some(&wanted) {
                    return Err(Error::new(format!("a Sentinel sees {}", pair.join("="))));
                }
            }
        }
        Ok(())
    }
}

impl Deref for Sentinel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn config(directory: &str, address: &Address, primary: &Redis, options: &RedisOptions) -> String {
    let mut lines = options.listen(address);
    lines.push(format!("dir {directory}"));
    lines.push(format!("sentinel monitor {NAME} 127.0.0.1 {} 2", primary.port()));
    lines.push(format!("sentinel down-after-milliseconds {NAME} {MISSED_MS}"));
    lines.push(format!("sentinel failover-timeout {NAME} 3000"));
    lines.push(format!("sentinel parallel-syncs {NAME} 1"));
    let Address { user, password, .. } = &primary.address;
    lines.extend(user.iter().map(|user| format!("sentinel auth-user {NAME} {user}")));
    lines.extend(password.iter().map(|password| format!("sentinel auth-pass {NAME} {password}")));
    // The credentials for clients, and those with which it connects to the other Sentinels.
    match (&address.user, &address.password) {
        (Some(user), Some(password)) => lines.extend([
            "user default off".to_owned(),
            format!("user {user} on >{password} ~* &* +@all"),
            format!("sentinel sentinel-user {user}"),
            format!("sentinel sentinel-pass {password}"),
        ]),
        (None, Some(password)) => lines.push(format!("requirepass {password}")),
        _ => {}
    }
    lines.join("\n") + "\n"
}
