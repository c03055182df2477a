//! What the library once got wrong, each as a sentence that now holds. Time is paused wherever that is possible.

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

/// One more client, with its engine on this runtime.
fn client(storage: impl Storage) -> Locks {
    Locks::builder().on_current_runtime().build(storage).expect("memory promises enough")
}

/// A client whose calls can be broken, and what breaks them.
fn broken(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (client(chaos), controls)
}

/// Takes what nobody else holds.
async fn take(locks: &Locks, name: &str, ttl: Duration) -> Guard {
    locks.lock(name).ttl(ttl).acquire().await.expect("nobody else holds it")
}

/// Whether another client is granted the lock that this guard believes to hold.
async fn is_held_twice(guard: &Guard, other: &Locks) -> bool {
    let granted = other.lock(guard.name()).try_acquire().await.expect("memory answers");
    guard.is_held() && granted.is_some()
}

/// How much is left of a lease at the storage; nothing if nobody holds.
async fn left(locks: &Locks, name: &str) -> Duration {
    let holder = locks.inspect(name).await.expect("asked");
    holder.map_or(Duration::ZERO, |holder| holder.remaining)
}

/// Lets everybody run until all wait for something, without letting time pass.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Runs something in paused time, on a thread of its own: one that never ends fails the test instead of
/// hanging it.
fn in_the_end(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    ends(move || runtime.expect("a runtime").block_on(work));
}

/// Runs something on a thread of its own, and waits for its end no longer than any machine needs.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        work();
        done.send(()).expect("somebody waits");
    });
    if is_done.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("it never ends");
    }
    thread.join().expect("no panic");
}

/// Runs something in real time.
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
