//! A payment that a stale holder cannot make: MongoDB checks the token in the transaction that writes.
//!
//! A real process is stopped while it holds a lock, first before its transaction and then in the middle of
//! it. Its lease ends, and another process wants the lock.
//!
//! `cargo run --features mongodb --example fenced_payment [mongodb://…]`; without a URL it starts a replica set of its own.

#![expect(clippy::print_stdout, reason = "an example tells its story")]

mod fenced;

use leasehold::storage::mongodb::{Config, Fence};
use leasehold::{Guard, Locks};
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;
use mongodb::{Client, ClientSession, Collection};

use self::fenced::Result;

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

    fenced::tell(url)?;
    fenced::check(Database::connect(url).await?.balance().await?)
}

/// Runs a worker process, which acquires the lock and reads the balance. On the first command it begins to
/// write, and on the second it writes.
async fn worker(name: &str, url: &str, amount: i64) -> Result<()> {
    let locks = Locks::connect(url).await?;
    let Some(guard) = fenced::acquire(&locks, name).await? else { return Ok(()) };
    let database = Database::connect(url).await?;
    let balance = database.balance().await?;
    println!("read {balance}, with the token {}", guard.token());
    fenced::told()?;

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
    fenced::told()?;

    let balance = balance - amount;
    let pay = doc! { "$set": { "balance": balance } };
    database.accounts.update_one(doc! { "_id": 1 }, pay).session(&mut session).await?;
    session.commit_transaction().await?;
    println!("wrote {balance} (the guard says that the lock is held: {})", guard.is_held());
    locks.close().await?;
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
