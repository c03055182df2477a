//! A transfer that a stale holder cannot make: PostgreSQL checks the token in the transaction that writes.
//!
//! A real process is stopped while it holds a lock, first before its transaction and then in the middle of
//! it. Its lease ends, and another process wants the lock.
//!
//! `cargo run --features postgres --example fenced_transfer [postgres://…]`; without a URL it starts a server of its own.

#![expect(clippy::print_stdout, reason = "an example tells its story")]

mod fenced;

use leasehold::Locks;
use leasehold::storage::postgres::{Config, Fence};
use tokio_postgres::NoTls;

use self::fenced::Result;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &args[..] {
        [] => {
            let server = leasehold_testbed::Postgres::start()?;
            runtime.block_on(story(&server.url()))
        }
        [url] => runtime.block_on(story(url)),
        [name, url, amount] => runtime.block_on(worker(name, url, amount.parse()?)),
        _ => Err("start it with the URL of a PostgreSQL, or without arguments".into()),
    }
}

async fn story(url: &str) -> Result<()> {
    let database = connect(url).await?;
    let make = "drop table if exists leasehold_example;
                create table leasehold_example (id bigint primary key, balance bigint not null);
                insert into leasehold_example values (1, 100)";
    database.batch_execute(make).await?;

    fenced::tell(url)?;
    let balance: i64 = database.query_one("select balance from leasehold_example", &[]).await?.get(0);
    fenced::check(balance)
}

/// Runs a worker process, which acquires the lock and reads the balance. On the first command it begins to
/// write, and on the second it writes.
async fn worker(name: &str, url: &str, amount: i64) -> Result<()> {
    let locks = Locks::connect(url).await?;
    let Some(guard) = fenced::acquire(&locks, name).await? else { return Ok(()) };
    let mut database = connect(url).await?;
    let balance: i64 =
        database.query_one("select balance from leasehold_example where id = 1", &[]).await?.get(0);
    println!("read {balance}, with the token {}", guard.token());
    fenced::told()?;

    let fence = Fence::new(&Config::new(url)?);
    let (space, lock, token) = fence.params(guard.name(), guard.token());
    let transaction = database.transaction().await?;
    if transaction.query_opt(fence.sql(), &[&space, &lock, &token]).await?.is_none() {
        // The balance that was read may be out of date.
        transaction.rollback().await?;
        println!("refused: the lock is not held any more");
        return Ok(());
    }
    // From now on the lock is granted to no other client until this transaction ends, whatever happens to
    // this process.
    println!("pinned");
    fenced::told()?;

    let balance = balance - amount;
    transaction.execute("update leasehold_example set balance = $1 where id = 1", &[&balance]).await?;
    transaction.commit().await?;
    println!("wrote {balance} (the guard says that the lock is held: {})", guard.is_held());
    locks.close().await?;
    Ok(())
}

/// Opens the program's own connection, which is independent of those of the locks.
async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
