//! `leasehold-bench` with the crate `distributed-lock-mongo`.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _};
use distributed_lock_mongo::handle::MongoLockHandle;
use distributed_lock_mongo::{MongoDistributedLock, MongoDistributedLockOptions};
use leasehold_bench::outside::{self, Boxed, Client, Held, Lock};
use mongodb::Database;
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};

/// As long as the leases of the other contestants.
const TTL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    outside::use_driver(Driver);
    leasehold_bench::main()
}

struct Driver;

impl outside::Driver for Driver {
    fn connect<'a>(&'a self, store: &'a str, connections: u32) -> Boxed<'a, Box<dyn Client>> {
        Box::pin(async move {
            let mut options = ClientOptions::parse(store).await?;
            // As Leasehold's.
            options.write_concern =
                Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());
            options.max_pool_size = Some(connections);
            let client = mongodb::Client::with_options(options)?;
            let database = client.database("rival");
            // Connects before the measurement.
            database.run_command(mongodb::bson::doc! { "ping": 1 }).await?;
            Ok(Box::new(Rival { client, database }) as Box<dyn Client>)
        })
    }

    fn versions(&self) -> String {
        let lock = include_str!("../Cargo.lock");
        let package = lock.split("[[package]]\n").find(|p| p.starts_with("name = \"distributed-lock-mongo\"\n"));
        let version = package.and_then(|package| package.split('"').nth(3)).unwrap_or("?");
        format!("distributed-lock-mongo {version}")
    }
}

struct Rival {
    client: mongodb::Client,
    database: Database,
}

impl Client for Rival {
    fn lock(&self, name: &str) -> Box<dyn Lock> {
        let options = MongoDistributedLockOptions { expiry: TTL, ..MongoDistributedLockOptions::default() };
        let database = self.database.clone();
        Box::new(RivalLock(MongoDistributedLock::new(name.to_owned(), database, None, Some(options))))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.client.clone().shutdown().into_future())
    }
}

struct RivalLock(MongoDistributedLock);

impl Lock for RivalLock {
    fn acquire(&self) -> Boxed<'_, Box<dyn Held>> {
        Box::pin(async { Ok(Box::new(RivalHeld(self.0.acquire(None).await?)) as Box<dyn Held>) })
    }

    fn try_acquire(&self) -> Boxed<'_, Option<Box<dyn Held>>> {
        Box::pin(async {
            Ok(self.0.try_acquire().await?.map(|held| Box::new(RivalHeld(held)) as Box<dyn Held>))
        })
    }
}

struct RivalHeld(MongoLockHandle);

impl Held for RivalHeld {
    fn release(self: Box<Self>) -> Boxed<'static, ()> {
        Box::pin(async { Ok(self.0.release().await?) })
    }
}
