//! A story of real processes that use a lock and an account, for any database that checks the token in the transaction
//! that writes.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const TTL: Duration = Duration::from_secs(1);
/// Longer than the lease of a dead holder.
const PATIENCE: Duration = Duration::from_secs(3);

/// Stops a process that holds the lock, first before its transaction and then in the middle of it. Meanwhile its lease
/// ends, and another process wants the lock. The account begins with a balance of 100, and must have 65 afterward.
pub(crate) fn tell(url: &str) -> Result<()> {
    println!("-- stopped before the transaction");
    let mut ann = Worker::start("ann", url, 20)?;
    ann.tells("read 100")?;
    ann.stop()?;
    let mut bob = Worker::start("bob", url, 30)?;
    bob.tells("read 100")?;
    bob.goes_on("pinned")?;
    bob.goes_on("wrote 70")?;
    ann.wakes_up()?;
    ann.goes_on("refused")?;

    println!("-- stopped in the midst of it");
    let mut eve = Worker::start("eve", url, 5)?;
    eve.tells("read 70")?;
    eve.goes_on("pinned")?;
    eve.stop()?;
    Worker::start("bob", url, 30)?.tells("not granted")?;
    eve.wakes_up()?;
    eve.goes_on("wrote 65")?;
    Worker::start("bob", url, 0)?.tells("read 65")
}

/// Checks the balance at the end of the story.
pub(crate) fn check(balance: i64) -> Result<()> {
    println!("-- the balance is {balance}: 100 - 30 - 5");
    if balance == 65 { Ok(()) } else { Err("a stale holder has written".into()) }
}

/// Acquires the lock of the account, in a worker process. Returns `None` if another process holds it, or if a transaction
/// pins it.
pub(crate) async fn acquire(locks: &Locks, name: &str) -> Result<Option<Guard>> {
    let error = match locks.lock("account/1").label(name).ttl(TTL).wait(PATIENCE).acquire().await {
        Ok(guard) => return Ok(Some(guard)),
        Err(error) => error,
    };
    match error.kind() {
        // The place in the queue must not outlive this process.
        ErrorKind::Contended => locks.close().await?,
        ErrorKind::Unavailable => {}
        _ => return Err(error.into()),
    }
    println!("not granted: {error}");
    Ok(None)
}

/// Waits in a worker process until it is told to go on.
pub(crate) fn told() -> Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// A worker's process, seen from the main program.
struct Worker {
    name: String,
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(name: &str, url: &str, amount: i64) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([name, url, &amount.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { name: name.to_owned(), process, stdin, stdout })
    }

    /// Reads its next line, which must begin with this text.
    fn tells(&mut self, expected: &str) -> Result<()> {
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

    fn goes_on(&mut self, expected: &str) -> Result<()> {
        writeln!(self.stdin)?;
        self.tells(expected)
    }

    /// Stops the process, as a debugger, a hypervisor or swapping would, and waits until it has stopped.
    fn stop(&self) -> Result<()> {
        kill_process(self.pid(), Signal::STOP)?;
        waitpid(Some(self.pid()), WaitOptions::UNTRACED)?;
        println!("{}: … is stopped", self.name);
        Ok(())
    }

    fn wakes_up(&self) -> Result<()> {
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
