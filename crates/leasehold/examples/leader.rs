//! Leader election: whoever holds the lock leads, until it resigns or loses the lock.
//!
//! `cargo run --example leader`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::sync::Arc;

use leasehold::{ErrorKind, Guard, Locks, Result, Token};
use tokio::sync::{Notify, mpsc};

const LOCK: &str = "cluster/leader";

#[tokio::main]
async fn main() -> Result<()> {
    let locks = Locks::connect("memory:").await?;
    let (news, mut elected) = mpsc::unbounded_channel();
    let resign = Arc::new(Notify::new());
    let mut nodes = tokio::task::JoinSet::new();
    for name in ["ann", "bob", "cat"] {
        nodes.spawn(node(name, locks.clone(), Arc::clone(&resign), news.clone()));
    }

    // The first leader resigns; the next one is there at once, without waiting for any TTL.
    let first = elected.recv().await;
    resign.notify_waiters();
    let second = elected.recv().await;

    // An operator deposes the second one. It learns that it is lost and steps down.
    println!("operator: ends the term");
    let deposed = locks.break_lock(LOCK).await?;
    assert_eq!(deposed.map(|holder| holder.token), second);
    let third = elected.recv().await;

    // Each term has a larger token: orders of an earlier leader can be told from those of the present one.
    assert!(first < second && second < third, "{first:?} {second:?} {third:?}");

    // Shutting down ends every term and every wait.
    locks.close().await?;
    nodes.join_all().await.into_iter().collect()
}

/// One node: stands for election for ever, and leads whenever it is elected.
async fn node(
    name: &str,
    locks: Locks,
    resign: Arc<Notify>,
    elected: mpsc::UnboundedSender<Token>,
) -> Result<()> {
    let office = locks.lock(LOCK).label(name);
    loop {
        let guard = match office.acquire().await {
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            other => other?,
        };
        tokio::select! {
            lost = guard.lost() => println!("{name}: steps down, {lost}"),
            () = lead(name, &guard, &resign, &elected) => {
                println!("{name}: resigns");
                guard.release().await?;
            }
        }
    }
}

/// Leads until asked to resign. Dropped in the middle of whatever it does if the lock is lost.
async fn lead(name: &str, guard: &Guard, resign: &Notify, elected: &mpsc::UnboundedSender<Token>) {
    let resigned = resign.notified();
    println!("{name}: leads, term {}", guard.token());
    // Nobody listens any more when the program ends.
    let _ = elected.send(guard.token());
    resigned.await;
}
