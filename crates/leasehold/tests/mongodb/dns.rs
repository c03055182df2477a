//! A DNS server with the records that a test gives it, and a network in which every name is resolved by it.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A server on port 53 of the loopback interface, which answers until its process ends.
pub(crate) struct Dns(Arc<Mutex<Zone>>);

#[derive(Default)]
struct Zone {
    /// Names, types, and the data of records.
    records: Vec<(String, u16, Vec<u8>)>,
    /// The names that were looked up, with their types.
    asked: Vec<(String, u16)>,
    is_silent: bool,
}

pub(crate) const A: u16 = 1;
pub(crate) const TXT: u16 = 16;
pub(crate) const SRV: u16 = 33;

/// The variable that is set inside of a network of its own.
const INSIDE: &str = "LEASEHOLD_TEST_NETWORK";

/// Runs a test in a network of its own, in which the test's own server resolves every name. `test` is the path of the test.
///
/// The resolvers of the system and of the driver read `/etc/resolv.conf`, which names no port. Neither that file nor port 53
/// belongs to a test, so the test runs once more in namespaces, and starts its other servers there, too.
pub(crate) fn in_own_network(test: &str, body: impl FnOnce(&Dns)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&Dns::start());
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n").expect("written");
    let script = "PATH=\"$PATH:/usr/sbin:/sbin\"; ip link set lo up; mount --bind \"$1\" /etc/resolv.conf; shift; exec \"$@\"";
    let mut inside = Command::new("unshare");
    inside.args([
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--fork",
        "--kill-child",
        "sh",
        "-ec",
        script,
    ]);
    inside.arg("sh").arg(&file).arg(std::env::current_exe().expect("this test"));
    inside.args(["--exact", test, "--nocapture"]).env(INSIDE, "yes");
    let outcome = inside.output().expect("util-linux is there");
    let said = String::from_utf8_lossy(&outcome.stdout);
    let why = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success() && said.contains("1 passed"), "{said}{why}");
}

impl Dns {
    fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("a port of its own");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let shared = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut query).expect("a query");
                let answer = shared.lock().unwrap_or_else(PoisonError::into_inner).answer(&query[..length]);
                if let Some(answer) = answer {
                    socket.send_to(&answer, client).expect("answered");
                }
            }
        });
        Self(zone)
    }

    /// Adds a server of a service, at an address of this machine.
    pub(crate) fn server(&self, service: &str, host: &str, port: u16) {
        self.foreign_server(service, host, port);
        self.add(host, A, Ipv4Addr::LOCALHOST.octets().to_vec());
    }

    /// Adds a server of a service whose host has no address.
    pub(crate) fn foreign_server(&self, service: &str, host: &str, port: u16) {
        // The priority and the weight come first.
        let mut data = vec![0, 0, 0, 0];
        data.extend(port.to_be_bytes());
        data.extend(labels(host));
        self.add(service, SRV, data);
    }

    pub(crate) fn text(&self, name: &str, text: &str) {
        let length = u8::try_from(text.len()).expect("a short text");
        self.add(name, TXT, [&[length], text.as_bytes()].concat());
    }

    fn add(&self, name: &str, kind: u16, data: Vec<u8>) {
        self.zone().records.push((name.to_owned(), kind, data));
    }

    pub(crate) fn remove_all(&self) {
        self.zone().records.clear();
    }

    /// Leaves queries unanswered, or answers them again.
    pub(crate) fn be_silent(&self, is_silent: bool) {
        self.zone().is_silent = is_silent;
    }

    /// Returns how often a name was looked up.
    pub(crate) fn asked(&self, name: &str, kind: u16) -> usize {
        self.zone().asked.iter().filter(|asked| asked.0 == name && asked.1 == kind).count()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Zone {
    /// Returns the answer to a query, or `None` if there is to be none.
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, after) = read_labels(query, 12)?;
        let kind = u16::from_be_bytes([*query.get(after)?, *query.get(after + 1)?]);
        self.asked.push((name.clone(), kind));
        if self.is_silent {
            return None;
        }
        let is_known = self.records.iter().any(|record| record.0 == name);
        let found: Vec<_> =
            self.records.iter().filter(|record| record.0 == name && record.1 == kind).collect();
        // An authoritative answer, with recursion available, and without an error or "no such name".
        let mut answer = vec![query[0], query[1], 0x85, if is_known { 0x80 } else { 0x83 }, 0, 1];
        answer.extend(u16::try_from(found.len()).ok()?.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(query.get(12..after + 4)?);
        for (_, kind, data) in found {
            // The name is the one at byte 12, the class is that of the internet, and it may be kept for a minute.
            answer.extend([0xC0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60]);
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Reads a name, and returns it with the place after it.
fn read_labels(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return Some((name.join("."), at));
        }
        name.push(String::from_utf8_lossy(label).to_lowercase());
    }
}
