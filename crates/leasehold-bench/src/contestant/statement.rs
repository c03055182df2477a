//! One statement per claim, each in a transaction of its own: the simple solution over PostgreSQL.
//!
//! It uses a row as a lease, as Leasehold does, but has no batches, no queue and no renewals.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::{Client, NoTls, Statement};

use super::TTL;
use crate::Result;

/// A value as long as an owner id of Leasehold.
const OWNER: &str = "0123456789abcdef0123456789abcdef";

const TABLE: &str = "create table if not exists bench_statement (
    name text primary key, owner text, token bigint not null, expires_at timestamptz not null
) with (fillfactor = 50)";

const ACQUIRE: &str = "insert into bench_statement as l (name, owner, token, expires_at)
    values ($1, $2, 1, clock_timestamp() + $3 * interval '1 ms')
    on conflict (name) do update set owner = excluded.owner, token = l.token + 1, expires_at = excluded.expires_at
    where l.owner is null or l.expires_at <= clock_timestamp()
    returning token";

const RELEASE: &str = "update bench_statement set owner = null where name = $1 and owner = $2";

/// Pipelined connections. Workers are spread over them.
pub(crate) struct Connections {
    all: Vec<Arc<Connection>>,
    next: AtomicUsize,
}

struct Connection {
    client: Client,
    acquire: Statement,
    release: Statement,
}

impl Connections {
    pub(super) async fn open(store: &str, count: usize) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Arc::new(Connection::open(store).await?));
        }
        Ok(Self { all, next: AtomicUsize::new(0) })
    }

    pub(super) fn lock(&self, name: &str) -> Row {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        Row { connection: Arc::clone(&self.all[at]), name: name.to_owned() }
    }
}

impl Connection {
    async fn open(store: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(store, NoTls).await?;
        // The task ends with the client. Errors show in the client's calls.
        tokio::spawn(connection);
        client.batch_execute("set client_min_messages = warning; set synchronous_commit = on").await?;
        client.batch_execute(TABLE).await?;
        let (acquire, release) = (client.prepare(ACQUIRE).await?, client.prepare(RELEASE).await?);
        Ok(Self { client, acquire, release })
    }
}

pub(crate) struct Row {
    connection: Arc<Connection>,
    name: String,
}

impl Row {
    pub(super) async fn acquire(&self) -> Result<Held> {
        let Connection { client, acquire, .. } = &*self.connection;
        let ttl = f64::from(u32::try_from(TTL.as_millis())?);
        let row = client.query_opt(acquire, &[&self.name, &OWNER, &ttl]).await?;
        let token: i64 = row.ok_or("another client has the lock")?.get(0);
        let connection = Arc::clone(&self.connection);
        Ok(Held { connection, name: self.name.clone(), token: u64::try_from(token)? })
    }
}

pub(crate) struct Held {
    connection: Arc<Connection>,
    name: String,
    token: u64,
}

impl Held {
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) async fn release(self) -> Result {
        let Connection { client, release, .. } = &*self.connection;
        match client.execute(release, &[&self.name, &OWNER]).await? {
            1 => Ok(()),
            _ => Err("the lock was gone".into()),
        }
    }
}
