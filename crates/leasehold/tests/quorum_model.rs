//! Every interleaving of a small quorum: three servers, and a few clients that each acquire once, while
//! leases end and a server may forget everything. The protocol of `storage/redis/quorum` keeps its promises
//! in all of them. Each of its parts is needed: without it, the model finds a violation.
//!
//! A step is one server's execution of one request, so every delay and loss is covered: a lost request is a
//! step that never happens. To a server, a release, a withdrawal and an expiry look the same: a lock that
//! becomes free.

use std::collections::{HashSet, VecDeque};

const SERVERS: usize = 3;
const MAJORITY: usize = 2;

/// The part that is left out of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The token is chosen and written in the step that takes the lock.
    OneStep,
    /// A token is written for any owner that has the lock by then.
    CommitToAnyOwner,
    /// The vote of a server that has forgotten everything counts at once.
    NoRestartGuard,
}

/// The events that may happen in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// A lease may end at a server at any moment, as if no clock could be trusted. Tokens must still be
    /// correct.
    BadClocks,
    /// No lease ends at a server before its holder knows. Then at most one client may hold at a time, even
    /// if one server forgets everything once. The tokens that it forgets can only be made up for by its
    /// clock, which is not modeled.
    GoodClocks,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Server<const C: usize> {
    /// The owner of the lock.
    owner: Option<u8>,
    /// The largest token that the server knows.
    last: u8,
    /// The owner whose lock it has forgotten. Until that lease is over, the server's vote does not count.
    forgot: Option<u8>,
    /// Its answer to each client.
    proposed: [Proposed; C],
    committed: [Committed; C],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Proposed {
    NotYet,
    Refused,
    /// Granted, but the vote does not count.
    Uncounted(u8),
    /// Granted, with the last token.
    Granted(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Committed {
    NotYet,
    Refused,
    Written,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Client {
    phase: Phase,
    token: u8,
    /// The largest token that was granted to any client before this one began.
    floor: u8,
    /// Whether its lease ended at some server while it was still asking. It then ignores the grant.
    late: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Proposing,
    Committing,
    Holding,
    /// It was granted the token, and has released the lock or let it expire.
    Done,
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State<const C: usize> {
    /// Sorted, because the servers are interchangeable.
    servers: [Server<C>; SERVERS],
    clients: [Client; C],
    /// The largest token granted so far.
    granted: u8,
    /// Whether a server has forgotten everything already.
    crashed: bool,
}

struct Model {
    flaw: Flaw,
    world: World,
}

impl Client {
    /// Returns `true` if the client considers itself the holder.
    fn is_live(self) -> bool {
        self.phase == Phase::Holding && !self.late
    }

    fn is_over(self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed) || (self.phase == Phase::Holding && self.late)
    }

    fn was_granted(self) -> bool {
        matches!(self.phase, Phase::Holding | Phase::Done)
    }
}

impl<const C: usize> State<C> {
    fn first() -> Self {
        let server = Server {
            owner: None,
            last: 0,
            forgot: None,
            proposed: [Proposed::NotYet; C],
            committed: [Committed::NotYet; C],
        };
        let client = Client { phase: Phase::Idle, token: 0, floor: 0, late: false };
        Self { servers: [server; SERVERS], clients: [client; C], granted: 0, crashed: false }
    }

    fn owner(client: usize) -> Option<u8> {
        Some(u8::try_from(client).expect("few clients"))
    }

    fn of(&self, owner: u8) -> Client {
        self.clients[usize::from(owner)]
    }

    fn hand_out(&mut self, client: usize, token: u8) {
        self.clients[client].token = token;
        self.clients[client].phase = Phase::Holding;
        self.granted = std::cmp::max(self.granted, token);
    }

    /// Returns the violation in this state, if there is one.
    fn violation(&self) -> Option<&'static str> {
        let granted = || self.clients.iter().filter(|client| client.was_granted());
        let tokens: HashSet<_> = granted().map(|client| client.token).collect();
        if tokens.len() < granted().count() {
            return Some("the same token twice");
        }
        if granted().any(|client| client.token <= client.floor) {
            return Some("a token that is not larger than an earlier one");
        }
        None
    }

    /// Makes states equal that differ only in parts that no later step reads.
    fn forget_what_does_not_matter(&mut self, world: World) {
        for (i, client) in self.clients.iter_mut().enumerate() {
            let asks = matches!(client.phase, Phase::Proposing | Phase::Committing);
            for server in self.servers.iter_mut().filter(|_| !asks) {
                (server.proposed[i], server.committed[i]) = (Proposed::NotYet, Committed::NotYet);
            }
            match world {
                World::BadClocks => client.late = false,
                World::GoodClocks => {
                    client.floor = 0;
                    client.late &= !matches!(client.phase, Phase::Done | Phase::Failed);
                    if !matches!(client.phase, Phase::Committing | Phase::Holding) {
                        client.token = 0;
                    }
                }
            }
        }
        if world == World::GoodClocks {
            self.granted = 0;
        }
        let clients = self.clients;
        for server in &mut self.servers {
            server.forgot = server.forgot.filter(|owner| !clients[usize::from(*owner)].is_over());
        }
        self.servers.sort_unstable();
    }

    fn two_hold(&self) -> bool {
        self.clients.iter().filter(|client| client.is_live()).count() > 1
    }
}

impl Model {
    fn next<const C: usize>(&self, state: &State<C>, mut to: impl FnMut(State<C>)) {
        let mut to = |mut next: State<C>| {
            next.forget_what_does_not_matter(self.world);
            to(next);
        };
        for server in 0..SERVERS {
            self.happens(state, server, &mut to);
        }
        for client in 0..C {
            match state.clients[client].phase {
                Phase::Idle => {
                    let mut next = *state;
                    next.clients[client] =
                        Client { phase: Phase::Proposing, floor: state.granted, ..state.clients[client] };
                    to(next);
                }
                Phase::Proposing => self.propose(state, client, &mut to),
                Phase::Committing => self.commit(state, client, &mut to),
                Phase::Holding => self.hold(state, client, &mut to),
                Phase::Done | Phase::Failed => {}
            }
        }
    }

    /// Adds the states that follow from events at one server.
    fn happens<const C: usize>(&self, state: &State<C>, server: usize, to: &mut impl FnMut(State<C>)) {
        let here = state.servers[server];
        if let Some(owner) = here.owner {
            let client = state.of(owner);
            if self.world == World::BadClocks || !client.is_live() {
                let mut next = *state;
                next.servers[server].owner = None;
                next.clients[usize::from(owner)].late |= !matches!(client.phase, Phase::Done | Phase::Failed);
                to(next);
            }
        }
        if self.world == World::GoodClocks && !state.crashed {
            let mut next = *state;
            next.crashed = true;
            (next.servers[server].owner, next.servers[server].last) = (None, 0);
            if self.flaw != Flaw::NoRestartGuard {
                next.servers[server].forgot = here.owner;
            }
            to(next);
        }
    }

    fn propose<const C: usize>(&self, state: &State<C>, client: usize, to: &mut impl FnMut(State<C>)) {
        let me = State::<C>::owner(client);
        let (mut counted, mut last, mut open) = (0, 0, false);
        for (server, here) in state.servers.iter().enumerate() {
            match here.proposed[client] {
                Proposed::NotYet => {
                    open = true;
                    let mut next = *state;
                    let there = &mut next.servers[server];
                    there.proposed[client] = if here.owner.is_some() {
                        Proposed::Refused
                    } else {
                        there.owner = me;
                        if self.flaw == Flaw::OneStep {
                            there.last += 1;
                        }
                        let young = here.forgot.is_some_and(|owner| !state.of(owner).is_over());
                        if young { Proposed::Uncounted(there.last) } else { Proposed::Granted(there.last) }
                    };
                    to(next);
                }
                Proposed::Granted(token) => (counted, last) = (counted + 1, std::cmp::max(last, token)),
                Proposed::Uncounted(token) => last = std::cmp::max(last, token),
                Proposed::Refused => {}
            }
        }
        if counted >= MAJORITY {
            let mut next = *state;
            if self.flaw == Flaw::OneStep {
                next.hand_out(client, last);
            } else {
                next.clients[client] =
                    Client { phase: Phase::Committing, token: last + 1, ..state.clients[client] };
            }
            to(next);
        } else if !open {
            to(state.with_phase(client, Phase::Failed));
        }
    }

    fn commit<const C: usize>(&self, state: &State<C>, client: usize, to: &mut impl FnMut(State<C>)) {
        let (me, token) = (State::<C>::owner(client), state.clients[client].token);
        let mut written = 0;
        for (server, here) in state.servers.iter().enumerate() {
            let granted = matches!(here.proposed[client], Proposed::Granted(_) | Proposed::Uncounted(_));
            match here.committed[client] {
                Committed::NotYet if granted => {
                    let mut next = *state;
                    let there = &mut next.servers[server];
                    let fits = match self.flaw {
                        Flaw::CommitToAnyOwner => true,
                        _ => here.owner == me && token > here.last,
                    };
                    there.committed[client] = if fits { Committed::Written } else { Committed::Refused };
                    if fits {
                        there.last = std::cmp::max(there.last, token);
                    }
                    to(next);
                }
                Committed::Written => {
                    written += usize::from(matches!(here.proposed[client], Proposed::Granted(_)));
                }
                Committed::NotYet | Committed::Refused => {}
            }
        }
        if written >= MAJORITY {
            let mut next = *state;
            next.hand_out(client, token);
            to(next);
        }
        // The client may give up at any moment.
        to(state.with_phase(client, Phase::Failed));
    }

    fn hold<const C: usize>(&self, state: &State<C>, client: usize, to: &mut impl FnMut(State<C>)) {
        to(state.with_phase(client, Phase::Done));
        let (me, token) = (State::<C>::owner(client), state.clients[client].token);
        // A renewal has found a server without the lock. It may restore it much later, when everything has
        // changed.
        for (server, here) in state.servers.iter().enumerate() {
            if here.owner.is_none() && token > here.last {
                let mut next = *state;
                (next.servers[server].owner, next.servers[server].last) = (me, token);
                to(next);
            }
        }
    }

    /// Explores every reachable state. Returns how many there are, or the violation in one of them.
    fn check<const C: usize>(&self) -> Result<usize, &'static str> {
        let first = State::<C>::first();
        let (mut seen, mut queue) = (HashSet::from([first]), VecDeque::from([first]));
        while let Some(state) = queue.pop_front() {
            match self.world {
                World::BadClocks => state.violation().map_or(Ok(()), Err)?,
                World::GoodClocks if state.two_hold() => return Err("two hold at the same time"),
                World::GoodClocks => {}
            }
            self.next(&state, |next| {
                if seen.insert(next) {
                    queue.push_back(next);
                }
            });
        }
        Ok(seen.len())
    }
}

impl<const C: usize> State<C> {
    fn with_phase(&self, client: usize, phase: Phase) -> Self {
        let mut next = *self;
        next.clients[client].phase = phase;
        next
    }
}

fn check<const C: usize>(flaw: Flaw, world: World) -> Result<usize, &'static str> {
    Model { flaw, world }.check::<C>()
}

#[test]
fn tokens_are_unique_and_grow_whatever_the_clocks_do() {
    let states = check::<2>(Flaw::None, World::BadClocks).expect("no violation");
    assert!(states > 1_000, "{states}");
}

#[test]
fn one_holds_at_a_time_though_a_server_forgets_everything() {
    let states = check::<2>(Flaw::None, World::GoodClocks).expect("no violation");
    assert!(states > 1_000, "{states}");
}

#[test]
fn a_token_chosen_in_one_step_is_given_twice() {
    assert!(check::<2>(Flaw::OneStep, World::BadClocks).is_err());
}

#[test]
fn a_token_committed_to_any_owner_is_given_twice() {
    assert!(check::<3>(Flaw::CommitToAnyOwner, World::BadClocks).is_err());
}

#[test]
fn two_hold_if_a_server_that_forgot_counts_at_once() {
    assert!(check::<2>(Flaw::NoRestartGuard, World::GoodClocks).is_err());
}
