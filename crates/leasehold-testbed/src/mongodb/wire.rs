//! One connection to MongoDB, which sends OP_MSG requests with a document and reads the answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bson::{Document, doc};

use super::scram;
use crate::error::Context as _;
use crate::tls::Tls;
use crate::{Error, Result, install};

const OP_MSG: i32 = 2013;
const HEADER: usize = 16;

/// The limit of every wait, because the server may be stopped.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
}

impl Connection {
    pub(super) fn open(port: u16, tls: Option<&Tls>) -> Result<Self> {
        let stream = match tls {
            Some(tls) => Stream::Tunnel(Tunnel::open(port, tls)?),
            None => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let stream = TcpStream::connect_timeout(&address, LIMIT).context("no server listens")?;
                stream.set_read_timeout(Some(LIMIT)).context("cannot limit the wait")?;
                Stream::Plain(stream)
            }
        };
        Ok(Self { stream })
    }

    /// Authenticates with a password (SCRAM-SHA-256).
    pub(super) fn authenticate(&mut self, user: &str, password: &str) -> Result<()> {
        let mut exchange = scram::Exchange::begin(user, password);
        let payload =
            |text: String| bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: text.into() };
        let said = |answer: &Document| -> Result<(i32, String)> {
            let id = answer.get_i32("conversationId").context("no conversation")?;
            let text = answer.get_binary_generic("payload").context("no payload")?;
            Ok((id, String::from_utf8_lossy(text).into_owned()))
        };
        let first = doc! {
            "saslStart": 1,
            "mechanism": "SCRAM-SHA-256",
            "payload": payload(exchange.first()),
            "options": { "skipEmptyExchange": true },
        };
        let (id, challenge) = said(&self.command("admin", first)?)?;
        let last =
            doc! { "saslContinue": 1, "conversationId": id, "payload": payload(exchange.last(&challenge)?) };
        self.command("admin", last).map(drop)
    }

    /// Sends a command and returns its answer if that contains `ok`.
    pub(super) fn command(&mut self, database: &str, command: Document) -> Result<Document> {
        accepted(self.ask(database, command)?)
    }

    /// Sends a command and returns its answer.
    pub(super) fn ask(&mut self, database: &str, mut command: Document) -> Result<Document> {
        command.insert("$db", database);
        let body = command.to_vec().context("not a document")?;
        let length = i32::try_from(HEADER + 4 + 1 + body.len()).context("too long")?;
        let mut message = Vec::new();
        // The header: length, id, id of the request, opcode. Then no flags, and one section with the
        // document.
        for number in [length, 1, 0, OP_MSG, 0] {
            message.extend(number.to_le_bytes());
        }
        message.push(0);
        message.extend(body);
        self.stream.write_all(&message).context("cannot ask")?;
        self.read()
    }

    fn read(&mut self) -> Result<Document> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("no answer")?;
        let length = usize::try_from(i32::from_le_bytes(length)).context("not an answer")?;
        let mut rest = vec![0; length.saturating_sub(4)];
        self.stream.read_exact(&mut rest).context("half an answer")?;
        // The flags and the kind of the section precede the document.
        let body =
            rest.get(HEADER - 4 + 4 + 1..).ok_or_else(|| Error::new("an answer without a document"))?;
        Document::from_reader(body).context("not a document")
    }
}

/// Returns the answer if it contains `ok`.
pub(super) fn accepted(answer: Document) -> Result<Document> {
    match answer.get("ok").and_then(|ok| ok.as_f64().or(ok.as_i32().map(f64::from))) {
        Some(1.0) => Ok(answer),
        _ => Err(Error::new(format!("MongoDB refuses: {answer}"))),
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tunnel(Tunnel),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tunnel(tunnel) => tunnel.output.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tunnel(tunnel) => tunnel.input.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tunnel(tunnel) => tunnel.input.flush(),
        }
    }
}

/// `openssl` as a tunnel to the server, which avoids a TLS library here.
#[derive(Debug)]
struct Tunnel {
    process: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Tunnel {
    fn open(port: u16, tls: &Tls) -> Result<Self> {
        let mut process = Command::new(install::program("timeout")?)
            .arg(LIMIT.as_secs().to_string())
            .arg(install::program("openssl")?)
            .args(["s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile"])
            .arg(tls.ca())
            .args(["-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start openssl")?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Error::new("openssl has no pipes"));
        };
        Ok(Self { process, input, output })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
