//! The bugs of the original, each with its number in `docs/parity.md`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use leasehold::Renewal;
use leasehold_testbed::{PgBouncer, Postgres};

use crate::databases;
use crate::parity::distributed_locks as scenario;
use crate::{LONG, client, left, place, postgres, take, time, with};

#[test]
fn distributed_locks_01_a_takeover_resets_the_lease() {
    let (url, prefix) = place();
    let lasts = "select (extract(epoch from expires_at - granted_at) * 1000000)::bigint";
    let of_the_row = format!("{lasts} from leasehold where space = '{prefix}'");
    let locks = databases::takeovers(&url, || {
        postgres().sql(&of_the_row).expect("answered").parse().expect("a number")
    });
    // A takeover with a longer TTL, which counts from the takeover.
    let guard = locks.lock("job").ttl(LONG).acquire().expect("the last has ended");
    assert!(left(&prefix) > 500_000);
    guard.release().expect("released");
}

#[test]
fn distributed_locks_02_the_table_has_any_name() {
    let url = postgres().database("custom").expect("made");
    let url = with(&url, "schema=Some_Schema&table=My_Table$1");
    let (locks, other) = (client(&url), client(&url));
    // Every operation that names the table: a grant, a refusal, a renewal, an inspection, a queue, a
    // takeover, a release.
    let guard = locks.lock("job").ttl(time(2_000)).renewal(Renewal::Never).acquire().expect("free");
    assert!(other.lock("job").try_acquire().expect("answered").is_none());
    guard.extend(time(2_000)).expect("held");
    assert_eq!(other.list("").expect("answered").len(), 1);
    guard.forget();
    other.lock("job").acquire().expect("it ends").release().expect("released");
    let tables =
        "select count(*) from pg_tables where schemaname = 'Some_Schema' and tablename like 'My\\_Table$1%'";
    assert_eq!(postgres().sql_in("custom", tables).expect("answered"), "2");
    assert_eq!(
        postgres().sql_in("custom", "select to_regclass('leasehold') is null").expect("answered"),
        "t"
    );
}

#[test]
fn distributed_locks_03_an_isolation_level_that_fails_under_contention_does_no_harm() {
    let server = Postgres::start().expect("a server");
    let pooler = PgBouncer::start(&server).expect("a pooler");
    for isolation in ["repeatable read", "serializable"] {
        server.set_for("leasehold", "default_transaction_isolation", isolation).expect("set");
        server.terminate_backends("").expect("ended");
        // On a direct connection the storage sets its own isolation level; it cannot do so through a
        // pooler.
        for url in [server.url(), pooler.url()] {
            let (inside, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let lock = client(&url).lock("job").ttl(LONG);
                        for _ in 0..10 {
                            let guard = lock.acquire().expect("in the end");
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            guard.release().expect("held");
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert_eq!(done.into_inner(), 40);
        }
    }
}

#[test]
fn distributed_locks_04_an_error_of_the_storage_ends_every_attempt() {
    let server = Postgres::start().expect("a server");
    scenario::outage_among_attempts(&server, &server.url());
}

/// Bug 4: the original's own statements failed, and each failure was a promise that never settled.
#[test]
fn distributed_locks_04_a_refused_statement_settles() {
    let server = Postgres::options().password("S3CRET").start().expect("a server");
    take(&client(&server.url()), "job").release().expect("released");
    let url = server.user("app", "S3CRET").expect("a user");
    server.sql("grant select on leasehold, leasehold_waiters to app").expect("granted");
    databases::refused_writes(&client(&url), "doctor --sql");
}

#[test]
fn distributed_locks_05_keys_and_labels_are_as_long_as_promised() {
    databases::longest_texts(&postgres().url());
}

#[test]
fn distributed_locks_06_sessions_with_other_time_zones_agree() {
    let (url, _) = place();
    let zones = ["UTC", "Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"];
    let clients = zones.map(|zone| client(&with(&url, &format!("options=-c%20TimeZone%3D{zone}"))));
    let ttl = time(3_000);
    for holder in &clients {
        let guard =
            holder.lock("job").ttl(ttl).renewal(Renewal::Never).acquire().expect("the last has ended");
        for other in &clients {
            assert!(other.lock("job").try_acquire().expect("answered").is_none());
            let seen = other.inspect("job").expect("answered").pop().expect("held");
            assert!(seen.remaining <= ttl && seen.held_for.expect("known") < ttl, "{seen:?}");
        }
        guard.forget();
    }
}

#[test]
fn distributed_locks_07_a_fraction_of_a_second_is_a_ttl() {
    let (url, prefix) = place();
    let kept = format!("select ttl_us from leasehold where space = '{prefix}'");
    scenario::fractions_of_a_second(
        &url,
        || left(&prefix),
        |ttl| {
            // The TTL is kept to the microsecond.
            assert_eq!(postgres().sql(&kept).expect("answered"), ttl.as_micros().to_string());
        },
    );
}

#[test]
fn distributed_locks_09_an_outage_is_no_contention() {
    let server = Postgres::start().expect("a server");
    scenario::outage(&server, &server.url());
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
    let server = Postgres::start().expect("a server");
    scenario::outage_and_return(&server, &server.url());
}

#[test]
fn distributed_locks_15_closing_waits_for_the_releases() {
    let (url, prefix) = place();
    scenario::dropped_guards(&url);
    let left = format!("select count(*), count(owner) from leasehold where space = '{prefix}'");
    assert_eq!(postgres().sql(&left).expect("answered"), "200|0");
}
