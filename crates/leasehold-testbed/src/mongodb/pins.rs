//! Transactions of another program that pin the documents of locks, one after the other.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::Access;
use super::transaction::Transaction;
use crate::error::Context as _;
use crate::faults::Pick;
use crate::{Error, Result};

/// The collection of the locks.
pub(super) const COLLECTION: &str = "leasehold";
/// How long transactions stay open, in milliseconds: from less than a round trip to longer than most leases of a torture.
const OPEN: [u64; 8] = [3, 20, 60, 150, 300, 600, 1_200, 2_500];
/// How long nothing is pinned in between, in milliseconds.
const PAUSES: [u64; 5] = [1, 5, 20, 60, 250];
/// The length of a plan, which then begins anew.
const PLANNED: usize = 64;

/// Returns the update that pins a document, or several, as `Fence` of Leasehold does.
pub(super) fn pin(filter: Document) -> Document {
    doc! { "q": filter, "u": { "$inc": { "pins": 1_i64 } }, "multi": true }
}

/// One transaction. It pins `count` documents, the first of which is the one at `first`, in the order of their names.
#[derive(Clone, Copy, Debug)]
struct Pin {
    first: usize,
    count: usize,
    open: Duration,
    pause: Duration,
    commits: bool,
}

/// Transactions that pin documents until [`Pins::end`].
pub(super) struct Pins {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Pins {
    /// Starts to pin documents of the server with that port.
    pub(super) fn start(access: Access, port: u16, pick: Pick<'_>) -> Self {
        let plan: Vec<_> = (0..PLANNED).map(|_| Pin::random(pick)).collect();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || pin_all(&access, port, &plan, &stopped));
        Self { stop, thread }
    }

    /// Ends the open transaction, and pins nothing more.
    pub(super) fn end(self) -> Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| Error::new("the thread that pins documents has panicked"))?
    }
}

impl Pin {
    fn random(pick: Pick<'_>) -> Self {
        Self {
            first: pick(PLANNED),
            // Most of them pin a single document.
            count: std::cmp::max(pick(4), 2) - 1,
            open: Duration::from_millis(OPEN[pick(OPEN.len())]),
            pause: Duration::from_millis(PAUSES[pick(PAUSES.len())]),
            commits: pick(2) == 0,
        }
    }

    /// Begins the transaction. Returns `None` if there is nothing to pin, or other clients write at this moment.
    fn begin(self, access: &Access, port: u16) -> Result<Option<Transaction>> {
        let find =
            doc! { "find": COLLECTION, "projection": { "_id": 1 }, "sort": { "_id": 1 }, "batchSize": 1_000 };
        let found = access.connect(port)?.command("leasehold", find)?;
        let locks = found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let ids: Vec<_> = locks
            .context("no list")?
            .iter()
            .filter_map(Bson::as_document)
            .filter_map(|lock| lock.get("_id"))
            .collect();
        let chosen: Vec<_> = ids.iter().cycle().skip(self.first).take(self.count).copied().collect();
        Transaction::begin(access, port, COLLECTION, &[pin(doc! { "_id": { "$in": chosen } })])
    }
}

fn pin_all(access: &Access, port: u16, plan: &[Pin], stopped: &mpsc::Receiver<()>) -> Result<()> {
    // Returns `true` if it was stopped before that.
    let rest = |time| stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Disconnected);
    for pin in plan.iter().cycle() {
        if let Some(transaction) = pin.begin(access, port)? {
            let is_over = rest(pin.open);
            if pin.commits {
                transaction.commit()?
            } else {
                transaction.abort()?
            }
            if is_over {
                return Ok(());
            }
        }
        if rest(pin.pause) {
            return Ok(());
        }
    }
    Ok(())
}
