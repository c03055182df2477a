//! A payment that a stale holder cannot make: MongoDB checks the token in the transaction that writes.
//!
//! A real process is stopped while it holds a lock, first before its transaction and then in the middle of
//! it. Its lease ends, and another process wants the lock.
//!
//! `cargo run --features mongodb --example fenced_payment [mongodb://…]`; without a URL it starts a replica set of its own.

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use leasehold::storage::mongodb::{Config, Fence};
use leasehold::{Guard, Locks};
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;
use mongodb::{Client, ClientSession, Collection};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const TTL: Duration = Duration::from_secs(1);
/// Longer than the lease of a dead holder.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &args[..] {
        [] => {
            let server = leasehold_testbed::MongoDb::start()?;
            runtime.block_on(story(&server.url()))
        }
        [url] => runtime.block_on(story(url)),
        [name, url, amount] => runtime.block_on(worker(name, url, amount.parse()?)),
        _ => Err("start it with the URL of a MongoDB, or without arguments".into()),
    }
}

async fn story(url: &str) -> Result<()> {
    let accounts = Database::connect(url).await?.accounts;
    accounts.drop().await?;
    accounts.insert_one(doc! { "_id": 1, "balance": 100_i64 }).await?;

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
    Worker::start("bob", url, 30)?.tells("not granted")?;
    eve.wakes_up()?;
    eve.goes_on("wrote 65")?;
    Worker::start("bob", url, 0)?.tells("read 65")?;

    let balance = Database::connect(url).await?.balance().await?;
    println!("-- the balance is {balance}: 100 - 30 - 5");
    if balance == 65 { Ok(()) } else { Err("a stale holder has written".into()) }
}

/// Runs a worker process, which acquires the lock and reads the balance. On the first command it begins to
/// write, and on the second it writes.
async fn worker(name: &str, url: &str, amount: i64) -> Result<()> {
    let locks = Locks::connect(url).await?;
    let guard = match locks.lock("account/1").label(name).ttl(TTL).wait(PATIENCE).acquire().await {
        Ok(guard) => guard,
        Err(error) => {
            println!("not granted: {error}");
            return Ok(());
        }
    };
    let database = Database::connect(url).await?;
    let balance = database.balance().await?;
    println!("read {balance}, with the token {}", guard.token());
    told()?;

    let mut session = database.client.start_session().await?;
    session.start_transaction().write_concern(WriteConcern::majority()).await?;
    if !database.pin(&mut session, &Fence::new(&Config::new(url)?), &guard).await? {
        // The balance that was read may be out of date.
        session.abort_transaction().await?;
        println!("refused: the lock is not held any more");
        return Ok(());
    }
    // From now on the lock is granted to no other client until this transaction ends, whatever happens to
    // this process.
    println!("pinned");
    told()?;

    let balance = balance - amount;
    let pay = doc! { "$set": { "balance": balance } };
    database.accounts.update_one(doc! { "_id": 1 }, pay).session(&mut session).await?;
    session.commit_transaction().await?;
    println!("wrote {balance} (the guard says that the lock is held: {})", guard.is_held());
    locks.close().await?;
    Ok(())
}

fn told() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// The program's own client, which is independent of that of the locks.
struct Database {
    client: Client,
    accounts: Collection<Document>,
}

impl Database {
    async fn connect(url: &str) -> Result<Self> {
        let client = Client::with_uri_str(url).await?;
        let accounts = client.default_database().ok_or("the URL names no database")?;
        Ok(Self { client, accounts: accounts.collection("leasehold_example") })
    }

    async fn balance(&self) -> Result<i64> {
        let account = self.accounts.find_one(doc! { "_id": 1 }).await?.ok_or("there is no account")?;
        Ok(account.get_i64("balance")?)
    }

    /// Checks the token, and pins the lock until the transaction ends. Returns `false` if the lock is not held.
    async fn pin(&self, session: &mut ClientSession, fence: &Fence, guard: &Guard) -> Result<bool> {
        let locks = self.client.database(fence.database()).collection::<Document>(fence.collection());
        let filter = Document::from_reader(&fence.filter(guard.name(), guard.token())[..])?;
        let update = Document::from_reader(fence.update())?;
        let pinned = locks.update_one(filter, update).session(session).await?;
        Ok(pinned.matched_count == 1)
    }
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
