//! A proxy in front of a real Redis. It changes replies according to rules.

pub mod hostile;
mod lane;
mod rule;
pub mod states;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use self::lane::Lane;
pub use self::rule::{Armed, Rule};
use super::{Address, Redis};
use crate::error::Context as _;
use crate::ports::Port;
use crate::wait::until;
use crate::{Error, Result};

/// A proxy in front of a [`Redis`] that understands the protocol. It counts requests by command, and changes those that
/// match a [`Rule`]. Without rules a client cannot distinguish it from the server. It supports neither TLS nor set-ups
/// that report their own addresses: Sentinels, a Cluster.
pub struct RedisProxy {
    /// The address of the server, with another port.
    address: Address,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

/// What all connections share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Armed>,
    counts: BTreeMap<String, u64>,
    lanes: Vec<Weak<Lane>>,
    ended: bool,
}

impl RedisProxy {
    /// Starts a proxy in front of a server.
    ///
    /// # Errors
    ///
    /// If the server uses TLS, or there is no free port.
    pub fn before(redis: &Redis) -> Result<Self> {
        if redis.tls().is_some() {
            return Err(Error::new("the proxy does not speak TLS; start the Redis without"));
        }
        let port = Port::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).context("cannot listen")?;
        let shared = Arc::<Shared>::default();
        let (server, clients) = (redis.port(), Arc::clone(&shared));
        let listener = std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                if clients.state().ended {
                    return;
                }
                // A server that is down refuses connections. A proxy can only close them.
                let Ok(lane) = lane::start(client, server, &clients) else { continue };
                let mut state = clients.state();
                state.lanes.retain(|lane| lane.strong_count() > 0);
                state.lanes.push(Arc::downgrade(&lane));
            }
        });
        let address = Address { port: port.into(), socket: None, ..redis.address.clone() };
        Ok(Self { address, shared, listener: Some(listener) })
    }

    /// Returns the URL of the server, with the port of the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port.number()
    }

    /// Sends a command through `redis-cli` and the proxy.
    ///
    /// # Errors
    ///
    /// If it is refused, or not answered for ten seconds.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.address.command(args)
    }

    /// Adds a rule. If several match a request, the first one applies.
    pub fn add(&self, rule: Rule) -> Armed {
        let armed = Armed::new(rule);
        self.shared.state().rules.push(armed.clone());
        armed
    }

    /// Ends all rules, and forwards what they hold.
    pub fn clear(&self) {
        let rules = std::mem::take(&mut self.shared.state().rules);
        rules.iter().for_each(Armed::end);
    }

    /// Returns the number of requests since the start, by command in lower case.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.state().counts.clone()
    }

    /// Returns the number of requests of one command since the start.
    #[must_use]
    pub fn count(&self, command: &str) -> u64 {
        self.shared.state().counts.get(command).copied().unwrap_or(0)
    }

    /// Waits until it has seen `n` requests of a command.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub fn await_count(&self, command: &str, n: u64) -> Result<()> {
        until("a request", || match self.count(command) {
            count if count >= n => Ok(()),
            count => Err(Error::new(format!("it has seen command=`{command}` count=`{count}`"))),
        })
    }

    /// Ends all connections. New ones are accepted.
    pub fn cut_all(&self) {
        let lanes = std::mem::take(&mut self.shared.state().lanes);
        lanes.iter().filter_map(Weak::upgrade).for_each(|lane| lane.end());
    }
}

impl fmt::Debug for RedisProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisProxy").field("port", &self.port()).field("counts", &self.counts()).finish()
    }
}

impl Drop for RedisProxy {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        // The listener ends with the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port()));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        self.clear();
        self.cut_all();
    }
}

impl Shared {
    /// Counts a request, and returns the rule that applies to it.
    fn take(&self, words: &[Vec<u8>]) -> Option<Armed> {
        let mut state = self.state();
        let name = words.first().map(|word| String::from_utf8_lossy(word).to_lowercase());
        *state.counts.entry(name.unwrap_or_default()).or_default() += 1;
        state.rules.iter().find(|rule| rule.takes(words)).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
