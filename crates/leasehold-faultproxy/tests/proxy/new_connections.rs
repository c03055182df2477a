//! Rules for new connections.

use std::io;

use leasehold_faultproxy::{End, PortState, Which};
use tokio::net::TcpStream;

use crate::bench::{Bench, ends_by_reset, ends_orderly, receive, send, soon};

#[tokio::test]
async fn a_closed_port_refuses_and_opens_again() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    for _ in 0..3 {
        bench.faults.port(PortState::Closed).expect("closing works");
        let error = TcpStream::connect(bench.proxy.addr()).await.expect_err("the port is closed");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        // Open connections are not affected.
        pair.talk().await;
        bench.faults.port(PortState::Open).expect("the port is still ours");
        bench.pair().await.talk().await;
    }
}

#[tokio::test]
async fn nobody_gets_a_closed_port() {
    let bench = Bench::new().await;
    bench.faults.port(PortState::Closed).expect("closing works");
    let taken = tokio::net::TcpListener::bind(bench.proxy.addr()).await;
    assert_eq!(taken.expect_err("the port is reserved").kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_port_that_resets_accepts_first() {
    let bench = Bench::new().await;
    bench.faults.port(PortState::Reset).expect("the port is open");
    bench.connect_and_be_reset().await;
    let stats = soon(bench.faults.wait_for(|stats| stats.refused == 1)).await.expect("the proxy runs");
    assert_eq!((stats.accepted, stats.open), (0, 0));
    bench.faults.port(PortState::Open).expect("the port is open");
    bench.pair().await.talk().await;
}

#[tokio::test]
async fn a_silent_port_accepts_and_never_answers() {
    let bench = Bench::new().await;
    bench.faults.port(PortState::Silent).expect("the port is open");
    let mut first = bench.connect().await;
    send(&mut first, b"is it open yet").await;
    let mut second = bench.connect().await;
    let stats = soon(bench.faults.wait_for(|stats| stats.open == 2)).await.expect("the proxy runs");
    assert_eq!(stats.from_client, 0);
    bench.faults.end(Which::One(leasehold_faultproxy::ConnId::new(2)), End::Close);
    ends_orderly(&mut second).await;
    // From now on the waiting connections go on.
    bench.faults.port(PortState::Open).expect("the port is open");
    let mut server = bench.accept().await;
    assert_eq!(receive(&mut server, 14).await, b"is it open yet");
}

#[tokio::test]
async fn a_silent_connection_can_be_reset() {
    let bench = Bench::new().await;
    bench.faults.port(PortState::Silent).expect("the port is open");
    let mut client = bench.connect().await;
    soon(bench.faults.wait_for(|stats| stats.open == 1)).await.expect("the proxy runs");
    bench.faults.end(Which::All, End::Reset);
    ends_by_reset(&mut client).await;
    bench.all_closed().await;
}
