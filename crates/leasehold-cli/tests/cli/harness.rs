//! The world of a test: a directory, a storage in it, and the programs that are started there.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::processes;

/// Returns how long a test waits for anything before it fails.
pub(crate) fn limit() -> Duration {
    scaled(Duration::from_secs(20))
}

/// Returns a duration that `LEASEHOLD_TEST_TIME` stretches on slow machines.
pub(crate) fn scaled(duration: Duration) -> Duration {
    let factor = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|f| f.parse().ok());
    duration.mul_f64(factor.unwrap_or(1.0))
}

/// Returns a stretched duration, as the command line reads it.
pub(crate) fn ms(millis: u64) -> String {
    format!("{}ms", scaled(Duration::from_millis(millis)).as_millis())
}

/// A directory and a storage.
pub(crate) struct World {
    dir: tempfile::TempDir,
    /// The storage's URL. `None` is a file in the directory.
    url: Option<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), url: None }
    }

    /// Makes a world whose storage is elsewhere.
    pub(crate) fn at(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> String {
        self.url.clone().unwrap_or_else(|| format!("sqlite:{}", self.path("locks.db").display()))
    }

    /// Returns a call of the program with the world's storage, and with no other variable of Leasehold.
    pub(crate) fn leasehold<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        // A test runner in the background has some signals ignored.
        let mut command = Command::new("env");
        command.args(["--default-signal", env!("CARGO_BIN_EXE_leasehold")]);
        command.args(args).env("LEASEHOLD_STORE", self.store()).current_dir(self.dir.path());
        for inherited in ["LEASEHOLD_NAME", "LEASEHOLD_TOKEN", "LEASEHOLD_TICKET", "LEASEHOLD_HELD"] {
            command.env_remove(inherited);
        }
        command
    }

    /// Returns `leasehold run OPTIONS lock -- sh -c SCRIPT`.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Command {
        let mut args = vec!["run", "lock"];
        args.extend(options);
        args.extend(["--", "sh", "-c", script]);
        self.leasehold(args)
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        output(&mut self.leasehold(args))
    }

    /// Returns the one object that a command prints with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let output = self.output(&all);
        assert_eq!(code(&output), 0, "{output:?}");
        parse(&text(&output.stdout))
    }

    /// Waits until that many claims wait for `lock`.
    pub(crate) fn waiters(&self, count: u64) {
        eventually("the waiters", || self.json(&["inspect", "lock"])["waiters"] == count);
    }

    /// Waits until `lock` is held, or until it is free.
    pub(crate) fn held(&self, held: bool) {
        eventually("the holder", || self.json(&["inspect", "lock"])["held"] == held);
    }
}

pub(crate) fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8").trim_end().to_owned()
}

/// Runs a program to its end, with nothing on stdin.
pub(crate) fn output(command: &mut Command) -> Output {
    let running = Running::start(command);
    running.finish()
}

/// Returns the exit code as a shell counts it: on a terminal, the program dies of the keyboard's signals.
pub(crate) fn code(output: &Output) -> i32 {
    exit_code(output.status)
}

pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|n| 128 + n)).expect("ended")
}

/// A started program. Its stdout is read line by line.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with_stderr(command.stderr(Stdio::piped()))
    }

    /// Starts a program whose stderr is read line by line, too.
    pub(crate) fn start_with_lines_of_stderr(command: &mut Command) -> (Self, Receiver<String>) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let running = Self::start_with_stderr(command.stderr(writer));
        // The command keeps the writer open.
        command.stderr(Stdio::null());
        (running, lines(reader))
    }

    /// Starts a program with the stderr that the command has.
    pub(crate) fn start_with_stderr(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let stderr = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut read = Vec::new();
                stderr.read_to_end(&mut read).expect("readable");
                read
            })
        });
        Self { child, stdin, lines: lines(stdout), stderr }
    }

    /// Returns the next line of stdout.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(limit()).expect("a line in time")
    }

    /// Returns the process id in the next line of stdout.
    pub(crate) fn pid_in_line(&self) -> Pid {
        processes::pid(&self.line())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Signals the program, which must still run.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("still there");
    }

    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("written");
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of the program, and of each process that has its stdout or stderr open.
    pub(crate) fn finish(mut self) -> Output {
        self.close_stdin();
        let status = self.wait();
        let mut stdout = Vec::new();
        loop {
            match self.lines.recv_timeout(limit()) {
                Ok(line) => stdout.extend([line.as_bytes(), b"\n"].concat()),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("stdout is still open"),
            }
        }
        let stderr = self.stderr.take().expect("once").join().expect("read");
        Output { status, stdout, stderr }
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of the program", || {
            status = self.child.try_wait().expect("a child of this test");
            status.is_some()
        });
        status.expect("just seen")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            if tx.send(line).is_err() {
                break;
            }
        }
    });
    rx
}

/// Waits for a state of which no event tells: looks again and again.
#[expect(clippy::disallowed_methods, reason = "there is no event for what other processes do")]
pub(crate) fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !seen() {
        assert!(start.elapsed() < limit(), "never seen: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
