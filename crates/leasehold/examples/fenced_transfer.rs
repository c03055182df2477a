//! A transfer that a stale holder cannot make: PostgreSQL checks the token in the transaction that writes.
//!
//! A real process is stopped while it holds a lock, first before its transaction and then in the middle of
//! it. Its lease ends, and another process wants the lock.
//!
//! `cargo run --features postgres --example fenced_transfer [postgres://…]`; without a URL it starts a server of its own.

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use leasehold::storage::postgres::{Config, Fence};
use leasehold::{ErrorKind, Locks};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio_postgres::NoTls;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const TTL: Duration = Duration::from_secs(1);
/// Longer than the lease of a dead holder.
const PATIENCE: Duration = Duration::from_secs(3);

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

    println!("-- stopped before the transaction");
    let mut ann = Worker::start("ann", url, 20)?;
    ann.tells("read 100")?;
    ann.stop()?;
    let mut bob = Worker::start("bob", url, 30)?;
    bob.tells("read 100")?;
    bob.goes_on("pinned")?;
    bob.goes_on("wrote 70")?;
    ann.wakes_up()?;
    ann.goes_on("refused")?;

    println!("-- stopped in the midst of it");
    let mut eve = Worker::start("eve", url, 5)?;
    eve.tells("read 70")?;
    eve.goes_on("pinned")?;
    eve.stop()?;
    Worker::start("bob", url, 30)?.tells("contended")?;
    eve.wakes_up()?;
    eve.goes_on("wrote 65")?;
    Worker::start("bob", url, 0)?.tells("read 65")?;

    let balance: i64 = database.query_one("select balance from leasehold_example", &[]).await?.get(0);
    println!("-- the balance is {balance}: 100 - 30 - 5");
    if balance == 65 { Ok(()) } else { Err("a stale holder has written".into()) }
}

/// Runs a worker process, which acquires the lock and reads the balance. On the first command it begins to
/// write, and on the second it writes.
async fn worker(name: &str, url: &str, amount: i64) -> Result<()> {
    let locks = Locks::connect(url).await?;
    let guard = match locks.lock("account/1").label(name).ttl(TTL).wait(PATIENCE).acquire().await {
        Ok(guard) => guard,
        Err(error) if error.kind() == ErrorKind::Contended => {
            locks.close().await?;
            println!("contended: {error}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut database = connect(url).await?;
    let balance: i64 =
        database.query_one("select balance from leasehold_example where id = 1", &[]).await?.get(0);
    println!("read {balance}, with the token {}", guard.token());
    told()?;

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
    told()?;

    let balance = balance - amount;
    transaction.execute("update leasehold_example set balance = $1 where id = 1", &[&balance]).await?;
    transaction.commit().await?;
    println!("wrote {balance} (the guard says that the lock is held: {})", guard.is_held());
    locks.close().await?;
    Ok(())
}

fn told() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Opens the program's own connection, which is independent of those of the locks.
async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A worker's process, seen from the main program.
struct Worker {
    name: String,
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(name: &str, url: &str, amount: i64) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([name, url, &amount.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { name: name.to_owned(), process, stdin, stdout })
    }

    /// Reads its next line, which must begin with this text.
    fn tells(&mut self, expected: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let (name, line) = (&self.name, line.trim());
        println!("{name}: {line}");
        if line.starts_with(expected) {
            Ok(())
        } else {
            Err(format!("not what was expected: {expected}").into())
        }
    }

    fn goes_on(&mut self, expected: &str) -> Result<()> {
        writeln!(self.stdin)?;
        self.tells(expected)
    }

    /// Stops the process, as a debugger, a hypervisor or swapping would, and waits until it has stopped.
    fn stop(&self) -> Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        waitpid(Some(self.pid()), WaitOptions::UNTRACED)?;
        println!("{}: … is stopped", self.name);
        Ok(())
    }

    fn wakes_up(&self) -> Result<()> {
        println!("{}: … goes on", self.name);
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

/// No process is left over, not even a stopped one, however the example ends.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
