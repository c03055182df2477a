//! Leader election: the node that holds the lock leads, until it resigns or loses the lock.
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

    // The first leader resigns. The next one takes over at once, without waiting for a TTL.
    let first = elected.recv().await;
    resign.notify_waiters();
    let second = elected.recv().await;

    // An operator ends the second term. The leader learns that the lock is lost, and steps down.
    println!("operator: ends the term");
    let deposed = locks.break_lock(LOCK).await?;
    assert_eq!(deposed.first().map(|holder| holder.token), second);
    let third = elected.recv().await;

    // Each term has a larger token, so the orders of an earlier leader can be recognized.
    assert!(first < second && second < third, "{first:?} {second:?} {third:?}");

    // Closing ends every term and every wait.
    locks.close().await?;
    nodes.join_all().await.into_iter().collect()
}

/// Runs one node, which always stands for election, and leads whenever it is elected.
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

/// Leads until asked to resign. If the lock is lost, this future is dropped at whatever point it has
/// reached.
async fn lead(name: &str, guard: &Guard, resign: &Notify, elected: &mpsc::UnboundedSender<Token>) {
    let resigned = resign.notified();
    println!("{name}: leads, term {}", guard.token());
    // At the end of the program, the receiver is gone.
    let _ = elected.send(guard.token());
    resigned.await;
}
