use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leasehold::Locks;
use rustix::process::{Pid, Signal, kill_process};

use super::{Running, Target, Under};
use crate::clock::{self, nanos};
use crate::worker::Plan;

/// SQLite: the workers are processes, which can be killed and stopped, and other processes disturb the file.
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
        // The others are those of the file, which all share.
        matches!(fault, "kill" | "stop")
    }

    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>> {
        let mut command = Command::new(&self.under.program);
        command.arg("worker").arg(&self.under.url).stdin(Stdio::piped());
        if let Some(defect) = self.under.defect {
            command.args(["--defect", &defect.name()]);
        }
        let mut child = command.spawn()?;
        let plan = serde_json::to_string(plan)?;
        let stdin =
            child.stdin.as_mut().ok_or_else(|| io::Error::other("no way to tell the worker its plan"))?;
        writeln!(stdin, "{plan}")?;
        Ok(Box::new(Process(child)))
    }

    async fn operator(&self) -> leasehold::Result<Locks> {
        Locks::connect(&self.under.url).await
    }

    fn strike(&self, fault: &str, _: Option<i64>, span: Duration) -> io::Result<Box<dyn FnOnce()>> {
        // By another process: to close the file in this one would drop the locks that the operator has on it.
        let mut command = Command::new(&self.under.program);
        // No writer waits longer than that in real life, and a lease must be able to outlast it.
        let span = std::cmp::min(span, Duration::from_millis(800));
        command.arg("disturb").arg(fault).arg(&self.path).arg(span.as_millis().to_string());
        let mut child = command.spawn()?;
        Ok(Box::new(move || drop(child.wait())))
    }
}

/// A worker in a process of its own. It ends when its standard input does.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It is our child and not waited for, so the number is still its own.
            let _gone = kill_process(pid, signal);
        }
    }
}

impl Running for Process {
    fn kill(&mut self) {
        self.signal(Signal::KILL);
        drop(self.0.wait());
    }

    fn stop(&mut self) {
        self.signal(Signal::STOP);
    }

    fn go_on(&mut self) {
        self.signal(Signal::CONT);
    }

    fn finish(&mut self, within: Duration) -> bool {
        drop(self.0.stdin.take());
        let until = clock::now() + nanos(within);
        while clock::now() < until {
            match self.0.try_wait() {
                Ok(None) => clock::pause(Duration::from_millis(5)),
                Ok(Some(status)) => return status.success(),
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to one that has ended.
        let _ended = self.0.kill();
        drop(self.0.wait());
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
                // One that finds readers in its way says so, and has disturbed enough.
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
