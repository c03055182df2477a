//! `leasehold-bench` with the crate `distributed-lock-postgres`.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use distributed_lock_core::traits::{DistributedLock as _, LockHandle as _, LockProvider as _};
use distributed_lock_postgres::PostgresLockProvider;
use distributed_lock_postgres::handle::PostgresLockHandle;
use distributed_lock_postgres::lock::PostgresDistributedLock;
use leasehold_bench::Result;
use leasehold_bench::outside::{self, Boxed, Client, Held, Lock};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

fn main() -> ExitCode {
    outside::use_driver(Driver);
    leasehold_bench::main()
}

struct Driver;

impl outside::Driver for Driver {
    fn connect<'a>(&'a self, store: &'a str, connections: u32) -> Boxed<'a, Box<dyn Client>> {
        Box::pin(async move {
            let pool = open(store, connections).await?;
            let provider = PostgresLockProvider::builder().pool(pool.clone()).build().await?;
            Ok(Box::new(Rival { provider, pool }) as Box<dyn Client>)
        })
    }

    fn versions(&self) -> String {
        let lock = include_str!("../Cargo.lock");
        let version = |name: &str| {
            let package = lock.split("[[package]]\n").find(|p| p.starts_with(&format!("name = \"{name}\"\n")));
            package.and_then(|package| package.split('"').nth(3)).unwrap_or("?")
        };
        let ours = version("distributed-lock-postgres");
        format!("distributed-lock-postgres {ours} over sqlx {}", version("sqlx"))
    }
}

/// Opens all connections before the measurement, and without the ping that sqlx sends by default before
/// each use.
async fn open(store: &str, connections: u32) -> Result<PgPool> {
    let options: PgConnectOptions = store.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(600))
        .connect_with(options.ssl_mode(PgSslMode::Disable))
        .await?;
    let mut all = Vec::new();
    for _ in 0..connections {
        all.push(pool.acquire().await?);
    }
    drop(all);
    Ok(pool)
}

struct Rival {
    provider: PostgresLockProvider,
    pool: PgPool,
}

impl Client for Rival {
    fn lock(&self, name: &str) -> Box<dyn Lock> {
        Box::new(RivalLock(self.provider.create_lock(name)))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // The wait is limited, because the connection of an abandoned wait returns to the pool only once it
        // has the lock.
        Box::pin(async {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.pool.close()).await;
        })
    }
}

struct RivalLock(PostgresDistributedLock);

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

struct RivalHeld(PostgresLockHandle);

impl Held for RivalHeld {
    fn release(self: Box<Self>) -> Boxed<'static, ()> {
        Box::pin(async { Ok(self.0.release().await?) })
    }
}
