//! A setting that a stale holder cannot change: etcd compares the token in the transaction that writes.
//!
//! A real process is stopped while it holds a lock. Its lease ends, and another process acquires the lock and writes. The late
//! transaction of the first one changes nothing.
//!
//! `cargo run --features etcd --example fenced_setting [etcd://…]`; without a URL it starts an etcd of its own. Its transactions
//! are those of `etcdctl`.

#![expect(clippy::print_stdout, reason = "an example tells its story")]

#[path = "fenced/worker.rs"]
mod worker;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use leasehold::storage::etcd::{Compare, Config, Fence};
use leasehold::{Guard, Locks};

use self::worker::{Result, Worker};

/// The shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);
const SETTING: &str = "example/setting";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [] => story(&leasehold_testbed::Etcd::start()?.url()),
        [url] => story(url),
        [name, url] => worker(name, url),
        _ => Err("start it with the URL of an etcd, or without arguments".into()),
    }
}

fn story(url: &str) -> Result<()> {
    let mut ann = Worker::start("ann", &[url])?;
    ann.tells("holds the lock")?;
    ann.stop()?;
    let mut bob = Worker::start("bob", &[url])?;
    bob.tells("holds the lock")?;
    bob.goes_on("wrote")?;
    ann.wakes_up()?;
    ann.goes_on("refused")?;

    let value = etcdctl(url, &["get", "--print-value-only", SETTING], "")?;
    println!("the setting: {}", value.trim());
    if value.trim() == "written by bob" { Ok(()) } else { Err("a stale holder has written".into()) }
}

/// Runs a worker process, which acquires the lock, waits for a command, and then writes in any case.
fn worker(name: &str, url: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let locks = Locks::connect(url).await?;
        let guard = locks.lock("setting").label(name).ttl(TTL).acquire().await?;
        println!("holds the lock, with the token {}", guard.token());

        std::io::stdin().read_line(&mut String::new())?;

        // Checking the lock here would not help: the process may be stopped right after the check.
        let fence = Fence::new(&Config::new(url)?);
        let result = match write(url, &fence, &guard, &format!("written by {name}"))? {
            true => "wrote",
            false => "refused: the lock is not held any more",
        };
        println!("{result} (the guard says that the lock is held: {})", guard.is_held());
        locks.close().await?;
        Ok(())
    })
}

/// Writes the setting, if the guard's token is that of the holder. Returns `false` if it is not.
fn write(url: &str, fence: &Fence, guard: &Guard, value: &str) -> Result<bool> {
    let Compare { key, create_revision, .. } = fence.compare(guard.name(), guard.owner(), guard.token());
    let key = String::from_utf8(key)?;
    // The compares, what is done then, and what is done else.
    let transaction = format!("create({key:?}) = \"{create_revision}\"\n\nput {SETTING} {value:?}\n\n\n");
    Ok(etcdctl(url, &["txn"], &transaction)?.starts_with("SUCCESS"))
}

/// Runs etcd's command line: any client of etcd does.
fn etcdctl(url: &str, args: &[&str], input: &str) -> Result<String> {
    let members = url.trim_start_matches("etcd://").split('?').next().unwrap_or_default();
    let mut etcdctl = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", members)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    etcdctl.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
    let output = etcdctl.wait_with_output()?;
    if !output.status.success() {
        return Err("etcdctl has failed".into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
