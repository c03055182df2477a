//! A story of real processes that use a lock and an account, for any database that checks the token in the transaction
//! that writes.

mod worker;

use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks};

pub(crate) use self::worker::Result;
use self::worker::Worker;

const TTL: Duration = Duration::from_secs(1);
/// Longer than the lease of a dead holder.
const PATIENCE: Duration = Duration::from_secs(3);

/// Stops a process that holds the lock, first before its transaction and then in the middle of it. Meanwhile its lease
/// ends, and another process wants the lock. The account begins with a balance of 100, and must have 65 afterward.
pub(crate) fn tell(url: &str) -> Result<()> {
    println!("-- stopped before the transaction");
    let mut ann = Worker::start("ann", &[url, "20"])?;
    ann.tells("read 100")?;
    ann.stop()?;
    let mut bob = Worker::start("bob", &[url, "30"])?;
    bob.tells("read 100")?;
    bob.goes_on("pinned")?;
    bob.goes_on("wrote 70")?;
    ann.wakes_up()?;
    ann.goes_on("refused")?;

    println!("-- stopped in the midst of it");
    let mut eve = Worker::start("eve", &[url, "5"])?;
    eve.tells("read 70")?;
    eve.goes_on("pinned")?;
    eve.stop()?;
    Worker::start("bob", &[url, "30"])?.tells("not granted")?;
    eve.wakes_up()?;
    eve.goes_on("wrote 65")?;
    Worker::start("bob", &[url, "0"])?.tells("read 65")
}

/// Checks the balance at the end of the story.
pub(crate) fn check(balance: i64) -> Result<()> {
    println!("-- the balance is {balance}: 100 - 30 - 5");
    if balance == 65 { Ok(()) } else { Err("a stale holder has written".into()) }
}

/// Acquires the lock of the account, in a worker process. Returns `None` if another process holds it, or if a transaction
/// pins it.
pub(crate) async fn acquire(locks: &Locks, name: &str) -> Result<Option<Guard>> {
    let error = match locks.lock("account/1").label(name).ttl(TTL).wait(PATIENCE).acquire().await {
        Ok(guard) => return Ok(Some(guard)),
        Err(error) => error,
    };
    match error.kind() {
        // The place in the queue must not outlive this process.
        ErrorKind::Contended => locks.close().await?,
        ErrorKind::Unavailable => {}
        _ => return Err(error.into()),
    }
    println!("not granted: {error}");
    Ok(None)
}

/// Waits in a worker process until it is told to go on.
pub(crate) fn told() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
