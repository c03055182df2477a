//! Load: many claims, many waiters, and a server that refuses connections.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::{Event, Guard};
use leasehold_faultproxy::{End, PortState, Which};

use crate::tools::*;

/// Holds locks while workers acquire and release others. No lock may be lost, and `calm` must be true of every event.
pub(crate) async fn flood(ttl: Duration, workers: u32, turns: u32, calm: impl Fn(&Event) -> bool) {
    let locks = client(&own(&common().url())).await;
    let mut events = locks.events();
    let holds: Vec<_> = join_all((0..20).map(|i| {
        let lock = locks.lock(format!("held{i}")).ttl(ttl);
        async move { lock.acquire().await.expect("granted") }
    }))
    .await;
    let flood: Vec<_> = (0..workers)
        .map(|i| {
            let locks = locks.clone();
            tokio::spawn(async move {
                for turn in 0..turns {
                    let guard = locks.lock(format!("flood{i}-{turn}")).try_acquire().await.expect("answered");
                    guard.expect("free").release().await.expect("released");
                }
            })
        })
        .collect();
    for worker in within(LONG, join_all(flood)).await {
        worker.expect("no panic");
    }
    assert!(holds.iter().all(Guard::is_held));
    while let Some(event) = futures_util::future::poll_immediate(events.next()).await.flatten() {
        assert!(calm(&event), "{event:?}");
    }
}

/// The URL at which [`a_waiter`] waits, in its environment.
const PLACE: &str = "LEASEHOLD_TEST_WAITER";

/// Measures the processor time of a process that waits, first with a server and then without.
pub(crate) fn processor_of_a_waiter(server: &Server, url: &str) {
    let holder = run(client(url));
    let guard = run(hold(&holder, "job", LONG));
    // A process of its own, because the other tests of this process use the processor, too.
    let mut waiter = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "limits::a_process_that_waits", "--nocapture"])
        .env(PLACE, url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut said = BufReader::new(waiter.stdout.take().expect("piped")).lines();
    let mut hear = |word: &str| loop {
        let line = said.next().expect("it runs").expect("text");
        if let Some((_, rest)) = line.split_once(word) {
            return rest.trim().to_owned();
        }
    };
    hear("waiting");
    let there: u64 = hear("used").parse().expect("milliseconds");
    server.kill9();
    waiter.stdin.take().expect("piped").write_all(b"gone\n").expect("it reads");
    let gone: u64 = hear("used").parse().expect("milliseconds");
    waiter.kill().expect("killed");
    waiter.wait().expect("ended");
    drop(guard);
    assert!(there < 250, "{there} ms of 1500 with a server");
    assert!(gone < 400, "{gone} ms of 1500 without");
}

/// Waits for 500 locks and reports its processor time: with a server, and again after the server is gone.
///
/// Does nothing as a test: then no URL is in its environment.
pub(crate) fn a_waiter() {
    let Ok(url) = std::env::var(PLACE) else { return };
    run(async {
        let locks = client(&url).await;
        for i in 0..500 {
            let lock = locks.lock("job");
            let free = locks.lock(format!("held{}", i % 50));
            tokio::spawn(async move { lock.acquire().await.map(std::mem::forget) });
            tokio::spawn(async move { free.acquire().await.map(std::mem::forget) });
        }
        waiters(&locks, "job", 1).await;
        say("waiting");
        for turn in 0..2 {
            if turn == 1 {
                std::io::stdin().read_line(&mut String::new()).expect("a line");
            }
            // The work at the beginning is not measured, and no event shows its end.
            tokio::time::sleep(Duration::from_millis(400)).await;
            let before = cpu();
            // The time of a period without events is measured.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            say(&format!("used {}", (cpu() - before).as_millis()));
        }
        std::future::pending::<()>().await;
    });
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the test reads it");
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Counts the connections that a crowd of waiters attempts while its server refuses them.
///
/// The names of the locks begin with `lock`.
pub(crate) async fn tries_to_connect(lock: &str) {
    let (proxy, through, direct) = proxied(common()).await;
    let (holder, locks) = (client(&direct).await, client(&through).await);
    let guard = hold(&holder, lock, LONG).await;
    let waiting: Vec<_> = (0..500)
        .map(|i| {
            let lock = locks.lock(if i % 2 == 0 { lock.to_owned() } else { format!("{lock}{i}") });
            tokio::spawn(async move {
                let guard = lock.acquire().await.expect("granted");
                // The release may fail, and then the TTL frees the lock.
                drop(guard.release().await);
            })
        })
        .collect();
    waiters(&holder, lock, 1).await;
    proxy.faults().port(PortState::Reset).expect("closed");
    proxy.faults().end(Which::All, End::Reset);
    let seconds = 3;
    let before = proxy.faults().stats().refused;
    // The attempts within this time are counted.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let tries = proxy.faults().stats().refused - before;
    // The first attempts follow each other faster.
    assert!(tries <= 5 * seconds + 8, "{tries} connections in {seconds} s");
    assert!(tries >= 2, "{tries}");
    proxy.faults().heal().expect("opened");
    guard.release().await.expect("released");
    for outcome in within(LONG, join_all(waiting)).await {
        outcome.expect("no panic");
    }
}
