//! A server with a clock that jumps, rows that another transaction locks for longer than a lease, rows that vanish.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage};
use leasehold::{Lost, Renewal};
use leasehold_testbed::{Error, Postgres, PostgresPair};
use tokio::time::Instant;

use crate::net::clocks as scenario;
use crate::tools::*;

/// Returns a server with a wall clock that can be set, to one test after the other.
fn clocked() -> MutexGuard<'static, Postgres> {
    static SERVER: OnceLock<Mutex<Postgres>> = OnceLock::new();
    let server =
        SERVER.get_or_init(|| Mutex::new(Postgres::options().own_clock().start().expect("a server")));
    let server = server.lock().unwrap_or_else(PoisonError::into_inner);
    set(&server, 0);
    server
}

/// Sets a server's clock this far from the client's, and waits until the server shows that.
fn set(postgres: &Postgres, seconds: i64) {
    postgres.clock().expect("as asked").set(seconds).expect("set");
    until("its clock to be set", || {
        let shown = postgres.sql("select extract(epoch from clock_timestamp())::bigint")?;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        match shown.parse::<i64>() {
            Ok(shown) if (shown - now - seconds).abs() <= 2 => Ok(()),
            _ => Err(Error::new(shown)),
        }
    });
}

#[test]
fn a_server_clock_that_jumps_ahead_ends_leases_and_no_token_goes_back() {
    let postgres = clocked();
    run(scenario::jump_ahead(&own(&postgres.url()), |seconds| set(&postgres, seconds)));
}

#[test]
fn a_server_clock_that_jumps_back_keeps_no_dead_holder_and_no_dead_waiter_alive() {
    let postgres = clocked();
    run(scenario::jump_back(&own(&postgres.url()), |seconds| set(&postgres, seconds)));
}

#[test]
fn a_lease_that_lasts_longer_than_its_ttl_is_cut_back_by_whoever_asks() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mut held = claim("job");
        held.ttl = time(2_000);
        take(&storage, &held).await;
        sql(common(), &format!("update {table} set expires_at = expires_at + interval '1 hour'"));
        match acquire(&other, &claim("job")).await.expect("answered") {
            AcquireReply::Held { holder: Some(holder), .. } => {
                assert!(holder.remaining <= held.ttl, "{holder:?}")
            }
            granted => panic!("{granted:?}"),
        }
        let cut = format!(
            "select expires_at <= clock_timestamp() + interval '{} ms' from {table}",
            held.ttl.as_millis()
        );
        assert_eq!(sql(common(), &cut), "t");
        assert!(matches!(renew(&storage, &held).await, Ok(RenewReply::Renewed { .. })));
    });
}

#[test]
fn a_new_primary_with_another_clock_gives_larger_tokens_and_keeps_no_lease_for_long() {
    let pair = PostgresPair::start_with(Postgres::options().own_clock()).expect("two servers");
    set(&pair.standby, -3_600);
    run(async {
        let storage = bare(&pair.url()).await;
        let mut held = claim("job");
        held.ttl = time(1_500);
        let token = take(&storage, &held).await;
        pair.await_caught_up().expect("it follows");
        pair.failover_by_kill().expect("promoted");
        let since = Instant::now();
        let next = claim("job");
        assert!(take_over(&storage, &next).await > token);
        assert!(since.elapsed() < held.ttl + time(3_000), "{:?}", since.elapsed());
        assert_eq!(renew(&storage, &held).await.expect("answered"), RenewReply::NotHeld);
    });
}

// In a statement that has waited for a row, `now()` is the time before the wait.
#[test]
fn a_contender_that_was_kept_waiting_knows_what_time_it_is() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let (mut mine, mut theirs) = (claim("job"), claim("job"));
        mine.ttl = time(500);
        theirs.ttl = time(5_000);
        let token = take(&storage, &mine).await;
        is_held(&other, &theirs).await;
        // The table is locked for all clients, and meanwhile the lease ends.
        let lock =
            common().transaction(&format!("lock table {table} in access exclusive mode")).expect("locked");
        let contending = tokio::spawn(async move {
            // After a second it learns that the table is locked, and asks again.
            let answer = loop {
                match acquire(&other, &theirs).await {
                    Ok(answer) => break answer,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
            };
            (other, theirs, answer)
        });
        // The lease ends by itself.
        tokio::time::sleep(mine.ttl + time(300)).await;
        lock.commit().expect("unlocked");
        let (other, theirs, answer) = within(soon(), contending).await.expect("no panic");
        match answer {
            AcquireReply::Granted { token: new, .. } => assert!(new > token),
            held => panic!("{held:?}"),
        }
        // The lease counts from its grant, not from when the claim was sent.
        let holder = other.inspect(&theirs.name).await.expect("answered").pop().expect("held");
        assert!(holder.remaining > theirs.ttl - time(700), "{holder:?}");
    });
}

#[test]
fn a_row_that_a_transaction_locks_delays_no_other_lock() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let (first, held) = (claim("locked"), claim("held"));
        take(&storage, &first).await;
        release(&storage, &first).await.expect("answered");
        take(&storage, &held).await;
        let lock = common()
            .transaction(&format!("select 1 from {table} where name = 'locked' for update"))
            .expect("locked");
        let (blocked, free) = (claim("locked"), claim("free"));
        let batch = [blocked.clone(), free.clone(), held.clone()];
        let answers = within(soon(), storage.acquire(&batch)).await;
        assert!(
            matches!(answers[0], Ok(AcquireReply::Held { holder: None, retry_after: Some(_) })),
            "{answers:?}"
        );
        assert!(matches!(answers[1], Ok(AcquireReply::Granted { .. })), "{answers:?}");
        assert!(matches!(answers[2], Ok(AcquireReply::Granted { .. })), "{answers:?}");
        lock.commit().expect("unlocked");
        take(&storage, &blocked).await;
        // A holder of a locked row gets that error, and not `NotHeld`.
        let lock = common().transaction(&format!("select 1 from {table} where name = 'held' for update"));
        let answers = within(soon(), storage.renew(&[held.clone(), free.clone()])).await;
        assert!(
            answers[0].as_ref().is_err_and(|e| e.kind() == leasehold::ErrorKind::Unavailable),
            "{answers:?}"
        );
        assert!(matches!(answers[1], Ok(RenewReply::Renewed { .. })), "{answers:?}");
        // So does a release, and the other lock of the batch is released.
        let answers = within(soon(), storage.release(&[held.clone(), free.clone()])).await;
        assert!(
            answers[0].as_ref().is_err_and(|e| e.kind() == leasehold::ErrorKind::Unavailable),
            "{answers:?}"
        );
        assert!(matches!(answers[1], Ok(ReleaseReply::Released)), "{answers:?}");
        drop(lock);
        let renewed = async { while renew(&storage, &held).await.is_err() {} };
        within(soon(), renewed).await;
    });
}

#[test]
fn a_waiter_gets_a_lock_whose_row_was_locked_as_soon_as_it_is_not() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let locks = client(&url).await;
        is_free(&locks, "job").await;
        let lock = common().transaction(&format!("select 1 from {table} for update")).expect("locked");
        let waiting = waiting(locks.lock("job"));
        until_sql(common(), &format!("select count(*) from {table}_waiters"), "1");
        lock.commit().expect("unlocked");
        let guard = within(time(700), waiting).await.expect("no panic").expect("granted");
        guard.release().await.expect("released");
    });
}

#[test]
fn tokens_grow_when_the_row_is_deleted() {
    let url = own(&common().url());
    let delete = format!("delete from {}", table_of(&url));
    run(scenario::deleted_record(&url, || drop(sql(common(), &delete))));
}

#[test]
fn a_holder_whose_row_is_deleted_finds_out_at_its_next_renewal() {
    run(async {
        let url = own(&common().url());
        let locks = client(&url).await;
        let ttl = time(3_000);
        let guard = hold(&locks, "job", ttl).await;
        let never =
            locks.lock("unrenewed").ttl(LONG).renewal(Renewal::Never).acquire().await.expect("granted");
        sql(common(), &format!("delete from {}", table_of(&url)));
        let since = Instant::now();
        let next = within(soon(), client(&url).await.lock("job").acquire()).await.expect("granted");
        assert!(next.token() > guard.token());
        assert_eq!(within(LONG, guard.lost()).await, Lost::Taken);
        assert!(since.elapsed() < ttl / 3 + time(500), "{:?}", since.elapsed());
        never.verify().await.expect_err("gone");
    });
}
