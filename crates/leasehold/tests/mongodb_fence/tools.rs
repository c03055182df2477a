//! Helpers: a prefix of its own, transactions of the driver, and calls of the storage.

use std::future::Future;
use std::time::Duration;

use leasehold::Result;
use leasehold::storage::mongodb::{Config, Fence, MongoDb as Bare};
use leasehold::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply, RenewReply, Storage, Token};
use leasehold_testbed::{MongoDb, scaled, shared};
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{Client, ClientSession, Collection};

/// The server's code if it has no transactions.
pub(crate) const ILLEGAL_OPERATION: i32 = 20;

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The server's code if another transaction has written the same document.
pub(crate) const WRITE_CONFLICT: i32 = 112;

/// Returns so many milliseconds, times the factor for a slow machine.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(test);
}

/// Returns a server that is shared by the tests that do not break it.
pub(crate) fn common() -> &'static MongoDb {
    shared::mongodb().expect("a server")
}

/// A prefix of its own, and the data of a program beside its locks.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) fence: Fence,
    client: Client,
    /// What transactions have written.
    data: Collection<Document>,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::on(common()).await
    }

    pub(crate) async fn on(server: &MongoDb) -> Self {
        let prefix = Owner::random().to_string();
        let url = format!("{}&prefix={prefix}", server.url());
        let fence = Fence::new(&Config::new(&url).expect("valid"));
        let client = Client::with_uri_str(server.url()).await.expect("connected");
        let data = client.database(fence.database()).collection(&format!("data_{prefix}"));
        data.insert_one(doc! { "_id": 0 }).await.expect("inserted");
        Self { url, fence, client, data }
    }

    /// Connects a storage without an engine.
    pub(crate) async fn storage(&self) -> Bare {
        Bare::connect(Config::new(&self.url).expect("valid")).await.expect("connected")
    }

    pub(crate) async fn transaction(&self) -> ClientSession {
        let mut session = self.client.start_session().await.expect("a session");
        let start = session.start_transaction().read_concern(ReadConcern::snapshot());
        start.write_concern(WriteConcern::majority()).await.expect("started");
        session
    }

    /// Runs the fence's update in a transaction, and returns how many documents it matches.
    pub(crate) async fn pin(
        &self,
        session: &mut ClientSession,
        name: &str,
        token: Token,
    ) -> mongodb::error::Result<u64> {
        self.pin_by(&self.fence, session, name, token).await
    }

    pub(crate) async fn pin_by(
        &self,
        fence: &Fence,
        session: &mut ClientSession,
        name: &str,
        token: Token,
    ) -> mongodb::error::Result<u64> {
        let filter = fence.filter(&Name::new(name).expect("valid"), token);
        let [filter, update] =
            [&filter[..], fence.update()].map(|bson| Document::from_reader(bson).expect("a document"));
        let pinned = self.locks().update_one(filter, update).session(session).await?;
        Ok(pinned.matched_count)
    }

    /// Changes the document of a lock in a transaction, as a command of the storage would that began now.
    pub(crate) async fn change(&self, session: &mut ClientSession, name: &str, stage: Document) {
        let locks = self.locks();
        let changed = locks.update_one(doc! { "_id": self.id(name) }, vec![stage]).session(session).await;
        assert_eq!(changed.expect("written").matched_count, 1);
    }

    fn id(&self, name: &str) -> String {
        let (_, prefix) = self.url.split_once("prefix=").expect("a prefix");
        format!("{prefix}\0{name}")
    }

    pub(crate) async fn write(&self, session: &mut ClientSession, what: &str) {
        self.data.insert_one(doc! { "_id": what }).session(session).await.expect("written");
    }

    pub(crate) async fn read(&self, session: &mut ClientSession) {
        let found = self.data.find_one(doc! { "_id": 0 }).session(session).await;
        assert!(found.expect("answered").is_some());
    }

    /// Returns what transactions have written, without the document that was there before.
    pub(crate) async fn written(&self) -> Vec<String> {
        let mut cursor = self.data.find(doc! { "_id": { "$ne": 0 } }).await.expect("answered");
        let mut written = Vec::new();
        while cursor.advance().await.expect("answered") {
            let found = cursor.deserialize_current().expect("a document");
            written.push(found.get_str("_id").expect("a text").to_owned());
        }
        written
    }

    /// Returns the document of a lock.
    pub(crate) async fn lock(&self, name: &str) -> Document {
        let found = self.locks().find_one(doc! { "_id": self.id(name) }).await;
        found.expect("answered").expect("there is one")
    }

    /// Waits until a command of this prefix waits at the server for a transaction.
    pub(crate) async fn until_blocked(&self) {
        let (_, prefix) = self.url.split_once("prefix=").expect("a prefix");
        let conflicts = doc! {
            "writeConflicts": { "$gt": 0 },
            "ns": format!("{}.{}", self.fence.database(), self.fence.collection()),
        };
        let blocked = [doc! { "$currentOp": { "allUsers": true } }, doc! { "$match": conflicts }];
        within(scaled(Duration::from_secs(20)), async {
            while !self.is_running(&blocked, prefix).await {
                // The server does not report that a command waits.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Returns `true` if one of these operations contains the text.
    async fn is_running(&self, operations: &[Document], text: &str) -> bool {
        let found = self.client.database("admin").aggregate(operations.iter().cloned()).await;
        let mut found = found.expect("answered");
        while found.advance().await.expect("answered") {
            if found.deserialize_current().expect("a document").to_string().contains(text) {
                return true;
            }
        }
        false
    }

    fn locks(&self) -> Collection<Document> {
        self.client.database(self.fence.database()).collection(self.fence.collection())
    }
}

/// Returns the server's code of an error.
pub(crate) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    }
}

pub(crate) fn claim(name: &str, ttl: Duration) -> Claim {
    Claim::new(Name::new(name).expect("valid"), Owner::random(), ttl)
}

pub(crate) async fn acquire(storage: &Bare, claim: &Claim) -> Result<AcquireReply> {
    storage.acquire(std::slice::from_ref(claim)).await.pop().expect("one reply")
}

pub(crate) async fn renew(storage: &Bare, claim: &Claim) -> Result<RenewReply> {
    storage.renew(std::slice::from_ref(claim)).await.pop().expect("one reply")
}

pub(crate) async fn release(storage: &Bare, claim: &Claim) -> Result<ReleaseReply> {
    storage.release(std::slice::from_ref(claim)).await.pop().expect("one reply")
}

/// Acquires a free lock.
pub(crate) async fn take(storage: &Bare, claim: &Claim) -> Token {
    match acquire(storage, claim).await {
        Ok(AcquireReply::Granted { token, .. }) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Waits until the lease of a lock is over.
pub(crate) async fn ended(storage: &Bare, name: &str) {
    let name = Name::new(name).expect("valid");
    within(scaled(Duration::from_secs(20)), async {
        while !storage.inspect(&name).await.expect("answered").is_empty() {
            // No event shows that a lease has ended.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Fails if the work takes longer than the limit.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("in time")
}
