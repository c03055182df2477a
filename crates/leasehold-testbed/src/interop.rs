//! Lock clients of other makers, run beside ours: each as a process of its own, as npm and PyPI have them.

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

/// No client takes longer for one answer. The first comes after its runtime has started.
const ANSWER: Duration = Duration::from_secs(30);

/// Is a package that somebody else made, with which Redis locks can be shared.
#[derive(Debug)]
#[non_exhaustive]
pub struct Package {
    /// Its name in its registry.
    pub name: &'static str,
    /// What it puts before a lock's name to make the key: the prefix that we need to share locks with it.
    pub prefix: &'static str,
    /// Whether it can extend a lease on request.
    pub extends: bool,
    /// Whether it says that there was nothing to release.
    pub tells_release: bool,
    start: fn(&str) -> Result<Interop>,
}

/// Every package.
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

/// Is a client of another maker: a process that takes and frees one lock at a time. Dropping it kills the process, and
/// leaves the lock to its lease.
#[derive(Debug)]
pub struct Interop {
    name: String,
    child: Child,
    line: Mutex<Line>,
    scratch: Scratch,
}

/// One question, one answer, and then the next.
#[derive(Debug)]
struct Line {
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Package {
    /// Starts it for the Redis at `url`.
    ///
    /// # Errors
    ///
    /// If it is not installed, or cannot connect.
    pub fn start(&self, url: &str) -> Result<Interop> {
        (self.start)(url)
    }
}

impl Interop {
    /// Runs a script of this crate's `interop` directory with Node, and the packages from npm.
    ///
    /// # Errors
    ///
    /// If they are not installed, or the script does not come to ask for work.
    pub fn node(script: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(install::program("node")?);
        command.env("NODE_PATH", install::node_modules()?);
        Self::start(command, script, args)
    }

    /// Runs a script of this crate's `interop` directory with Python, and the packages from PyPI.
    ///
    /// # Errors
    ///
    /// If they are not installed, or the script does not come to ask for work.
    pub fn python(script: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(install::python()?);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start(command, script, args)
    }

    /// Tries once to take a lock, and says whether it did. A name has no spaces.
    ///
    /// # Errors
    ///
    /// If the client fails with anything else than that somebody has it.
    pub fn acquire(&self, name: &str, ttl: Duration) -> Result<bool> {
        self.yes(&format!("acquire {name} {}", ttl.as_millis()))
    }

    /// Frees the lock that it took last, and says whether it was its own still, as far as the package tells.
    ///
    /// # Errors
    ///
    /// If the client fails with anything else.
    pub fn release(&self) -> Result<bool> {
        self.yes("release")
    }

    /// Makes the lease of the lock that it took last end in `ttl` from now, and says whether it was its own still.
    ///
    /// # Errors
    ///
    /// If the client fails with anything else, or cannot do that.
    pub fn extend(&self, ttl: Duration) -> Result<bool> {
        self.yes(&format!("extend {}", ttl.as_millis()))
    }

    /// Sends a line to the script and returns the line that it answers.
    ///
    /// # Errors
    ///
    /// If it has ended, or does not answer.
    pub fn ask(&self, line: &str) -> Result<String> {
        let mut talk = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(talk.questions, "{line}").map_err(|_| self.silent())?;
        talk.answers.recv_timeout(scaled(ANSWER)).map_err(|_| self.silent())
    }

    /// Returns the id of its process, to be stopped or killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn start(mut command: Command, script: &str, args: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(script);
        // By it the reaper finds the process.
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
        let (Some(questions), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new("the script has no standard input and output"));
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(said).lines().map_while(std::result::Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        let line = Mutex::new(Line { questions, answers });
        let client = Self { name: script.to_owned(), child, line, scratch };
        match client.first()?.as_str() {
            "ready" => Ok(client),
            other => Err(Error::new(format!("{script}: {other}"))),
        }
    }

    fn first(&self) -> Result<String> {
        let talk = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        talk.answers.recv_timeout(scaled(ANSWER)).map_err(|_| self.silent())
    }

    fn yes(&self, line: &str) -> Result<bool> {
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
