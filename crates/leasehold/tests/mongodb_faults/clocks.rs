//! Primaries whose clocks are wrong, and differ.

use leasehold::Lost;
use leasehold::storage::{RenewReply, WAITER_HEARTBEAT, WAITER_TTL};
use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::doc;
use leasehold_testbed::{Error, Faults as _, MongoDb, until};
use tokio::time::Instant;

use crate::tools::*;

/// Starts three members and gives those that are not the primary a clock so far from the machine's.
///
/// They are started with it: a member whose clock jumps while it runs may not replicate for as long as it jumped.
fn three_with(shifts: [i64; 2]) -> MongoDb {
    let set = MongoDb::options().own_clock().start_three().expect("servers");
    let primary = set.primary().expect("a primary").port();
    let others = set.members().iter().filter(|member| member.port() != primary);
    for (member, shift) in others.zip(shifts) {
        member.kill9();
        member.clock().expect("as asked").set(shift).expect("set");
        member.restart().expect("started");
        assert!((ahead(member).expect("answered") - shift).abs() <= 2);
    }
    set.await_whole().expect("they catch up");
    set
}

/// Returns how far a member's clock is ahead of the machine's.
fn ahead(member: &MongoDbMember) -> leasehold_testbed::Result<i64> {
    let hello = member.command("admin", doc! { "hello": 1 })?;
    let shown = hello.get_datetime("localTime").expect("a time").timestamp_millis() / 1000;
    Ok(shown - rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec)
}

#[test]
fn a_new_primary_whose_clock_is_behind_keeps_no_dead_holder_and_gives_larger_tokens() {
    let set = three_with([-3_600; 2]);
    run(async {
        let (url, _) = own(&set);
        let (dead, locks) = (bare(&url).await, client(&url).await);
        let mut held = claim("job");
        held.ttl = time(1_500);
        let token = take(&dead, &held).await;
        // And a waiter that dies, too.
        is_held(&dead, &claim("job").wait(true)).await;
        set.failover().expect("another is elected");
        let since = Instant::now();
        let guard = within(LONG, locks.lock("job").acquire()).await.expect("granted");
        let took = since.elapsed();
        assert!(took < held.ttl + WAITER_TTL + 2 * WAITER_HEARTBEAT + time(3_000), "{took:?}");
        assert!(guard.token() > token, "{} after {token}", guard.token());
        let renewed = answered(async || renew(&dead, &held).await).await;
        assert_eq!(renewed, RenewReply::NotHeld);
        guard.release().await.expect("released");
    });
}

#[test]
fn a_new_primary_whose_clock_is_ahead_ends_leases_and_their_holders_are_told_at_once() {
    let set = three_with([3_600; 2]);
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        // Its next renewal is due in twenty seconds.
        let guard = hold(&locks, "job", LONG).await;
        let next = waiting(other.lock("job"));
        waiters(&other, "job", 1).await;
        set.failover().expect("another is elected");
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        let next = within(soon(), next).await.expect("no panic").expect("granted");
        assert!(next.token() > guard.token());
        next.release().await.expect("released");
    });
}

#[test]
fn a_hold_survives_elections_among_members_whose_clocks_differ_by_less_than_its_ttl() {
    let set = three_with([4, -4]);
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        let kept = hold(&locks, "kept", LONG).await;
        let mut last = None;
        for round in 0..3 {
            set.failover().expect("another is elected");
            verified(&kept).await;
            let guard = within(soon(), other.lock("job").acquire()).await.expect("granted");
            assert!(last < Some(guard.token()), "round {round}");
            last = Some(guard.token());
            guard.release().await.expect("released");
        }
        assert!(kept.is_held());
        kept.release().await.expect("released");
    });
}

#[test]
fn a_primary_whose_clock_jumps_serves_its_waiters_and_gives_larger_tokens() {
    let set = MongoDb::options().own_clock().start().expect("a server");
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        let mut guard = hold(&locks, "job", time(6_000)).await;
        for seconds in [3_600, 0, -3_600, 0] {
            let next = waiting(other.lock("job").ttl(time(6_000)));
            waiters(&other, "job", 1).await;
            let member = &set.members()[0];
            member.clock().expect("as asked").set(seconds).expect("set");
            let jumped = until("its clock to jump", || match ahead(member)? {
                shown if (shown - seconds).abs() <= 2 => Ok(()),
                shown => Err(Error::new(shown.to_string())),
            });
            jumped.expect("set");
            let token = guard.token();
            // If the clock was set ahead, the lease has ended.
            drop(guard.release().await);
            guard = within(soon(), next).await.expect("no panic").expect("granted");
            assert!(guard.token() > token, "{seconds}");
            verified(&guard).await;
        }
        guard.release().await.expect("released");
    });
}
