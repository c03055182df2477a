//! Traps: what happens when given bytes are forwarded.

use std::time::Duration;

use leasehold_faultproxy::{ConnId, End, Flow, To, Trap, Which};
use tokio::time::Instant;

use crate::bench::{Bench, ends_by_reset, ends_orderly, ms, receive, send, soon};

const OWNER: &[u8] = b"owner-0123456789";
const REQUEST: &[u8] = b"CLAIM owner-0123456789 NOW";

#[tokio::test]
async fn the_first_reply_after_the_marker_is_cut_however_it_is_split() {
    let bench = Bench::new().await;
    for split in 0..=REQUEST.len() {
        let trap = bench.faults.arm(Trap::on_request(OWNER).cut_reply(End::Reset));
        let mut pair = bench.pair().await;
        pair.talk().await;
        let (first, second) = REQUEST.split_at(split);
        let before = bench.faults.stats();
        send(&mut pair.client, first).await;
        let all = before.to_server + u64::try_from(split).expect("small");
        soon(bench.faults.wait_for(|stats| stats.to_server == all)).await.expect("the proxy runs");
        send(&mut pair.client, second).await;
        // The whole request arrives, and the server executes it.
        assert_eq!(receive(&mut pair.server, REQUEST.len()).await, REQUEST);
        let connection = soon(trap.passed()).await.expect("it is armed");
        assert_eq!((connection.number(), trap.count().sprung), (bench.faults.stats().accepted, 0));
        // The reply does not arrive.
        send(&mut pair.server, b"GRANTED").await;
        assert_eq!(soon(trap.sprung()).await, Ok(connection));
        assert!(ends_by_reset(&mut pair.client).await.is_empty(), "split at {split}");
        bench.all_closed().await;
        assert_eq!(bench.faults.stats().to_client, before.to_client);
        assert!(bench.faults.disarm(trap.id()));
    }
}

#[tokio::test]
async fn a_marker_is_found_byte_by_byte_and_after_a_false_start() {
    let bench = Bench::new().await;
    let trap = bench.faults.arm(Trap::on_request("aab").cut_reply(End::Close));
    let mut pair = bench.pair().await;
    for (i, byte) in b"ab aaa".iter().enumerate() {
        send(&mut pair.client, &[*byte]).await;
        receive(&mut pair.server, 1).await;
        assert_eq!(trap.count().passed, 0, "after byte {i}");
    }
    send(&mut pair.server, b"not yet").await;
    assert_eq!(receive(&mut pair.client, 7).await, b"not yet");
    send(&mut pair.client, b"b").await;
    soon(trap.passed()).await.expect("it is armed");
    send(&mut pair.server, b"now").await;
    assert!(ends_orderly(&mut pair.client).await.is_empty());
    assert!(ends_orderly(&mut pair.server).await.ends_with(b"b"));
}

#[tokio::test]
async fn a_trap_works_once() {
    let bench = Bench::new().await;
    let trap = bench.faults.arm(Trap::on_request(OWNER).cut_reply(End::Reset));
    let mut pairs = [bench.pair().await, bench.pair().await];
    for pair in &mut pairs {
        send(&mut pair.client, REQUEST).await;
        assert_eq!(receive(&mut pair.server, REQUEST.len()).await, REQUEST);
        send(&mut pair.server, b"GRANTED").await;
    }
    let [mut first, mut second] = pairs;
    assert!(ends_by_reset(&mut first.client).await.is_empty());
    assert_eq!(receive(&mut second.client, 7).await, b"GRANTED");
    second.talk().await;
    let count = trap.count();
    assert_eq!((count.passed, count.sprung, count.sprung_on), (1, 1, Some(ConnId::new(1))));
}

#[tokio::test]
async fn a_trap_works_as_often_as_it_is_told() {
    let bench = Bench::new().await;
    let trap = bench.faults.arm(Trap::on_request(OWNER).cut_reply(End::Reset).times(5));
    for attempt in 1..=6 {
        let mut pair = bench.pair().await;
        send(&mut pair.client, REQUEST).await;
        assert_eq!(receive(&mut pair.server, REQUEST.len()).await, REQUEST);
        send(&mut pair.server, b"GRANTED").await;
        if attempt <= 5 {
            ends_by_reset(&mut pair.client).await;
        } else {
            assert_eq!(receive(&mut pair.client, 7).await, b"GRANTED");
        }
    }
    assert_eq!((trap.count().passed, trap.count().sprung), (5, 5));
}

#[tokio::test]
async fn replies_that_came_before_the_request_pass() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    bench.faults.flow(Which::All, To::Client, Flow::delay(ms(80)));
    let trap = bench.faults.arm(Trap::on_request(OWNER).cut_reply(End::Close));
    send(&mut pair.server, b"an earlier reply").await;
    soon(bench.faults.wait_for(|stats| stats.from_server == 16)).await.expect("the proxy runs");
    send(&mut pair.client, REQUEST).await;
    receive(&mut pair.server, REQUEST.len()).await;
    soon(trap.passed()).await.expect("it is armed");
    send(&mut pair.server, b"GRANTED").await;
    assert_eq!(ends_orderly(&mut pair.client).await, b"an earlier reply");
}

#[tokio::test]
async fn a_reply_is_delayed_and_others_are_not() {
    let bench = Bench::new().await;
    let mut other = bench.pair().await;
    let mut pair = bench.pair().await;
    let by = ms(120);
    let trap = bench.faults.arm(Trap::on_request(OWNER).delay_reply(by));
    send(&mut pair.client, REQUEST).await;
    receive(&mut pair.server, REQUEST.len()).await;
    let start = Instant::now();
    send(&mut pair.server, b"GRANTED").await;
    soon(trap.sprung()).await.expect("it is armed");
    other.talk().await;
    assert_eq!(receive(&mut pair.client, 7).await, b"GRANTED");
    assert!(start.elapsed() >= by, "it came after {:?}", start.elapsed());
    pair.talk().await;
}

#[tokio::test]
async fn a_held_reply_waits_until_it_may_go() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let trap = bench.faults.arm(Trap::on_request("SUBSCRIBE").hold_reply());
    send(&mut pair.client, b"SUBSCRIBE shop").await;
    receive(&mut pair.server, 14).await;
    send(&mut pair.server, b"OK").await;
    let connection = soon(trap.sprung()).await.expect("it is armed");
    // Requests are forwarded meanwhile.
    send(&mut pair.client, b"more").await;
    assert_eq!(receive(&mut pair.server, 4).await, b"more");
    assert_eq!(bench.faults.stats().to_client, 0);
    bench.faults.resume(Which::One(connection));
    assert_eq!(receive(&mut pair.client, 2).await, b"OK");
    pair.talk().await;
}

#[tokio::test]
async fn a_request_is_cut_before_it_is_whole() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let trap = bench.faults.arm(Trap::on_request(OWNER).cut(End::Close));
    send(&mut pair.client, REQUEST).await;
    soon(trap.sprung()).await.expect("it is armed");
    assert_eq!(ends_orderly(&mut pair.server).await, b"CLAIM owner-012345678");
    ends_orderly(&mut pair.client).await;
    assert_eq!((trap.count().passed, trap.count().sprung), (0, 1));
}

#[tokio::test]
async fn a_request_is_held_and_executed_late() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let trap = bench.faults.arm(Trap::on_request(OWNER).hold());
    send(&mut pair.client, REQUEST).await;
    let connection = soon(trap.sprung()).await.expect("it is armed");
    assert_eq!(receive(&mut pair.server, 21).await, b"CLAIM owner-012345678");
    // Another connection overtakes it.
    let mut other = bench.pair().await;
    send(&mut other.client, REQUEST).await;
    receive(&mut other.server, REQUEST.len()).await;
    assert_eq!(trap.count().passed, 0);
    bench.faults.resume(Which::One(connection));
    assert_eq!(receive(&mut pair.server, 5).await, b"9 NOW");
    assert_eq!(soon(trap.passed()).await, Ok(connection));
    pair.talk().await;
}

#[tokio::test]
async fn a_request_is_delayed() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let by = ms(100);
    let trap = bench.faults.arm(Trap::on_request(OWNER).delay(by));
    let start = Instant::now();
    send(&mut pair.client, REQUEST).await;
    assert_eq!(receive(&mut pair.server, REQUEST.len()).await, REQUEST);
    assert!(start.elapsed() >= by, "it came after {:?}", start.elapsed());
    let done = soon(trap.wait_for(|count| (count.passed, count.sprung) == (1, 1))).await;
    done.expect("it is armed");
}

#[tokio::test]
async fn a_message_of_the_server_is_trapped_as_a_request_is() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let trap = bench.faults.arm(Trap::on_reply("released").hold());
    send(&mut pair.server, b"hint: released").await;
    soon(trap.sprung()).await.expect("it is armed");
    assert_eq!(receive(&mut pair.client, 13).await, b"hint: release");
    bench.faults.resume(Which::All);
    assert_eq!(receive(&mut pair.client, 1).await, b"d");
}

#[tokio::test]
async fn a_trap_that_only_watches_changes_nothing() {
    let bench = Bench::new().await;
    let trap = bench.faults.arm(Trap::on_request("ping").times(3));
    let mut pair = bench.pair().await;
    for n in 1..=4_u64 {
        pair.talk().await;
        assert_eq!(trap.count().passed, std::cmp::min(n, 3));
    }
    let spread = bench.faults.arm(Trap::on_request("ping").only(Which::One(ConnId::new(2))));
    pair.talk().await;
    assert_eq!(spread.count().passed, 0);
    bench.faults.heal().expect("the port is there");
    soon(spread.passed()).await.expect_err("it was disarmed");
}

#[tokio::test]
async fn two_traps_on_the_same_bytes_both_work() {
    let bench = Bench::new().await;
    let mut pair = bench.pair().await;
    let hold = bench.faults.arm(Trap::on_request(OWNER).hold());
    let delay = bench.faults.arm(Trap::on_request("9 NOW").delay(Duration::from_millis(1)));
    let cut = bench.faults.arm(Trap::on_request(OWNER).cut_reply(End::Reset));
    send(&mut pair.client, REQUEST).await;
    soon(hold.sprung()).await.expect("it is armed");
    bench.faults.resume(Which::All);
    soon(delay.passed()).await.expect("it is armed");
    assert_eq!(receive(&mut pair.server, REQUEST.len()).await, REQUEST);
    send(&mut pair.server, b"GRANTED").await;
    soon(cut.sprung()).await.expect("it is armed");
    ends_by_reset(&mut pair.client).await;
}
