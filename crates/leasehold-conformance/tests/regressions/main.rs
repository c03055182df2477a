//! Tests of faults that the library once had. Each test name says what holds now. Time is paused wherever
//! possible.

mod deadlines;
mod loops;
mod odd;
mod oddities;
mod resume;
mod silence;
mod ttls;

use std::time::Duration;

use leasehold::storage::{Memory, Storage};
use leasehold::{Guard, Locks};
use leasehold_conformance::{Chaos, Controls};

/// Makes one more client, with its engine on this runtime.
fn client(storage: impl Storage) -> Locks {
    Locks::builder().on_current_runtime().build(storage).expect("memory promises enough")
}

/// Makes a client whose calls can be broken, and returns its controls.
fn broken(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (client(chaos), controls)
}

/// Acquires a lock that is free.
async fn take(locks: &Locks, name: &str, ttl: Duration) -> Guard {
    locks.lock(name).ttl(ttl).acquire().await.expect("the lock is free")
}

/// Returns `true` if another client is granted the lock while this guard counts as held.
async fn is_held_twice(guard: &Guard, other: &Locks) -> bool {
    let granted = other.lock(guard.name()).try_acquire().await.expect("memory answers");
    guard.is_held() && granted.is_some()
}

/// Returns the remaining time of a lease at the storage, or zero if the lock is free.
async fn left(locks: &Locks, name: &str) -> Duration {
    let holder = locks.inspect(name).await.expect("memory answers");
    holder.first().map_or(Duration::ZERO, |holder| holder.remaining)
}

/// Lets all tasks run until each waits for something, without advancing the time.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Runs a future in paused time, on a thread of its own. If it never ends, the test fails instead of
/// hanging.
fn in_the_end(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    ends(move || runtime.expect("a runtime").block_on(work));
}

/// Runs a closure on a thread of its own, and limits its time generously enough for any machine.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        done.send(()).expect("the receiver waits");
    });
    if is_done.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("it never ends");
    }
    thread.join().expect("no panic");
}

/// Runs a future in real time.
fn real(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().expect("a runtime").block_on(work);
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}
