//! Connections whose requests can be kept from the server, and delivered to it later, after their client has given up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Forwards connections to a server, and records what clients send.
pub(crate) struct Recorder {
    pub(crate) port: u16,
    server: u16,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
}

#[derive(Default)]
struct Connection {
    sent: Mutex<Vec<u8>>,
    /// Whether what is sent is only recorded.
    is_kept: AtomicBool,
    /// The bytes from which on it is only recorded.
    kept_from: Mutex<Option<String>>,
}

/// What precedes the frames of HTTP/2.
const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

impl Recorder {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let connections: Arc<Mutex<Vec<Arc<Connection>>>> = Arc::default();
        let all = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(("127.0.0.1", server)) else { return };
                let (back, answered) =
                    (to.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                let connection = Arc::new(Connection::default());
                locked(&all).push(Arc::clone(&connection));
                std::thread::spawn(move || forward(client, to, Some(&connection)));
                std::thread::spawn(move || forward(back, answered, None));
            }
        });
        Self { port, server, connections }
    }

    /// Keeps what is sent from now on, on the connections that are open.
    pub(crate) fn keep(&self) {
        locked(&self.connections)
            .iter()
            .for_each(|connection| connection.is_kept.store(true, Ordering::Release));
    }

    /// Keeps what is sent from the first bytes like these on, on the connections that are open.
    pub(crate) fn keep_from(&self, bytes: &str) {
        locked(&self.connections)
            .iter()
            .for_each(|connection| *locked(&connection.kept_from) = Some(bytes.to_owned()));
    }

    /// Forwards again what is sent from now on. The server never gets what was kept, unless it is delivered.
    pub(crate) fn go_on(&self) {
        for connection in locked(&self.connections).iter() {
            *locked(&connection.kept_from) = None;
            connection.is_kept.store(false, Ordering::Release);
        }
    }

    /// Waits until a whole request with these bytes was sent. Returns all that was sent on its connection until then.
    pub(crate) async fn sent(&self, bytes: &str) -> Vec<u8> {
        loop {
            let has = |sent: &Vec<u8>| {
                let is_whole = frames(sent.get(PREFACE..).unwrap_or_default()).1;
                is_whole && sent.windows(bytes.len()).any(|window| window == bytes.as_bytes())
            };
            let sent = locked(&self.connections).iter().map(|one| locked(&one.sent).clone()).find(has);
            if let Some(sent) = sent {
                return sent;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a whole request was kept. Returns all that was sent on its connection until then.
    pub(crate) async fn kept(&self) -> Vec<u8> {
        loop {
            let kept = |one: &&Arc<Connection>| {
                let is_whole = frames(locked(&one.sent).get(PREFACE..).unwrap_or_default()).1;
                is_whole && one.is_kept.load(Ordering::Acquire)
            };
            let sent = locked(&self.connections).iter().find(kept).map(|one| locked(&one.sent).clone());
            if let Some(sent) = sent {
                return sent;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Delivers all requests again, on another connection, and waits until the last one is answered.
    pub(crate) fn deliver(&self, sent: &[u8]) {
        let last = frames(&sent[PREFACE..]).0.into_iter().map(|(_, _, stream)| stream).max();
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).expect("the server listens");
        server.set_read_timeout(Some(crate::tools::LONG)).expect("a limit");
        server.write_all(sent).expect("delivered");
        let (mut answers, mut buffer) = (Vec::new(), [0; 4096]);
        let is_end = |(kind, flags, stream): &(u8, u8, u32)| {
            *kind == HEADERS && flags & END_STREAM != 0 && Some(*stream) == last
        };
        while !frames(&answers).0.iter().any(is_end) {
            let n = server.read(&mut buffer).expect("an answer");
            assert_ne!(n, 0, "the server has refused the connection");
            answers.extend_from_slice(&buffer[..n]);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, record: Option<&Connection>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let is_kept = record.is_some_and(|connection| {
            let bytes = &buffer[..n];
            if let Some(from) = &*locked(&connection.kept_from)
                && bytes.windows(from.len()).any(|window| window == from.as_bytes())
            {
                connection.is_kept.store(true, Ordering::Release);
            }
            locked(&connection.sent).extend_from_slice(bytes);
            connection.is_kept.load(Ordering::Acquire)
        });
        if !is_kept && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // A client that has gone away is not followed by its end, so that its connection stays open at the server.
    if record.is_none() {
        let _closed_already = to.shutdown(Shutdown::Write);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the kind, the flags and the stream of each frame, and whether the last one is whole.
fn frames(mut bytes: &[u8]) -> (Vec<(u8, u8, u32)>, bool) {
    let mut all = Vec::new();
    while let [a, b, c, kind, flags, d, e, f, g, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).expect("a length");
        let Some(rest) = rest.get(length..) else { return (all, false) };
        all.push((*kind, *flags, u32::from_be_bytes([*d, *e, *f, *g])));
        bytes = rest;
    }
    (all, bytes.is_empty())
}
