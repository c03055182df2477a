//! The statistics of a server. There are none without a server or without the feature `rivals`.

#[cfg(feature = "rivals")]
mod mongodb;
#[cfg(feature = "rivals")]
mod postgres;
#[cfg(feature = "rivals")]
mod redis;

use crate::Result;

/// A connection of its own to a server, or none.
pub(crate) enum Server {
    None,
    #[cfg(feature = "rivals")]
    Redis(redis::Redis),
    #[cfg(feature = "rivals")]
    Postgres(postgres::Postgres),
    #[cfg(feature = "rivals")]
    MongoDb(mongodb::MongoDbServer),
}

/// The number of calls since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) all: u64,
    /// The calls to acquire, if the server can distinguish them.
    pub(crate) acquire: Option<u64>,
}

#[cfg(feature = "rivals")]
impl Server {
    pub(crate) async fn of(store: &str) -> Result<Self> {
        let url = store.split('?').next().unwrap_or(store);
        Ok(match url.split("://").next() {
            Some("redis") => Self::Redis(redis::Redis::connect(url).await?),
            Some("postgres" | "postgresql") => Self::Postgres(postgres::Postgres::connect(url).await?),
            Some("mongodb") => Self::MongoDb(mongodb::MongoDbServer::connect(url).await?),
            _ => Self::None,
        })
    }

    /// Returns its CPU time.
    pub(crate) async fn cpu_ns(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.cpu_ns().await,
            Self::Postgres(server) => server.cpu_ns().map(Some),
            Self::MongoDb(server) => server.cpu_ns().await.map(Some),
        }
    }

    /// Returns the size of its data: in memory, or as tables and indexes.
    pub(crate) async fn data_bytes(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.memory().await,
            Self::Postgres(server) => server.table_bytes().await.map(Some),
            Self::MongoDb(server) => server.data_bytes().await.map(Some),
        }
    }

    /// Returns the calls of scripts, statements or commands, possibly including those of this function.
    pub(crate) async fn calls(&mut self) -> Result<Option<Calls>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.script_calls().await,
            Self::Postgres(server) => server.statements().await.map(Some),
            Self::MongoDb(server) => server.commands().await.map(Some),
        }
    }

    /// Returns the number of connections, without this one.
    pub(crate) async fn connections(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None => Ok(None),
            Self::Redis(server) => server.connections().await,
            Self::Postgres(server) => server.connections().await.map(Some),
            Self::MongoDb(server) => server.connections().await.map(Some),
        }
    }

    /// Returns the bytes that were written to its write-ahead log or oplog so far.
    pub(crate) async fn log_bytes(&mut self) -> Result<Option<u64>> {
        match self {
            Self::None | Self::Redis(_) => Ok(None),
            Self::Postgres(server) => server.wal_bytes().await.map(Some),
            Self::MongoDb(server) => server.log_bytes().await.map(Some),
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

    pub(crate) async fn log_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
}
