//! The task of one connection, which moves bytes between two sockets as its two directions plan.

use std::future;
use std::io;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::direction::{Last, READ};
use crate::record::Record;
use crate::rules::{ConnId, End, PortState, To};
use crate::state::{Common, Link, State};
use crate::wire::Wire;

/// How many steps are done before other connections get their turn.
const ROUNDS: usize = 16;

/// Runs a connection from its acceptance to its end.
pub(crate) async fn run(common: Common, id: ConnId, client: TcpStream) {
    let client = Wire::tcp(client);
    let mut changes = common.changes.subscribe();
    if let Some(server) = reach(&common, id, &client, &mut changes).await {
        carry(&common, id, &client, &server, &mut changes).await;
        drop(server);
    }
    // Closed first, then counted, so that an observer of the count can rely on it.
    drop(client);
    common.lock().leave(id);
}

/// Waits until the port is not silent, then connects. Returns `None` if the connection is over.
async fn reach(
    common: &Common,
    id: ConnId,
    client: &Wire,
    changes: &mut watch::Receiver<()>,
) -> Option<Wire> {
    let mut connecting = None;
    loop {
        changes.borrow_and_update();
        {
            let mut state = common.lock();
            let silent = state.port_state == PortState::Silent;
            if connecting.is_none() && !silent {
                let upstream = state.upstream.clone();
                connecting = Some(Box::pin(async move { upstream.connect().await }));
            }
            let link = state.links.get_mut(&id)?;
            // A half-close needs a connection to the server, so it waits; any other end applies now.
            if let Some(at) = link.ends.iter().position(|end| !matches!(end, End::HalfClose(_))) {
                let end = link.ends.remove(at)?;
                note_end(&mut state);
                part(client, To::Client, end);
                return None;
            }
        }
        let reached = async {
            match &mut connecting {
                Some(connecting) => connecting.await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            reached = reached => {
                let mut state = common.lock();
                let server = match reached {
                    Ok(server) => Some(server),
                    Err(_) => {
                        client.will_reset();
                        state.record.stats.unreached += 1;
                        None
                    }
                };
                state.record.publish();
                return server;
            }
            changed = changes.changed() => changed.ok()?,
        }
    }
}

async fn carry(common: &Common, id: ConnId, client: &Wire, server: &Wire, changes: &mut watch::Receiver<()>) {
    loop {
        changes.borrow_and_update();
        let next = {
            let mut state = common.lock();
            let next = step(&mut state, id, [client, server]);
            state.record.publish();
            next
        };
        let Next::Wait(wait) = next else { return };
        if wait.again {
            tokio::task::yield_now().await;
            continue;
        }
        let asleep = async {
            match wait.wake {
                Some(at) => time::sleep_until(at).await,
                None => future::pending().await,
            }
        };
        // The next step determines what has changed.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = client.readable(), if wait.read[To::Server.index()] => {}
            _ = server.readable(), if wait.read[To::Client.index()] => {}
            _ = server.writable(), if wait.write[To::Server.index()] => {}
            _ = client.writable(), if wait.write[To::Client.index()] => {}
            () = asleep => {}
        }
    }
}

enum Next {
    Wait(Wait),
    Over,
}

#[derive(Default)]
struct Wait {
    read: [bool; 2],
    write: [bool; 2],
    wake: Option<Instant>,
    again: bool,
}

/// Does all that is possible without waiting. `wires` are the client's and the server's.
fn step(state: &mut State, id: ConnId, wires: [&Wire; 2]) -> Next {
    let mut wait = Wait::default();
    for _ in 0..ROUNDS {
        let Some(link) = state.links.get_mut(&id) else { return Next::Over };
        if let Some(end) = link.ends.pop_front() {
            note_end(state);
            if !end_link(state, id, wires, end) {
                return Next::Over;
            }
            continue;
        }
        if link.directions.iter().all(crate::direction::Direction::is_over) {
            // A sender without a receiver gets a reset, as it would without a proxy.
            for to in To::BOTH.into_iter().filter(|to| link.directions[to.index()].is_broken()) {
                wires[to.index()].will_reset();
            }
            return Next::Over;
        }
        let now = Instant::now();
        wait = Wait::default();
        let mut busy = false;
        for to in To::BOTH {
            busy |= step_direction(state, id, wires, to, now, &mut wait);
        }
        if !busy {
            return Next::Wait(wait);
        }
    }
    wait.again = true;
    Next::Wait(wait)
}

/// Does what one direction allows. Returns `true` if anything was done.
fn step_direction(
    state: &mut State,
    id: ConnId,
    wires: [&Wire; 2],
    to: To,
    now: Instant,
    wait: &mut Wait,
) -> bool {
    let i = to.index();
    // Requests go from the client, the first wire, to the second.
    let (from, into) = (wires[i], wires[to.opposite().index()]);
    let State { links, record, .. } = state;
    let Some(link) = links.get_mut(&id) else { return false };
    let plan = link.directions[i].plan(now, record);
    if let Some(end) = plan.end {
        link.ends.push_back(end);
        return true;
    }
    wait.wake = [wait.wake, plan.wake].into_iter().flatten().reduce(std::cmp::min);
    match plan.finish {
        Some(Last::Orderly) => {
            into.finish();
            link.directions[i].finish();
            return true;
        }
        Some(Last::Reset) => {
            into.will_reset();
            link.directions.iter_mut().for_each(crate::direction::Direction::finish);
            return true;
        }
        None => {}
    }
    let (mut busy, mut lost) = (false, 0);
    if plan.write > 0 {
        match write_some(link, record, into, to, plan.write, now) {
            Some(broken) => (busy, lost) = (true, broken),
            None => wait.write[i] = true,
        }
    }
    if plan.read > 0 && !link.directions[i].is_over() {
        match read_some(link, record, from, to, plan.read, now) {
            Some(discarded) => (busy, lost) = (true, lost + discarded),
            None => wait.read[i] = true,
        }
    }
    state.discard(lost);
    busy
}

/// Writes to the receiver. Returns how many bytes it will not get, or `None` if it has no room now.
fn write_some(
    link: &mut Link,
    record: &mut Record,
    into: &Wire,
    to: To,
    most: usize,
    now: Instant,
) -> Option<usize> {
    let i = to.index();
    match into.try_write(link.directions[i].head(most)) {
        Ok(n) => {
            *record.stats.sent(to) += wide(n);
            for (trap, action) in link.directions[i].wrote(n, now, record) {
                link.directions[to.opposite().index()].stop_at_reply(trap, action);
            }
            Some(0)
        }
        Err(error) if is_later(&error) => None,
        Err(_) => Some(link.directions[i].breaks()),
    }
}

/// Reads from the sender. Returns how many bytes are discarded, or `None` if there are none to read now.
fn read_some(
    link: &mut Link,
    record: &mut Record,
    from: &Wire,
    to: To,
    most: usize,
    now: Instant,
) -> Option<usize> {
    let direction = &mut link.directions[to.index()];
    let mut bytes = [0; READ];
    match from.try_read(&mut bytes[..most]) {
        Ok(0) => direction.ended(Last::Orderly, now),
        Ok(n) => {
            *record.stats.read(to) += wide(n);
            return Some(direction.arrived(&bytes[..n], now));
        }
        Err(error) if is_later(&error) => return None,
        Err(_) => direction.ended(Last::Reset, now),
    }
    Some(0)
}

/// Ends a connection, or half of it. Returns `true` if it goes on.
fn end_link(state: &mut State, id: ConnId, wires: [&Wire; 2], end: End) -> bool {
    if let End::HalfClose(to) = end {
        let Some(link) = state.links.get_mut(&id) else { return false };
        if link.directions[to.index()].is_open() {
            wires[to.opposite().index()].finish();
        }
        let lost = link.directions[to.index()].half_close();
        state.discard(lost);
        return true;
    }
    part(wires[0], To::Client, end);
    part(wires[1], To::Server, end);
    false
}

/// Prepares the socket of one end for closing.
fn part(wire: &Wire, of: To, end: End) {
    let reset = match end {
        End::Reset => true,
        End::ResetTo(to) => to == of,
        End::Close | End::HalfClose(_) => false,
    };
    if reset {
        wire.will_reset();
    } else {
        wire.will_close();
    }
}

fn note_end(state: &mut State) {
    state.record.stats.ended += 1;
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("BUG: a length fits in 64 bits")
}
