//! The features of the original: its factory, its locks, and its PostgreSQL.

use std::thread;

use leasehold::blocking::Locks;
use leasehold::{ErrorKind, Renewal};
use leasehold_testbed::Postgres;

use crate::databases;
use crate::parity::distributed_locks as scenario;
use crate::{LONG, claims, client, left, place, postgres, refusals, take, with};

/// Factory: `new LockFactory(storage, {machineId})`.
#[test]
fn a_client_says_which_machine_it_is() {
    scenario::labels(&place().0);
}

/// Factory: `init()`, which the original requires over PostgreSQL without documenting it.
#[test]
fn nothing_needs_to_be_set_up_first() {
    // Many clients connect at once to an empty database, several times, so that some check at the moment
    // when others create the tables.
    let url = postgres().database("fresh").expect("made");
    for i in 0..3 {
        let url = with(&url, &format!("table=t{i}"));
        let clients: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| client(&url))).collect();
            threads.into_iter().map(|thread| thread.join().expect("connected")).collect()
        });
        let guard = take(&clients[0], "job");
        for other in &clients[1..] {
            assert!(other.lock("job").try_acquire().expect("answered").is_none());
        }
        guard.release().expect("released");
        take(&clients[7], "job").release().expect("released");
    }
}

/// Factory: `createLock(key)`; bug 12.
#[test]
fn every_acquisition_of_a_lock_has_an_owner_and_a_larger_token() {
    scenario::owners_and_tokens(&place().0);
}

/// Factory: `close()`.
#[test]
fn closing_releases_what_is_held() {
    scenario::close(&place().0, |_| ());
}

/// Lock: `lock({ttl, retries, interval})`.
#[test]
fn ttl_attempts_and_interval_are_options_of_each_acquisition() {
    let (url, prefix) = place();
    scenario::options_of_each(&url, || left(&prefix));
}

/// Lock: `retries` counts all attempts, and there is no pause after the last one.
#[test]
fn three_attempts_are_three_claims_and_two_pauses() {
    let server = Postgres::start().expect("a server");
    scenario::three_attempts(&server.url(), || refusals(&server));
}

/// Lock: `unlock()`.
#[test]
fn a_release_says_whether_the_lock_was_held() {
    let (url, prefix) = place();
    let delete = format!("delete from leasehold where space = '{prefix}'");
    scenario::release_of_a_deleted_lock(&url, || drop(postgres().sql(&delete).expect("deleted")));
}

/// Lock: features that the original lacks.
#[test]
fn there_is_renewing_trying_waiting_leaving_events_tokens_and_looking() {
    let (url, prefix) = place();
    let of_renewals = scenario::renewing_and_looking(&url, || left(&prefix));
    // The waiter is granted the lock next.
    databases::handover(of_renewals);
}

/// Error: `FailedToObtainKey`.
#[test]
fn a_refusal_names_the_lock_the_holder_and_the_wait() {
    scenario::refusal(&place().0);
}

/// Guarantee: no starvation, by the TTL.
#[test]
fn a_dead_holder_is_replaced_when_its_ttl_is_over() {
    databases::dead_holder(&place().0);
}

/// PG: `{host, port, database, username, password, tableName, keyPrefix}`.
#[test]
fn settings_of_the_original_map_one_to_one() {
    let secret = "p@ss:w/rd?&%#";
    let server = Postgres::options().password("S3CRET").start().expect("a server");
    server.user("shop-app", secret).expect("a user");
    server.sql("grant create on schema public to \"shop-app\"").expect("granted");
    let (host, port, database, username, table_name, key_prefix) =
        ("127.0.0.1", server.port(), "leasehold", "shop-app", "shop_locks", "shop");
    let password = "p%40ss%3Aw%2Frd%3F%26%25%23";
    let url = format!(
        "postgres://{username}:{password}@{host}:{port}/{database}?table={table_name}&prefix={key_prefix}"
    );
    let guard = take(&client(&url), "job");
    let rows = server.sql("select space, name, owner is not null from shop_locks").expect("answered");
    assert_eq!(rows, "shop|job|t");
    // A part may also be written as an option, where that is easier.
    let options = format!(
        "postgresql://?host={host}&port={port}&dbname={database}&user={username}&password={password}\
         &table={table_name}&prefix={key_prefix}"
    );
    assert!(client(&options).lock("job").try_acquire().expect("answered").is_none());
    guard.release().expect("released");
}

/// PG: the prefix, which the original puts before the key.
#[test]
fn prefix_and_name_are_kept_apart() {
    let (url, prefix) = place();
    let (one, two) = (client(&format!("{url}a")), client(&url));
    let guards = [take(&one, "b"), take(&two, "ab")];
    let rows = format!("select count(*) from leasehold where space || name = '{prefix}ab'");
    assert_eq!(postgres().sql(&rows).expect("answered"), "2");
    guards.into_iter().for_each(|guard| guard.release().expect("released"));
}

/// PG: the original's table, which Leasehold does not use.
#[test]
fn the_table_of_the_original_is_refused_and_left_alone() {
    let url = postgres().database("theirs").expect("made");
    let make = "create table locks (key varchar(50), value varchar(100), ttl integer, \
        obtained_at timestamp default current_timestamp, constraint locks_pkey primary key (key))";
    postgres().sql_in("theirs", make).expect("made");
    postgres().sql_in("theirs", "insert into locks values ('distributed-locks:job', 'v', 10)").expect("made");
    let error = Locks::connect(&with(&url, "table=locks")).expect_err("not ours");
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("option `table`"),
        "{error}"
    );
    let left = "select (select count(*) from locks), obj_description('locks'::regclass) is null, \
        to_regclass('locks_waiters') is null";
    assert_eq!(postgres().sql_in("theirs", left).expect("answered"), "1|t|t");
    // Beside that table, Leasehold works as usual.
    take(&client(&url), "job").release().expect("released");
}

/// PG: one statement, READ COMMITTED.
#[test]
fn a_grant_is_one_statement_and_a_refusal_writes_nothing() {
    let server = Postgres::start().expect("a server");
    let (locks, other) = (client(&server.url()), client(&server.url()));
    take(&locks, "job").release().expect("released");
    let before = claims(&server);
    let guard = locks.lock("job").ttl(LONG).renewal(Renewal::Never).acquire().expect("free");
    assert_eq!(claims(&server) - before, 1);
    other.lock("other").try_acquire().expect("answered").expect("free").release().expect("released");
    let wal = || server.statements("pg_try_advisory_xact_lock_shared").expect("answered").wal_bytes;
    let (written, before) = (wal(), refusals(&server));
    for _ in 0..10 {
        assert!(other.lock("job").try_acquire().expect("answered").is_none());
    }
    assert_eq!((refusals(&server) - before, wal() - written), (10, 0));
    guard.release().expect("released");
}
