//! The flows of bytes.

use std::io;
use std::time::Duration;

use leasehold_faultproxy::{ConnId, Flow, PortState, To, Which};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::bench::{Bench, drain, ends_orderly, ms, pattern, receive, send, soon};

#[tokio::test]
async fn bytes_pass_in_both_directions_and_are_counted() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    let stats = bench.faults.stats();
    assert_eq!((stats.from_client, stats.to_server, stats.from_server, stats.to_client), (4, 4, 5, 5));
    assert_eq!((stats.accepted, stats.open, stats.discarded, stats.ended), (1, 1, 0, 0));
    let [connection] = bench.faults.connections()[..] else { panic!("one connection is open") };
    assert_eq!(connection.client, pair.client.local_addr().expect("it is bound"));
    assert_eq!((connection.id, connection.to_server, connection.to_client), (ConnId::new(1), 4, 5));
}

#[tokio::test]
async fn each_direction_ends_alone_and_the_other_goes_on() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    send(&mut pair.client, b"all I say").await;
    pair.client.shutdown().await.expect("it is open");
    assert_eq!(ends_orderly(&mut pair.server).await, b"all I say");
    let reply = pattern(100_000);
    let (mut server, mut client) = (pair.server, pair.client);
    let (expected, write) = (reply.clone(), async move {
        send(&mut server, &reply).await;
    });
    let ((), received) = tokio::join!(write, ends_orderly(&mut client));
    assert!(received == expected, "{} bytes came", received.len());
    bench.all_closed().await;
}

#[tokio::test]
async fn a_reset_is_handed_on() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    pair.server.set_zero_linger().expect("a TCP socket");
    drop(pair.server);
    crate::bench::ends_by_reset(&mut pair.client).await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    pair.client.set_zero_linger().expect("a TCP socket");
    drop(pair.client);
    crate::bench::ends_by_reset(&mut pair.server).await;
    bench.all_closed().await;
}

#[tokio::test]
async fn delayed_bytes_come_late_and_in_order() {
    let bench = Bench::new().await;
    let by = ms(60);
    bench.faults.flow(Which::All, To::Server, Flow::Delay { by, jitter: ms(40) });
    let mut pair = bench.pair().await;
    let mut sent = Vec::new();
    let start = Instant::now();
    for i in 0..20_u64 {
        let piece = format!("piece {i};");
        send(&mut pair.client, piece.as_bytes()).await;
        sent.extend_from_slice(piece.as_bytes());
        // Each byte arrives separately, so that each has a delay of its own.
        let all = u64::try_from(sent.len()).expect("a small number");
        soon(bench.faults.wait_for(|stats| stats.from_client == all)).await.expect("the proxy runs");
    }
    pair.client.shutdown().await.expect("it is open");
    let first = receive(&mut pair.server, 1).await;
    assert!(start.elapsed() >= by, "it came after {:?}", start.elapsed());
    let (rest, end) = drain(&mut pair.server).await;
    end.expect("the end comes, after the bytes");
    assert_eq!([first, rest].concat(), sent);
}

#[tokio::test]
async fn delay_of_one_direction_leaves_the_other_alone() {
    let bench = Bench::new().await;
    bench.faults.flow(Which::All, To::Client, Flow::delay(Duration::from_secs(3600)));
    let mut pair = bench.pair().await;
    send(&mut pair.client, b"request").await;
    assert_eq!(receive(&mut pair.server, 7).await, b"request");
    send(&mut pair.server, b"reply").await;
    let stats = soon(bench.faults.wait_for(|stats| stats.from_server == 5)).await.expect("the proxy runs");
    assert_eq!(stats.to_client, 0);
    // Buffered bytes are forwarded at once when the delay is removed.
    bench.faults.flow(Which::All, To::Client, Flow::Pass);
    assert_eq!(receive(&mut pair.client, 5).await, b"reply");
}

#[tokio::test]
async fn a_delay_keeps_little_and_then_the_sender_waits() {
    let bench = Bench::new().await;
    bench.faults.flow(Which::All, To::Server, Flow::delay(Duration::from_secs(3600)));
    let pair = bench.pair().await;
    let room = 256 * 1024;
    let mut written = 0;
    while bench.faults.stats().from_client < room {
        written = fill(&pair.client, written).await;
    }
    // The system may buffer more, but the proxy does not.
    written = fill(&pair.client, written).await;
    let stats = bench.faults.stats();
    assert_eq!((stats.from_client, stats.to_server), (room, 0), "of {written} bytes");
    bench.faults.flow(Which::All, To::Server, Flow::Pass);
    let (mut client, mut server) = (pair.client, pair.server);
    client.shutdown().await.expect("it is open");
    let received = ends_orderly(&mut server).await;
    assert!(received == pattern(written), "{} of {written} bytes came", received.len());
}

#[tokio::test]
async fn a_throttle_is_no_faster_than_it_says() {
    let bench = Bench::new().await;
    // 20,000 bytes per second are pieces of 400 bytes, of which the first is not delayed.
    bench.faults.flow(Which::All, To::Client, Flow::throttle(20_000));
    let mut pair = bench.pair().await;
    let start = Instant::now();
    send(&mut pair.server, &pattern(8_000)).await;
    assert_eq!(receive(&mut pair.client, 8_000).await, pattern(8_000));
    assert!(start.elapsed() >= Duration::from_millis(380), "it took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_throttle_makes_the_sender_wait() {
    let bench = Bench::new().await;
    bench.faults.flow(Which::All, To::Server, Flow::throttle(1));
    let pair = bench.pair().await;
    fill(&pair.client, 0).await;
    let stats = bench.faults.stats();
    assert!(stats.from_client <= 16 * 1024 + stats.to_server, "{stats:?}");
}

#[tokio::test]
async fn a_black_hole_reads_nothing_and_closes_nothing() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.flow_both(Which::All, Flow::BlackHole);
    let before = bench.faults.stats();
    let written = fill(&pair.client, 0).await;
    assert!(written > 0);
    let replied = fill(&pair.server, 0).await;
    // A black hole does not notice the end either.
    pair.client.shutdown().await.expect("it is open");
    let mut byte = [0];
    let read = timeout(ms(50), tokio::io::AsyncReadExt::read(&mut pair.server, &mut byte)).await;
    assert!(read.is_err(), "the server saw {read:?}");
    assert_eq!(bench.faults.stats(), before);
    // Everything was only late.
    bench.faults.flow_both(Which::All, Flow::Pass);
    let (requests, replies) =
        tokio::join!(ends_orderly(&mut pair.server), receive(&mut pair.client, replied));
    assert!(requests == pattern(written), "{} of {written} bytes came", requests.len());
    assert!(replies == pattern(replied));
}

#[tokio::test]
async fn a_rule_applies_to_those_it_chooses() {
    let bench = Bench::new().await;
    let mut first = bench.pair().await;
    let mut second = bench.pair().await;
    bench.faults.flow_both(Which::One(ConnId::new(1)), Flow::BlackHole);
    second.talk().await;
    bench.faults.flow_both(Which::New, Flow::BlackHole);
    second.talk().await;
    let mut third = bench.pair().await;
    for pair in [&mut first, &mut third] {
        send(&mut pair.client, b"lost in space").await;
    }
    // The proxy serves connections in turn, so it would have read from the black holes before this one
    // works.
    second.talk().await;
    let read: Vec<_> = bench.faults.connections().iter().map(|connection| connection.from_client).collect();
    assert_eq!(read, [0, 12, 0]);
    bench.faults.heal().expect("the port is there");
    assert_eq!(receive(&mut first.server, 13).await, b"lost in space");
    assert_eq!(receive(&mut third.server, 13).await, b"lost in space");
    bench.faults.flow_both(Which::Open, Flow::BlackHole);
    bench.pair().await.talk().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_resets_the_client() {
    let bench = Bench::new().await;
    // A socket that is bound but does not listen keeps the port from other programs.
    let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
    closed.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    bench.faults.upstream(closed.local_addr().expect("it is bound"));
    bench.connect_and_be_reset().await;
    let stats = soon(bench.faults.wait_for(|stats| stats.unreached == 1)).await.expect("the proxy runs");
    assert_eq!(stats.accepted, 1);
    bench.all_closed().await;
}

#[tokio::test]
async fn new_connections_go_to_the_new_upstream() {
    let bench = Bench::new().await;
    let mut old = bench.pair().await;
    let next = Bench::new().await;
    bench.faults.upstream(next.listener.local_addr().expect("it is bound"));
    let mut client = bench.connect().await;
    let mut server = next.accept().await;
    send(&mut client, b"to the new one").await;
    assert_eq!(receive(&mut server, 14).await, b"to the new one");
    old.talk().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_an_upstream() {
    use tokio::io::AsyncReadExt;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("server.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let proxy =
        leasehold_faultproxy::Proxy::start(format!("unix:{}", path.display())).await.expect("a proxy");
    let mut client = soon(TcpStream::connect(proxy.addr())).await.expect("the proxy accepts");
    let (mut server, _) = soon(listener.accept()).await.expect("the proxy connects");
    send(&mut client, b"ping").await;
    let mut bytes = [0; 4];
    soon(server.read_exact(&mut bytes)).await.expect("the bytes come");
    server.write_all(b"pong").await.expect("it is open");
    drop(server);
    assert_eq!(ends_orderly(&mut client).await, b"pong");
}

#[tokio::test]
async fn dropping_the_proxy_closes_everything() {
    let Bench { proxy, faults, listener: _listener } = Bench::new().await;
    let address = proxy.addr();
    let mut client = soon(TcpStream::connect(address)).await.expect("the proxy accepts");
    soon(faults.wait_for(|stats| stats.open == 1)).await.expect("the proxy runs");
    let waiting = faults.clone();
    let waiting = tokio::spawn(async move { waiting.wait_for(|stats| stats.open == 77).await });
    drop(proxy);
    let refused = TcpStream::connect(address).await.expect_err("the port is closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    ends_orderly(&mut client).await;
    soon(waiting).await.expect("it ends").expect_err("nothing more comes");
    // After the stop, rules have no effect, and do not fail.
    faults.flow_both(Which::All, Flow::BlackHole);
    faults.port(PortState::Closed).expect("it is closed");
    faults.heal().expect("there is nothing to heal");
    let trap = faults.arm(leasehold_faultproxy::Trap::on_request("x"));
    soon(trap.sprung()).await.expect_err("nothing more comes");
    assert!(faults.connections().is_empty());
}

/// Writes until the system accepts nothing more for a while. Returns how many bytes it accepted, plus
/// `written`.
async fn fill(stream: &TcpStream, mut written: usize) -> usize {
    let bytes = pattern(64 * 1024 * 1024);
    while timeout(ms(300), stream.writable()).await.is_ok() {
        match stream.try_write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(written < bytes.len(), "the peer reads it all");
    }
    written
}
