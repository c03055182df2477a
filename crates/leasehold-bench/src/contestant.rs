//! Who is measured: Leasehold, and with the feature `rivals` what it is compared with. All on the same runtime.

use std::fmt;
use std::time::Duration;

use leasehold::{Guard, Lock, Locks};

use crate::Result;

/// How long a lease lasts, for everybody.
pub(crate) const TTL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Contestant {
    /// Leasehold, its engine on a thread of its own.
    Leasehold,
    /// Leasehold, its engine as a task of the workers' runtime.
    LeaseholdTask,
    /// The crate `rslock`, one manager with one server.
    #[cfg(feature = "rivals")]
    Rslock,
    /// `SET NX PX` and `DEL` on a multiplexed connection of the crate `redis`: no release by owner, no waiting, no
    /// token.
    #[cfg(feature = "rivals")]
    Raw,
}

impl Contestant {
    /// As a worker process is told.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Leasehold => "leasehold",
            Self::LeaseholdTask => "leasehold-task",
            #[cfg(feature = "rivals")]
            Self::Rslock => "rslock",
            #[cfg(feature = "rivals")]
            Self::Raw => "raw",
        }
    }

    pub(crate) async fn connect(self, store: &str) -> Result<Client> {
        let builder = Locks::builder().ttl(TTL);
        Ok(match self {
            Self::Leasehold => Client::Leasehold(builder.connect(store).await?),
            Self::LeaseholdTask => Client::Leasehold(builder.on_current_runtime().connect(store).await?),
            #[cfg(feature = "rivals")]
            Self::Rslock => Client::Rslock(rslock::LockManager::new(vec![store])),
            #[cfg(feature = "rivals")]
            Self::Raw => {
                // A slow disk must end nothing.
                let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
                let client = redis::Client::open(store)?;
                Client::Raw(client.get_multiplexed_async_connection_with_config(&patient).await?)
            }
        })
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.argument())
    }
}

/// One connected contestant, shared by all workers.
pub(crate) enum Client {
    Leasehold(Locks),
    #[cfg(feature = "rivals")]
    Rslock(rslock::LockManager),
    #[cfg(feature = "rivals")]
    Raw(redis::aio::MultiplexedConnection),
}

impl Client {
    /// What a worker takes one lock with.
    pub(crate) fn lock(&self, name: &str) -> AnyLock {
        match self {
            Self::Leasehold(locks) => AnyLock::Leasehold(locks.lock(name)),
            #[cfg(feature = "rivals")]
            Self::Rslock(manager) => AnyLock::Rslock(manager.clone(), format!("rslock/{name}")),
            #[cfg(feature = "rivals")]
            Self::Raw(connection) => AnyLock::Raw(connection.clone(), format!("raw/{name}")),
        }
    }

    pub(crate) async fn close(self) -> Result {
        match self {
            Self::Leasehold(locks) => locks.close().await?,
            #[cfg(feature = "rivals")]
            Self::Rslock(_) | Self::Raw(_) => {}
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
}

impl AnyLock {
    /// Waits for the lock; the raw floor cannot wait and fails instead.
    pub(crate) async fn acquire(&self) -> Result<AnyGuard> {
        Ok(match self {
            Self::Leasehold(lock) => AnyGuard::Leasehold(lock.acquire().await?),
            #[cfg(feature = "rivals")]
            Self::Rslock(manager, name) => AnyGuard::Rslock(manager.acquire(name.as_bytes(), TTL).await?),
            #[cfg(feature = "rivals")]
            Self::Raw(connection, key) => raw::acquire(connection.clone(), key).await?,
        })
    }
}

pub(crate) enum AnyGuard {
    Leasehold(Guard),
    #[cfg(feature = "rivals")]
    Rslock(rslock::LockGuard),
    #[cfg(feature = "rivals")]
    Raw(redis::aio::MultiplexedConnection, String),
}

impl AnyGuard {
    /// The fencing token; 0 where there is none.
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Leasehold(guard) => guard.token().get(),
            #[cfg(feature = "rivals")]
            Self::Rslock(_) | Self::Raw(..) => 0,
        }
    }

    pub(crate) async fn release(self) -> Result {
        match self {
            Self::Leasehold(guard) => guard.release().await?,
            #[cfg(feature = "rivals")]
            Self::Rslock(guard) => guard.release().await,
            #[cfg(feature = "rivals")]
            Self::Raw(connection, key) => raw::release(connection, &key).await?,
        }
        Ok(())
    }
}

#[cfg(feature = "rivals")]
mod raw {
    use redis::aio::MultiplexedConnection;

    use super::{AnyGuard, TTL};
    use crate::Result;

    /// As long as an owner of Leasehold's.
    const OWNER: &str = "0123456789abcdef0123456789abcdef";

    pub(super) async fn acquire(mut connection: MultiplexedConnection, key: &str) -> Result<AnyGuard> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(OWNER).arg("NX").arg("PX").arg(u64::try_from(TTL.as_millis())?);
        let granted: Option<String> = set.query_async(&mut connection).await?;
        if granted.is_none() {
            return Err("somebody else has the lock".into());
        }
        Ok(AnyGuard::Raw(connection, key.to_owned()))
    }

    pub(super) async fn release(mut connection: MultiplexedConnection, key: &str) -> Result {
        match redis::cmd("DEL").arg(key).query_async(&mut connection).await? {
            1_u32 => Ok(()),
            _ => Err("the lock was gone".into()),
        }
    }
}
