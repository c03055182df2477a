//! Leader election: one node leads at a time, until it resigns or is deposed, and then the next one follows at once.
//!
//! `cargo run --example leader`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::sync::Arc;

use leasehold::{ErrorKind, Guard, Locks, Result, Token};
use tokio::sync::{Notify, mpsc};

const ELECTION: &str = "cluster/leader";

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

    // Every client can see which node leads.
    let leader = locks.election(ELECTION).leader().await?;
    println!("observer: {} leads", leader.map_or("no node".to_owned(), |leader| leader.value));

    // An operator ends the second term. The leader's work is dropped when it learns of that.
    println!("operator: ends the term");
    let deposed = locks.break_lock(ELECTION).await?;
    assert_eq!(deposed.first().map(|holder| holder.token), second);
    let third = elected.recv().await;

    // Each term has a larger token, so the orders of an earlier leader can be recognized.
    assert!(first < second && second < third, "{first:?} {second:?} {third:?}");

    // Closing ends every term and every campaign.
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
    let election = locks.election(ELECTION).value(name);
    loop {
        // If this node is deposed, `lead` drops the work at whatever point it has reached, and campaigns again.
        match election.lead(|term| lead(name, term, &resign, &elected)).await {
            Ok(()) => println!("{name}: has resigned"),
            Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Leads until asked to resign.
async fn lead(name: &str, term: Arc<Guard>, resign: &Notify, elected: &mpsc::UnboundedSender<Token>) {
    let resigned = resign.notified();
    println!("{name}: leads, term {}", term.token());
    // At the end of the program, the receiver is gone.
    let _ = elected.send(term.token());
    resigned.await;
}
