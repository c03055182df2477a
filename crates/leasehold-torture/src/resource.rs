//! The resources that the locks protect: a register that checks tokens, and a counter that does not. A
//! small server on a Unix socket shares them between workers in any process.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{Ev, Event, Log, RESOURCE};

/// Serves the resources of a run until the process ends.
///
/// # Errors
///
/// If the socket or the history cannot be opened.
pub fn serve(socket: &Path, directory: &Path) -> io::Result<()> {
    let (listener, log) = (UnixListener::bind(socket)?, Arc::new(Log::open(directory, RESOURCE)?));
    let state = Arc::new(Mutex::new(HashMap::new()));
    std::thread::Builder::new().name("resources".to_owned()).spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let (state, log) = (Arc::clone(&state), Arc::clone(&log));
            // If a worker is killed in the middle of a line, only its connection ends with an error.
            std::thread::spawn(move || drop(answer(&connection, &state, &log)));
        }
    })?;
    Ok(())
}

#[derive(Default)]
struct Resource {
    token: u64,
    count: u64,
}

fn answer(connection: &UnixStream, state: &Mutex<HashMap<String, Resource>>, log: &Log) -> io::Result<()> {
    for line in BufReader::new(connection).lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        // The event is written while the mutex is held, so the file has the true order of events.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = match words[..] {
            ["use", lock, owner, token] => {
                let resource = state.entry(lock.to_owned()).or_default();
                let token = token.parse().unwrap_or(0);
                let fresh = token >= resource.token;
                resource.token = std::cmp::max(resource.token, token);
                let res = if fresh { "accepted" } else { "stale" }.to_owned();
                let (lock, owner, tok) = (lock.to_owned(), owner.to_owned(), Some(token));
                log.write(Event { ev: Ev::Use, lock, owner, tok, res: res.clone(), ..Event::default() });
                res
            }
            ["get", lock] => state.entry(lock.to_owned()).or_default().count.to_string(),
            ["set", lock, owner, was, value] => {
                let resource = state.entry(lock.to_owned()).or_default();
                let (was, v) = (was.parse().ok(), value.parse().unwrap_or(0));
                let tok = Some(std::mem::replace(&mut resource.count, v));
                let (lock, owner, v) = (lock.to_owned(), owner.to_owned(), Some(v));
                log.write(Event { ev: Ev::Count, lock, owner, was, v, tok, ..Event::default() });
                "ok".to_owned()
            }
            _ => "what".to_owned(),
        };
        drop(state);
        writeln!(&*connection, "{reply}")?;
    }
    Ok(())
}

/// A worker's connection to the resources.
#[derive(Debug)]
pub struct Resources(BufReader<UnixStream>);

impl Resources {
    /// Connects to the resources.
    ///
    /// # Errors
    ///
    /// If there is no server.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        UnixStream::connect(socket).map(BufReader::new).map(Self)
    }

    /// Writes to the register, with a token.
    ///
    /// # Errors
    ///
    /// If the server is gone.
    pub fn write(&mut self, lock: &str, owner: &str, token: u64) -> io::Result<()> {
        self.ask(&format!("use {lock} {owner} {token}")).map(drop)
    }

    /// Reads the counter.
    ///
    /// # Errors
    ///
    /// If the server is gone.
    pub fn count(&mut self, lock: &str) -> io::Result<u64> {
        self.ask(&format!("get {lock}"))?.parse().map_err(io::Error::other)
    }

    /// Sets the counter, which was read as `was`, to `was + 1`.
    ///
    /// # Errors
    ///
    /// If the server is gone.
    pub fn set(&mut self, lock: &str, owner: &str, was: u64) -> io::Result<()> {
        self.ask(&format!("set {lock} {owner} {was} {}", was + 1)).map(drop)
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        writeln!(self.0.get_mut(), "{line}")?;
        let mut reply = String::new();
        self.0.read_line(&mut reply)?;
        Ok(reply.trim_end().to_owned())
    }
}
