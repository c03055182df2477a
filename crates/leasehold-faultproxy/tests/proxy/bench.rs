//! Both ends of a connection, and the time limit for expected events.

use std::io;
use std::time::Duration;

use leasehold_faultproxy::{Faults, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Returns a duration, multiplied by `LEASEHOLD_TEST_TIME` for slow machines.
pub(crate) fn ms(ms: u64) -> Duration {
    let factor = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|factor| factor.parse().ok());
    Duration::from_millis(ms).mul_f64(factor.unwrap_or(1.0))
}

/// Waits for an event that is certain, and fails if it does not come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(ms(30_000), future).await.expect("it must come and does not")
}

/// A proxy in front of a server that the test plays.
pub(crate) struct Bench {
    pub(crate) proxy: Proxy,
    pub(crate) faults: Faults,
    pub(crate) listener: TcpListener,
}

/// Both ends of one connection.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = Proxy::start(listener.local_addr().expect("it is bound")).await.expect("a proxy");
        Self { faults: proxy.faults(), proxy, listener }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.proxy.addr())).await.expect("the proxy accepts")
    }

    /// Connects to a port that resets at once. The connect itself may report the reset.
    pub(crate) async fn connect_and_be_reset(&self) {
        match soon(TcpStream::connect(self.proxy.addr())).await {
            Ok(mut client) => assert!(ends_by_reset(&mut client).await.is_empty()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        soon(self.listener.accept()).await.expect("the proxy connects").0
    }

    pub(crate) async fn pair(&self) -> Pair {
        let client = self.connect().await;
        Pair { client, server: self.accept().await }
    }

    pub(crate) async fn all_closed(&self) {
        soon(self.faults.wait_for(|stats| stats.open == 0)).await.expect("the proxy runs");
    }
}

impl Pair {
    /// Sends a request and its reply, to check that the connection works.
    pub(crate) async fn talk(&mut self) {
        send(&mut self.client, b"ping").await;
        assert_eq!(receive(&mut self.server, 4).await, b"ping");
        send(&mut self.server, b"pong!").await;
        assert_eq!(receive(&mut self.client, 5).await, b"pong!");
    }
}

pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    soon(stream.write_all(bytes)).await.expect("the bytes are taken");
}

pub(crate) async fn receive(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    soon(stream.read_exact(&mut bytes)).await.expect("the bytes come");
    bytes
}

/// Reads everything, and returns the bytes and the kind of the end.
pub(crate) async fn drain(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = soon(stream.read_to_end(&mut bytes)).await;
    (bytes, end.map(drop))
}

pub(crate) async fn ends_orderly(stream: &mut TcpStream) -> Vec<u8> {
    let (bytes, end) = drain(stream).await;
    end.expect("an orderly end");
    bytes
}

pub(crate) async fn ends_by_reset(stream: &mut TcpStream) -> Vec<u8> {
    let (bytes, end) = drain(stream).await;
    let error = end.expect_err("a reset, not an orderly end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    bytes
}

/// Returns bytes in which a missing, repeated or moved part shows. They are made of copies, to be cheap.
pub(crate) fn pattern(n: usize) -> Vec<u8> {
    // A prime length, so that no buffer boundary coincides with it.
    const BLOCK: usize = 8_191;
    let mut random = Random(1);
    let block: Vec<u8> =
        (0..BLOCK).map(|_| u8::try_from(random.below(256)).expect("it is below 256")).collect();
    let mut bytes = block.repeat(n.div_ceil(BLOCK));
    bytes.truncate(n);
    bytes
}

/// Random numbers from a seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}
