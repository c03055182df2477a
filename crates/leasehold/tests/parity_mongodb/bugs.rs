//! The bugs of the original, each with its number in `docs/parity.md`.

use std::thread;

use leasehold::Renewal;
use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::doc;

use crate::databases;
use crate::parity::distributed_locks as scenario;
use crate::{DATABASE, LONG, client, document, documents, left, mongodb, place, take, time};

/// Bug 1 of PostgreSQL.
#[test]
fn distributed_locks_01_a_takeover_resets_the_lease() {
    let (url, prefix) = place();
    databases::takeovers(&url, || {
        let held = document(&prefix);
        let [since, until] = ["since", "until"].map(|field| held.get_datetime(field).expect("set"));
        let lasts = until.timestamp_millis() - since.timestamp_millis();
        u128::try_from(lasts).expect("positive") * 1_000
    });
}

#[test]
fn distributed_locks_04_an_error_of_the_storage_ends_every_attempt() {
    let server = MongoDb::start().expect("a server");
    scenario::outage_among_attempts(&server, &server.url());
}

#[test]
fn distributed_locks_05_keys_and_labels_are_as_long_as_promised() {
    databases::longest_texts(&mongodb().url());
}

/// Bug 7: MongoDB's part of it cut the fraction off, so that a TTL below a second was over at once.
#[test]
fn distributed_locks_07_a_fraction_of_a_second_is_a_ttl() {
    let (url, prefix) = place();
    scenario::fractions_of_a_second(
        &url,
        || left(&prefix),
        |ttl| {
            // The TTL is kept to the millisecond, in which the server counts.
            let kept = document(&prefix).get_i64("ttl").expect("a number");
            assert_eq!(u128::try_from(kept).ok(), Some(ttl.as_millis()));
        },
    );
    let guard = client(&url).lock("job").ttl(time(900)).renewal(Renewal::Never).acquire().expect("free");
    assert!(client(&url).lock("job").try_acquire().expect("answered").is_none(), "its lease is not over");
    drop(guard);
}

/// Bug 8: a client that has set up nothing, and never calls anything but `lock()`.
#[test]
fn distributed_locks_08_without_setup_one_client_is_granted_and_the_others_are_refused() {
    let url = mongodb().url_of("never_initialized");
    let clients = [client(&url), client(&url), client(&url)];
    let granted: Vec<_> = clients
        .iter()
        .filter_map(|locks| locks.lock("job").ttl(LONG).try_acquire().expect("answered"))
        .collect();
    assert_eq!(granted.len(), 1);
    let count = doc! { "count": "leasehold", "query": { "_id": "job" } };
    let stored = mongodb().command("never_initialized", count).expect("answered");
    assert_eq!(stored.get_i32("n").ok(), Some(1), "granted, and not stored");
    granted.into_iter().for_each(|guard| guard.release().expect("released"));
}

#[test]
fn distributed_locks_09_an_outage_is_no_contention() {
    let server = MongoDb::start().expect("a server");
    scenario::outage(&server, &server.url());
}

/// Bug 9: the original called every error of a write contention.
#[test]
fn distributed_locks_09_a_refused_write_is_no_contention() {
    let server = MongoDb::options().password("S3CRET").start().expect("a server");
    let user =
        doc! { "createUser": "reader", "pwd": "S3CRET", "roles": [{ "role": "read", "db": DATABASE }] };
    server.command("admin", user).expect("a user");
    let locks = client(&server.url_as("reader", "S3CRET", ""));
    databases::refused_writes(&locks, "role `readWrite`");
    assert!(documents(&server, "leasehold", doc! {}).is_empty());
}

/// Bug 9: `lock()` called twice at once on one lock object, whose value is the same both times.
#[test]
fn distributed_locks_09_one_lock_object_enters_once() {
    let (url, _) = place();
    let locks = client(&url);
    let lock = locks.lock("job").ttl(LONG);
    for _ in 0..20 {
        let granted: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| lock.try_acquire().expect("answered"))).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(granted.len(), 1);
        // Nor does it enter again later, which the original allowed once it held the lock.
        assert!(lock.try_acquire().expect("answered").is_none());
        granted.into_iter().for_each(|guard| guard.release().expect("held"));
    }
}

#[test]
fn distributed_locks_10_no_number_of_attempts_hangs() {
    scenario::numbers_of_attempts(&place().0, || ());
}

#[test]
fn distributed_locks_12_a_stale_release_does_not_free_the_next_run_of_the_same_lock() {
    scenario::stale_release(&place().0);
}

#[test]
fn distributed_locks_13_a_refused_caller_has_nothing_to_release() {
    scenario::refusals_beside_a_guard(&place().0);
}

#[test]
fn distributed_locks_14_a_server_that_goes_away_ends_no_process() {
    let server = MongoDb::start().expect("a server");
    scenario::outage_and_return(&server, &server.url());
}

#[test]
fn distributed_locks_15_closing_waits_for_the_releases() {
    let (url, prefix) = place();
    scenario::dropped_guards(&url);
    let of_prefix = doc! { "_id": { "$regex": format!("^{prefix}") } };
    let all = documents(mongodb(), "leasehold", of_prefix);
    assert_eq!((all.len(), all.iter().filter(|found| found.get_str("owner").is_ok()).count()), (200, 0));
}

/// Bug 16: the original's MongoDB had no prefix, so applications that share a collection shared their locks.
#[test]
fn distributed_locks_16_a_prefix_keeps_applications_apart() {
    let (url, prefix) = place();
    // Neither do a prefix and a name make another prefix and another name.
    let (one, two) = (client(&format!("{url}a")), client(&url));
    let guards = [take(&one, "b"), take(&two, "ab"), take(&two, "b")];
    let ids = [format!("{prefix}a\0b"), format!("{prefix}\0ab"), format!("{prefix}\0b")];
    for id in &ids {
        assert_eq!(documents(mongodb(), "leasehold", doc! { "_id": id }).len(), 1, "{id:?}");
    }
    assert_eq!((one.list("").expect("answered").len(), two.list("").expect("answered").len()), (1, 2));
    guards.into_iter().for_each(|guard| guard.release().expect("released"));
}
