//! The ends of connections.

use leasehold_faultproxy::{ConnId, End, Flow, To, Which};

use crate::bench::{Bench, ends_by_reset, ends_orderly, pattern, receive, send, soon};

#[tokio::test]
async fn a_reset_is_seen_by_both_ends() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.end(Which::All, End::Reset);
    ends_by_reset(&mut pair.client).await;
    ends_by_reset(&mut pair.server).await;
    bench.all_closed().await;
    assert_eq!(bench.faults.stats().ended, 1);
    bench.pair().await.talk().await;
}

#[tokio::test]
async fn a_reset_to_one_end_is_orderly_for_the_other() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.end(Which::All, End::ResetTo(To::Client));
    ends_by_reset(&mut pair.client).await;
    ends_orderly(&mut pair.server).await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.end(Which::All, End::ResetTo(To::Server));
    ends_by_reset(&mut pair.server).await;
    ends_orderly(&mut pair.client).await;
}

#[tokio::test]
async fn a_close_is_orderly_even_with_bytes_unread() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.flow_both(Which::All, Flow::BlackHole);
    send(&mut pair.client, &pattern(50_000)).await;
    send(&mut pair.server, &pattern(50_000)).await;
    // A black hole does not prevent an end.
    bench.faults.end(Which::One(ConnId::new(1)), End::Close);
    assert!(ends_orderly(&mut pair.client).await.is_empty());
    assert!(ends_orderly(&mut pair.server).await.is_empty());
    bench.all_closed().await;
    // No reset follows either, which a peer that only reads would not notice.
    for stream in [&pair.client, &pair.server] {
        assert!(stream.take_error().expect("a TCP socket").is_none());
    }
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.end(Which::All, End::HalfClose(To::Server));
    assert!(ends_orderly(&mut pair.server).await.is_empty());
    send(&mut pair.server, b"still here").await;
    assert_eq!(receive(&mut pair.client, 10).await, b"still here");
    // What the client sends is read and discarded.
    send(&mut pair.client, b"are you?").await;
    let stats = soon(bench.faults.wait_for(|stats| stats.discarded == 8)).await.expect("the proxy runs");
    assert_eq!((stats.from_client, stats.to_server), (12, 4));
    drop(pair.server);
    ends_orderly(&mut pair.client).await;
    drop(pair.client);
    bench.all_closed().await;
}

#[tokio::test]
async fn a_half_close_to_the_client_leaves_requests() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    bench.faults.end(Which::All, End::HalfClose(To::Client));
    assert!(ends_orderly(&mut pair.client).await.is_empty());
    send(&mut pair.client, b"request").await;
    assert_eq!(receive(&mut pair.server, 7).await, b"request");
    drop(pair);
    bench.all_closed().await;
}

#[tokio::test]
async fn a_cut_lets_exactly_so_many_bytes_go() {
    for n in [0, 1, 7, 1_000, 16_384, 16_385, 60_000] {
        for end in [End::Close, End::Reset, End::HalfClose(To::Client)] {
            let bench = Bench::new().await;
            bench.faults.cut_after(Which::New, To::Client, n, end);
            if n == 0 && end == End::Reset {
                bench.connect_and_be_reset().await;
                continue;
            }
            let mut pair = bench.pair().await;
            // The connection may end before the server has sent everything.
            let all = pattern(100_000);
            let said = tokio::io::AsyncWriteExt::write_all(&mut pair.server, &all);
            let (_, came) = tokio::join!(said, async {
                match end {
                    End::Reset => ends_by_reset(&mut pair.client).await,
                    _ => ends_orderly(&mut pair.client).await,
                }
            });
            assert!(
                came == pattern(usize::try_from(n).expect("small")),
                "{} of {n} came: {end:?}",
                came.len()
            );
            assert_eq!(bench.faults.stats().to_client, n, "{end:?}");
        }
    }
}

#[tokio::test]
async fn a_cut_counts_from_when_it_was_asked_for() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    pair.talk().await;
    bench.faults.cut_after(Which::Open, To::Server, 3, End::Close);
    send(&mut pair.client, b"abcdef").await;
    assert_eq!(ends_orderly(&mut pair.server).await, b"abc");
    assert!(ends_orderly(&mut pair.client).await.is_empty());
    bench.all_closed().await;
    let stats = bench.faults.stats();
    assert_eq!((stats.from_client, stats.to_server, stats.discarded), (10, 7, 3));
    bench.pair().await.talk().await;
}
