//! A job that every machine starts at the same time and only one runs: the others skip it.
//!
//! `cargo run --example cron_once`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::time::Duration;

use leasehold::{Locks, Result, Token};

#[tokio::main]
async fn main() -> Result<()> {
    // Three machines, each with a client of its own. Yours would share a database instead of a process.
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

    // A machine whose clock is late comes when the job is done, and skips it all the same.
    let (name, locks) = machines[0].clone();
    assert!(!nightly(name, locks).await?, "the job ran twice");
    Ok(())
}

/// Runs the job unless somebody else does or did; whether it ran.
async fn nightly(machine: &str, locks: Locks) -> Result<bool> {
    // One lock per run: its name says which one.
    let lock = locks.lock("nightly/2026-11-20").label(machine).ttl(Duration::from_secs(60));

    let Some(guard) = lock.try_acquire().await? else {
        println!("{machine}: somebody else has it, skipped");
        return Ok(false);
    };
    println!("{machine}: runs the job");
    match job(guard.token()).await {
        // Not released but left to its TTL: for a minute, whoever is late finds the lock taken.
        Ok(()) => guard.forget(),
        // Released at once: whoever is late may try it again.
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
