//! As many waiters as processes of a large system: each a client with connections of its own, all wanting one lock.
//!
//! First all wait while somebody holds; then the lock goes through the queue once, and nobody comes back; then all
//! come back all the time. What is counted is how often the storage is asked to acquire for each handover.

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
use crate::server::Server;
use crate::stats::{Times, float, per_second, ratio};

/// How long the last to come gets to stand in the queue.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) struct Crowd {
    clients: usize,
    /// Nobody comes back.
    pub(crate) drained: Phase,
    /// All come back all the time.
    pub(crate) steady: Phase,
}

pub(crate) struct Phase {
    pub(crate) per_second: f64,
    pub(crate) handover: Times,
    pub(crate) acquire_calls: f64,
    script_calls: Option<f64>,
    holds: usize,
    overlaps: usize,
    backwards: usize,
}

impl Crowd {
    pub(crate) fn json(&self) -> Value {
        json!({
            "scenario": "crowd", "clients": self.clients, "drained": self.drained.json(),
            "steady": self.steady.json(),
        })
    }
}

impl Phase {
    fn new(holds: Vec<Hold>, acquire_calls: u64, script_calls: Option<u64>) -> Self {
        let history = History::new(holds);
        let handovers = float(u64::try_from(history.0.len()).unwrap_or(0));
        Self {
            per_second: per_second(history.0.len(), history.span()),
            handover: Times::new(history.gaps()),
            acquire_calls: ratio(float(acquire_calls), handovers),
            script_calls: script_calls.map(|calls| ratio(float(calls), handovers)),
            holds: history.0.len(),
            overlaps: history.overlaps(),
            backwards: history.backwards(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "holds": self.holds, "holds_per_s": self.per_second, "handover_us": self.handover.json(),
            "acquire_calls_per_hold": self.acquire_calls, "script_calls_per_hold": self.script_calls,
            "overlaps": self.overlaps, "tokens_not_increasing": self.backwards,
        })
    }
}

pub(crate) async fn measure(store: &str, span: Duration, clients: usize, processes: usize) -> Result<Crowd> {
    let (millis, each, lock) =
        (span.as_millis().to_string(), (clients / processes).to_string(), fresh("crowd"));
    let worker = ["crowd-worker", "--lock", &lock, "--clients", &each, "--millis", &millis];
    let mut server = Server::of(store).await?;
    let locks = Locks::connect(store).await?;
    let guard = locks.lock(&lock).acquire().await?;
    let mut children = Children::spawn(Contestant::Leasehold, store, processes, &worker)?;
    children.hear_all().await?; // connected
    children.tell_all("wait").await?;
    children.hear_all().await?; // all wait
    let before = server.script_calls().await?;
    guard.release().await?;
    let drained = phase(&mut children, processes, &mut server, before).await?;
    let before = server.script_calls().await?;
    children.tell_all("come back").await?;
    let steady = phase(&mut children, processes, &mut server, before).await?;
    children.finish().await?;
    locks.close().await?;
    Ok(Crowd { clients, drained, steady })
}

/// Hears of every hold, until all are done.
async fn phase(
    children: &mut Children,
    processes: usize,
    server: &mut Server,
    before: Option<u64>,
) -> Result<Phase> {
    let (mut holds, mut acquire_calls, mut running) = (Vec::new(), 0, processes);
    let mut after = None;
    while running > 0 {
        let (child, line) = children.hear().await?;
        if let Some(calls) = line.strip_prefix("done ") {
            acquire_calls += calls.parse::<u64>()?;
            running -= 1;
            after = server.script_calls().await?;
            continue;
        }
        let [granted, released, token, client] = numbers(&line)?;
        let by = child * 100_000 + usize::try_from(client)?;
        holds.push(Hold { granted, released, token, by });
    }
    Ok(Phase::new(holds, acquire_calls, after.zip(before).map(|(after, before)| after - before)))
}

/// One of the processes: its clients share nothing but the runtime.
pub(crate) async fn worker(store: &str, lock: &str, span: Duration, count: usize) -> Result {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (storage, counts) = Counting::new(AnyStorage::connect(store).await?);
        clients.push((Locks::builder().on_current_runtime().build(storage)?, counts));
    }
    let mut orders = Orders::new();
    println!("connected");
    orders.next().await?;
    let calls = |of: fn(&Counts) -> &AtomicU64| -> u64 {
        clients.iter().map(|(_, counts)| of(counts).load(Ordering::Relaxed)).sum()
    };

    let all = spawn(&clients, lock, None);
    while calls(|counts| &counts.acquire_answered) < u64::try_from(count)? {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Whoever has just subscribed to hints asks once more.
    tokio::time::sleep(SETTLE).await;
    let before = calls(|counts| &counts.acquire);
    println!("waiting");
    say(all, || calls(|counts| &counts.acquire) - before).await?;

    orders.next().await?;
    let before = calls(|counts| &counts.acquire);
    let all = spawn(&clients, lock, Some(now_ns() + nanos(span)));
    say(all, || calls(|counts| &counts.acquire) - before).await?;
    orders.next().await?; // nobody leaves before all have been heard
    for (locks, _) in &clients {
        locks.close().await?;
    }
    Ok(())
}

type Holds = JoinSet<leasehold::Result<Vec<[u64; 4]>>>;

/// Every client takes the lock: once, or until the end.
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

/// Prints every hold once all clients are through, then how often they asked.
async fn say(mut all: Holds, calls: impl Fn() -> u64) -> Result {
    let mut holds = Vec::new();
    while let Some(client) = all.join_next().await {
        holds.extend(client??);
    }
    let calls = calls();
    for [granted, released, token, client] in holds {
        println!("{granted} {released} {token} {client}");
    }
    println!("done {calls}");
    Ok(())
}
