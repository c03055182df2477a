//! Transactions of another program that pin the documents of locks, one after the other.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bson::{Bson, Document, doc};

use super::Access;
use super::transaction::{DATABASE, Open};
use super::wire::Connection;
use crate::error::Context as _;
use crate::faults::Pick;
use crate::{Error, Result};

/// The collection of the locks.
pub(super) const COLLECTION: &str = "leasehold";
/// How long transactions stay open, in milliseconds: from less than a round trip to longer than most leases of a torture.
const OPEN: [u64; 10] = [3, 20, 50, 100, 150, 200, 300, 500, 900, 2_500];
/// How long nothing is pinned in between, in milliseconds. A waiting command tries again every few milliseconds, and more
/// seldom the longer it waits. So in a short pause newer ones overtake it.
const PAUSES: [u64; 8] = [1, 1, 2, 4, 8, 15, 50, 200];
/// How many documents a transaction pins: one, two, or all.
const COUNTS: [usize; 5] = [1, 2, usize::MAX, usize::MAX, usize::MAX];
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
            count: COUNTS[pick(COUNTS.len())],
            open: Duration::from_millis(OPEN[pick(OPEN.len())]),
            pause: Duration::from_millis(PAUSES[pick(PAUSES.len())]),
            commits: pick(2) == 0,
        }
    }

    /// Returns the update that pins documents of these.
    fn update(self, ids: &[Bson]) -> Document {
        let count = std::cmp::min(self.count, ids.len());
        let chosen: Vec<_> = ids.iter().cycle().skip(self.first).take(count).cloned().collect();
        pin(doc! { "_id": { "$in": chosen } })
    }
}

fn pin_all(access: &Access, port: u16, plan: &[Pin], stopped: &mpsc::Receiver<()>) -> Result<()> {
    // Returns `true` if it was stopped before that.
    let rest = |time| stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Disconnected);
    let mut connection = access.connect(port)?;
    let ids = ids(&mut connection)?;
    for pin in plan.iter().cycle() {
        if let Some(open) = Open::begin(&mut connection, COLLECTION, &[pin.update(&ids)])? {
            let is_over = rest(pin.open);
            if pin.commits {
                open.commit(&mut connection)?
            } else {
                open.abort(&mut connection)?
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

/// Returns the names of all documents, in their order.
fn ids(connection: &mut Connection) -> Result<Vec<Bson>> {
    let find =
        doc! { "find": COLLECTION, "projection": { "_id": 1 }, "sort": { "_id": 1 }, "batchSize": 1_000 };
    let found = connection.command(DATABASE, find)?;
    let locks = found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let locks = locks.context("no list")?.iter().filter_map(Bson::as_document);
    Ok(locks.filter_map(|lock| lock.get("_id").cloned()).collect())
}
