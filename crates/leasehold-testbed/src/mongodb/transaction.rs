//! A transaction of another client of the database, which stays open.

use bson::{Document, doc};

use super::wire::{Connection, accepted};
use super::{Access, MongoDb};
use crate::wait::until;
use crate::{Error, Result};

/// The database of the locks.
const DATABASE: &str = "leasehold";
/// The server's code if another command has written the same document.
const WRITE_CONFLICT: i32 = 112;

/// A transaction of another client. Dropping it aborts it.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    session: Document,
    is_open: bool,
}

impl MongoDb {
    /// Begins a transaction that executes these updates of a collection of the database `leasehold`, and leaves it open. An
    /// update is `{ q: …, u: … }`, as in the command `update`.
    ///
    /// # Errors
    ///
    /// If it is refused, or other clients write the same documents all the time.
    pub fn transaction(&self, collection: &str, updates: &[Document]) -> Result<Transaction> {
        let port = self.primary()?.port();
        until("a moment at which no other client writes the documents", || {
            let begun = Transaction::begin(&self.access, port, collection, updates)?;
            begun.ok_or_else(|| Error::new("another client has written them"))
        })
    }
}

impl Transaction {
    /// Begins a transaction. Returns `None` if another client writes the same documents at this moment.
    pub(super) fn begin(
        access: &Access,
        port: u16,
        collection: &str,
        updates: &[Document],
    ) -> Result<Option<Self>> {
        let mut connection = access.connect(port)?;
        let session = doc! { "lsid": { "id": bson::Uuid::new() }, "txnNumber": 1_i64, "autocommit": false };
        let mut update = doc! { "update": collection, "updates": updates, "startTransaction": true };
        update.extend(session.clone());
        let reply = connection.ask(DATABASE, update)?;
        // The server has aborted it then.
        if reply.get_i32("code").is_ok_and(|code| code == WRITE_CONFLICT) {
            return Ok(None);
        }
        accepted(reply)?;
        Ok(Some(Self { connection, session, is_open: true }))
    }

    /// Commits the transaction, and waits until a majority has it.
    ///
    /// # Errors
    ///
    /// If it has ended already, or cannot be committed.
    pub fn commit(mut self) -> Result<()> {
        self.end(doc! { "commitTransaction": 1, "writeConcern": { "w": "majority" } })
    }

    /// Aborts the transaction.
    ///
    /// # Errors
    ///
    /// If it has ended already, or the server does not answer.
    pub fn abort(mut self) -> Result<()> {
        self.end(doc! { "abortTransaction": 1 })
    }

    fn end(&mut self, mut command: Document) -> Result<()> {
        self.is_open = false;
        command.extend(self.session.clone());
        self.connection.command("admin", command).map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            // It outlives its connection. If the server is down, it has ended anyway.
            let _ = self.end(doc! { "abortTransaction": 1 });
        }
    }
}
