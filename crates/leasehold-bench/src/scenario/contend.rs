//! Processes that compete for one lock without pause.

use std::time::Duration;

use serde_json::{Value, json};

use super::{History, Hold, fresh, numbers};
use crate::Result;
use crate::child::{Children, Orders};
use crate::clock::{nanos, now_ns};
use crate::contestant::Contestant;
use crate::stats::{Times, per_second};

pub(crate) struct Contend {
    pub(crate) per_second: f64,
    pub(crate) handover: Times,
    pub(crate) overlaps: usize,
    pub(crate) backwards: usize,
}

impl Contend {
    pub(crate) fn json(&self, contestant: Contestant, processes: usize) -> Value {
        json!({
            "scenario": "contend", "contestant": contestant.argument(), "processes": processes,
            "cycles_per_s": self.per_second, "handovers": self.handover.len(), "handover_us": self.handover.json(),
            "overlaps": self.overlaps, "tokens_not_increasing": self.backwards,
        })
    }
}

pub(crate) async fn measure(
    contestant: Contestant,
    store: &str,
    span: Duration,
    processes: usize,
) -> Result<Contend> {
    let (millis, lock) = (span.as_millis().to_string(), fresh("contend"));
    let worker = ["contend-worker", "--lock", &lock, "--millis", &millis];
    let mut children = Children::spawn(contestant, store, processes, &worker)?;
    children.next_of_all().await?; // connected
    children.tell_all("go").await?;
    let (mut holds, mut running) = (Vec::new(), processes);
    while running > 0 {
        let (by, line) = children.next().await?;
        if line == "done" {
            running -= 1;
            continue;
        }
        let [granted, released, token] = numbers(&line)?;
        holds.push(Hold { granted, released, token, by });
    }
    children.finish().await?;
    let history = History::new(holds);
    Ok(Contend {
        per_second: per_second(history.0.len(), history.span()),
        handover: Times::new(history.gaps()),
        overlaps: history.overlaps(),
        backwards: history.backwards(),
    })
}

/// Runs one of the processes.
pub(crate) async fn worker(contestant: Contestant, store: &str, lock: &str, span: Duration) -> Result {
    let client = contestant.connect(store, 1).await?;
    let lock = client.lock(lock);
    let mut orders = Orders::new();
    println!("connected");
    orders.next().await?;
    let end = now_ns() + nanos(span);
    let mut holds = Vec::new();
    while now_ns() < end {
        let guard = lock.acquire().await?;
        let (granted, token) = (now_ns(), guard.token());
        let released = now_ns();
        guard.release().await?;
        holds.push((granted, released, token));
    }
    client.close().await?;
    for (granted, released, token) in holds {
        println!("{granted} {released} {token}");
    }
    println!("done");
    orders.next().await?; // no process ends before all have reported
    Ok(())
}
