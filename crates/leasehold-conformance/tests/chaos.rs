//! `Chaos` injects exactly the faults that were planned.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use leasehold::storage::{AcquireReply, Claim, Hint, Memory, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Locks, Lost, Name, Owner};
use leasehold_conformance::{Chaos, Controls, Fault, HintFault, Verb};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);

fn chaos() -> (Memory, Chaos<Memory>, Controls) {
    let memory = Memory::new();
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (memory, chaos, controls)
}

fn claim() -> [Claim; 1] {
    [Claim::new(Name::new("x").expect("valid"), Owner::random(), TTL)]
}

async fn is_held(memory: &Memory) -> bool {
    let name = Name::new("x").expect("valid");
    !memory.inspect(&name).await.expect("memory answers").is_empty()
}

#[tokio::test(start_paused = true)]
async fn what_fails_never_reaches_the_storage() {
    let (memory, chaos, controls) = chaos();
    controls.next(Verb::Acquire, 1, Fault::Fail);
    let error = chaos.acquire(&claim()).await.remove(0).expect_err("told to fail");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!is_held(&memory).await);
    assert!(chaos.acquire(&claim()).await.remove(0).is_ok(), "only the next one");
}

#[tokio::test(start_paused = true)]
async fn what_loses_its_reply_has_happened() {
    let (memory, chaos, controls) = chaos();
    controls.next(Verb::Acquire, 1, Fault::LoseReply);
    assert!(chaos.acquire(&claim()).await.remove(0).is_err());
    assert!(is_held(&memory).await);
}

#[tokio::test(start_paused = true)]
async fn what_delays_its_reply_has_happened_before_it() {
    let (memory, chaos, controls) = chaos();
    controls.next(Verb::Acquire, 1, Fault::DelayReply(SOON));
    let asked = Instant::now();
    let (claim, looks) = (claim(), async {
        sleep(SOON / 2).await;
        is_held(&memory).await
    });
    let (answers, held) = tokio::join!(chaos.acquire(&claim), looks);
    assert!(held && answers[0].is_ok());
    assert_eq!(asked.elapsed(), SOON);
}

#[tokio::test(start_paused = true)]
async fn what_is_delayed_happens_though_the_caller_has_gone() {
    let (memory, chaos, controls) = chaos();
    controls.always(Verb::Acquire, Fault::Delay(SOON));
    assert!(timeout(SOON / 2, chaos.acquire(&claim())).await.is_err());
    assert!(!is_held(&memory).await);
    assert_eq!(controls.in_flight(), 1);
    sleep(SOON).await;
    assert!(is_held(&memory).await);
    assert_eq!(controls.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ghost_fails_now_and_happens_later() {
    let (memory, chaos, controls) = chaos();
    controls.next(Verb::Acquire, 1, Fault::Ghost(SOON));
    assert!(chaos.acquire(&claim()).await.remove(0).is_err());
    assert!(!is_held(&memory).await);
    sleep(SOON * 2).await;
    assert!(is_held(&memory).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_delayed_beyond_its_patience_refuses_itself() {
    let (memory, chaos, controls) = chaos();
    controls.next(Verb::Acquire, 1, Fault::Delay(TTL));
    assert!(chaos.acquire(&claim()).await.remove(0).is_err());
    assert!(!is_held(&memory).await);
}

#[tokio::test(start_paused = true)]
async fn shortening_that_is_delayed_beyond_its_patience_refuses_itself() {
    let (_, chaos, controls) = chaos();
    let claim = claim();
    chaos.acquire(&claim).await;
    let [shorter] = claim.map(|mut claim| {
        claim.ttl = SOON;
        claim.shorten(true).patience(SOON / 2)
    });
    controls.next(Verb::Renew, 2, Fault::Delay(SOON));
    assert!(chaos.renew(std::slice::from_ref(&shorter)).await.remove(0).is_err());
    let plain = shorter.shorten(false);
    assert!(chaos.renew(&[plain]).await.remove(0).is_ok(), "nothing can be late but what shortens");
}

#[tokio::test(start_paused = true)]
async fn what_hangs_happens_when_it_is_healed() {
    let (memory, chaos, controls) = chaos();
    let claim = claim();
    chaos.acquire(&claim).await;
    controls.always(Verb::Release, Fault::Hang);
    let released = chaos.release(&claim);
    tokio::pin!(released);
    assert!(timeout(TTL / 2, &mut released).await.is_err());
    assert!(is_held(&memory).await);
    controls.heal();
    let answer = released.await.remove(0).expect("healed");
    assert_eq!(answer, ReleaseReply::Released);
}

#[tokio::test(start_paused = true)]
async fn what_is_duplicated_happens_twice() {
    let (_, chaos, controls) = chaos();
    let claim = claim();
    chaos.acquire(&claim).await;
    controls.next(Verb::Release, 1, Fault::Duplicate);
    let answer = chaos.release(&claim).await.remove(0).expect("memory answers");
    assert_eq!(answer, ReleaseReply::NotHeld, "the second time, it was gone");
}

#[tokio::test(start_paused = true)]
async fn a_seed_decides_the_same_every_time() {
    let draw = async |seed| {
        let (_, chaos, controls) = chaos();
        controls.sometimes(Verb::Renew, 30, Fault::Fail, seed);
        let mut failed = Vec::new();
        for _ in 0..1_000 {
            failed.push(chaos.renew(&claim()).await.remove(0).is_err());
        }
        failed
    };
    let (one, again, other) = (draw(7).await, draw(7).await, draw(8).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    let failed = one.iter().filter(|failed| **failed).count();
    assert!((250..350).contains(&failed), "{failed} of 1000 at 30 percent");
}

#[tokio::test(start_paused = true)]
async fn calls_and_claims_are_counted() {
    let (memory, chaos, controls) = chaos();
    let two = [claim(), [Claim::new(Name::new("y").expect("valid"), Owner::random(), TTL)]].concat();
    chaos.acquire(&two).await;
    chaos.beside(memory).acquire(&claim()).await;
    chaos.inspect(&two[0].name).await.expect("memory answers");
    chaos.list("", None, 10).await.expect("memory answers");
    let calls = [Verb::Acquire, Verb::Renew, Verb::Inspect, Verb::List].map(|verb| controls.calls(verb));
    assert_eq!((calls, controls.claims(Verb::Acquire)), ([2, 0, 1, 1], 3));
    controls.forget_counts();
    assert_eq!((controls.calls(Verb::Acquire), controls.claims(Verb::Acquire)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn hints_are_dropped_doubled_and_delayed() {
    let (_, chaos, controls) = chaos();
    let mut hints = Box::pin(chaos.hints());
    let hinted = async || {
        let claim = claim();
        chaos.acquire(&claim).await;
        chaos.release(&claim).await;
        Hint::Owner(claim[0].owner)
    };
    controls.hints(HintFault::Drop);
    hinted().await;
    assert_eq!(hints.next().now_or_never(), None);
    controls.hints(HintFault::Duplicate);
    let hint = hinted().await;
    assert_eq!((hints.next().await, hints.next().await), (Some(hint.clone()), Some(hint)));
    controls.hints(HintFault::Delay(SOON));
    let (hint, start) = (hinted().await, Instant::now());
    assert_eq!((hints.next().await, start.elapsed()), (Some(hint), SOON));
    controls.heal();
    let hint = hinted().await;
    assert_eq!(hints.next().now_or_never(), Some(Some(hint)));
}

#[tokio::test(start_paused = true)]
async fn hints_are_forged_and_no_fault_touches_those() {
    let (_, chaos, controls) = chaos();
    let mut hints = Box::pin(chaos.hints());
    controls.hints(HintFault::Drop);
    controls.hint(Hint::Restarted);
    controls.hint(Hint::Any);
    assert_eq!((hints.next().await, hints.next().await), (Some(Hint::Restarted), Some(Hint::Any)));
    for _ in 0..2_000 {
        controls.hint(Hint::Any);
    }
    assert_eq!(hints.next().await, Some(Hint::Restarted), "some are missing");
    assert_eq!(hints.next().await, Some(Hint::Any));
}

#[tokio::test(start_paused = true)]
async fn it_passes_what_it_is_not_told_about() {
    let (_, chaos, controls) = chaos();
    let claim = claim();
    controls.always(Verb::List, Fault::Fail);
    assert!(matches!(chaos.acquire(&claim).await[..], [Ok(AcquireReply::Granted { .. })]));
    assert!(matches!(chaos.renew(&claim).await[..], [Ok(RenewReply::Renewed { .. })]));
    assert!(chaos.list("", None, 1).await.is_err());
    assert_eq!(chaos.to_string(), "chaos(memory)");
}

/// An example of a user's test: the path that runs when a lock is lost.
#[tokio::test(start_paused = true)]
async fn a_lock_is_lost_when_no_renewal_is_answered() {
    let (_, chaos, controls) = chaos();
    let locks = Locks::builder().ttl(TTL).on_current_runtime().build(chaos).expect("memory promises enough");
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.always(Verb::Renew, Fault::Hang);
    let start = Instant::now();
    assert_eq!(guard.lost().await, Lost::Expired);
    assert!(start.elapsed() < TTL, "known before the storage gives it away");
    let error = guard.release().await.expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_close_with_a_limit_waits_no_longer_for_a_storage_that_hangs() {
    let (_memory, chaos, controls) = chaos();
    let locks = Locks::builder().on_current_runtime().build(chaos).expect("memory promises enough");
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.always(Verb::Release, Fault::Hang);
    let start = Instant::now();
    let (first, second) = tokio::join!(locks.close(), locks.close_within(SOON / 2));
    assert_eq!(start.elapsed(), SOON / 2, "the earlier limit counts");
    for closed in [first, second] {
        assert_eq!(closed.expect_err("not confirmed").kind(), ErrorKind::Unavailable);
    }
    assert_eq!(guard.lost().await, Lost::Closed);
}
