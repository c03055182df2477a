//! A replica of the service: a process that stands for election, and acts while it leads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leasehold::{Guard, Locks};
use tokio::sync::watch;

use crate::clock;
use crate::event::{Ev, Event, Log};
use crate::worker::Plan;

/// The pause between two acts of a leader.
const PAUSE: Duration = Duration::from_millis(3);

/// Returns the file that asks a replica to resign.
pub(super) fn resign_file(directory: &Path, w: i64) -> PathBuf {
    directory.join(format!("resign-{w}"))
}

/// Stands for election until told to stop, then closes the client.
pub async fn serve(plan: Plan, locks: Locks, log: Arc<Log>, mut stop: watch::Receiver<bool>) {
    let election = locks.election(&plan.locks[0]).value(format!("replica {}", plan.w));
    let resign = resign_file(&plan.directory, plan.w);
    while !*stop.borrow() {
        let leading = election.lead(|term| lead(term, Arc::clone(&log), resign.clone()));
        tokio::select! {
            led = leading => {
                if let Err(error) = led {
                    log.write(Event { ev: Ev::Fail, why: error.to_string(), ..Event::default() });
                }
            }
            _ = stop.changed() => {}
        }
    }
    // What is left ends with its TTL.
    let _left = locks.close().await;
}

/// Acts again and again, until asked to resign.
async fn lead(term: Arc<Guard>, log: Arc<Log>, resign: PathBuf) {
    let leads = Leads::begin(log, term.token().get());
    loop {
        // The leader was the leader at this time, if it still is at a later one.
        let t = clock::now();
        if term.is_held() {
            leads.log.write_at(t, Event { ev: Ev::Use, tok: Some(leads.term), ..Event::default() });
        }
        if fs::remove_file(&resign).is_ok() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Notes when the work of a term begins, and when it ends or is dropped.
struct Leads {
    log: Arc<Log>,
    term: u64,
}

impl Leads {
    fn begin(log: Arc<Log>, term: u64) -> Self {
        log.write(Event { ev: Ev::Claim, tok: Some(term), ..Event::default() });
        Self { log, term }
    }
}

impl Drop for Leads {
    fn drop(&mut self) {
        self.log.write(Event { ev: Ev::Lost, tok: Some(self.term), ..Event::default() });
    }
}
