use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use leasehold::Locks;

use super::process::Process;
use super::{Heal, Injection, Running, Target, Under};
use crate::clock::{self, nanos};
use crate::worker::Plan;

/// SQLite: the workers are processes, which can be killed and stopped, and other processes disturb the
/// file.
#[derive(Debug)]
pub struct SqliteTarget {
    under: Under,
    path: PathBuf,
}

impl SqliteTarget {
    /// Uses the file of a URL `sqlite:PATH`.
    ///
    /// # Errors
    ///
    /// If the URL names no file.
    pub fn new(under: Under) -> io::Result<Self> {
        let path = under.url.strip_prefix("sqlite:").map(|rest| rest.split('?').next().unwrap_or(rest));
        let path = path.filter(|path| !path.is_empty()).map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = path.ok_or_else(|| io::Error::other("name a file, as in `sqlite:/tmp/locks.db`"))?;
        Ok(Self { path: path.into(), under })
    }
}

impl Target for SqliteTarget {
    fn faults(&self) -> Vec<&'static str> {
        vec!["kill", "stop", "busy", "break", "kill", "checkpoint", "stop"]
    }

    fn reaches_one(&self, fault: &str) -> bool {
        // All other faults hit the file, which all workers share.
        matches!(fault, "kill" | "stop")
    }

    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>> {
        Ok(Box::new(Process::start(&self.under, &self.under.url, plan)?))
    }

    async fn operator(&self) -> leasehold::Result<Locks> {
        Locks::connect(&self.under.url).await
    }

    fn inject(&self, &Injection { fault, span, .. }: &Injection<'_>) -> io::Result<Heal<'_>> {
        // Runs in another process, because closing the file in this one would drop the operator's locks on
        // it.
        let mut command = Command::new(&self.under.program);
        // Real writers do not block each other for longer, and a lease must be able to outlast it.
        let span = std::cmp::min(span, Duration::from_millis(800));
        command.arg("disturb").arg(fault).arg(&self.path).arg(span.as_millis().to_string());
        let mut child = command.spawn()?;
        Ok(Box::new(move || child.wait().map(drop)))
    }
}

/// Disturbs a lock file for a while, from a process of its own.
///
/// # Errors
///
/// If the file cannot be opened or written.
pub fn disturb(fault: &str, path: &std::path::Path, span: Duration) -> rusqlite::Result<()> {
    let mut file = rusqlite::Connection::open(path)?;
    file.busy_timeout(Duration::from_secs(5))?;
    match fault {
        "checkpoint" => {
            let until = clock::now() + nanos(span);
            while clock::now() < until {
                // Readers may prevent the checkpoint, which is enough of a disturbance.
                let _busy = file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            }
        }
        _ => {
            let writing = file.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            clock::pause(span);
            writing.rollback()?;
        }
    }
    Ok(())
}
