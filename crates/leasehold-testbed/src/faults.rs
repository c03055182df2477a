//! What a torture can do to a setup, and what that may do to locks.

use crate::{Error, Result, Server, Setup};

/// The faults of a setup, as a torture needs to know them.
pub trait Faults: Setup {
    /// Returns the names of its faults: `SERVERS kill`, `SERVERS stop` and `SERVERS restart` for servers that
    /// [`Faults::hit`] knows, and those of [`Faults::inject`]. Their order decides what a seed means.
    fn names(&self) -> Vec<&'static str>;

    /// Returns how to recognize its links, if clients find the servers by the URL alone. Only then can the
    /// network be cut.
    fn links(&self) -> Option<Links> {
        None
    }

    /// Returns the server's name for a lock. The prefix is that of the storage's URL, if it has one.
    fn key(&self, _prefix: Option<&str>, lock: &str) -> String {
        lock.to_owned()
    }

    /// Returns the servers that `which` means. If the setup has shards, `key` selects the one that is hit.
    ///
    /// # Errors
    ///
    /// If the setup has no such servers, or they cannot be found.
    fn hit(&self, which: &str, _key: &str, pick: Pick<'_>) -> Result<Vec<&Server>> {
        let all = self.servers();
        match which {
            "server" => Ok(vec![all[pick(all.len())]]),
            "every server" => Ok(all),
            _ => Err(no_such_servers(which)),
        }
    }

    /// Waits for the consequences of a kill before the servers are started again.
    ///
    /// # Errors
    ///
    /// If they do not appear.
    fn after_kill(&self, _which: &str) -> Result<()> {
        Ok(())
    }

    /// Injects a fault specific to this setup. A fault that hits one lock hits that of `key`. Returns the
    /// function that ends it, unless it ends by itself.
    ///
    /// # Errors
    ///
    /// If the setup has no such fault, or it cannot be injected.
    fn inject(&self, fault: &str, _key: &str, _pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => self.failover().map(|()| None),
            _ => Err(no_such_fault(fault)),
        }
    }

    /// Plants a defect of the servers, unless it is there already.
    ///
    /// # Errors
    ///
    /// If the setup has no such defect.
    fn plant(&self, defect: &str) -> Result<()> {
        Err(Error::new(format!("this setup has no such defect: {defect}")))
    }

    /// Waits until no effect of a fault is left.
    ///
    /// # Errors
    ///
    /// If an effect stays.
    fn await_whole(&self) -> Result<()> {
        self.await_ready()
    }

    /// Returns what a fault may do to the locks that the servers know.
    fn damage(&self, fault: &str) -> Damage {
        match fault.rsplit_once(' ') {
            _ if fault.starts_with("failover") => Damage::Failover,
            Some(("server" | "every server" | "primary", "kill" | "restart")) => Damage::Restart,
            Some(("backend", "crash")) => Damage::Restart,
            _ => Damage::None,
        }
    }

    /// Returns `true` if a fault prevents grants while it lasts, even of a free lock.
    fn refuses(&self, _fault: &str) -> bool {
        false
    }

    /// Lists what is left when no client is connected, except what keeps tokens growing.
    ///
    /// # Errors
    ///
    /// If a server does not answer.
    fn left(&self) -> Result<Vec<String>>;
}

/// What a fault may do to the locks that the servers know. A storage says by its tier which of it they
/// survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Nothing.
    None,
    /// Loses what a server keeps in memory.
    Restart,
    /// Loses what another server did not have when it took over.
    Failover,
}

/// The requests of a client by which its connections are recognized.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Links {
    /// The text of a request.
    pub call: &'static str,
    /// The text with which it starts to listen to hints on a connection of its own, if it does.
    pub listen: Option<&'static str>,
}

impl Links {
    pub(crate) const fn new(call: &'static str, listen: Option<&'static str>) -> Self {
        Self { call, listen }
    }
}

/// A function that chooses a number below its argument, which a seed decides.
pub type Pick<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A function that ends a fault.
pub type Ending<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

pub(crate) fn no_such_servers(which: &str) -> Error {
    Error::new(format!("this setup has no such servers: {which}"))
}

pub(crate) fn no_such_fault(fault: &str) -> Error {
    Error::new(format!("this setup has no such fault: {fault}"))
}
