//! All that a proxy knows, behind one lock: whoever changes a rule knows, when the call returns, that no byte goes
//! by the old one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::book::Book;
use crate::door::Port;
use crate::lane::Lane;
use crate::random::Random;
use crate::rules::{ConnId, Door, End, Flow, To, Which};
use crate::stats::{Connection, Event};
use crate::trap::{ArmedTrap, Trap, TrapId};
use crate::wire::Upstream;

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Changes with every rule.
    pub(crate) changes: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changes: watch::Sender::new(()) }
    }

    /// Reads or writes what is known.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No step leaves the state half-changed in a way that matters to the next.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a rule, and wakes those whom it concerns.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = {
            let mut state = self.lock();
            let done = change(&mut state);
            state.book.publish();
            done
        };
        self.changes.send_replace(());
        done
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) book: Book,
    pub(crate) links: BTreeMap<ConnId, Link>,
    pub(crate) upstream: Upstream,
    pub(crate) door: Door,
    port: Option<Port>,
    listener: Option<TcpListener>,
    acceptor: Option<Waker>,
    flows: [Flow; 2],
    cuts: [Option<(u64, End)>; 2],
    seed: u64,
    last: u64,
}

/// A connection as the rules see it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: SocketAddr,
    pub(crate) lanes: [Lane; 2],
    /// How rules want it to end.
    pub(crate) ends: VecDeque<End>,
}

impl State {
    pub(crate) fn new(port: Port, listener: TcpListener, upstream: Upstream, seed: u64) -> Self {
        Self {
            book: Book::new(),
            links: BTreeMap::new(),
            upstream,
            door: Door::Open,
            port: Some(port),
            listener: Some(listener),
            acceptor: None,
            flows: [Flow::Pass; 2],
            cuts: [None; 2],
            seed,
            last: 0,
        }
    }

    /// Takes the next connection that the door lets in.
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
            if self.door == Door::Reset {
                let _ = stream.set_zero_linger();
                drop(stream);
                self.book.stats.refused += 1;
                self.book.note(Event::Refused);
                self.book.publish();
                continue;
            }
            return Poll::Ready(Ok((self.enter(client), stream)));
        }
    }

    fn enter(&mut self, client: SocketAddr) -> ConnId {
        self.last += 1;
        let id = ConnId(self.last);
        let lanes = To::BOTH.map(|to| {
            let i = to.index();
            let mut lane = Lane::new(id, self.flows[i], Random::of(self.seed, id.0, i));
            if let Some((bytes, end)) = self.cuts[i] {
                lane.cut_after(bytes, end);
            }
            for (trap, what) in self.book.for_new().filter(|(_, what)| what.to == to) {
                lane.look_for(trap, what);
            }
            lane
        });
        self.links.insert(id, Link { client, lanes, ends: VecDeque::new() });
        self.book.stats.accepted += 1;
        self.book.stats.open += 1;
        self.book.note(Event::Accepted(id));
        self.book.publish();
        id
    }

    /// Takes note that both sockets of a connection are closed.
    pub(crate) fn leave(&mut self, id: ConnId) {
        if let Some(link) = self.links.remove(&id) {
            let queued: usize = link.lanes.iter().map(Lane::queued).sum();
            self.discard(queued);
            self.book.stats.open -= 1;
            self.book.note(Event::Closed(id));
            self.book.publish();
        }
    }

    pub(crate) fn discard(&mut self, bytes: usize) {
        self.book.stats.discarded += u64::try_from(bytes).expect("BUG: a length fits in 64 bits");
    }

    pub(crate) fn set_flow(&mut self, which: Which, to: To, flow: Flow) {
        if is_lasting(which) {
            self.flows[to.index()] = flow;
        }
        for link in self.chosen(which) {
            link.lanes[to.index()].set_flow(flow);
        }
    }

    pub(crate) fn cut_after(&mut self, which: Which, to: To, bytes: u64, end: End) {
        if is_lasting(which) {
            self.cuts[to.index()] = Some((bytes, end));
        }
        for link in self.chosen(which) {
            link.lanes[to.index()].cut_after(bytes, end);
        }
    }

    pub(crate) fn end(&mut self, which: Which, end: End) {
        for link in self.chosen(which) {
            link.ends.push_back(end);
        }
    }

    pub(crate) fn resume(&mut self, which: Which) {
        for link in self.chosen(which) {
            link.lanes.iter_mut().for_each(Lane::resume);
        }
    }

    pub(crate) fn arm(&mut self, trap: Trap) -> ArmedTrap {
        let (id, count) = self.book.arm(trap.clone());
        for link in self.chosen(trap.which) {
            link.lanes[trap.to.index()].look_for(id, &trap);
        }
        ArmedTrap { id, count }
    }

    pub(crate) fn disarm(&mut self, id: TrapId) -> bool {
        for link in self.links.values_mut() {
            link.lanes.iter_mut().for_each(|lane| lane.look_no_more(id));
        }
        self.book.disarm(id)
    }

    pub(crate) fn set_door(&mut self, door: Door) -> io::Result<()> {
        if door == Door::Closed {
            self.listener = None;
        } else if let (None, Some(port)) = (&self.listener, &self.port) {
            self.listener = Some(port.listen()?);
        }
        self.door = door;
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    pub(crate) fn heal(&mut self) -> io::Result<()> {
        self.flows = [Flow::Pass; 2];
        self.cuts = [None; 2];
        self.book.disarm_all();
        for link in self.links.values_mut() {
            link.lanes.iter_mut().for_each(Lane::forget_rules);
        }
        self.set_door(Door::Open)
    }

    /// Closes the port and tells those who wait that nothing more comes.
    pub(crate) fn stop(&mut self) {
        self.listener = None;
        self.port = None;
        self.links.clear();
        self.book.close();
    }

    pub(crate) fn connections(&self) -> Vec<Connection> {
        let describe = |(id, link): (&ConnId, &Link)| {
            let [requests, replies] = &link.lanes;
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

/// Shares the state among the tasks of the proxy and its handles.
pub(crate) type Common = Arc<Shared>;
