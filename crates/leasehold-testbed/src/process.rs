//! A server's process, which can be killed, stopped, continued and started again. Its output goes to a
//! file.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};

use crate::error::Context as _;
use crate::install::{self, User};
use crate::scratch::Scratch;
use crate::wait::until;
use crate::{Error, Result};

/// The program of a server, and its directory.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// Files that a killed server leaves behind and that would disturb the next start.
    pub(crate) stale: Vec<PathBuf>,
    pub(crate) user: User,
    /// The signal for an orderly shutdown.
    pub(crate) terminate: Signal,
    /// The working directory, which belongs to this server alone. The reaper finds the processes by it.
    pub(crate) directory: PathBuf,
}

/// A server: one process with its child processes. All methods take `&self`, so that a test and its nemesis
/// can share it. Dropping it kills it.
pub struct Server {
    program: Program,
    log: PathBuf,
    ready: Box<dyn Fn() -> Result<()> + Send + Sync>,
    child: Mutex<Option<Child>>,
    // Dropped last.
    _scratch: Scratch,
}

impl Server {
    /// Starts the server and waits until `ready` succeeds.
    pub(crate) fn start(
        scratch: &Scratch,
        program: Program,
        ready: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let server = Self::prepare(scratch, program, ready);
        server.restart()?;
        Ok(server)
    }

    /// Prepares a server that [`Server::restart`] will start.
    pub(crate) fn prepare(
        scratch: &Scratch,
        program: Program,
        ready: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let log = program.directory.with_extension("log");
        Self { program, log, ready: Box::new(ready), child: Mutex::default(), _scratch: scratch.clone() }
    }

    /// Kills the server, as `kill -9` does. It has ended when this returns.
    ///
    /// # Panics
    ///
    /// If the kernel does not end the process.
    pub fn kill9(&self) {
        self.end().expect("SIGKILL ends a server");
    }

    /// Stops the server with SIGSTOP: connections stay open, and requests are not answered. It has stopped
    /// when this returns.
    ///
    /// # Panics
    ///
    /// If the kernel does not stop the process.
    pub fn stop(&self) {
        // The parent process is stopped first, so that it cannot start further ones while they are listed.
        self.signal_all(self.child().as_mut(), Signal::STOP);
        let stopped = until("the server to stop", || {
            self.signal_all(None, Signal::STOP);
            match self.processes().into_iter().filter(|pid| !is_stopped(*pid)).count() {
                0 => Ok(()),
                n => Err(Error::new(format!("{n} run"))),
            }
        });
        stopped.expect("SIGSTOP stops a server");
    }

    /// Continues the server after [`Server::stop`].
    pub fn cont(&self) {
        self.signal_all(self.child().as_mut(), Signal::CONT);
    }

    /// Requests an orderly shutdown, and waits for it.
    ///
    /// # Errors
    ///
    /// If the server does not end.
    pub fn terminate(&self) -> Result<()> {
        self.signal(self.program.terminate);
        until("the server to end", || match self.exited() {
            Some(_) => Ok(()),
            None => Err(Error::new("it runs")),
        })?;
        *self.child() = None;
        Ok(())
    }

    /// Starts the server again with the same port and data, and waits until it answers. A running server is
    /// killed first.
    ///
    /// # Errors
    ///
    /// If the server does not start; the text contains the end of its log.
    pub fn restart(&self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts the server again without waiting for an answer.
    ///
    /// # Errors
    ///
    /// If the system refuses to start the process.
    pub fn launch(&self) -> Result<()> {
        self.end()?;
        // The files rarely exist, so errors are ignored.
        self.program.stale.iter().for_each(|path| drop(std::fs::remove_file(path)));
        let log = || -> Result<File> {
            OpenOptions::new().create(true).append(true).open(&self.log).context("cannot write the log")
        };
        let child = self
            .program
            .user
            .command(&install::program(self.program.name)?)?
            .args(&self.program.args)
            .envs(self.program.env.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.program.directory)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            // Ctrl-C on a terminal must reach only the test.
            .process_group(0)
            .spawn()
            .context(format!("cannot start {}", self.program.name))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// Waits until the server answers.
    ///
    /// # Errors
    ///
    /// If the server has ended or does not answer; the text contains the end of its log.
    pub fn await_ready(&self) -> Result<()> {
        let name = self.program.name;
        let mut ended = None;
        let outcome = until(&format!("{name} to answer"), || {
            if let Some(status) = self.exited() {
                ended = Some(status);
                return Ok(());
            }
            (self.ready)()
        });
        match (ended, outcome) {
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(Error::new(format!("{error}\n{}", self.log_end()))),
            (Some(status), _) => {
                Err(Error::new(format!("{name} ended instead of starting: {status}\n{}", self.log_end())))
            }
        }
    }

    /// Sends a signal to the main process only, as an operator would.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            send(pid, signal);
        }
    }

    /// Returns the exit status, if the server ended without being asked to.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Returns `true` if the server runs. A stopped server counts as running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().is_some() && self.exited().is_none()
    }

    /// Returns the id of the main process, if it exists.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.child().as_mut().and_then(main_pid)
    }

    /// Returns the path of the log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns the end of the log, for an error.
    pub(crate) fn log_end(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn end(&self) -> Result<()> {
        let mut child = self.child();
        self.signal_all(child.as_mut(), Signal::KILL);
        if let Some(mut child) = child.take() {
            let _ = child.wait();
        }
        // Child processes end by themselves, some only once they notice the end of their parent.
        until("the server's processes to end", || match self.processes().len() {
            0 => Ok(()),
            n => {
                self.signal_all(None, Signal::KILL);
                Err(Error::new(format!("{n} are left")))
            }
        })
    }

    fn signal_all(&self, child: Option<&mut Child>, signal: Signal) {
        let main = child.and_then(main_pid);
        if let Some(pid) = main {
            send(pid, signal);
        }
        for pid in self.processes() {
            if Some(pid) != main {
                send(pid, signal);
            }
        }
    }

    /// Returns the processes that work in the server's directory. Those of PostgreSQL have sessions of
    /// their own, so a process group does not contain them all.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes_in(&self.program.directory)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The reaper ends whatever remains.
        let _ = self.end();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("program", &self.program.name).field("pid", &self.pid()).finish()
    }
}

/// Finds the processes, other than zombies, that work in `directory` or below.
pub(crate) fn processes_in(directory: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let works_in = std::fs::read_link(entry.path().join("cwd")).ok()?;
        works_in.starts_with(directory).then_some(pid)
    });
    found.collect()
}

/// Returns the process id unless the process has ended, because the id may be reused then.
fn main_pid(child: &mut Child) -> Option<Pid> {
    if !matches!(child.try_wait(), Ok(None)) {
        return None;
    }
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Returns `true` if all threads have stopped. A process that has ended counts as stopped.
fn is_stopped(pid: Pid) -> bool {
    let threads = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("task");
    let Ok(threads) = std::fs::read_dir(threads) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may contain more of them.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// Sends a signal. A process that has ended needs none.
fn send(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}
