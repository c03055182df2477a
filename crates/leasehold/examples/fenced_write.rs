//! Why a lock alone is not enough, and what its token is for. A real process is stopped while it holds a
//! lock, another process takes over, and the late write of the first one is rejected.
//!
//! `cargo run --example fenced_write`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use leasehold::Locks;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const TTL: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [] => story(),
        [name, storage, register] => worker(name, storage, register),
        _ => Err("start it without arguments".into()),
    }
}

fn story() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let storage = format!("sqlite:{}", directory.path().join("locks.db").display());
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?.to_string();
    let register = std::thread::spawn(move || register(&listener));

    let mut ann = Worker::start("ann", &storage, &address)?;
    println!("ann:      {}", ann.hears()?);
    ann.stop()?;
    println!("ann:      … is stopped, between her last look at the lock and her write");

    let mut bob = Worker::start("bob", &storage, &address)?;
    println!("bob:      {}   (when ann's lease was over)", bob.hears()?);
    bob.say("write")?;
    println!("bob:      {}", bob.hears()?);
    bob.end()?;

    ann.go_on()?;
    ann.say("write")?;
    println!("ann:      … goes on where she was, and writes");
    let late = ann.hears()?;
    println!("ann:      {late}");
    ann.end()?;

    writeln!(TcpStream::connect(&address)?, "end")?;
    let value = register.join().map_err(|_| "the register failed")??;
    println!("register: {value}");
    if value != "written by bob" || !late.starts_with("refused") {
        return Err("a stale write got in".into());
    }
    Ok(())
}

/// Runs a worker process, which acquires the lock, reports it, waits for a command, and then writes in any
/// case.
fn worker(name: &str, storage: &str, register: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    runtime.block_on(async {
        let locks = Locks::connect(storage).await?;
        let guard = locks.lock("register").label(name).ttl(TTL).acquire().await?;
        assert!(guard.is_held());
        println!("holds the lock, token {}", guard.token());

        std::io::stdin().read_line(&mut String::new())?;

        // Checking the lock here would not help: the process may be stopped right after the check.
        let mut register = TcpStream::connect(register)?;
        writeln!(register, "{} written by {name}", guard.token())?;
        let mut answer = String::new();
        BufReader::new(register).read_line(&mut answer)?;
        println!("{} (and thinks that it holds the lock: {})", answer.trim(), guard.is_held());

        locks.close().await?;
        Ok(())
    })
}

/// Runs the resource that the lock protects. It stores one value, and the largest token that wrote to it.
/// The SQL for it is `UPDATE register SET value = $1, token = $2 WHERE token <= $2`.
fn register(listener: &TcpListener) -> Result<String> {
    let (mut value, mut largest) = (String::new(), 0);
    loop {
        let (mut client, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(client.try_clone()?).read_line(&mut line)?;
        let Some((token, written)) = line.trim().split_once(' ') else {
            return Ok(value);
        };
        let token: u64 = token.parse()?;
        if token < largest {
            writeln!(client, "refused: the register has seen token {largest}")?;
            continue;
        }
        (value, largest) = (written.to_owned(), token);
        writeln!(client, "accepted")?;
    }
}

/// A worker's process, seen from the main program.
struct Worker {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(name: &str, storage: &str, register: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([name, storage, register])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, stdin, stdout })
    }

    fn say(&mut self, word: &str) -> Result<()> {
        Ok(writeln!(self.stdin, "{word}")?)
    }

    fn hears(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() { Err("the worker ended".into()) } else { Ok(line.trim().to_owned()) }
    }

    /// Stops the process, as a debugger, a hypervisor or swapping would, and waits until it has stopped.
    fn stop(&self) -> Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        waitpid(Some(self.pid()), WaitOptions::UNTRACED)?;
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    fn end(mut self) -> Result<()> {
        if self.process.wait()?.success() { Ok(()) } else { Err("the worker failed".into()) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

/// No process is left over, not even a stopped one, however the example ends.
impl Drop for Worker {
    fn drop(&mut self) {
        // If the example succeeded, the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
