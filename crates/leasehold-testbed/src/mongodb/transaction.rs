//! A transaction of another client of the database, which stays open.

use bson::{Document, doc};

use super::MongoDb;
use super::wire::{Connection, accepted};
use crate::wait::until;
use crate::{Error, Result};

/// The database of the locks.
pub(super) const DATABASE: &str = "leasehold";
/// The server's code if another command has written the same document.
const WRITE_CONFLICT: i32 = 112;

/// A transaction of another client. Dropping it aborts it.
#[derive(Debug)]
pub struct Transaction {
    connection: Connection,
    open: Option<Open>,
}

impl MongoDb {
    /// Begins a transaction that executes these updates of a collection of the database `leasehold`, and leaves it open. An
    /// update is `{ q: …, u: … }`, as in the command `update`.
    ///
    /// # Errors
    ///
    /// If it is refused, or other clients write the same documents all the time.
    pub fn transaction(&self, collection: &str, updates: &[Document]) -> Result<Transaction> {
        let mut connection = self.access.connect(self.primary()?.port())?;
        let open = until("a moment at which no other client writes the documents", || {
            let open = Open::begin(&mut connection, collection, updates)?;
            open.ok_or_else(|| Error::new("another client has written them"))
        })?;
        Ok(Transaction { connection, open: Some(open) })
    }
}

impl Transaction {
    /// Commits the transaction, and waits until a majority has it.
    ///
    /// # Errors
    ///
    /// If it has ended already, or cannot be committed.
    pub fn commit(mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |open| open.commit(&mut self.connection))
    }

    /// Aborts the transaction.
    ///
    /// # Errors
    ///
    /// If it has ended already, or the server does not answer.
    pub fn abort(mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |open| open.abort(&mut self.connection))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            // It would outlive its connection. If the server is down, it has ended anyway.
            let _ = open.abort(&mut self.connection);
        }
    }
}

/// An open transaction, which any connection can end.
#[derive(Debug)]
pub(super) struct Open(Document);

impl Open {
    /// Begins a transaction. Returns `None` if another client writes the same documents at this moment.
    pub(super) fn begin(
        connection: &mut Connection,
        collection: &str,
        updates: &[Document],
    ) -> Result<Option<Self>> {
        let session = doc! { "lsid": { "id": bson::Uuid::new() }, "txnNumber": 1_i64, "autocommit": false };
        let mut update = doc! { "update": collection, "updates": updates, "startTransaction": true };
        update.extend(session.clone());
        let reply = connection.ask(DATABASE, update)?;
        // The server has aborted it then.
        if reply.get_i32("code").is_ok_and(|code| code == WRITE_CONFLICT) {
            return Ok(None);
        }
        accepted(reply)?;
        Ok(Some(Self(session)))
    }

    pub(super) fn commit(self, connection: &mut Connection) -> Result<()> {
        self.end(connection, doc! { "commitTransaction": 1, "writeConcern": { "w": "majority" } })
    }

    pub(super) fn abort(self, connection: &mut Connection) -> Result<()> {
        self.end(connection, doc! { "abortTransaction": 1 })
    }

    fn end(self, connection: &mut Connection, mut command: Document) -> Result<()> {
        command.extend(self.0);
        connection.command("admin", command).map(drop)
    }
}
