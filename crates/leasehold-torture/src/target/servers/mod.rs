//! Servers of the testbed: started for the run, then killed, stopped and failed over. Workers reach them
//! through links that can be broken.

mod links;

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leasehold::Locks;
use leasehold::storage::Tier;
use leasehold_defects::Place;
use leasehold_testbed::{Damage, Faults, Server, Setup, Wanted, registry};
use tokio::runtime::Runtime;

use self::links::{Link, Linked};
use super::process::Process;
use super::{Heal, Injection, Running, Target, Under};
use crate::clock::nanos;
use crate::random::Random;
use crate::worker::Plan;

/// A setup of the testbed, `testbed:NAME` with the options of its storage:
/// `testbed:redis-sentinel?failover_grace=5s`.
pub struct ServersTarget {
    under: Under,
    setup: Box<dyn Setup>,
    /// The URL of the servers, without proxies.
    url: String,
    grace: Duration,
    /// The key prefix of the locks, if the URL has one.
    prefix: Option<String>,
    /// The number of connections before the run.
    connections: u64,
    links: Mutex<HashMap<i64, Vec<Link>>>,
    runtime: Runtime,
}

impl ServersTarget {
    /// Starts the servers.
    ///
    /// # Errors
    ///
    /// If there is no such setup, or it does not start.
    pub fn new(under: Under) -> io::Result<Self> {
        let name = under.url.strip_prefix("testbed:").unwrap_or(&under.url);
        let (name, options) = name.split_once('?').unwrap_or((name, ""));
        let setup = registry::start(name, &Wanted::default()).map_err(io::Error::other)?;
        if setup.faults().is_none() {
            return Err(io::Error::other(format!("this setup cannot be tortured: {name}")));
        }
        let mut url = setup.url();
        if !options.is_empty() {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(options);
        }
        let option = |name| options.split('&').find_map(|option| option.strip_prefix(name));
        let grace = option("failover_grace=").map(duration).transpose()?.unwrap_or_default();
        let prefix = option("prefix=").map(str::to_owned);
        let connections = setup.connections().map_err(io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { under, setup, url, grace, prefix, connections, links: Mutex::default(), runtime })
    }

    fn servers(&self) -> &dyn Faults {
        self.setup.faults().expect("BUG: a setup without faults")
    }

    fn links(&self) -> MutexGuard<'_, HashMap<i64, Vec<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks the links of one worker or of all. With several servers, it breaks those to every server or,
    /// equally often, to one of them.
    fn break_links(&self, injection: &Injection<'_>, random: &mut Random) -> io::Result<Heal<'_>> {
        let links = self.links();
        let mut broken = Vec::new();
        let (some, which) = (random.percent(50), random.draw());
        for (_, links) in links.iter().filter(|(w, _)| injection.on.is_none_or(|on| on == **w)) {
            let n = u64::try_from(links.len()).unwrap_or(1);
            for (place, link) in (0..).zip(links) {
                if !some || place == which % n {
                    broken.push(link.clone());
                }
            }
        }
        let heals = broken.iter().map(|link| link.inject(injection.fault, self.under.ttl, random));
        let heals = heals.collect::<io::Result<Vec<_>>>()?;
        Ok(Box::new(move || heals.into_iter().try_for_each(|heal| heal())))
    }
}

impl std::fmt::Debug for ServersTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServersTarget").field("under", &self.under).finish_non_exhaustive()
    }
}

impl Target for ServersTarget {
    fn faults(&self) -> Vec<&'static str> {
        let mut faults = vec!["kill", "stop", "break"];
        faults.extend(self.servers().names());
        match self.servers().links() {
            Some(links) if links.listen.is_some() => faults.extend(links::FAULTS),
            Some(_) => faults.extend(links::without_hints()),
            None => {}
        }
        faults
    }

    fn reaches_one(&self, fault: &str) -> bool {
        // All other faults hit the servers, which all workers share.
        matches!(fault, "kill" | "stop") || links::FAULTS.contains(&fault)
    }

    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>> {
        let Some(links) = self.servers().links() else {
            return Ok(Box::new(Process::start(&self.under, &self.url, plan)?));
        };
        let linked = self.runtime.block_on(Linked::new(&self.url, links))?;
        self.links().insert(plan.w, linked.links());
        let process = Process::start(&self.under, linked.url(), plan)?;
        Ok(Box::new(linked.running(process)))
    }

    async fn operator(&self) -> leasehold::Result<Locks> {
        Locks::builder().ttl(self.under.ttl).connect(&self.url).await
    }

    fn inject(&self, injection: &Injection<'_>) -> io::Result<Heal<'_>> {
        let mut random = Random::new(nanos(injection.span));
        if links::FAULTS.contains(&injection.fault) {
            return self.break_links(injection, &mut random);
        }
        if let Some(defect) = self.under.defect.filter(|defect| defect.place() == Place::Server) {
            self.servers().plant(defect.name()).map_err(io::Error::other)?;
        }
        let servers = self.servers();
        let key = servers.key(self.prefix.as_deref(), injection.lock);
        let mut pick = |n| random.index(n);
        let (mut victims, mut ending) = (Vec::new(), None);
        match injection.fault.rsplit_once(' ') {
            Some((which, "kill")) => {
                victims = servers.hit(which, &key, &mut pick).map_err(io::Error::other)?;
                victims.iter().for_each(|server| server.kill9());
                servers.after_kill(which).map_err(io::Error::other)?;
            }
            Some((which, "restart")) => {
                let hit = servers.hit(which, &key, &mut pick).map_err(io::Error::other)?;
                hit.into_iter().try_for_each(Server::restart).map_err(io::Error::other)?;
            }
            Some((which, "stop")) => {
                let hit = servers.hit(which, &key, &mut pick).map_err(io::Error::other)?;
                hit.iter().for_each(|server| server.stop());
                return Ok(Box::new(move || {
                    hit.iter().for_each(|server| server.cont());
                    servers.await_whole().map_err(io::Error::other)
                }));
            }
            _ => ending = servers.inject(injection.fault, &key, &mut pick).map_err(io::Error::other)?,
        }
        Ok(Box::new(move || {
            ending.map_or(Ok(()), |end| end()).map_err(io::Error::other)?;
            victims.iter().try_for_each(|server| server.launch()).map_err(io::Error::other)?;
            servers.await_whole().map_err(io::Error::other)
        }))
    }

    fn needs(&self, fault: &str) -> Tier {
        match self.servers().damage(fault) {
            Damage::Restart => Tier::RestartSafe,
            Damage::Failover => Tier::FailoverSafe,
            _ => Tier::Advisory,
        }
    }

    fn refuses_after(&self, fault: &str) -> Duration {
        if self.servers().refuses(fault) {
            // Only as long as the fault lasts.
            return Duration::from_millis(1);
        }
        // A server that was only stopped is still the same one.
        let another =
            fault.starts_with("failover") || fault.ends_with(" kill") || fault.ends_with(" restart");
        if another || fault == "primary stop" { self.grace } else { Duration::ZERO }
    }

    fn left(&self) -> io::Result<Vec<String>> {
        let mut left = self.servers().left().map_err(io::Error::other)?;
        let now = self.setup.connections().map_err(io::Error::other)?;
        if now > self.connections {
            left.push(format!("{} connections more than before", now - self.connections));
        }
        Ok(left)
    }
}

/// Parses `5s` or `1500ms`.
fn duration(text: &str) -> io::Result<Duration> {
    let millis = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => millis.parse().ok(),
        (None, Some(seconds)) => seconds.parse::<u64>().ok().map(|seconds| seconds * 1_000),
        (None, None) => None,
    };
    let millis = millis.ok_or_else(|| io::Error::other(format!("not a duration, as in `5s`: `{text}`")))?;
    Ok(Duration::from_millis(millis))
}
