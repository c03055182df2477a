//! Locks that are held and renewed: how evenly, and at what cost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use leasehold::storage::AnyStorage;
use leasehold::{Guard, Locks};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::Result;
use crate::clock::{cpu_ns, now_ns, resident_bytes};
use crate::counting::{Counting, Counts};
use crate::server::Server;
use crate::stats::{float, ratio};

const TTL: Duration = Duration::from_secs(30);

pub(crate) async fn measure(store: &str, span: Duration, count: usize) -> Result<Value> {
    let mut server = Server::of(store).await?;
    let (stop, stopped) = oneshot::channel();
    let (connected, engine) = start_engine(store.to_owned(), stopped);
    let (locks, counts) = connected.await.map_err(|_| "cannot connect")?;

    let (memory, server_memory) = (resident_bytes()?, server.data_bytes().await?);
    let start = now_ns();
    let guards = acquire_all(&locks, count).await?;
    let acquired = now_ns() - start;
    let memory = resident_bytes()?.saturating_sub(memory);
    let server_memory = server.data_bytes().await?.zip(server_memory).map(|(b, a)| b.saturating_sub(a));

    let calls = counts.renew.load(Ordering::Relaxed);
    let (cpu, server_cpu, start) = (cpu_ns(), server.cpu_ns().await?, now_ns());
    tokio::time::sleep(span).await;
    let end = now_ns();
    let (cpu, server_cpu) = (cpu_ns() - cpu, server.cpu_ns().await?.zip(server_cpu).map(|(b, a)| b - a));
    let calls = counts.renew.load(Ordering::Relaxed) - calls;
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();

    let renewals = counts.renewed_between(start, end);
    let (mean, max) = mean_and_max(&renewals);
    let (mean_at_the_end, max_at_the_end) = mean_and_max(&renewals[renewals.len().saturating_sub(10)..]);
    let per_hold = |bytes: u64| ratio(float(bytes), float(u64::try_from(count).unwrap_or(0)));
    let share = |nanos: u64| ratio(float(nanos) * 100.0, float(end - start));
    let released = now_ns();
    let outcome = locks.close().await;
    let released = now_ns() - released;
    drop(guards);
    drop(locks);
    let _ = stop.send(());
    engine.join().map_err(|_| "the engine panicked")??;
    Ok(json!({
        "scenario": "held", "locks": count, "lost": lost,
        "acquired_in_ms": acquired / 1_000_000, "released_in_ms": released / 1_000_000,
        "not_released": outcome.err().map(|error| error.to_string()),
        "renewals_per_s": { "mean": mean, "max": max, "max_to_mean": ratio(max, mean),
            "max_to_mean_at_the_end": ratio(max_at_the_end, mean_at_the_end), "each_second": renewals },
        "renew_calls_per_s": ratio(float(calls) * 1e9, float(end - start)),
        "client_cpu_percent": share(cpu), "server_cpu_percent": server_cpu.map(share),
        "client_bytes_per_lock": per_hold(memory), "server_bytes_per_lock": server_memory.map(per_hold),
    }))
}

/// Starts a thread for the engine, as a counting storage has no URL. It runs until `stopped`.
fn start_engine(
    url: String,
    stopped: oneshot::Receiver<()>,
) -> (oneshot::Receiver<(Locks, Arc<Counts>)>, JoinHandle<Result>) {
    let (ready, connected) = oneshot::channel();
    let engine = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (storage, counts) = Counting::new(AnyStorage::connect(&url).await?);
            let locks = Locks::builder().ttl(TTL).on_current_runtime().build(storage)?;
            let _ = ready.send((locks, counts));
            let _ = stopped.await;
            Ok(())
        })
    });
    (connected, engine)
}

fn mean_and_max(counts: &[u64]) -> (f64, f64) {
    let mean = ratio(float(counts.iter().sum()), float(u64::try_from(counts.len()).unwrap_or(0)));
    (mean, float(counts.iter().copied().max().unwrap_or(0)))
}

async fn acquire_all(locks: &Locks, count: usize) -> Result<Vec<Guard>> {
    let tasks: Vec<_> = (0..count)
        .map(|i| {
            let lock = locks.lock(format!("held/{i}"));
            tokio::spawn(async move { lock.acquire().await })
        })
        .collect();
    let mut guards = Vec::with_capacity(count);
    for task in tasks {
        guards.push(task.await??);
    }
    Ok(guards)
}
