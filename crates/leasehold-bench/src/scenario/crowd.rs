//! As many waiters as a large system has: each is a client with connections of its own, and all want one
//! lock.
//!
//! All clients wait while one holds the lock. Then the lock goes through the queue once, without new waits.
//! Then each client waits again after its release. The figure is the number of acquire calls of the storage
//! for each handover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::storage::AnyStorage;
use leasehold::{Lock, Locks};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{History, Hold, fresh, numbers};
use crate::Result;
use crate::child::{Children, Orders};
use crate::clock::{nanos, now_ns};
use crate::contestant::Contestant;
use crate::counting::{Counting, Counts};
use crate::server::{Calls, Server};
use crate::stats::{Times, float, per_second, ratio};

/// How long no new connection may appear. A client that has just subscribed to hints asks once more.
const SETTLE: Duration = Duration::from_secs(3);
/// A limit that suits a server which gets a thousand connections at once.
const SETTLED: Duration = Duration::from_secs(60);

pub(crate) struct Crowd {
    clients: usize,
    /// The connections of each client.
    pub(crate) connections: Option<f64>,
    /// The phase in which each client acquires once.
    pub(crate) drained: Phase,
    /// The phase in which each client waits again after its release.
    pub(crate) steady: Phase,
}

pub(crate) struct Phase {
    pub(crate) per_second: f64,
    pub(crate) handover: Times,
    pub(crate) acquire_calls: f64,
    /// The acquire calls that only keep a waiter's place in the queue alive.
    pub(crate) heartbeats: f64,
    /// The counts of the server.
    pub(crate) server_acquires: Option<f64>,
    pub(crate) server_calls: Option<f64>,
    holds: usize,
    overlaps: usize,
    backwards: usize,
}

impl Crowd {
    pub(crate) fn json(&self) -> Value {
        json!({
            "scenario": "crowd", "clients": self.clients, "connections_per_client": self.connections,
            "drained": self.drained.json(), "steady": self.steady.json(),
        })
    }
}

impl Phase {
    fn new(holds: Vec<Hold>, [acquire_calls, heartbeats]: [u64; 2], calls: Option<Calls>) -> Self {
        let history = History::new(holds);
        let handovers = float(u64::try_from(history.0.len()).unwrap_or(0));
        Self {
            per_second: per_second(history.0.len(), history.span()),
            handover: Times::new(history.gaps()),
            acquire_calls: ratio(float(acquire_calls), handovers),
            heartbeats: ratio(float(heartbeats), handovers),
            server_acquires: calls.and_then(|calls| Some(ratio(float(calls.acquire?), handovers))),
            server_calls: calls.map(|calls| ratio(float(calls.all), handovers)),
            holds: history.0.len(),
            overlaps: history.overlaps(),
            backwards: history.backwards(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "holds": self.holds, "holds_per_s": self.per_second, "handover_us": self.handover.json(),
            "acquire_calls_per_hold": self.acquire_calls,
            "heartbeats_per_hold": self.heartbeats,
            "server_acquires_per_hold": self.server_acquires, "server_calls_per_hold": self.server_calls,
            "overlaps": self.overlaps, "tokens_not_increasing": self.backwards,
        })
    }
}

pub(crate) async fn measure(store: &str, span: Duration, clients: usize, processes: usize) -> Result<Crowd> {
    let each = clients / processes;
    let (millis, count, lock) = (span.as_millis().to_string(), each.to_string(), fresh("crowd"));
    let worker = ["crowd-worker", "--lock", &lock, "--clients", &count, "--millis", &millis];
    let mut server = Server::of(store).await?;
    let locks = Locks::connect(store).await?;
    let guard = locks.lock(&lock).acquire().await?;
    let alone = server.connections().await?;
    let mut children = Children::spawn(Contestant::Leasehold, store, processes, &worker)?;
    children.next_of_all().await?; // connected
    children.tell_all("wait").await?;
    children.next_of_all().await?; // all wait
    let connections = settled(&mut server).await?.zip(alone).map(|(b, a)| b.saturating_sub(a));
    let all = each * processes;
    let connections = connections.map(|count| ratio(float(count), float(u64::try_from(all).unwrap_or(0))));
    children.tell_all("count").await?;
    children.next_of_all().await?; // they count
    let before = server.calls().await?;
    guard.release().await?;
    let drained = phase(&mut children, processes, &mut server, before).await?;
    let before = server.calls().await?;
    children.tell_all("come back").await?;
    let steady = phase(&mut children, processes, &mut server, before).await?;
    children.finish().await?;
    locks.close().await?;
    Ok(Crowd { clients: all, connections, drained, steady })
}

/// Waits until no new connection appears, and returns how many there are.
async fn settled(server: &mut Server) -> Result<Option<u64>> {
    let end = now_ns() + nanos(SETTLED);
    let (mut count, mut since) = (server.connections().await?, now_ns());
    while now_ns() < std::cmp::min(since + nanos(SETTLE), end) {
        tokio::time::sleep(SETTLE / 10).await;
        let now = server.connections().await?;
        if now != count {
            (count, since) = (now, now_ns());
        }
    }
    Ok(count)
}

/// Receives every hold until all clients are done.
async fn phase(
    children: &mut Children,
    processes: usize,
    server: &mut Server,
    before: Option<Calls>,
) -> Result<Phase> {
    let (mut holds, mut called, mut running) = (Vec::new(), [0, 0], processes);
    let mut after = None;
    while running > 0 {
        let (child, line) = children.next().await?;
        if let Some(calls) = line.strip_prefix("done ") {
            let [acquire, heartbeat] = numbers(calls)?;
            called = [called[0] + acquire, called[1] + heartbeat];
            running -= 1;
            after = server.calls().await?;
            continue;
        }
        let [granted, released, token, client] = numbers(&line)?;
        let by = child * 100_000 + usize::try_from(client)?;
        holds.push(Hold { granted, released, token, by });
    }
    let calls = after.zip(before).map(|(after, before)| Calls {
        all: after.all.saturating_sub(before.all),
        acquire: after.acquire.zip(before.acquire).map(|(after, before)| after.saturating_sub(before)),
    });
    Ok(Phase::new(holds, called, calls))
}

/// Runs one of the processes. Its clients share only the runtime.
pub(crate) async fn worker(store: &str, lock: &str, span: Duration, count: usize) -> Result {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (storage, counts) = Counting::new(AnyStorage::connect(store).await?);
        clients.push((Locks::builder().on_current_runtime().build(storage)?, counts));
    }
    let mut orders = Orders::new();
    println!("connected");
    orders.next().await?;
    let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
        clients.iter().map(|(_, counts)| of(counts).load(Ordering::Relaxed)).sum()
    };
    let calls = || [sum(|counts| &counts.acquire), sum(|counts| &counts.heartbeat)];
    let since = |before: [u64; 2]| [calls()[0] - before[0], calls()[1] - before[1]];

    let all = spawn(&clients, lock, None);
    while sum(|counts| &counts.acquire_answered) < u64::try_from(count)? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("waiting");
    orders.next().await?;
    let before = calls();
    println!("counting");
    say(all, || since(before)).await?;

    orders.next().await?;
    let before = calls();
    let all = spawn(&clients, lock, Some(now_ns() + nanos(span)));
    say(all, || since(before)).await?;
    orders.next().await?; // no process ends before all have reported
    for (locks, _) in &clients {
        locks.close().await?;
    }
    Ok(())
}

type Holds = JoinSet<leasehold::Result<Vec<[u64; 4]>>>;

/// Lets every client acquire the lock: once, or until the end.
fn spawn(clients: &[(Locks, Arc<Counts>)], lock: &str, end: Option<u64>) -> Holds {
    (0..).zip(clients).map(|(i, (locks, _))| hold(locks.lock(lock), i, end)).collect()
}

async fn hold(lock: Lock, client: u64, end: Option<u64>) -> leasehold::Result<Vec<[u64; 4]>> {
    let mut holds = Vec::new();
    loop {
        let guard = lock.acquire().await?;
        let (granted, token) = (now_ns(), guard.token().get());
        let released = now_ns();
        guard.release().await?;
        holds.push([granted, released, token, client]);
        if end.is_none_or(|end| released >= end) {
            return Ok(holds);
        }
    }
}

/// Prints every hold once all clients are done, then the numbers of their calls.
async fn say(mut all: Holds, calls: impl Fn() -> [u64; 2]) -> Result {
    let mut holds = Vec::new();
    while let Some(client) = all.join_next().await {
        holds.extend(client??);
    }
    let [acquire, heartbeat] = calls();
    for [granted, released, token, client] in holds {
        println!("{granted} {released} {token} {client}");
    }
    println!("done {acquire} {heartbeat}");
    Ok(())
}
