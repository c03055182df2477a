//! A process that an example stops in the middle of its work.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A worker's process, seen from the main program.
pub(crate) struct Worker {
    name: String,
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts this program once more, with these arguments: the name comes first.
    pub(crate) fn start(name: &str, args: &[&str]) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { name: name.to_owned(), process, stdin, stdout })
    }

    /// Reads its next line, which must begin with this text.
    pub(crate) fn tells(&mut self, expected: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let (name, line) = (&self.name, line.trim());
        println!("{name}: {line}");
        if line.starts_with(expected) {
            Ok(())
        } else {
            Err(format!("not what was expected: {expected}").into())
        }
    }

    pub(crate) fn goes_on(&mut self, expected: &str) -> Result<()> {
        writeln!(self.stdin)?;
        self.tells(expected)
    }

    /// Stops the process, as a debugger, a hypervisor or swapping would, and waits until it has stopped.
    pub(crate) fn stop(&self) -> Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        waitpid(Some(self.pid()), WaitOptions::UNTRACED)?;
        println!("{}: … is stopped", self.name);
        Ok(())
    }

    pub(crate) fn wakes_up(&self) -> Result<()> {
        println!("{}: … goes on", self.name);
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

/// No process is left over, not even a stopped one, however the example ends.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
