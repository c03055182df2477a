//! The links of workers: one proxy for each worker and server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use leasehold_faultproxy::{ArmedTrap, ConnId, End, Faults, Flow, PortState, Proxy, To, Trap, Which};
use leasehold_testbed::Links;

use crate::random::Random;
use crate::target::Running;
use crate::target::process::Process;

/// The faults of a link. Those of hints hit only the connection that receives them.
pub(super) const FAULTS: [&str; 8] = [
    "link black-hole",
    "hints silent",
    "link reset",
    "link lose replies",
    "link down",
    "hints reset",
    "link delay",
    "link cut",
];

/// Returns the faults for clients that do not listen.
pub(super) fn without_hints() -> impl Iterator<Item = &'static str> {
    FAULTS.into_iter().filter(|fault| !fault.starts_with("hints"))
}

/// The address that a worker connects to instead of the servers.
pub(super) struct Linked {
    url: String,
    proxies: Vec<(Proxy, Link)>,
}

impl Linked {
    pub(super) async fn new(url: &str, how: Links) -> io::Result<Self> {
        let mut linked = Self { url: url.to_owned(), proxies: Vec::new() };
        for host in hosts(url) {
            let server = host.parse::<std::net::SocketAddr>().map_err(io::Error::other)?;
            let proxy = Proxy::start(server).await?;
            linked.url = linked.url.replacen(&host, &proxy.addr().to_string(), 1);
            let faults = proxy.faults();
            let listens = how.listen.map(|bytes| faults.arm(Trap::on_request(bytes).times(u64::MAX)));
            linked.proxies.push((proxy, Link { faults, listens: listens.map(Arc::new), call: how.call }));
        }
        Ok(linked)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn links(&self) -> Vec<Link> {
        self.proxies.iter().map(|(_, link)| link.clone()).collect()
    }

    /// Keeps the links for as long as the worker runs.
    pub(super) fn running(self, process: Process) -> impl Running {
        Worker { process, _linked: self }
    }
}

struct Worker {
    process: Process,
    _linked: Linked,
}

impl Running for Worker {
    fn kill(&mut self) {
        self.process.kill();
    }

    fn stop(&mut self) {
        self.process.stop();
    }

    fn go_on(&mut self) {
        self.process.go_on();
    }

    fn finish(&mut self, within: Duration) -> bool {
        self.process.finish(within)
    }
}

/// One link. After its worker has ended, faults have no effect.
#[derive(Clone)]
pub(super) struct Link {
    faults: Faults,
    /// The trap that detects the connection that listens to hints.
    listens: Option<Arc<ArmedTrap>>,
    call: &'static str,
}

impl Link {
    /// Breaks the link, and returns the function that repairs it. Other armed traps stay as they are.
    pub(super) fn inject(&self, fault: &str, ttl: Duration, random: &mut Random) -> io::Result<Repair> {
        let faults = self.faults.clone();
        let pass = |faults: Faults, which| -> Repair {
            Box::new(move || {
                faults.flow_both(which, Flow::Pass);
                Ok(())
            })
        };
        let listener = self.listens.as_ref().and_then(|trap| trap.count().passed_on).map(Which::One);
        match fault {
            "link black-hole" => faults.flow_both(Which::All, Flow::BlackHole),
            "link delay" => {
                faults.flow_both(Which::All, Flow::Delay { by: ttl / 20, jitter: ttl / 8 });
            }
            "link reset" => faults.end(Which::Open, End::Reset),
            "link cut" => {
                // In the middle of an answer.
                let bytes = 1 + random.below(400);
                faults.cut_after(Which::Open, To::Client, bytes, End::Reset);
                return Ok(Box::new(move || {
                    faults.cut_after(Which::Open, To::Client, u64::MAX, End::Reset);
                    Ok(())
                }));
            }
            "link down" => {
                faults.port(PortState::Closed)?;
                faults.end(Which::Open, End::Reset);
                return Ok(Box::new(move || faults.port(PortState::Open)));
            }
            "link lose replies" => {
                let trap = Trap::on_request(self.call).cut_reply(End::Reset).times(1 + random.below(5));
                let trap = faults.arm(trap).id();
                return Ok(Box::new(move || {
                    faults.disarm(trap);
                    Ok(())
                }));
            }
            "hints silent" => {
                let listener = listener.unwrap_or(Which::One(ConnId::new(0)));
                faults.flow_both(listener, Flow::BlackHole);
                return Ok(pass(faults, listener));
            }
            "hints reset" => {
                if let Some(listener) = listener {
                    faults.end(listener, End::Reset);
                }
            }
            _ => return Err(io::Error::other(format!("no such fault: {fault}"))),
        }
        Ok(pass(faults, Which::All))
    }
}

/// A function that ends a fault of a link.
pub(super) type Repair = Box<dyn FnOnce() -> io::Result<()>>;

/// Returns the servers that a URL names, as `host:port`.
pub(super) fn hosts(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    hosts.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::hosts;

    #[test]
    fn the_hosts_of_a_url() {
        assert_eq!(hosts("redis://127.0.0.1:1/0"), ["127.0.0.1:1"]);
        assert_eq!(hosts("postgres://u@127.0.0.1:1,127.0.0.1:2/d?a=b"), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(hosts("redis+quorum://:s@127.0.0.1:1,127.0.0.1:2?a=b"), ["127.0.0.1:1", "127.0.0.1:2"]);
    }
}
