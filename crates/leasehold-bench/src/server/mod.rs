//! What a server says of itself. Nothing, if the storage has none or the feature `rivals` is off.

#[cfg(feature = "rivals")]
mod postgres;
#[cfg(feature = "rivals")]
mod redis;

use crate::Result;

/// A connection of its own, or none.
pub(crate) enum Server {
    None,
    #[cfg(feature = "rivals")]
    Redis(redis::Redis),
    #[cfg(feature = "rivals")]
    Postgres(postgres::Postgres),
}

/// How often it was called since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) all: u64,
    /// To acquire, if it tells those apart.
    pub(crate) acquire: Option<u64>,
}

#[cfg(feature = "rivals")]
impl Server {
    pub(crate) async fn of(store: &str) -> Result<Self> {
        let url = store.split('?').next().unwrap_or(store);
        Ok(match url.split("://").next() {
            Some("redis") => Self::Redis(redis::Redis::connect(url).await?),
            Some("postgres" | "postgresql") => Self::Postgres(postgres::Postgres::connect(url).await?),
            _ => Self::None,
        })
    }

    /// Its CPU time.
    pub(crate) async fn cpu_ns(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.cpu_ns().await,
            Self::Postgres(server) => server.cpu_ns().map(Some),
        }
    }

    /// The space that its data takes: in memory, or as files of tables and indexes.
    pub(crate) async fn data_bytes(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.memory().await,
            Self::Postgres(server) => server.table_bytes().await.map(Some),
        }
    }

    /// Calls of scripts, or statements; those to ask for this may be among them.
    pub(crate) async fn calls(&mut self) -> Result<Option<Calls>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.script_calls().await,
            Self::Postgres(server) => server.statements().await.map(Some),
        }
    }

    /// How many connections it has, without this one.
    pub(crate) async fn connections(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.connections().await,
            Self::Postgres(server) => server.connections().await.map(Some),
        }
    }

    /// The bytes of write-ahead log that it has made.
    pub(crate) async fn wal_bytes(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None | Self::Redis(_) => Ok(None),
            Self::Postgres(server) => server.wal_bytes().await.map(Some),
        }
    }
}

#[cfg(not(feature = "rivals"))]
#[expect(clippy::unused_async, reason = "as with the feature")]
impl Server {
    pub(crate) async fn of(_: &str) -> Result<Self> {
        Ok(Self::None)
    }

    pub(crate) async fn cpu_ns(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    pub(crate) async fn data_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    pub(crate) async fn calls(&mut self) -> Result<Option<Calls>> {
        Ok(None)
    }

    pub(crate) async fn connections(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    pub(crate) async fn wal_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
}
