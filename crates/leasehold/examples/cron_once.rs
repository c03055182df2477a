//! A scheduled job that every machine starts at about the same time, but only one runs; the others skip it.
//!
//! `cargo run --example cron_once`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::time::Duration;

use leasehold::{Locks, Result, Token};

#[tokio::main]
async fn main() -> Result<()> {
    // Three machines, each with a client of its own. Real machines would share a database instead of a
    // process.
    let mut machines = Vec::new();
    for name in ["tick", "trick", "track"] {
        machines.push((name, Locks::connect("memory:example").await?));
    }

    // At three in the morning, cron starts the same program on each.
    let mut runs = tokio::task::JoinSet::new();
    for (name, locks) in machines.clone() {
        runs.spawn(nightly(name, locks));
    }
    let ran = runs.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(ran.iter().filter(|ran| **ran).count(), 1, "the job ran on one machine");

    // A machine whose clock is late starts after the job is done, and skips it, too.
    let (name, locks) = machines[0].clone();
    assert!(!nightly(name, locks).await?, "the job ran twice");
    Ok(())
}

/// Runs the job unless another machine runs it or ran it. Returns `true` if it ran.
async fn nightly(machine: &str, locks: Locks) -> Result<bool> {
    let job = locks
        .lock("nightly")
        .label(machine)
        // Longer than the clocks of the machines differ, so that a late one finds the lock held.
        .at_least(Duration::from_secs(60))
        // A job that hangs is given up before the next night.
        .max_hold(Duration::from_secs(6 * 3600));
    let done = job.try_run(async |guard| work(machine, guard.token()).await).await?;
    if done.is_none() {
        println!("{machine}: another machine has it, skipped");
    }
    Ok(done.is_some())
}

async fn work(machine: &str, token: Token) {
    println!("{machine}: runs the job, and each write carries token {token}");
    tokio::task::yield_now().await;
}
