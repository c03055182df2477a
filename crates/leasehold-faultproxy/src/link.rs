//! The task of one connection: carries bytes between two sockets as the lanes say.

use std::future;
use std::io;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::lane::{Last, READ};
use crate::rules::{ConnId, Door, End, To};
use crate::state::{Common, State};
use crate::stats::Event;
use crate::wire::Wire;

/// How much is done at once before the other connections have their turn.
const ROUNDS: usize = 16;

/// Carries a connection from its accepting to its end.
pub(crate) async fn run(common: Common, id: ConnId, client: TcpStream) {
    let client = Wire::tcp(client);
    let mut changes = common.changes.subscribe();
    if let Some(server) = reach(&common, id, &client, &mut changes).await {
        carry(&common, id, &client, &server, &mut changes).await;
        drop(server);
    }
    // Closed first, then counted: who sees that it is closed can rely on it.
    drop(client);
    common.lock().leave(id);
}

/// Waits for the door, then connects. `None`: the connection is over.
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
            let silent = state.door == Door::Silent;
            if connecting.is_none() && !silent {
                let upstream = state.upstream.clone();
                connecting = Some(Box::pin(async move { upstream.connect().await }));
            }
            let link = state.links.get_mut(&id)?;
            // Half of a connection can only be closed once there is one.
            if let Some(at) = link.ends.iter().position(|end| !matches!(end, End::HalfClose(_))) {
                let end = link.ends.remove(at)?;
                note_end(&mut state, id);
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
                    Ok(server) => {
                        state.book.note(Event::Reached(id));
                        Some(server)
                    }
                    Err(_) => {
                        client.will_reset();
                        state.book.stats.unreached += 1;
                        state.book.note(Event::Unreached(id));
                        None
                    }
                };
                state.book.publish();
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
            state.book.publish();
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
        // What became of a wait, the next step finds out.
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

/// Does all that can be done without waiting. `wires`: the client's and the server's.
fn step(state: &mut State, id: ConnId, wires: [&Wire; 2]) -> Next {
    let mut wait = Wait::default();
    for _ in 0..ROUNDS {
        let Some(link) = state.links.get_mut(&id) else { return Next::Over };
        if let Some(end) = link.ends.pop_front() {
            note_end(state, id);
            if !end_link(state, id, wires, end) {
                return Next::Over;
            }
            continue;
        }
        if link.lanes.iter().all(crate::lane::Lane::is_over) {
            // Whoever sent to a receiver that is gone learns it as the receiver said it: with a reset.
            for to in To::BOTH.into_iter().filter(|to| link.lanes[to.index()].is_broken()) {
                wires[to.index()].will_reset();
            }
            return Next::Over;
        }
        let now = Instant::now();
        wait = Wait::default();
        let mut busy = false;
        for to in To::BOTH {
            busy |= step_lane(state, id, wires, to, now, &mut wait);
        }
        if !busy {
            return Next::Wait(wait);
        }
    }
    wait.again = true;
    Next::Wait(wait)
}

/// Does what one direction allows. Returns whether something was done.
fn step_lane(
    state: &mut State,
    id: ConnId,
    wires: [&Wire; 2],
    to: To,
    now: Instant,
    wait: &mut Wait,
) -> bool {
    let i = to.index();
    // Requests come from the client, the first wire, and go to the second.
    let (from, into) = (wires[i], wires[to.opposite().index()]);
    let State { links, book, .. } = state;
    let Some(link) = links.get_mut(&id) else { return false };
    let plan = link.lanes[i].plan(now, book);
    if let Some(end) = plan.end {
        link.ends.push_back(end);
        return true;
    }
    wait.wake = [wait.wake, plan.wake].into_iter().flatten().reduce(std::cmp::min);
    match plan.finish {
        Some(Last::Orderly) => {
            into.finish();
            link.lanes[i].finish();
            book.note(Event::Finished(id, to));
            return true;
        }
        Some(Last::Reset) => {
            into.will_reset();
            link.lanes.iter_mut().for_each(crate::lane::Lane::finish);
            return true;
        }
        None => {}
    }
    let mut busy = false;
    let mut lost = 0;
    if plan.write > 0 {
        match into.try_write(link.lanes[i].head(plan.write)) {
            Ok(n) => {
                *book.stats.sent(to) += wide(n);
                for (trap, deed) in link.lanes[i].wrote(n, now, book) {
                    link.lanes[to.opposite().index()].stop_at_reply(trap, deed);
                }
                busy = true;
            }
            Err(error) if is_later(&error) => wait.write[i] = true,
            Err(_) => {
                lost += link.lanes[i].breaks();
                busy = true;
            }
        }
    }
    if plan.read > 0 && !link.lanes[i].is_over() {
        let mut bytes = [0; READ];
        match from.try_read(&mut bytes[..plan.read]) {
            Ok(0) => {
                link.lanes[i].ended(Last::Orderly, now);
                busy = true;
            }
            Ok(n) => {
                *book.stats.read(to) += wide(n);
                lost += link.lanes[i].came(&bytes[..n], now);
                busy = true;
            }
            Err(error) if is_later(&error) => wait.read[i] = true,
            Err(_) => {
                link.lanes[i].ended(Last::Reset, now);
                busy = true;
            }
        }
    }
    state.discard(lost);
    busy
}

/// Ends a connection, or half of it. Returns whether it goes on.
fn end_link(state: &mut State, id: ConnId, wires: [&Wire; 2], end: End) -> bool {
    if let End::HalfClose(to) = end {
        let Some(link) = state.links.get_mut(&id) else { return false };
        if link.lanes[to.index()].is_open() {
            wires[to.opposite().index()].finish();
        }
        let lost = link.lanes[to.index()].half_close();
        state.discard(lost);
        return true;
    }
    part(wires[0], To::Client, end);
    part(wires[1], To::Server, end);
    false
}

/// Prepares the socket of one end for being closed.
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

fn note_end(state: &mut State, id: ConnId) {
    state.book.stats.ended += 1;
    state.book.note(Event::Ended(id));
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("BUG: a length fits in 64 bits")
}
