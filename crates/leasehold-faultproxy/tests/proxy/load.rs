//! Many connections, and rules that change under traffic.

use std::sync::Arc;
use std::time::Duration;

use leasehold_faultproxy::{ConnId, End, Flow, PortState, Proxy, To, Trap, Which};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::bench::{Bench, Pair, Random, pattern, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once() {
    const EACH: usize = 20_000;
    let (proxy, _echo) = echoed().await;
    let address = proxy.addr();
    let mut clients = JoinSet::new();
    for n in 0..200_u8 {
        clients.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("the proxy accepts");
            let (mut read, mut write) = stream.into_split();
            let sent: Vec<u8> = pattern(EACH).into_iter().map(|byte| byte ^ n).collect();
            let expected = sent.clone();
            let write = async move {
                write.write_all(&sent).await.expect("the bytes are taken");
                drop(write);
            };
            let mut received = Vec::new();
            let ((), read) = tokio::join!(write, read.read_to_end(&mut received));
            read.expect("an orderly end");
            assert!(received == expected, "client {n} got {} bytes", received.len());
        });
    }
    while let Some(client) = soon(clients.join_next()).await {
        client.expect("every client is served");
    }
    let stats = soon(proxy.faults().wait_for(|stats| stats.open == 0)).await.expect("the proxy runs");
    let all = u64::try_from(200 * EACH).expect("small");
    assert_eq!((stats.accepted, stats.from_client, stats.to_server), (200, all, all));
    assert_eq!((stats.from_server, stats.to_client, stats.discarded), (all, all, 0));
}

/// With any flows and any changes of them, the bytes arrive complete and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_of_flows_loses_or_reorders_bytes() {
    let bench = Arc::new(Bench::new().await);
    for seed in 0..40 {
        let mut random = Random(seed);
        let Pair { client, server } = bench.pair().await;
        let connection = bench.faults.connections().last().expect("it is open").id;
        let sizes = [0; 2].map(|_| usize::try_from(random.below(150_000)).expect("small"));
        let mut ends = JoinSet::new();
        for (own, other, mut stream) in [(sizes[0], sizes[1], client), (sizes[1], sizes[0], server)] {
            let mut random = Random(seed * 2 + u64::try_from(own).expect("small"));
            ends.spawn(async move {
                let (mut read, mut write) = stream.split();
                let bytes = pattern(own);
                let write = async {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let n = usize::try_from(1 + random.below(9_000)).expect("small");
                        let (piece, later) = rest.split_at(std::cmp::min(n, rest.len()));
                        write.write_all(piece).await.expect("the bytes are taken");
                        rest = later;
                    }
                    write.shutdown().await.expect("it is open");
                };
                let mut received = Vec::new();
                let ((), read) = tokio::join!(write, read.read_to_end(&mut received));
                read.expect("an orderly end");
                received == pattern(other)
            });
        }
        // The rules change as the bytes progress, not by time.
        for _ in 0..1 + random.below(12) {
            let to = To::BOTH[usize::from(random.below(2) == 0)];
            bench.faults.flow(Which::One(connection), to, any_flow(&mut random));
            let before = bench.faults.stats();
            let moved = 1 + random.below(20_000);
            let goes_on = bench.faults.wait_for(|stats| {
                stats.open == 0
                    || stats.to_server + stats.to_client >= before.to_server + before.to_client + moved
            });
            // With black holes and at the end no byte moves, so the limit leads to the next rule.
            let _ = tokio::time::timeout(Duration::from_millis(20), goes_on).await;
        }
        bench.faults.flow_both(Which::One(connection), Flow::Pass);
        while let Some(whole) = soon(ends.join_next()).await {
            assert!(whole.expect("both ends finish"), "seed {seed}: the bytes came otherwise than sent");
        }
        bench.all_closed().await;
    }
    let stats = bench.faults.stats();
    assert_eq!((stats.from_client, stats.from_server), (stats.to_server, stats.to_client));
}

/// The proxy serves the next connection, whatever peers and rules do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_peers_do_harms_the_next() {
    let (proxy, _echo) = echoed().await;
    let faults = proxy.faults();
    let mut random = Random(77);
    for round in 0..300_u64 {
        let mut client = soon(TcpStream::connect(proxy.addr())).await.expect("the proxy accepts");
        match random.below(8) {
            0 => faults.end(Which::All, End::Reset),
            1 => faults.end(Which::All, End::HalfClose(To::BOTH[usize::from(random.below(2) == 0)])),
            2 => faults.cut_after(Which::New, To::Client, random.below(50_000), End::Close),
            3 => faults.flow_both(Which::All, any_flow(&mut random)),
            4 => drop(faults.arm(Trap::on_request(pattern(2)).cut_reply(End::Reset))),
            5 => faults.end(Which::One(ConnId::new(round)), End::Close),
            6 => faults.port(PortState::Silent).expect("the port is open"),
            _ => faults.heal().expect("the port is there"),
        }
        let bytes = pattern(usize::try_from(random.below(80_000)).expect("small"));
        // Writes as much as possible at once; it need not arrive.
        let _ = client.try_write(&bytes);
        match random.below(3) {
            0 => client.set_zero_linger().expect("a TCP socket"),
            1 => drop(client.shutdown().await),
            _ => {}
        }
        drop(client);
    }
    faults.heal().expect("the port is there");
    soon(faults.wait_for(|stats| stats.open == 0)).await.expect("the proxy runs");
    let mut client = soon(TcpStream::connect(proxy.addr())).await.expect("the proxy accepts");
    soon(client.write_all(b"still there?")).await.expect("the bytes are taken");
    let mut bytes = [0; 12];
    soon(client.read_exact(&mut bytes)).await.expect("the bytes come back");
    assert_eq!(&bytes, b"still there?");
}

fn any_flow(random: &mut Random) -> Flow {
    match random.below(5) {
        0 => Flow::Pass,
        1 => Flow::delay(Duration::from_millis(random.below(4))),
        2 => Flow::Delay { by: Duration::ZERO, jitter: Duration::from_millis(random.below(8)) },
        3 => Flow::throttle(1_000 + random.below(5_000_000)),
        _ => Flow::BlackHole,
    }
}

/// Starts a proxy in front of a server that echoes.
async fn echoed() -> (Proxy, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = Proxy::start(listener.local_addr().expect("it is bound")).await.expect("a proxy");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            served.spawn(async move {
                let (mut read, mut write) = stream.split();
                // A client that is cut off is not an error of the server.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (proxy, tasks)
}
