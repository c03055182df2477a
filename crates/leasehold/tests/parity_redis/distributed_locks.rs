//! npm `distributed-locks` 1.0.5, its factory, its locks, and its Redis.

use std::time::Duration;

use leasehold_testbed::Redis;

use crate::parity::distributed_locks as scenario;
use crate::{client, left, place, redis, refusals, take, time};

/// Factory: `new LockFactory(storage, {machineId})`.
#[test]
fn a_client_says_which_machine_it_is() {
    scenario::labels(&place().0);
}

/// Factory: `init()`.
#[test]
fn nothing_needs_to_be_set_up_first() {
    let fresh = Redis::start().expect("a server");
    let (one, two) = (client(&fresh.url()), client(&fresh.url()));
    let guard = take(&one, "job");
    assert!(two.lock("job").try_acquire().expect("answered").is_none());
    guard.release().expect("released");
    take(&two, "job").release().expect("released");
}

/// Factory: `createLock(key)`; bug 12, redislock's bug 1.
#[test]
fn every_acquisition_of_a_lock_has_an_owner_and_a_larger_token() {
    scenario::owners_and_tokens(&place().0);
}

/// Factory: `close()`.
#[test]
fn closing_releases_what_is_held() {
    let (url, prefix) = place();
    scenario::close(&url, |guard| {
        let key = format!("{prefix}{}", guard.name());
        assert_eq!(redis().command(&["exists", &key]).expect("answered"), "0");
    });
}

/// Lock: `lock({ttl, retries, interval})`.
#[test]
fn ttl_attempts_and_interval_are_options_of_each_acquisition() {
    let (url, prefix) = place();
    scenario::options_of_each(&url, || left(redis(), &format!("{prefix}job")));
}

/// Lock: `retries` counts all attempts, and there is no pause after the last one.
#[test]
fn three_attempts_are_three_claims_and_two_pauses() {
    let server = Redis::start().expect("a server");
    scenario::three_attempts(&server.url(), || refusals(&server));
}

/// Lock: `unlock()`.
#[test]
fn a_release_says_whether_the_lock_was_held() {
    let (url, prefix) = place();
    let delete = || drop(redis().command(&["del", &format!("{prefix}job")]).expect("deleted"));
    scenario::release_of_a_deleted_lock(&url, delete);
}

/// Lock: features that the original lacks.
#[test]
fn there_is_renewing_trying_waiting_leaving_events_tokens_and_looking() {
    let (url, prefix) = place();
    let (_locks, other, guard) =
        scenario::renewing_and_looking(&url, || left(redis(), &format!("{prefix}job")));

    // A caller that stops waiting is not granted the lock later.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let waiter = leasehold::Locks::connect(&url).await.expect("connected");
        let lock = waiter.lock("job");
        assert!(tokio::time::timeout(time(300), lock.acquire()).await.is_err());
        waiter.close().await.expect("closed");
    });
    guard.release().expect("released");
    assert_eq!(other.inspect("job").expect("answered"), []);
}

/// Error: `FailedToObtainKey`.
#[test]
fn a_refusal_names_the_lock_the_holder_and_the_wait() {
    scenario::refusal(&place().0);
}

/// Redis: `{url, keyPrefix}`.
#[test]
fn the_prefix_is_an_option_and_the_key_is_prefix_and_name() {
    let server = Redis::start().expect("a server");
    for (option, key) in [("", "leasehold:job"), ("?prefix=shop:", "shop:job"), ("?prefix=", "job")] {
        let locks = client(&format!("{}{option}", server.url()));
        let guard = take(&locks, "job");
        assert_eq!(server.command(&["get", key]).expect("answered"), guard.owner().to_string());
        guard.release().expect("released");
        assert_eq!(server.command(&["exists", key]).expect("answered"), "0");
    }
}

#[test]
fn distributed_locks_04_an_error_of_the_storage_ends_every_attempt() {
    let server = Redis::start().expect("a server");
    scenario::outage_among_attempts(&server, &server.url());
}

#[test]
fn distributed_locks_07_a_fraction_of_a_second_is_a_ttl() {
    let (url, prefix) = place();
    let left = || left(redis(), &format!("{prefix}job"));
    scenario::fractions_of_a_second(&url, left, |_| ());
    let guard = client(&url).lock("job").ttl(Duration::from_millis(1_500)).acquire().expect("free");
    assert!(left() <= 1_500);
    guard.release().expect("released");
}

#[test]
fn distributed_locks_09_an_outage_is_no_contention() {
    let server = Redis::start().expect("a server");
    scenario::outage(&server, &server.url());
}

#[test]
fn distributed_locks_10_no_number_of_attempts_hangs() {
    let (url, _) = place();
    scenario::numbers_of_attempts(&url, || {
        // The largest number of attempts can be abandoned.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let waiter = leasehold::Locks::connect(&url).await.expect("connected");
            let lock = waiter.lock("job").retries(u32::MAX);
            assert!(tokio::time::timeout(time(300), lock.acquire()).await.is_err());
        });
    });
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
    let server = Redis::start().expect("a server");
    scenario::outage_and_return(&server, &server.url());
}

#[test]
fn distributed_locks_15_closing_waits_for_the_releases() {
    let (url, prefix) = place();
    scenario::dropped_guards(&url);
    let left: Vec<_> = (0..200).map(|i| format!("{prefix}job-{i}")).collect();
    let command: Vec<_> = std::iter::once("exists").chain(left.iter().map(String::as_str)).collect();
    assert_eq!(redis().command(&command).expect("answered"), "0");
}
