//! The measured contestants: Leasehold and, with the feature `rivals`, the crates it is compared with. All
//! run on the same runtime.

#[cfg(feature = "rivals")]
pub mod outside;
#[cfg(feature = "rivals")]
mod raw;
#[cfg(feature = "rivals")]
mod statement;

use std::fmt;
use std::time::Duration;

use leasehold::{Guard, Lock, Locks};

use crate::Result;

/// The TTL of every lease.
pub(crate) const TTL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Contestant {
    /// Leasehold with its engine on a thread of its own.
    Leasehold,
    /// Leasehold with its engine as a task of the workers' runtime.
    LeaseholdTask,
    /// The crate `rslock`, with one manager and one server.
    #[cfg(feature = "rivals")]
    Rslock,
    /// `SET NX PX` and `DEL` on a multiplexed connection of the crate `redis`: no release by owner, no
    /// waiting, no token.
    #[cfg(feature = "rivals")]
    Raw,
    /// The crate `distributed-lock-postgres`, with one connection per worker, because a lock belongs to a
    /// session.
    #[cfg(feature = "rivals")]
    Advisory,
    /// The same with `try_acquire`: fewer statements, and no waiting.
    #[cfg(feature = "rivals")]
    AdvisoryTry,
    /// One row per lock and one statement per claim, on one pipelined connection: no waiting.
    #[cfg(feature = "rivals")]
    Statement,
    /// The same on eight connections.
    #[cfg(feature = "rivals")]
    #[value(name = "statement-8")]
    StatementEight,
    /// The crate `distributed-lock-mongo`, with as many connections as the driver opens by default.
    #[cfg(feature = "rivals")]
    Mongo,
    /// The same with one connection per worker.
    #[cfg(feature = "rivals")]
    MongoPool,
    /// The lock service of etcd by the crate `etcd-client`, with one lease per process.
    #[cfg(feature = "rivals")]
    EtcdLock,
}

/// The largest pool of the MongoDB driver, unless it is told another one.
#[cfg(feature = "rivals")]
const MONGO_POOL: usize = 10;

impl Contestant {
    /// Returns the argument that selects it in a worker process.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Leasehold => "leasehold",
            Self::LeaseholdTask => "leasehold-task",
            #[cfg(feature = "rivals")]
            Self::Rslock => "rslock",
            #[cfg(feature = "rivals")]
            Self::Raw => "raw",
            #[cfg(feature = "rivals")]
            Self::Advisory => "advisory",
            #[cfg(feature = "rivals")]
            Self::AdvisoryTry => "advisory-try",
            #[cfg(feature = "rivals")]
            Self::Statement => "statement",
            #[cfg(feature = "rivals")]
            Self::StatementEight => "statement-8",
            #[cfg(feature = "rivals")]
            Self::Mongo => "mongo",
            #[cfg(feature = "rivals")]
            Self::MongoPool => "mongo-pool",
            #[cfg(feature = "rivals")]
            Self::EtcdLock => "etcd-lock",
        }
    }

    /// Connects for this many workers. The number matters only to a contestant with one connection per
    /// worker.
    pub(crate) async fn connect(self, store: &str, workers: usize) -> Result<Client> {
        let builder = Locks::builder().ttl(TTL);
        Ok(match self {
            Self::Leasehold => Client::Leasehold(builder.connect(store).await?),
            Self::LeaseholdTask => Client::Leasehold(builder.on_current_runtime().connect(store).await?),
            #[cfg(feature = "rivals")]
            Self::Rslock => Client::Rslock(rslock::LockManager::new(vec![store])),
            #[cfg(feature = "rivals")]
            Self::Raw => Client::Raw(raw::connect(store).await?),
            #[cfg(feature = "rivals")]
            Self::Advisory => Client::Outside(outside::connect(store, workers).await?),
            #[cfg(feature = "rivals")]
            Self::AdvisoryTry => Client::AdvisoryTry(outside::connect(store, workers).await?),
            #[cfg(feature = "rivals")]
            Self::Statement => Client::Statement(statement::Connections::open(store, 1).await?),
            #[cfg(feature = "rivals")]
            Self::StatementEight => Client::Statement(statement::Connections::open(store, 8).await?),
            #[cfg(feature = "rivals")]
            Self::Mongo => Client::Outside(outside::connect(store, MONGO_POOL).await?),
            #[cfg(feature = "rivals")]
            Self::MongoPool => Client::Outside(outside::connect(store, workers).await?),
            #[cfg(feature = "rivals")]
            Self::EtcdLock => Client::Outside(outside::connect(store, 1).await?),
        })
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.argument())
    }
}

/// A connected contestant, shared by all workers.
pub(crate) enum Client {
    Leasehold(Locks),
    #[cfg(feature = "rivals")]
    Rslock(rslock::LockManager),
    #[cfg(feature = "rivals")]
    Raw(redis::aio::MultiplexedConnection),
    #[cfg(feature = "rivals")]
    Outside(Box<dyn outside::Client>),
    #[cfg(feature = "rivals")]
    AdvisoryTry(Box<dyn outside::Client>),
    #[cfg(feature = "rivals")]
    Statement(statement::Connections),
}

impl Client {
    /// Makes the lock of a worker.
    pub(crate) fn lock(&self, name: &str) -> AnyLock {
        match self {
            Self::Leasehold(locks) => AnyLock::Leasehold(locks.lock(name)),
            #[cfg(feature = "rivals")]
            Self::Rslock(manager) => AnyLock::Rslock(manager.clone(), format!("rslock/{name}")),
            #[cfg(feature = "rivals")]
            Self::Raw(connection) => AnyLock::Raw(connection.clone(), format!("raw/{name}")),
            #[cfg(feature = "rivals")]
            Self::Outside(client) => AnyLock::Outside(client.lock(name)),
            #[cfg(feature = "rivals")]
            Self::AdvisoryTry(client) => AnyLock::AdvisoryTry(client.lock(name)),
            #[cfg(feature = "rivals")]
            Self::Statement(connections) => AnyLock::Statement(connections.lock(name)),
        }
    }

    pub(crate) async fn close(self) -> Result {
        match self {
            Self::Leasehold(locks) => locks.close().await?,
            #[cfg(feature = "rivals")]
            Self::Outside(client) | Self::AdvisoryTry(client) => client.close().await,
            #[cfg(feature = "rivals")]
            Self::Rslock(_) | Self::Raw(_) | Self::Statement(_) => {}
        }
        Ok(())
    }
}

pub(crate) enum AnyLock {
    Leasehold(Lock),
    #[cfg(feature = "rivals")]
    Rslock(rslock::LockManager, String),
    #[cfg(feature = "rivals")]
    Raw(redis::aio::MultiplexedConnection, String),
    #[cfg(feature = "rivals")]
    Outside(Box<dyn outside::Lock>),
    #[cfg(feature = "rivals")]
    AdvisoryTry(Box<dyn outside::Lock>),
    #[cfg(feature = "rivals")]
    Statement(statement::Row),
}

impl AnyLock {
    /// Waits for the lock. A contestant that cannot wait fails instead.
    pub(crate) async fn acquire(&self) -> Result<AnyGuard> {
        Ok(match self {
            Self::Leasehold(lock) => AnyGuard::Leasehold(lock.acquire().await?),
            #[cfg(feature = "rivals")]
            Self::Rslock(manager, name) => AnyGuard::Rslock(manager.acquire(name.as_bytes(), TTL).await?),
            #[cfg(feature = "rivals")]
            Self::Raw(connection, key) => raw::acquire(connection.clone(), key).await?,
            #[cfg(feature = "rivals")]
            Self::Outside(lock) => AnyGuard::Outside(lock.acquire().await?),
            #[cfg(feature = "rivals")]
            Self::AdvisoryTry(lock) => {
                AnyGuard::Outside(lock.try_acquire().await?.ok_or("another client has the lock")?)
            }
            #[cfg(feature = "rivals")]
            Self::Statement(row) => AnyGuard::Statement(row.acquire().await?),
        })
    }
}

pub(crate) enum AnyGuard {
    Leasehold(Guard),
    #[cfg(feature = "rivals")]
    Rslock(rslock::LockGuard),
    #[cfg(feature = "rivals")]
    Raw(redis::aio::MultiplexedConnection, String),
    #[cfg(feature = "rivals")]
    Outside(Box<dyn outside::Held>),
    #[cfg(feature = "rivals")]
    Statement(statement::Held),
}

impl AnyGuard {
    /// Returns the fencing token, or 0 if there is none.
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Leasehold(guard) => guard.token().get(),
            #[cfg(feature = "rivals")]
            Self::Statement(held) => held.token(),
            #[cfg(feature = "rivals")]
            Self::Rslock(_) | Self::Raw(..) | Self::Outside(_) => 0,
        }
    }

    pub(crate) async fn release(self) -> Result {
        match self {
            Self::Leasehold(guard) => guard.release().await?,
            #[cfg(feature = "rivals")]
            Self::Rslock(guard) => guard.release().await,
            #[cfg(feature = "rivals")]
            Self::Raw(connection, key) => raw::release(connection, &key).await?,
            #[cfg(feature = "rivals")]
            Self::Outside(held) => held.release().await?,
            #[cfg(feature = "rivals")]
            Self::Statement(held) => held.release().await?,
        }
        Ok(())
    }
}
