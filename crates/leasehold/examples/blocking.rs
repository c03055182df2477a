//! Locks without an async runtime: four threads share a counter that nothing else protects.
//!
//! `cargo run --example blocking`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use leasehold::Event;
use leasehold::blocking::Locks;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const THREADS: usize = 4;
const ROUNDS: usize = 25;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let counter = directory.path().join("counter");
    fs::write(&counter, "0")?;
    let locks = Locks::builder().wait(Duration::from_secs(30)).connect("memory:")?;
    let events = locks.events();

    thread::scope(|scope| {
        let threads = (0..THREADS).map(|_| scope.spawn(|| count(&locks, &counter)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread failed")?)
    })?;
    locks.close()?;

    // Without the lock, concurrent reads and writes would have lost additions.
    assert_eq!(fs::read_to_string(&counter)?, (THREADS * ROUNDS).to_string());

    // The iterator ends when the client is closed.
    let granted = events.filter(|event| matches!(event, Event::Acquired { .. })).count();
    println!("{granted} grants, and the counter says {}", fs::read_to_string(&counter)?);
    Ok(())
}

fn count(locks: &Locks, counter: &Path) -> Result<()> {
    for _ in 0..ROUNDS {
        let guard = locks.lock("counter").acquire()?;
        let seen: usize = fs::read_to_string(counter)?.parse()?;
        fs::write(counter, (seen + 1).to_string())?;
        guard.release()?;
    }
    Ok(())
}
