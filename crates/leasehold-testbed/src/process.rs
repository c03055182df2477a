//! A server's process: started with its output in a file, killed, stopped, continued, started again.

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

/// What to run, and where.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// What one that was killed leaves behind and the next one must not find.
    pub(crate) stale: Vec<PathBuf>,
    pub(crate) user: User,
    /// What asks it to end soon and in order.
    pub(crate) terminate: Signal,
    /// Its working directory, by which the reaper knows it. Not shared with another server.
    pub(crate) directory: PathBuf,
}

/// Is a server: one process with those that it starts. All methods take `&self`, so that a test and its nemesis
/// can share it. Dropping it kills it.
pub struct Server {
    program: Program,
    log: PathBuf,
    ready: Box<dyn Fn() -> Result<()> + Send + Sync>,
    child: Mutex<Option<Child>>,
    // The last to go.
    _scratch: Scratch,
}

impl Server {
    /// Starts it and waits until `ready` gets an answer.
    pub(crate) fn start(
        scratch: &Scratch,
        program: Program,
        ready: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let server = Self::prepare(scratch, program, ready);
        server.restart()?;
        Ok(server)
    }

    /// Starts nothing yet: [`Server::restart`] does.
    pub(crate) fn prepare(
        scratch: &Scratch,
        program: Program,
        ready: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let log = program.directory.with_extension("log");
        Self { program, log, ready: Box::new(ready), child: Mutex::default(), _scratch: scratch.clone() }
    }

    /// Kills it at once, as `kill -9` does. When this returns, it has ended.
    ///
    /// # Panics
    ///
    /// If the kernel does not end it.
    pub fn kill9(&self) {
        self.end().expect("SIGKILL ends a server");
    }

    /// Stops it with SIGSTOP: connections stay open, nobody answers. When this returns, it has stopped.
    ///
    /// # Panics
    ///
    /// If the kernel does not stop it.
    pub fn stop(&self) {
        // The first signal is for the one who starts others; then nobody is added to those that are found.
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

    /// Continues it after [`Server::stop`].
    pub fn cont(&self) {
        self.signal_all(self.child().as_mut(), Signal::CONT);
    }

    /// Asks it to end in order, and waits until it has.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn terminate(&self) -> Result<()> {
        self.signal(self.program.terminate);
        until("the server to end", || match self.exited() {
            Some(_) => Ok(()),
            None => Err(Error::new("it runs")),
        })?;
        *self.child() = None;
        Ok(())
    }

    /// Starts it again, on the same port and with the same data, and waits until it answers. If it runs, it is
    /// killed first.
    ///
    /// # Errors
    ///
    /// With the end of its log, if it does not start.
    pub fn restart(&self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts it again and does not wait until it answers.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn launch(&self) -> Result<()> {
        self.end()?;
        // Most often there is none.
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
            // Ctrl-C on a terminal is for the test.
            .process_group(0)
            .spawn()
            .context(format!("cannot start {}", self.program.name))?;
        *self.child() = Some(child);
        Ok(())
    }

    /// Waits until it answers.
    ///
    /// # Errors
    ///
    /// With the end of its log, if it has ended or does not answer.
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

    /// Sends a signal to its main process only, as an operator would.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            send(pid, signal);
        }
    }

    /// Returns how it ended, if it did without being asked to.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Whether it runs; stopped is running too.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().is_some() && self.exited().is_none()
    }

    /// Returns the id of its main process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.child().as_mut().and_then(main_pid)
    }

    /// Returns where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of the log, for an error.
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
        // Those that it started end by themselves, some only once they have noticed.
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

    /// Those that work in its directory: PostgreSQL's are in sessions of their own, no group has them all.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes_in(&self.program.directory)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is left even so is for the reaper.
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

/// Its id, unless it has ended: then it may be somebody else's.
fn main_pid(child: &mut Child) -> Option<Pid> {
    if !matches!(child.try_wait(), Ok(None)) {
        return None;
    }
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Whether all its threads have stopped. One that has ended counts as stopped.
fn is_stopped(pid: Pid) -> bool {
    let threads = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("task");
    let Ok(threads) = std::fs::read_dir(threads) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state comes after the name, which is in brackets and may hold any others.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// One that has ended needs no signal.
fn send(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}
