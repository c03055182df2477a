//! The execution of command lines.

use std::collections::HashMap;
use std::io;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use leasehold_faultproxy::script::Command;
use leasehold_faultproxy::{ArmedTrap, Faults};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What standard input and the control sockets share.
#[derive(Clone)]
pub(crate) struct Control {
    faults: Faults,
    traps: Arc<Mutex<HashMap<String, ArmedTrap>>>,
    quit: mpsc::Sender<()>,
}

impl Control {
    pub(crate) fn new(faults: Faults, quit: mpsc::Sender<()>) -> Self {
        Self { faults, traps: Arc::default(), quit }
    }

    /// Executes a line and returns the answer, or `None` for a comment.
    pub(crate) async fn answer(&self, number: u64, line: io::Result<String>) -> Option<Value> {
        let done = match line.map_err(|error| error.to_string()).and_then(|line| read(&line)) {
            Ok(None) => return None,
            Ok(Some(command)) => self.carry_out(command).await,
            Err(error) => Err(error),
        };
        Some(match done {
            Ok(Value::Null) => json!({ "line": number, "ok": true }),
            Ok(value) => json!({ "line": number, "ok": value }),
            Err(error) => json!({ "line": number, "error": error }),
        })
    }

    async fn carry_out(&self, command: Command) -> Result<Value, String> {
        let faults = &self.faults;
        match command {
            Command::Flow(which, to, flow) => to.into_iter().for_each(|to| faults.flow(which, to, flow)),
            Command::Cut(which, to, bytes, end) => {
                to.into_iter().for_each(|to| faults.cut_after(which, to, bytes, end));
            }
            Command::End(which, end) => faults.end(which, end),
            Command::Trap(name, trap) => {
                let mut traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
                if traps.contains_key(&name) {
                    return Err(format!("untrap the old one first, or take another name: name=`{name}`"));
                }
                traps.insert(name, faults.arm(trap));
            }
            Command::Untrap(name) => {
                let trap = self.trap(&name)?;
                faults.disarm(trap.id());
                self.traps.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            }
            Command::Resume(which) => faults.resume(which),
            Command::Port(state) => faults.port(state).map_err(|error| error.to_string())?,
            Command::Upstream(upstream) => faults.upstream(upstream),
            Command::Heal => {
                faults.heal().map_err(|error| error.to_string())?;
                self.traps.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Command::Stats => return Ok(crate::print::stats(&faults.stats())),
            Command::Connections => {
                return Ok(faults.connections().iter().map(crate::print::connection).collect());
            }
            Command::WaitCount(test) => {
                let stats = faults.wait_for(|stats| test.holds(stats)).await;
                return stats.map(|stats| crate::print::stats(&stats)).map_err(|error| error.to_string());
            }
            Command::WaitTrap(name, sprung, times) => {
                let trap = self.trap(&name)?;
                let count =
                    trap.wait_for(|count| (if sprung { count.sprung } else { count.passed }) >= times);
                let count = count.await.map_err(|error| error.to_string())?;
                let on = if sprung { count.sprung_on } else { count.passed_on };
                return Ok(json!({
                    "passed": count.passed, "sprung": count.sprung, "connection": on.map(|on| on.number()),
                }));
            }
            Command::Quit => {
                // A second `quit` has no effect.
                let _ = self.quit.try_send(());
            }
            other => return Err(format!("the program does not know this command: {other:?}")),
        }
        Ok(Value::Null)
    }

    fn trap(&self, name: &str) -> Result<ArmedTrap, String> {
        let traps = self.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.get(name).cloned().ok_or_else(|| format!("arm the trap first: name=`{name}`"))
    }
}

fn read(line: &str) -> Result<Option<Command>, String> {
    Command::read(line).map_err(|error| error.to_string())
}

/// The control socket. Dropping it removes its file.
#[cfg(unix)]
pub(crate) struct Socket(PathBuf);

#[cfg(unix)]
impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens on the control socket. Each connection gets the answers to its own lines.
#[cfg(unix)]
pub(crate) fn socket(path: PathBuf, control: Control) -> io::Result<Socket> {
    let listener = tokio::net::UnixListener::bind(&path)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, control.clone()));
        }
    });
    Ok(Socket(path))
}

#[cfg(unix)]
async fn serve(mut stream: tokio::net::UnixStream, control: Control) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    let mut number = 0;
    loop {
        let line = match lines.next_line().await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => return,
            // A line that is not text gets an error, and the next line may be valid.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            Err(_) => return,
        };
        number += 1;
        let Some(answer) = control.answer(number, line).await else { continue };
        if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
