use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Running, Under};
use crate::clock::{self, nanos};
use crate::worker::Plan;

/// A worker in a process of its own, which ends when its standard input does.
pub(super) struct Process(Child);

impl Process {
    /// Starts a worker, and sends it its plan.
    pub(super) fn start(under: &Under, url: &str, plan: &Plan) -> io::Result<Self> {
        let mut command = Command::new(&under.program);
        command.arg("worker").arg(url).stdin(Stdio::piped());
        if let Some(defect) = under.defect {
            command.args(["--defect", defect.name()]);
        }
        let mut child = command.spawn()?;
        let plan = serde_json::to_string(plan)?;
        let stdin =
            child.stdin.as_mut().ok_or_else(|| io::Error::other("no way to tell the worker its plan"))?;
        writeln!(stdin, "{plan}")?;
        Ok(Self(child))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // The process is a child that was not waited for, so its id is not reused yet.
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
        // Has no effect on a process that has ended.
        let _ended = self.0.kill();
        drop(self.0.wait());
    }
}
