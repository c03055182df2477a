//! Tickets: a successful resume returns the whole lease, and a failed one leaves it unchanged.

use leasehold::storage::{AnyStorage, Memory};
use leasehold::{ErrorKind, Locks, Ticket};
use leasehold_conformance::{Chaos, Fault, Verb};
use tokio::time::{sleep, timeout};

use crate::{broken, client, left, ms, real, s, settle, take};

#[tokio::test(start_paused = true)]
async fn dropping_a_resume_leaves_the_guard_unchanged() {
    let memory = Memory::new();
    let (locks, other) = (client(memory.clone()), client(memory));
    let guard = take(&locks, "x", s(10)).await;
    let mut resuming = Box::pin(locks.resume(guard.ticket()));
    assert!(futures_util::poll!(&mut resuming).is_pending());
    drop(resuming);
    settle().await;
    assert_eq!(locks.held().len(), 1);
    sleep(s(60)).await;
    assert!(guard.is_held(), "no longer renewed");
    guard.verify().await.expect("still held");
    assert!(other.lock("x").try_acquire().await.expect("memory answers").is_none());
    guard.release().await.expect("still held");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_of_a_guard_that_is_still_there_is_refused() {
    let locks = client(Memory::new());
    let guard = take(&locks, "x", s(10)).await;
    let error = locks.resume(guard.ticket()).await.expect_err("this client has it");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    guard.release().await.expect("still held");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_can_be_resumed_at_once_where_it_was_made() {
    let locks = client(Memory::new());
    let guard = take(&locks, "x", s(10)).await;
    let token = guard.token();
    let resumed = locks.resume(guard.into_ticket()).await.expect("the ticket is resumed once");
    assert_eq!(resumed.token(), token);
    sleep(s(60)).await;
    resumed.release().await.expect("renewed by the resuming client");
}

#[tokio::test(start_paused = true)]
async fn a_late_detach_does_not_shorten_a_resumed_lease() {
    let memory = Memory::new();
    let ((locks, controls), heir) = (broken(&memory), client(memory.clone()));
    let guard = take(&locks, "x", s(10)).await;
    controls.next(Verb::Renew, 3, Fault::LoseReply);
    let ticket = guard.into_ticket();
    settle().await;
    let guard = heir.resume(ticket).await.expect("the ticket is resumed once");
    guard.extend(s(3600)).await.expect("memory answers");
    sleep(s(15)).await;
    assert!(controls.calls(Verb::Renew) > 3, "the detach was repeated");
    assert!(guard.is_held());
    assert!(left(&client(memory), "x").await > s(3500));
}

/// Resumes on another client and on the same one, and also after the TTL was extended.
#[tokio::test(start_paused = true)]
async fn a_late_shortening_does_not_shorten_a_resumed_lease() {
    for (same, extended) in [(false, false), (false, true), (true, false), (true, true)] {
        let memory = Memory::new();
        let ((locks, controls), third) = (broken(&memory), client(memory.clone()));
        let heir = if same { locks.clone() } else { client(memory) };
        let guard = take(&locks, "x", s(60)).await;
        controls.next(Verb::Renew, 1, Fault::Ghost(s(2)));
        guard.extend(s(8)).await.expect_err("no answer comes");
        if extended {
            guard.extend(s(60)).await.expect("memory answers");
        }
        let guard = heir.resume(guard.into_ticket()).await.expect("the ticket is resumed once");
        guard.extend(s(600)).await.expect("memory answers");
        sleep(s(15)).await;
        assert!(guard.is_held(), "renewed before the shorter TTL was over");
        assert!(guard.remaining() > s(300) && left(&third, "x").await > guard.remaining());
    }
}

/// The same over a file, where a detach also tells which process's death ends the lease.
#[test]
fn a_late_detach_neither_shortens_nor_binds_a_resumed_lease_in_a_file() {
    real(async {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("locks.db").display());
        let chaos = Chaos::new(AnyStorage::connect(&url).await.expect("a file"));
        let controls = chaos.controls();
        let (locks, heir) = (Locks::new(chaos), connect(&url).await);
        let guard = take(&locks, "x", s(10)).await;
        controls.always(Verb::Renew, Fault::Delay(ms(200)));
        let guard = heir.resume(guard.into_ticket()).await.expect("the ticket is resumed once");
        guard.extend(s(600)).await.expect("the file answers");
        // The detach is a renewal too; closing waits for it.
        locks.close().await.expect("the file answers");
        assert!(controls.calls(Verb::Renew) > 0 && controls.in_flight() == 0);
        drop(locks);
        assert!(left(&connect(&url).await, "x").await > s(300));
        guard.release().await.expect("still held");
    });
}

#[test]
fn a_resume_that_fails_leaves_the_lease_to_the_ticket() {
    real(async {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("locks.db").display());
        let first = connect(&url).await;
        let ticket = take(&first, "x", s(600)).await.into_ticket();
        first.close().await.expect("the file answers");
        let chaos = Chaos::new(AnyStorage::connect(&url).await.expect("a file"));
        chaos.controls().always(Verb::Renew, Fault::LoseReply);
        let failing = Locks::new(chaos);
        let error = failing.resume(ticket.clone()).await.expect_err("no answer comes");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        failing.close().await.expect("no cleanup is left");
        drop(failing);
        // The renewed lease is not tied to this client, so closing it changes nothing.
        let third = connect(&url).await;
        for _ in 0..20 {
            assert!(third.lock("x").try_acquire().await.expect("the file answers").is_none());
            sleep(ms(10)).await;
        }
        third.resume(ticket).await.expect("the ticket is still valid").release().await.expect("held");
    });
}

/// Resuming replaces the cleanup that detaches the lease, and must not cancel the detach.
#[test]
fn a_ticket_outlives_its_process_even_if_a_resume_there_was_dropped() {
    real(async {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("locks.db").display());
        let chaos = Chaos::new(AnyStorage::connect(&url).await.expect("a file"));
        let controls = chaos.controls();
        let locks = Locks::new(chaos);
        let guard = take(&locks, "x", s(600)).await;
        controls.always(Verb::Renew, Fault::Fail);
        controls.always(Verb::Inspect, Fault::Fail);
        let ticket = guard.into_ticket();
        timeout(ms(300), locks.resume(ticket.clone())).await.expect_err("no answer comes");
        controls.heal();
        locks.close().await.expect("detached");
        drop(locks);
        let third = connect(&url).await;
        for _ in 0..20 {
            assert!(third.lock("x").try_acquire().await.expect("the file answers").is_none());
            sleep(ms(10)).await;
        }
        third.resume(ticket).await.expect("the ticket is still valid").release().await.expect("held");
    });
}

#[tokio::test(start_paused = true)]
async fn a_ticket_with_another_token_is_not_resumed() {
    let locks = client(Memory::new());
    let ticket = take(&locks, "x", s(10)).await.into_ticket();
    let (real, text) = (ticket.token(), ticket.to_string());
    let forged = text.replacen(&format!(".{real}."), ".9.", 1);
    let forged: Ticket = forged.parse().expect("a well-formed ticket");
    let error = locks.resume(forged).await.expect_err("the storage knows the token");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let guard = locks.resume(ticket).await.expect("nothing was changed");
    assert_eq!(guard.token(), real);
}

async fn connect(url: &str) -> Locks {
    Locks::connect(url).await.expect("a file")
}
