//! A job that every machine starts at the same time, but only one runs; the others skip it.
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
    // Each run has a lock of its own, named after its date.
    let lock = locks.lock("nightly/2026-11-20").label(machine).ttl(Duration::from_secs(60));

    let Some(guard) = lock.try_acquire().await? else {
        println!("{machine}: another machine has it, skipped");
        return Ok(false);
    };
    println!("{machine}: runs the job");
    match job(guard.token()).await {
        // The lock is not released, so that for a minute late machines find it held.
        Ok(()) => guard.forget(),
        // The lock is released at once, so that a late machine may retry.
        Err(error) => {
            println!("{machine}: {error}");
            guard.release().await?;
        }
    }
    Ok(true)
}

async fn job(token: Token) -> std::io::Result<()> {
    println!("  … a night's work, each write with token {token}");
    tokio::task::yield_now().await;
    Ok(())
}
