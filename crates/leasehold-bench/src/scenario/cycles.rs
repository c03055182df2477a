//! Acquire and release in one process, with one lock per worker.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::clock::{cpu_ns, nanos, now_ns};
use crate::contestant::{AnyLock, Client, Contestant};
use crate::server::Server;
use crate::stats::{Times, float, per_second, ratio};

pub(crate) struct Cycles {
    pub(crate) workers: usize,
    pub(crate) per_second: f64,
    pub(crate) cycle: Times,
    pub(crate) acquire: Times,
    /// The CPU time of this process for each cycle, in microseconds.
    pub(crate) client_cpu_us: f64,
    /// The CPU time of the server.
    pub(crate) server_cpu_us: Option<f64>,
    /// The bytes of write-ahead log or oplog for each cycle.
    pub(crate) log_bytes: Option<f64>,
    /// The number of connections.
    pub(crate) connections: Option<u64>,
}

impl Cycles {
    pub(crate) fn json(&self, contestant: Contestant) -> Value {
        json!({
            "scenario": "cycles", "contestant": contestant.argument(), "workers": self.workers,
            "cycles_per_s": self.per_second, "cycle_us": self.cycle.json(), "acquire_us": self.acquire.json(),
            "client_cpu_us_per_cycle": self.client_cpu_us, "server_cpu_us_per_cycle": self.server_cpu_us,
            "log_bytes_per_cycle": self.log_bytes, "connections": self.connections,
        })
    }
}

pub(crate) async fn run(
    contestant: Contestant,
    store: &str,
    span: Duration,
    workers: usize,
) -> Result<Value> {
    let (client, mut server) = (contestant.connect(store, workers).await?, Server::of(store).await?);
    let cycles = measure(&client, &mut server, span, workers).await?;
    client.close().await?;
    Ok(cycles.json(contestant))
}

/// Measures, after a warm-up of a tenth of the time.
pub(crate) async fn measure(
    client: &Client,
    server: &mut Server,
    span: Duration,
    workers: usize,
) -> Result<Cycles> {
    together(client, span / 10, workers).await?;
    let log = server.log_bytes().await?;
    let (cpu, server_cpu) = (cpu_ns(), server.cpu_ns().await?);
    let start = now_ns();
    let (cycle, acquire) = together(client, span, workers).await?;
    let took = now_ns() - start;
    let (cpu, server_cpu) = (cpu_ns() - cpu, server.cpu_ns().await?.zip(server_cpu).map(|(b, a)| b - a));
    let log = server.log_bytes().await?.zip(log).map(|(b, a)| b - a);
    let each = |figure: u64| ratio(float(figure), float(u64::try_from(cycle.len()).unwrap_or(0)));
    let us_each = |nanos: u64| each(nanos) / 1000.0;
    Ok(Cycles {
        workers,
        per_second: per_second(cycle.len(), took),
        client_cpu_us: us_each(cpu),
        server_cpu_us: server_cpu.map(us_each),
        log_bytes: log.map(each),
        connections: server.connections().await?,
        cycle: Times::new(cycle),
        acquire: Times::new(acquire),
    })
}

/// Runs all workers in parallel. Returns the times of the cycles, and of the acquires in them.
async fn together(client: &Client, span: Duration, workers: usize) -> Result<(Vec<u64>, Vec<u64>)> {
    let end = now_ns() + nanos(span);
    let workers: Vec<_> =
        (0..workers).map(|i| tokio::spawn(one(client.lock(&format!("bench/{i}")), end))).collect();
    let (mut cycles, mut acquires) = (Vec::new(), Vec::new());
    for worker in workers {
        for (acquire, cycle) in worker.await?? {
            acquires.push(acquire);
            cycles.push(cycle);
        }
    }
    Ok((cycles, acquires))
}

async fn one(lock: AnyLock, end: u64) -> Result<Vec<(u64, u64)>> {
    let mut spans = Vec::new();
    let mut before = now_ns();
    while before < end {
        let guard = lock.acquire().await?;
        let granted = now_ns();
        guard.release().await?;
        let released = now_ns();
        spans.push((granted - before, released - before));
        before = released;
    }
    Ok(spans)
}
