//! What is measured.

#![expect(clippy::print_stdout, reason = "the results go to stdout")]

use std::error::Error;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use leasehold::Locks;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

type Result = std::result::Result<(), Box<dyn Error>>;

pub(crate) async fn cycles(store: &str, seconds: Duration, workers: usize) -> Result {
    let locks = Locks::connect(store).await?;
    let end = now_ns() + nanos(seconds);
    let (start, cpu) = (now_ns(), cpu_ns());
    let tasks: Vec<_> = (0..workers)
        .map(|i| {
            let lock = locks.lock(format!("bench/{i}"));
            tokio::spawn(async move {
                let mut spans = Vec::new();
                while now_ns() < end {
                    let before = now_ns();
                    lock.acquire().await?.release().await?;
                    spans.push(now_ns() - before);
                }
                Ok::<_, leasehold::Error>(spans)
            })
        })
        .collect();
    let mut spans = Vec::new();
    for task in tasks {
        spans.extend(task.await??);
    }
    let took = now_ns() - start;
    println!(
        "{}",
        json!({
            "scenario": "cycles", "workers": workers, "cycles_per_s": per_second(spans.len(), took),
            "cycle_us": percentiles(&mut spans), "cpu_us_per_cycle": (cpu_ns() - cpu) / 1000 / u64::try_from(spans.len())?,
        })
    );
    locks.close().await?;
    Ok(())
}

pub(crate) fn handover(store: &str, seconds: Duration, processes: usize) -> Result {
    let workers: Vec<_> = (0..processes)
        .map(|_| {
            let seconds = seconds.as_secs().to_string();
            Command::new(std::env::current_exe()?)
                .args(["--store", store, "--seconds", &seconds, "worker"])
                .stdout(Stdio::piped())
                .spawn()
        })
        .collect::<std::io::Result<_>>()?;
    // Lines of `granted released token`, from every process, on one clock.
    let mut holds: Vec<(u64, u64, u64, usize)> = Vec::new();
    for (i, mut worker) in workers.into_iter().enumerate() {
        let mut text = String::new();
        worker.stdout.take().ok_or("no stdout")?.read_to_string(&mut text)?;
        if !worker.wait()?.success() {
            return Err("a worker failed".into());
        }
        for line in text.lines() {
            let fields = line.split(' ').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>()?;
            holds.push((fields[0], fields[1], fields[2], i));
        }
    }
    holds.sort_unstable();
    let pairs = || holds.iter().zip(holds.iter().skip(1));
    let overlaps = pairs().filter(|(a, b)| b.0 < a.1).count();
    let backwards = pairs().filter(|(a, b)| b.2 <= a.2).count();
    let mut gaps: Vec<_> =
        pairs().filter(|(a, b)| a.3 != b.3).map(|(a, b)| b.0.saturating_sub(a.1)).collect();
    let span = holds.last().map_or(0, |last| last.1) - holds.first().map_or(0, |first| first.0);
    println!(
        "{}",
        json!({
            "scenario": "handover", "processes": processes, "cycles_per_s": per_second(holds.len(), span),
            "handovers": gaps.len(), "handover_us": percentiles(&mut gaps), "overlaps": overlaps,
            "tokens_not_increasing": backwards,
        })
    );
    Ok(())
}

pub(crate) async fn worker(store: &str, seconds: Duration) -> Result {
    let locks = Locks::connect(store).await?;
    let lock = locks.lock("bench/handover");
    let end = now_ns() + nanos(seconds);
    let mut holds = Vec::new();
    while now_ns() < end {
        let guard = lock.acquire().await?;
        let (granted, token) = (now_ns(), guard.token());
        let released = now_ns();
        guard.release().await?;
        holds.push((granted, released, token));
    }
    locks.close().await?;
    let lines: String =
        holds.iter().map(|(granted, released, token)| format!("{granted} {released} {token}\n")).collect();
    print!("{lines}");
    Ok(())
}

pub(crate) async fn held(store: &str, seconds: Duration, count: usize) -> Result {
    let locks = Locks::connect(store).await?;
    let before = resident_bytes()?;
    let mut guards = Vec::with_capacity(count);
    let tasks: Vec<_> = (0..count)
        .map(|i| {
            let lock = locks.lock(format!("bench/{i}")).ttl(Duration::from_secs(30));
            tokio::spawn(async move { lock.acquire().await })
        })
        .collect();
    for task in tasks {
        guards.push(task.await??);
    }
    let memory = resident_bytes()?.saturating_sub(before);
    let (cpu, start) = (cpu_ns(), now_ns());
    tokio::time::sleep(seconds).await;
    let share = (cpu_ns() - cpu) * 1000 / std::cmp::max(now_ns() - start, 1);
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();
    println!(
        "{}",
        json!({
            "scenario": "held", "locks": count, "lost": lost, "cpu_share_permille": share,
            "bytes_per_lock": memory / u64::try_from(count)?,
        })
    );
    locks.close().await?;
    Ok(())
}

fn percentiles(spans: &mut [u64]) -> serde_json::Value {
    spans.sort_unstable();
    let at =
        |percent: usize| spans.get((spans.len() * percent / 100).saturating_sub(usize::from(percent == 100)));
    let us = |nanos: Option<&u64>| nanos.map(|nanos| nanos / 1000);
    json!({ "p50": us(at(50)), "p90": us(at(90)), "p99": us(at(99)), "max": us(at(100)) })
}

fn per_second(count: usize, nanos: u64) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(1_000_000_000) / std::cmp::max(nanos, 1)
}

/// `CLOCK_MONOTONIC`, which all processes of the machine share.
fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

fn cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let (secs, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    secs * 1_000_000_000 + nanos
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What `/proc/self/statm` says is resident.
fn resident_bytes() -> std::result::Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).ok_or("no resident pages")?.parse()?;
    Ok(pages * u64::try_from(rustix::param::page_size())?)
}
