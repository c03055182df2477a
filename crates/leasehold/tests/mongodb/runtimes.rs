//! Runtimes that end or stand still, and values that are dropped where no runtime is.

use std::time::Duration;

use leasehold::{Event, Locks};
use tokio::runtime::{Builder, Runtime};

use crate::tools::*;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[test]
fn a_storage_and_its_stream_may_be_dropped_where_no_runtime_is() {
    let application = unique();
    let url = with(&own(&common().url()), &format!("appName={application}"));
    for ends_before in [false, true] {
        let runtime = runtime();
        let dropped = runtime.block_on(async {
            let (storage, hints) = listening(&url).await;
            take(&storage, &claim(&unique())).await;
            (hints, storage)
        });
        let mut runtime = Some(runtime);
        if ends_before {
            // Tasks of the driver end wherever they are.
            runtime.take().expect("there").shutdown_timeout(Duration::ZERO);
        }
        std::thread::spawn(move || drop(dropped)).join().expect("no panic");
        until_connections(common(), &application, 0);
        if ends_before {
            // No task is left to tell the server, which closes an idle stream after ten minutes.
            continue;
        }
        until("its change stream to be closed", || match streams(common(), database_of(&url)).len() {
            0 => Ok(()),
            open => Err(leasehold_testbed::Error::new(format!("{open} are open"))),
        });
    }
}

#[test]
fn a_runtime_may_end_in_the_middle_of_calls() {
    let application = unique();
    let url = with(&own(&common().url()), &format!("appName={application}"));
    for _ in 0..20 {
        let runtime = runtime();
        let (sent, received) = std::sync::mpsc::channel();
        let storage = runtime.block_on(async { std::sync::Arc::new(bare(&url).await) });
        for _ in 0..4 {
            let (storage, sent) = (std::sync::Arc::clone(&storage), sent.clone());
            runtime.spawn(async move {
                loop {
                    take(&*storage, &claim(&unique())).await;
                    sent.send(()).expect("it is received");
                }
            });
        }
        received.recv().expect("a call");
        runtime.shutdown_timeout(Duration::ZERO);
        drop((storage, received));
    }
    until_connections(common(), &application, 0);
}

/// Waits until a client of that URL has a change stream.
fn until_a_stream(url: &str) {
    until("its change stream", || match streams(common(), database_of(url)).len() {
        0 => Err(leasehold_testbed::Error::new("there is none")),
        _ => Ok(()),
    });
}

#[test]
fn a_client_that_is_closed_leaves_no_change_stream() {
    let url = own(&common().url());
    for closes in [true, false] {
        run(async {
            let (holder, locks) = (client(&url).await, client(&url).await);
            let guard = hold(&holder, "job", LONG).await;
            let next = waiting(locks.lock("job"));
            waiters(&holder, "job", 1).await;
            until_a_stream(&url);
            guard.release().await.expect("released");
            within(LONG, next).await.expect("no panic").expect("granted").release().await.expect("released");
            if closes {
                locks.close().await.expect("closed");
            }
        });
        until("its change stream to be closed", || match streams(common(), database_of(&url)).len() {
            0 => Ok(()),
            open => Err(leasehold_testbed::Error::new(format!("{open} are open, closes: {closes}"))),
        });
    }
}

thread_local! {
    /// What a thread drops when it ends, after most else.
    static LAST: std::cell::RefCell<Vec<Box<dyn std::any::Any>>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[test]
fn a_guard_and_a_storage_may_be_dropped_by_a_thread_that_ends() {
    let url = own(&common().url());
    let locks = run(client(&url));
    let runtime = runtime();
    std::thread::spawn({
        let (locks, handle) = (locks.clone(), runtime.handle().clone());
        move || {
            let guard = handle.block_on(hold(&locks, "job", LONG));
            let kept = handle.block_on(listening(&url));
            LAST.with_borrow_mut(|last| {
                last.extend([Box::new(guard) as Box<dyn std::any::Any>, Box::new(kept)])
            });
        }
    })
    .join()
    .expect("no panic");
    run(is_free(&locks, "job"));
}

/// A client has a thread and a runtime of its own, also if its storage was connected before.
#[test]
fn locks_outlive_the_runtime_that_connected_their_storage() {
    for ends in [false, true] {
        let url = own(&common().url());
        let runtime = runtime_of_one();
        let locks = Locks::builder().build(runtime.block_on(bare(&url))).expect("made");
        // A runtime without a thread of its own stands still from here on.
        let mut runtime = Some(runtime);
        if ends {
            runtime.take().expect("there").shutdown_timeout(Duration::ZERO);
        }
        run(async {
            let other = client(&url).await;
            let ttl = time(1_500);
            let guard = hold(&locks, "job", ttl).await;
            let mut events = locks.events();
            let renewed = async { while !matches!(events.next().await, Some(Event::Renewed { .. })) {} };
            within(soon(), renewed).await;
            guard.verify().await.expect("held");
            let theirs = hold(&other, "other", LONG).await;
            let next = waiting(locks.lock("other"));
            waiters(&other, "other", 1).await;
            until_a_stream(&url);
            theirs.release().await.expect("released");
            within(soon(), next)
                .await
                .expect("no panic")
                .expect("granted")
                .release()
                .await
                .expect("released");
            guard.release().await.expect("released");
        });
    }
}

fn runtime_of_one() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
