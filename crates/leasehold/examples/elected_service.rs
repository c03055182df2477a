//! An elected service: three replicas, each a process, of which one serves at a time. The leader is killed, the next one
//! is stopped and finds its term over when it goes on, and the third one resigns.
//!
//! `cargo run --example elected_service`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

#[path = "fenced/worker.rs"]
mod worker;

use std::sync::Arc;
use std::time::Duration;

use leasehold::{Guard, Locks, Token, blocking};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::worker::{Result, Worker};

/// How long it takes until another replica leads if the leader hangs or its machine dies.
const TTL: Duration = Duration::from_secs(1);
const ELECTION: &str = "service";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [] => story(),
        [name, url] => tokio::runtime::Runtime::new()?.block_on(replica(name, url)),
        _ => Err("start it without arguments".into()),
    }
}

fn story() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("locks.db").display());
    let observer = blocking::Locks::connect(&url)?;
    let mut ann = Worker::start("ann", &[&url])?;
    ann.tells("leads")?;
    // They stand in line behind the leader, one after the other.
    let mut bob = Worker::start("bob", &[&url])?;
    await_waiters(&observer, 1)?;
    let mut cat = Worker::start("cat", &[&url])?;
    await_waiters(&observer, 2)?;
    let first = leader(&observer, "ann")?;

    println!("-- kill -9 of the leader: the storage sees that its process is gone");
    drop(ann);
    bob.tells("leads")?;
    let second = leader(&observer, "bob")?;

    println!("-- the leader is stopped: another one leads after the TTL");
    bob.stop()?;
    cat.tells("leads")?;
    let third = leader(&observer, "cat")?;
    bob.wakes_up()?;
    bob.tells("serves no longer")?;
    await_waiters(&observer, 1)?;

    println!("-- the leader resigns: the next one leads at once");
    let resigned = Instant::now();
    cat.goes_on("serves no longer")?;
    bob.tells("leads")?;
    let took = resigned.elapsed();
    let fourth = leader(&observer, "bob")?;
    if !(first < second && second < third && third < fourth) || took >= TTL / 2 {
        return Err(format!("terms {first} {second} {third} {fourth}, and {took:?} without a leader").into());
    }
    println!("each term was larger than the one before: {first} < {second} < {third} < {fourth}");
    Ok(())
}

/// Returns the term of the leader, which must be the one with this name.
fn leader(observer: &blocking::Locks, name: &str) -> Result<Token> {
    let leader = observer.election(ELECTION).leader()?.ok_or("there is no leader")?;
    println!("observer: {} leads in term {}", leader.value, leader.term);
    if leader.value == name { Ok(leader.term) } else { Err(format!("{name} should lead").into()) }
}

/// Waits until so many replicas stand in line.
fn await_waiters(observer: &blocking::Locks, waiters: u64) -> Result<()> {
    let until = Instant::now() + TTL * 10;
    while observer.inspect(ELECTION)?.first().and_then(|holder| holder.waiters) != Some(waiters) {
        if Instant::now() > until {
            return Err("a replica does not stand in line".into());
        }
    }
    Ok(())
}

/// Runs a replica, which always stands for election, and serves whenever it is elected. Resigns when it is told to.
async fn replica(name: &str, url: &str) -> Result<()> {
    let resign = Arc::new(Notify::new());
    let told = Arc::clone(&resign);
    std::thread::spawn(move || std::io::stdin().lines().for_each(|_| told.notify_one()));
    let locks = Locks::connect(url).await?;
    let election = locks.election(ELECTION).value(name).ttl(TTL);
    loop {
        election.lead(|term| serve(term, Arc::clone(&resign))).await?;
    }
}

/// Serves until told to resign. Is dropped when the term is over.
async fn serve(term: Arc<Guard>, resign: Arc<Notify>) {
    let _serving = Serving::begin(&term);
    // A real service works here, and sends its term with each write, so that a resource can refuse an older one.
    resign.notified().await;
}

struct Serving(Token);

impl Serving {
    fn begin(term: &Guard) -> Self {
        println!("leads in term {}", term.token());
        Self(term.token())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        println!("serves no longer in term {}", self.0);
    }
}
