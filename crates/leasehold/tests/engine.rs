//! The engine over the memory storage, with paused time: no server, and no real sleep.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::Memory;
use leasehold::{Change, ErrorKind, Event, Locks, Lost, Renewal, Wait};

const TTL: Duration = Duration::from_secs(10);

fn client(memory: &Memory) -> Locks {
    Locks::builder().on_current_runtime().build(memory.clone()).expect("memory promises enough")
}

/// Lets the engine and all other tasks run until each waits for something.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_by_one_and_tokens_grow() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let first = a.lock("x").acquire().await.expect("free");
    assert!(first.is_held());
    assert!(first.remaining() > Duration::from_secs(9));
    assert!(b.lock("x").try_acquire().await.expect("memory answers").is_none());
    let token = first.token();
    first.release().await.expect("held");
    let second = b.lock("x").try_acquire().await.expect("memory answers").expect("free");
    assert!(second.token() > token);
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_renewed_without_end() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
    for _ in 0..100 {
        tokio::time::sleep(TTL / 2).await;
        assert!(guard.is_held());
        assert!(b.lock("x").try_acquire().await.expect("memory answers").is_none());
    }
    guard.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn without_renewal_the_lock_is_lost_before_the_storage_grants_it_again() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    let start = tokio::time::Instant::now();
    assert_eq!(guard.lost().await, Lost::Expired);
    let passed = start.elapsed();
    assert!(passed < TTL && passed > TTL - Duration::from_millis(150), "{passed:?}");
    assert!(!guard.is_held());
    // The engine has released the lease, so the next owner need not wait for the TTL.
    let next = b.lock("x").acquire().await.expect("free");
    let error = guard.release().await.expect_err("lost");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Expired)));
    assert!(next.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_limit_and_names_the_holder() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let _guard = a.lock("x").label("the first").acquire().await.expect("free");
    let start = tokio::time::Instant::now();
    let error = b.lock("x").wait(Duration::from_secs(3)).acquire().await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_millis(3_100), "{waited:?}");
    assert_eq!(error.holder().and_then(|holder| holder.label.as_deref()), Some("the first"));
    assert!(error.to_string().contains("holder=`the first`"), "{error}");
    // No waiter's entry is left that would delay the next owner.
    assert_eq!(b.inspect("x").await.expect("memory answers").pop().expect("held").waiters, Some(0));
}

#[tokio::test(start_paused = true)]
async fn attempts_counts_all_tries_and_there_is_no_pause_after_the_last() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let _guard = a.lock("x").acquire().await.expect("free");
    let start = tokio::time::Instant::now();
    let wait = Wait::Attempts { attempts: 3, interval: Duration::from_secs(1) };
    let error = b.lock("x").wait(wait).acquire().await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_millis(2_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn waiters_are_woken_in_the_order_in_which_they_came() {
    let memory = Memory::new();
    let clients: Vec<_> = (0..5).map(|_| client(&memory)).collect();
    let guard = clients[0].lock("x").acquire().await.expect("free");
    let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
    for (i, client) in clients.iter().enumerate().skip(1) {
        let (client, order) = (client.clone(), order.clone());
        tokio::spawn(async move {
            let guard = client.lock("x").acquire().await.expect("granted in turn");
            order.send(i).expect("the receiver waits");
            guard.release().await.expect("held");
        });
        settle().await;
    }
    let start = tokio::time::Instant::now();
    guard.release().await.expect("held");
    for expected in 1..5 {
        assert_eq!(served.recv().await, Some(expected));
    }
    assert!(start.elapsed() < Duration::from_millis(50), "woken, not polled: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn five_hundred_tasks_cost_the_storage_one_waiter() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").acquire().await.expect("free");
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let b = b.clone();
            tokio::spawn(async move { b.lock("x").acquire().await.expect("granted in turn").release().await })
        })
        .collect();
    settle().await;
    assert_eq!(a.inspect("x").await.expect("memory answers").pop().expect("held").waiters, Some(1));
    guard.release().await.expect("held");
    for task in tasks {
        task.await.expect("runs").expect("held");
    }
    assert!(a.inspect("x").await.expect("memory answers").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_guard_is_released_and_a_dropped_wait_leaves_the_queue() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").acquire().await.expect("free");
    let waiting = tokio::time::timeout(Duration::from_secs(1), b.lock("x").acquire()).await;
    assert!(waiting.is_err());
    settle().await;
    assert_eq!(a.inspect("x").await.expect("memory answers").pop().expect("held").waiters, Some(0));
    drop(guard);
    settle().await;
    assert!(a.inspect("x").await.expect("memory answers").is_empty());
    assert!(a.held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn run_drops_the_work_when_the_lock_is_lost() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let (started, running) = tokio::sync::oneshot::channel();
    let work = tokio::spawn(async move {
        a.lock("x")
            .ttl(TTL)
            .run(async |_| {
                started.send(()).expect("the receiver waits");
                std::future::pending::<()>().await;
            })
            .await
    });
    running.await.expect("the work begins");
    let broken = b.break_lock("x").await.expect("memory answers").pop().expect("held");
    let error = work.await.expect("runs").expect_err("lost");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Taken)));
    assert!(b.lock("x").try_acquire().await.expect("memory answers").expect("free").token() > broken.token);
}

#[tokio::test(start_paused = true)]
async fn a_holder_learns_at_once_that_its_lock_was_broken() {
    for held_for in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(1), TTL] {
        let memory = Memory::new();
        let (a, b) = (client(&memory), client(&memory));
        let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
        tokio::time::sleep(held_for).await;
        let start = tokio::time::Instant::now();
        b.break_lock("x").await.expect("memory answers").pop().expect("held");
        assert_eq!(guard.lost().await, Lost::Taken);
        let told = start.elapsed();
        assert!(told <= Duration::from_millis(110), "held for {held_for:?}, told after {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn max_hold_ends_a_lock_that_is_renewed() {
    let memory = Memory::new();
    let a = client(&memory);
    let guard = a.lock("x").ttl(TTL).max_hold(Duration::from_secs(25)).acquire().await.expect("free");
    let start = tokio::time::Instant::now();
    assert_eq!(guard.lost().await, Lost::MaxHold);
    assert!(start.elapsed().abs_diff(Duration::from_secs(25)) < Duration::from_millis(50));
    settle().await;
    assert!(a.inspect("x").await.expect("memory answers").is_empty());
}

#[tokio::test(start_paused = true)]
async fn extend_ensure_and_verify_report_a_broken_lock() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    guard.extend(Duration::from_secs(60)).await.expect("held");
    assert!(guard.remaining() > Duration::from_secs(59));
    tokio::time::sleep(Duration::from_secs(30)).await;
    guard.ensure(Duration::from_secs(20)).await.expect("enough is left");
    assert!(guard.remaining() < Duration::from_secs(30));
    guard.ensure(Duration::from_secs(50)).await.expect("renewed");
    assert!(guard.remaining() > Duration::from_secs(59));
    assert_eq!(
        guard.ensure(Duration::from_secs(60)).await.expect_err("more than a renewal can give").kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        guard.extend(Duration::from_millis(1)).await.expect_err("too short").kind(),
        ErrorKind::Invalid
    );
    guard.extend(Duration::from_secs(1)).await.expect("held");
    assert!(guard.remaining() < Duration::from_secs(1));
    guard.verify().await.expect("held");
    b.break_lock("x").await.expect("memory answers").pop().expect("held");
    assert_eq!(guard.verify().await.expect_err("broken").kind(), ErrorKind::Lost);
    assert!(!guard.is_held());
    assert_eq!(guard.extend(TTL).await.expect_err("lost").kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_hands_the_lease_over() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
    let token = guard.token();
    let text = guard.into_ticket().to_string();
    assert!(a.held().is_empty());
    let resumed = b.resume(text.parse().expect("a ticket")).await.expect("the lease is alive");
    assert_eq!(resumed.token(), token);
    tokio::time::sleep(TTL * 3).await;
    assert!(resumed.is_held(), "renewed by the resuming client");
    resumed.release().await.expect("held");
    let error = a.resume(text.parse().expect("a ticket")).await.expect_err("the lease is over");
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_lease_ends_with_its_ttl() {
    let memory = Memory::new();
    let a = client(&memory);
    a.lock("x").ttl(TTL).acquire().await.expect("free").forget();
    tokio::time::sleep(TTL - Duration::from_secs(1)).await;
    assert!(a.lock("x").try_acquire().await.expect("memory answers").is_none());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(a.lock("x").try_acquire().await.expect("memory answers").is_some());
}

#[tokio::test(start_paused = true)]
async fn observers_see_locks_being_taken_released_and_expired() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let mut changes = b.observe("x").expect("valid");
    assert_eq!(changes.next().await, Some(Change::Unlocked));
    let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
    let Some(Change::Locked { holder }) = changes.next().await else { panic!("not locked") };
    assert_eq!(holder.token, guard.token());
    guard.release().await.expect("held");
    assert_eq!(changes.next().await, Some(Change::Unlocked));
    a.lock("x").ttl(TTL).acquire().await.expect("free").forget();
    assert!(matches!(changes.next().await, Some(Change::Locked { .. })));
    let start = tokio::time::Instant::now();
    assert_eq!(changes.next().await, Some(Change::Unlocked));
    assert!(start.elapsed() <= TTL + Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn close_releases_every_lock_and_refuses_new_calls() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").acquire().await.expect("free");
    let held = b.lock("y").acquire().await.expect("free");
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.lock("y").acquire().await }
    });
    settle().await;
    a.close().await.expect("every release is confirmed");
    assert_eq!(guard.lost().await, Lost::Closed);
    assert_eq!(waiting.await.expect("runs").expect_err("closed").kind(), ErrorKind::Closed);
    assert!(b.inspect("x").await.expect("memory answers").is_empty());
    assert_eq!(b.inspect("y").await.expect("memory answers").pop().expect("held").waiters, Some(0));
    assert_eq!(a.lock("x").acquire().await.expect_err("closed").kind(), ErrorKind::Closed);
    a.close().await.expect("closed already");
    held.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn events_come_in_order_and_a_slow_reader_learns_how_many_it_missed() {
    let memory = Memory::new();
    let a = client(&memory);
    let mut events = a.events();
    let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
    tokio::time::sleep(TTL / 2).await;
    guard.release().await.expect("held");
    assert!(matches!(events.next().await, Some(Event::Acquired { .. })));
    assert!(matches!(events.next().await, Some(Event::Renewed { .. })));
    assert!(matches!(events.next().await, Some(Event::Released { .. })));
    for _ in 0..2_000 {
        a.lock("x").acquire().await.expect("free").release().await.expect("held");
    }
    assert!(matches!(StreamExt::next(&mut events).await, Some(Event::Missed { count: 2_976 })));
}

#[tokio::test(start_paused = true)]
async fn invalid_input_is_refused_before_anything_is_sent() {
    let a = client(&Memory::new());
    let long = "x".repeat(513);
    for name in ["", "a\0b", long.as_str()] {
        assert_eq!(a.lock(name).acquire().await.expect_err("name").kind(), ErrorKind::Invalid);
        assert_eq!(a.inspect(name).await.expect_err("name").kind(), ErrorKind::Invalid);
        assert_eq!(a.break_lock(name).await.expect_err("name").kind(), ErrorKind::Invalid);
    }
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::MAX] {
        assert_eq!(a.lock("x").ttl(ttl).acquire().await.expect_err("ttl").kind(), ErrorKind::Invalid);
    }
    assert_eq!(
        a.lock("x").retries(u32::MAX).try_acquire().await.expect("memory answers").map(drop),
        Some(())
    );
}

#[test]
fn the_engine_works_without_a_runtime_on_a_thread_of_its_own() {
    // `pollster` has no timer and no reactor. The engine has its own.
    let work = async {
        let a = Locks::connect("memory:engine-thread").await.expect("connects");
        let b = Locks::connect("memory:engine-thread").await.expect("connects");
        let guard = a.lock("x").ttl(Duration::from_millis(300)).acquire().await.expect("free");
        // The program blocks its thread for three TTLs. The lock is renewed all the same.
        #[expect(clippy::disallowed_methods, reason = "a program that blocks its thread is what is tested")]
        std::thread::sleep(Duration::from_millis(900));
        assert!(guard.is_held());
        assert!(b.lock("x").try_acquire().await.expect("memory answers").is_none());
        guard.release().await.expect("held");
        b.lock("x").acquire().await.expect("free").release().await.expect("held");
        a.close().await.expect("every release is confirmed");
    };
    block_on(work);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_another_client_has_shortened_learns_it_at_once_and_renews() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).acquire().await.expect("free");
    // After that time the engine is subscribed to hints.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = b.resume(guard.ticket()).await.expect("the lease is alive");
    let mut events = a.events();
    other.extend(Duration::from_millis(200)).await.expect("held");
    settle().await;
    // An inspection has shown the new end, and a renewal has followed.
    assert!(matches!(events.next().await, Some(Event::Renewed { .. })));
    assert!(guard.remaining() > Duration::from_secs(9), "{:?}", guard.remaining());
    drop(other.into_ticket());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(guard.is_held());
    assert!(
        b.lock("x").try_acquire().await.expect("memory answers").is_none(),
        "the storage has the whole lease, too"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_client_has_shortened_is_lost_in_time_if_it_is_not_renewed() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = b.resume(guard.ticket()).await.expect("the lease is alive");
    other.extend(Duration::from_millis(200)).await.expect("held");
    drop(other.into_ticket());
    settle().await;
    assert!(guard.remaining() < Duration::from_millis(200), "{:?}", guard.remaining());
    let next = b.lock("x").acquire().await.expect("it has ended");
    assert!(!guard.is_held() && next.is_held(), "one holds");
}

#[tokio::test(start_paused = true)]
async fn a_break_ends_both_guards_of_a_lease_and_leaves_nothing_behind() {
    let memory = Memory::new();
    let locks = client(&memory);
    let lost = locks.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    let ticket = lost.ticket();
    // Another client holds the same lease.
    let other = client(&memory);
    let kept = other.resume(ticket).await.expect("the lease is alive");
    // A break of that lease ends both guards.
    let broken = locks.break_lock("x").await.expect("memory answers");
    assert!(!broken.is_empty());
    assert_eq!(lost.lost().await, Lost::Taken);
    assert!(kept.verify().await.is_err());
    settle().await;
    drop((lost, kept));
    settle().await;
    assert!(
        locks.lock("x").try_acquire().await.expect("memory answers").is_some(),
        "nothing is left at the storage"
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_tries_of_one_name_are_answered_together() {
    let memory = Memory::new();
    let locks = client(&memory);
    let tries = (0..10_000).map(|_| {
        let lock = locks.lock("x");
        async move { lock.try_acquire().await.expect("memory answers") }
    });
    let held: Vec<_> = futures_util::future::join_all(tries).await.into_iter().flatten().collect();
    assert_eq!(held.len(), 1, "one of them holds");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_observer_is_removed_and_another_one_of_its_name_stays() {
    let memory = Memory::new();
    let locks = client(&memory);
    let gone: Vec<_> = (0..1000).map(|i| locks.observe(format!("x{}", i % 10)).expect("open")).collect();
    let mut kept = locks.observe("x0").expect("open");
    assert_eq!(kept.next().await, Some(Change::Unlocked));
    drop(gone);
    settle().await;
    let guard = locks.lock("x0").acquire().await.expect("free");
    assert!(matches!(kept.next().await, Some(Change::Locked { .. })));
    guard.release().await.expect("held");
    assert_eq!(kept.next().await, Some(Change::Unlocked));
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    pollster::block_on(work)
}

#[tokio::test(start_paused = true)]
async fn a_long_list_does_not_delay_other_calls() {
    let memory = Memory::new();
    let (holder, other) = (client(&memory), client(&memory));
    let taken = (0..3_500).map(|i| {
        let lock = holder.lock(format!("held/{i}"));
        async move { lock.acquire().await.expect("free") }
    });
    let guards = futures_util::future::join_all(taken).await;
    let (list, lock) = (other.list("held/"), other.lock("free"));
    match futures_util::future::select(std::pin::pin!(list), std::pin::pin!(lock.try_acquire())).await {
        futures_util::future::Either::Right((granted, list)) => {
            assert!(granted.expect("memory answers").is_some());
            assert_eq!(list.await.expect("listed").len(), guards.len());
        }
        futures_util::future::Either::Left(_) => panic!("the list delays the other call"),
    }
}

/// The caller drops the resume and closes the client at any moment, even while the engine delivers the lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_that_is_dropped_before_a_close_leaves_the_lease_to_the_ticket() {
    let memory = Memory::new();
    let (first, observer) = (client(&memory), client(&memory));
    let lock = first.lock("x").ttl(Duration::from_secs(3600));
    let ticket = lock.acquire().await.expect("free").into_ticket();
    first.close().await.expect("memory answers");
    for steps in 0..2_000_u32 {
        // An engine on a thread of its own, which may deliver the lease while the caller drops the resume.
        let locks = Locks::builder().build(memory.clone()).expect("memory promises enough");
        {
            let mut resuming = std::pin::pin!(locks.resume(ticket.clone()));
            if let Some(guard) = futures_util::future::poll_immediate(resuming.as_mut()).await {
                guard.expect("held").forget();
            }
            for _ in 0..steps % 400 * 20 {
                std::hint::spin_loop();
            }
        }
        locks.close().await.expect("memory answers");
        let holder = observer.inspect("x").await.expect("memory answers");
        let owner = holder.first().unwrap_or_else(|| panic!("released after {steps}")).owner;
        assert_eq!(owner, ticket.owner(), "{steps}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_borrows_nothing_and_ends_with_a_release_or_a_loss() {
    let memory = Memory::new();
    let a = client(&memory);
    let guard = a.lock("x").acquire().await.expect("free");
    let watch = guard.watch();
    assert!(watch.is_held() && watch.token() == guard.token());
    let waiting = tokio::spawn(async move { (watch.lost().await, watch.is_held()) });
    settle().await;
    guard.release().await.expect("held");
    assert_eq!(waiting.await.expect("no panic"), (None, false));

    let guard = a.lock("x").acquire().await.expect("free");
    let watch = guard.watch();
    drop(guard);
    assert_eq!(watch.lost().await, None, "a watch does not hold the lock");

    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    let watch = guard.watch();
    assert_eq!(watch.lost().await, Some(Lost::Expired));
    drop(guard);
    assert_eq!(watch.lost().await, Some(Lost::Expired), "lost is final");
}

#[tokio::test(start_paused = true)]
async fn a_guard_is_released_by_reference_once() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let guard = a.lock("x").acquire().await.expect("free");
    let token = guard.token();
    guard.release_by_ref().await.expect("held");
    assert!(!guard.is_held());
    let next = b.lock("x").acquire().await.expect("free");
    assert!(next.token() > token);
    guard.release_by_ref().await.expect("released before");
    for refused in [guard.extend(TTL).await, guard.verify().await, guard.ensure(TTL / 2).await] {
        assert_eq!(refused.expect_err("released").kind(), ErrorKind::Invalid);
    }
    guard.release().await.expect("released before");
    settle().await;
    assert!(next.is_held() && a.held().is_empty());
    next.verify().await.expect("no late release has ended it");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_release_by_reference_learns_of_a_loss() {
    let memory = Memory::new();
    let a = client(&memory);
    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    assert_eq!(guard.lost().await, Lost::Expired);
    assert_eq!(guard.release_by_ref().await.expect_err("lost").kind(), ErrorKind::Lost);
    guard.release_by_ref().await.expect("released before");
}

#[tokio::test(start_paused = true)]
async fn a_lost_guard_ensures_nothing() {
    let memory = Memory::new();
    let a = client(&memory);
    let guard = a.lock("x").ttl(TTL).renewal(Renewal::Never).acquire().await.expect("free");
    assert_eq!(guard.lost().await, Lost::Expired);
    assert_eq!(guard.ensure(Duration::ZERO).await.expect_err("lost").kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_weak_client_keeps_no_engine_running_and_closes_one_that_runs() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let (weak, guard) = (a.downgrade(), a.lock("x").acquire().await.expect("free"));
    drop(a);
    let again = weak.upgrade().expect("the guard keeps the client");
    again.close().await.expect("memory answers");
    drop(again);
    assert_eq!(guard.lost().await, Lost::Closed);
    assert!(b.lock("x").try_acquire().await.expect("memory answers").is_some());
    drop(guard);
    assert!(weak.upgrade().is_none());
}
