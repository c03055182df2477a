//! Lock clients of other makers, run beside Leasehold. Each is a process, with its package from npm or
//! PyPI.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::Context as _;
use crate::install::{self, User};
use crate::scratch::Scratch;
use crate::wait::scaled;
use crate::{Error, Result};

/// Longer than any answer takes, including the start of the runtime before the first.
const ANSWER: Duration = Duration::from_secs(30);

/// A package of another maker with which Redis locks can be shared.
#[derive(Debug)]
#[non_exhaustive]
pub struct Package {
    /// The name in its registry.
    pub name: &'static str,
    /// The text before a lock's name in its keys, which Leasehold needs as its prefix to share locks.
    pub prefix: &'static str,
    /// Whether it can extend a lease.
    pub extends: bool,
    /// Whether it reports a release that found nothing.
    pub tells_release: bool,
    start: fn(&str) -> Result<Interop>,
}

/// All packages.
pub const ALL: &[Package] = &[
    Package {
        name: "redislock",
        prefix: "",
        extends: true,
        tells_release: true,
        start: |url| Interop::node("redislock.js", &[url]),
    },
    Package {
        name: "redlock",
        prefix: "",
        extends: true,
        tells_release: true,
        start: |url| Interop::node("redlock.js", &[url]),
    },
    Package {
        name: "redis-semaphore",
        prefix: "mutex:",
        extends: false,
        tells_release: false,
        start: |url| Interop::node("redis-semaphore.js", &[url]),
    },
    Package {
        name: "distributed-locks",
        prefix: "distributed-locks:",
        extends: false,
        tells_release: false,
        start: |url| Interop::node("distributed-locks.js", &[url]),
    },
    Package {
        name: "redis-py",
        prefix: "",
        extends: true,
        tells_release: true,
        start: |url| Interop::python("redis-py.py", &[url]),
    },
];

/// A client of another maker: a process that acquires and releases one lock at a time. Dropping it kills
/// the process, and the lock remains until its lease ends.
#[derive(Debug)]
pub struct Interop {
    name: String,
    child: Child,
    pipes: Mutex<Pipes>,
    scratch: Scratch,
}

/// The pipes of the process. One request is answered before the next is sent.
#[derive(Debug)]
struct Pipes {
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Package {
    /// Starts the client for the Redis at `url`.
    ///
    /// # Errors
    ///
    /// If the package is not installed, or cannot connect.
    pub fn start(&self, url: &str) -> Result<Interop> {
        (self.start)(url)
    }
}

impl Interop {
    /// Runs a script of this crate's `interop` directory with Node and the npm packages.
    ///
    /// # Errors
    ///
    /// If they are not installed, or the script does not report that it is ready.
    pub fn node(script: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(install::program("node")?);
        command.env("NODE_PATH", install::node_modules()?);
        Self::start(command, script, args)
    }

    /// Runs a script of this crate's `interop` directory with Python and the PyPI packages.
    ///
    /// # Errors
    ///
    /// If they are not installed, or the script does not report that it is ready.
    pub fn python(script: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(install::python()?);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start(command, script, args)
    }

    /// Tries once to acquire a lock, and returns `true` if it did. The name must not contain spaces.
    ///
    /// # Errors
    ///
    /// If the client fails for another reason than that the lock is held.
    pub fn acquire(&self, name: &str, ttl: Duration) -> Result<bool> {
        self.ask_yes_or_no(&format!("acquire {name} {}", ttl.as_millis()))
    }

    /// Releases the lock that it acquired last. Returns `true` if it still held it, as far as the package
    /// reports that.
    ///
    /// # Errors
    ///
    /// If the client fails for another reason.
    pub fn release(&self) -> Result<bool> {
        self.ask_yes_or_no("release")
    }

    /// Sets the end of the lease that it acquired last to `ttl` from now. Returns `true` if it still held
    /// the lock.
    ///
    /// # Errors
    ///
    /// If the client fails for another reason, or cannot extend.
    pub fn extend(&self, ttl: Duration) -> Result<bool> {
        self.ask_yes_or_no(&format!("extend {}", ttl.as_millis()))
    }

    /// Sends a line to the script and returns its answer.
    ///
    /// # Errors
    ///
    /// If the script has ended or does not answer.
    pub fn ask(&self, line: &str) -> Result<String> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.requests, "{line}").map_err(|_| self.silent())?;
        pipes.answers.recv_timeout(scaled(ANSWER)).map_err(|_| self.silent())
    }

    /// Returns the id of the process, for signals.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(mut command: Command, script: &str, args: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(script);
        // The reaper finds the process by this directory.
        let directory = scratch.directory("client", &User::Own)?;
        let log = std::fs::File::create(scratch.path().join("client.log")).context("cannot write the log")?;
        let mut child = command
            .arg(path)
            .args(args)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context(format!("cannot run {script}"))?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new("the script has no standard input and output"));
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        let pipes = Mutex::new(Pipes { requests, answers });
        let client = Self { name: script.to_owned(), child, pipes, scratch };
        match client.first()?.as_str() {
            "ready" => Ok(client),
            other => Err(Error::new(format!("{script}: {other}"))),
        }
    }

    fn first(&self) -> Result<String> {
        let pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.answers.recv_timeout(scaled(ANSWER)).map_err(|_| self.silent())
    }

    /// Sends a line that is answered by yes or no.
    fn ask_yes_or_no(&self, line: &str) -> Result<bool> {
        match self.ask(line)?.as_str() {
            "ok" => Ok(true),
            "no" => Ok(false),
            other => Err(Error::new(format!("{}: {line}: {other}", self.name))),
        }
    }

    fn silent(&self) -> Error {
        let log = std::fs::read_to_string(self.scratch.path().join("client.log")).unwrap_or_default();
        Error::new(format!("{} does not answer\n{log}", self.name))
    }
}

impl Drop for Interop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
