//! The handle that changes the rules of a running proxy.

use std::io;

use tokio::sync::watch;

use crate::Stopped;
use crate::rules::{End, Flow, PortState, To, Which};
use crate::state::Common;
use crate::stats::{Connection, Stats};
use crate::trap::{ArmedTrap, Trap, TrapId};
use crate::wire::Upstream;

/// A handle that changes the rules of a running proxy and reports what happened. Clones control the same
/// proxy.
///
/// A rule that forbids something holds as soon as the call returns: no byte is forwarded by the old one.
/// The effects of a rule (an end, bytes that may go again) begin then and can be waited for. Once the proxy
/// has stopped, rules have no effect.
#[derive(Clone, Debug)]
pub struct Faults {
    common: Common,
    stats: watch::Receiver<Stats>,
}

impl Faults {
    pub(crate) fn new(common: Common) -> Self {
        let stats = common.lock().record.watch();
        Self { common, stats }
    }

    /// Sets how bytes are forwarded in one direction.
    pub fn flow(&self, which: Which, to: To, flow: Flow) {
        self.common.change(|state| state.set_flow(which, to, flow));
    }

    /// Sets how bytes are forwarded in both directions.
    pub fn flow_both(&self, which: Which, flow: Flow) {
        self.common.change(|state| To::BOTH.map(|to| state.set_flow(which, to, flow)));
    }

    /// Ends a connection as soon as this many more bytes were forwarded in this direction. They are counted
    /// from now, or from the start of a new connection. It replaces the previous rule of this kind.
    ///
    /// The bytes before a reset arrive if the receiver has room for them; a reset overtakes the others, as
    /// it does without a proxy.
    pub fn cut_after(&self, which: Which, to: To, bytes: u64, end: End) {
        self.common.change(|state| state.cut_after(which, to, bytes, end));
    }

    /// Ends connections now, even if a rule holds them. Bytes that were not yet forwarded are lost.
    pub fn end(&self, which: Which, end: End) {
        self.common.change(|state| state.end(which, end));
    }

    /// Resumes what traps hold or delay.
    pub fn resume(&self, which: Which) {
        self.common.change(|state| state.resume(which));
    }

    /// Arms a trap.
    #[must_use = "the trap says when it has sprung; drop it if that does not matter"]
    pub fn arm(&self, trap: Trap) -> ArmedTrap {
        self.common.change(|state| state.arm(trap))
    }

    /// Disarms a trap; what it holds stays held. Returns `true` if it was armed.
    pub fn disarm(&self, trap: TrapId) -> bool {
        self.common.change(|state| state.disarm(trap))
    }

    /// Sets what happens to new connections.
    ///
    /// # Errors
    ///
    /// If the port cannot be opened again. The rule then stays as it was.
    pub fn port(&self, state: PortState) -> io::Result<()> {
        self.common.change(|shared| shared.set_port_state(state))
    }

    /// Sends new connections to another server, as a failover does behind one address.
    pub fn upstream(&self, upstream: impl Into<Upstream>) {
        let upstream = upstream.into();
        self.common.change(|state| state.upstream = upstream);
    }

    /// Removes every rule and trap: all flows pass, held bytes are forwarded, and the port is open.
    ///
    /// # Errors
    ///
    /// If the port cannot be opened again.
    pub fn heal(&self) -> io::Result<()> {
        self.common.change(|state| state.heal())
    }

    /// Returns the current counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.common.lock().record.stats
    }

    /// Waits until the counts satisfy the predicate, and returns them. A state that holds only for a moment
    /// may be missed, so wait for a count that only grows, or for one that stays.
    ///
    /// # Errors
    ///
    /// If the proxy stops before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, wanted: impl FnMut(&Stats) -> bool) -> Result<Stats, Stopped> {
        self.stats.clone().wait_for(wanted).await.map(|stats| *stats).map_err(|_| Stopped)
    }

    /// Lists the open connections, the oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.common.lock().connections()
    }
}
