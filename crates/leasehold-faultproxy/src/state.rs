//! The whole state of a proxy behind one mutex. When a call that changes a rule returns, no byte is
//! forwarded by the old rule.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::direction::Direction;
use crate::port::Port;
use crate::random::Random;
use crate::record::Record;
use crate::rules::{ConnId, End, Flow, PortState, To, Which};
use crate::stats::Connection;
use crate::trap::{ArmedTrap, Trap, TrapId};
use crate::wire::Upstream;

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// A signal that is sent after every change of a rule.
    pub(crate) changes: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changes: watch::Sender::new(()) }
    }

    /// Locks the state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic leaves no half-changed state that matters to the next step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a rule, and wakes the tasks of the connections.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = {
            let mut state = self.lock();
            let done = change(&mut state);
            state.record.publish();
            done
        };
        self.changes.send_replace(());
        done
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) record: Record,
    pub(crate) links: BTreeMap<ConnId, Link>,
    pub(crate) upstream: Upstream,
    pub(crate) port_state: PortState,
    port: Option<Port>,
    listener: Option<TcpListener>,
    acceptor: Option<Waker>,
    flows: [Flow; 2],
    cuts: [Option<(u64, End)>; 2],
    last: u64,
}

/// A connection from the point of view of the rules.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: SocketAddr,
    pub(crate) directions: [Direction; 2],
    /// The ends that rules have requested.
    pub(crate) ends: VecDeque<End>,
}

impl State {
    pub(crate) fn new(port: Port, listener: TcpListener, upstream: Upstream) -> Self {
        Self {
            record: Record::new(),
            links: BTreeMap::new(),
            upstream,
            port_state: PortState::Open,
            port: Some(port),
            listener: Some(listener),
            acceptor: None,
            flows: [Flow::Pass; 2],
            cuts: [None; 2],
            last: 0,
        }
    }

    /// Accepts the next connection, and resets it if the rule for new connections says so.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(ConnId, TcpStream)>> {
        loop {
            let Some(listener) = &self.listener else {
                self.acceptor = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let (stream, client) = match listener.poll_accept(cx) {
                Poll::Ready(accepted) => accepted?,
                Poll::Pending => {
                    self.acceptor = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            };
            if self.port_state == PortState::Reset {
                let _ = stream.set_zero_linger();
                drop(stream);
                self.record.stats.refused += 1;
                self.record.publish();
                continue;
            }
            return Poll::Ready(Ok((self.enter(client), stream)));
        }
    }

    fn enter(&mut self, client: SocketAddr) -> ConnId {
        self.last += 1;
        let id = ConnId(self.last);
        let directions = To::BOTH.map(|to| {
            let i = to.index();
            let mut direction = Direction::new(id, self.flows[i], Random::of(id.0, i));
            if let Some((bytes, end)) = self.cuts[i] {
                direction.cut_after(bytes, end);
            }
            for (trap, what) in self.record.for_new().filter(|(_, what)| what.to == to) {
                direction.look_for(trap, what);
            }
            direction
        });
        self.links.insert(id, Link { client, directions, ends: VecDeque::new() });
        self.record.stats.accepted += 1;
        self.record.stats.open += 1;
        self.record.publish();
        id
    }

    /// Records that both sockets of a connection are closed.
    pub(crate) fn leave(&mut self, id: ConnId) {
        if let Some(link) = self.links.remove(&id) {
            let queued: usize = link.directions.iter().map(Direction::queued).sum();
            self.discard(queued);
            self.record.stats.open -= 1;
            self.record.publish();
        }
    }

    pub(crate) fn discard(&mut self, bytes: usize) {
        self.record.stats.discarded += u64::try_from(bytes).expect("BUG: a length fits in 64 bits");
    }

    pub(crate) fn set_flow(&mut self, which: Which, to: To, flow: Flow) {
        if is_lasting(which) {
            self.flows[to.index()] = flow;
        }
        for link in self.chosen(which) {
            link.directions[to.index()].set_flow(flow);
        }
    }

    pub(crate) fn cut_after(&mut self, which: Which, to: To, bytes: u64, end: End) {
        if is_lasting(which) {
            self.cuts[to.index()] = Some((bytes, end));
        }
        for link in self.chosen(which) {
            link.directions[to.index()].cut_after(bytes, end);
        }
    }

    pub(crate) fn end(&mut self, which: Which, end: End) {
        for link in self.chosen(which) {
            link.ends.push_back(end);
        }
    }

    pub(crate) fn resume(&mut self, which: Which) {
        for link in self.chosen(which) {
            link.directions.iter_mut().for_each(Direction::resume);
        }
    }

    pub(crate) fn arm(&mut self, trap: Trap) -> ArmedTrap {
        let (id, count) = self.record.arm(trap.clone());
        for link in self.chosen(trap.which) {
            link.directions[trap.to.index()].look_for(id, &trap);
        }
        ArmedTrap { id, count }
    }

    pub(crate) fn disarm(&mut self, id: TrapId) -> bool {
        for link in self.links.values_mut() {
            link.directions.iter_mut().for_each(|direction| direction.look_no_more(id));
        }
        self.record.disarm(id)
    }

    pub(crate) fn set_port_state(&mut self, port_state: PortState) -> io::Result<()> {
        if port_state == PortState::Closed {
            self.listener = None;
        } else if let (None, Some(port)) = (&self.listener, &self.port) {
            self.listener = Some(port.listen()?);
        }
        self.port_state = port_state;
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    pub(crate) fn heal(&mut self) -> io::Result<()> {
        self.flows = [Flow::Pass; 2];
        self.cuts = [None; 2];
        self.record.disarm_all();
        for link in self.links.values_mut() {
            link.directions.iter_mut().for_each(Direction::forget_rules);
        }
        self.set_port_state(PortState::Open)
    }

    /// Closes the port and ends all waits.
    pub(crate) fn stop(&mut self) {
        self.listener = None;
        self.port = None;
        self.links.clear();
        self.record.close();
    }

    pub(crate) fn connections(&self) -> Vec<Connection> {
        let describe = |(id, link): (&ConnId, &Link)| {
            let [requests, replies] = &link.directions;
            Connection {
                id: *id,
                client: link.client,
                from_client: requests.read,
                to_server: requests.sent,
                from_server: replies.read,
                to_client: replies.sent,
            }
        };
        self.links.iter().map(describe).collect()
    }

    fn chosen(&mut self, which: Which) -> impl Iterator<Item = &mut Link> {
        self.links
            .iter_mut()
            .filter(move |(id, _)| match which {
                Which::All | Which::Open => true,
                Which::New => false,
                Which::One(one) => **id == one,
            })
            .map(|(_, link)| link)
    }
}

fn is_lasting(which: Which) -> bool {
    matches!(which, Which::All | Which::New)
}

/// The state, shared by the tasks of the proxy and its handles.
pub(crate) type Common = Arc<Shared>;
