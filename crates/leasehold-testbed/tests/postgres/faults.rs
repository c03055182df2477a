//! The faults of a server: its disk, its clock, its processes, its standby.

use leasehold_testbed::{Error, Postgres, PostgresPair, Result, until};

use crate::{MAKE, READ, Sleeper};

#[test]
fn a_disk_that_is_full_and_is_freed() -> Result<()> {
    let postgres = Postgres::options().small_disk(160).start()?;
    let disk = postgres.disk().expect("it has one");
    let grow = "create table big as select repeat('x', 1000) from generate_series(1, 40000)";
    postgres.sql(MAKE)?;
    disk.fill()?;
    postgres.sql(grow).expect_err("the disk is full");
    disk.free()?;
    // The server may have ended, if the log file did not fit.
    postgres.restart()?;
    assert_eq!(postgres.sql(READ)?, "42");
    postgres.sql(grow)?;
    Ok(())
}

#[test]
fn a_clock_that_jumps() -> Result<()> {
    let postgres = Postgres::options().own_clock().start()?;
    let ours = now;
    let ahead = |postgres: &Postgres| -> Result<i64> {
        let shown = postgres.sql("select extract(epoch from clock_timestamp())::bigint")?;
        Ok(shown.parse::<i64>().map_err(|e| Error::new(e.to_string()))? - ours())
    };
    let clock = postgres.clock().expect("it has one");
    for seconds in [0, 3_600, -3_600] {
        clock.set(seconds)?;
        let ahead = ahead(&postgres)?;
        assert!((ahead - seconds).abs() <= 2, "{ahead} of {seconds}");
        // Durations are not affected by the clock.
        assert_eq!(postgres.sql("set statement_timeout = '9s'; select pg_sleep(0.1) is null")?, "f");
    }
    postgres.kill9();
    postgres.restart()?;
    assert!((ahead(&postgres)? + 3_600).abs() <= 2);
    Ok(())
}

fn now() -> i64 {
    let output = std::process::Command::new("date").arg("+%s").output().expect("`date` is everywhere");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
}

#[test]
fn connections_that_are_ended_and_processes_that_are_killed() -> Result<()> {
    let postgres = Postgres::start()?;
    let named = format!("{}?application_name=mine", postgres.url());
    let sleepers = [Sleeper::start(&named)?, Sleeper::start(&postgres.url())?];
    until("both to be there", || match postgres.backends("")?.len() {
        2 => Ok(()),
        n => Err(Error::new(format!("{n} are"))),
    })?;
    assert_eq!(postgres.backends("mine")?.len(), 1);
    assert_eq!(postgres.terminate_backends("mine")?, 1);
    let [mine, other] = sleepers;
    assert!(mine.end()?.contains("administrator command"));
    let before = postgres.sql("select pg_postmaster_start_time()")?;
    let pid = postgres.backends("")?[0];
    postgres.kill9_backend(pid)?;
    let said = other.end()?;
    assert!(said.contains("closed the connection"), "{said}");
    assert_eq!(postgres.sql("select pg_postmaster_start_time()")?, before, "the first process lives");
    postgres.kill9_backend(pid).expect_err("it is gone");
    assert_eq!(postgres.terminate_backends("")?, 0);
    Ok(())
}

#[test]
fn a_transaction_that_stays_open() -> Result<()> {
    let postgres = Postgres::start()?;
    postgres.sql(MAKE)?;
    let open = postgres.transaction("update t set n = 43")?;
    let blocked = "set lock_timeout = '50ms'; update t set n = 44";
    postgres.sql(blocked).expect_err("the row is locked");
    open.commit()?;
    assert_eq!(postgres.sql(READ)?, "43");
    let open = postgres.transaction("lock table t in access exclusive mode")?;
    postgres.sql(blocked).expect_err("the table is locked");
    drop(open);
    until("no session to have a lock", || postgres.sql(blocked))?;
    postgres.transaction("lock table nothing").expect_err("there is no such table");
    Ok(())
}

#[test]
fn what_a_killed_one_left_keeps_none_from_starting() -> Result<()> {
    let postgres = Postgres::options().unix_socket().start()?;
    let directory = postgres.log().with_extension("");
    postgres.kill9();
    // Its process id may belong to another process by now.
    let pid = directory.join("data/postmaster.pid");
    let left = std::fs::read_to_string(&pid)?;
    let other = Postgres::start()?;
    let id = other.pid().expect("it runs").as_raw_nonzero().to_string();
    let left: Vec<_> = std::iter::once(id.as_str()).chain(left.lines().skip(1)).collect();
    std::fs::write(&pid, left.join("\n"))?;
    postgres.restart()?;
    Ok(())
}

#[test]
fn a_pair_takes_turns() -> Result<()> {
    let pair = PostgresPair::start()?;
    pair.primary.sql(MAKE)?;
    for turn in 1..=3 {
        let old = pair.current()?.port();
        let new = pair.failover()?;
        assert_ne!(new.port(), old);
        new.sql("insert into t values (1)")?;
        pair.await_caught_up()?;
        let rows = pair.other_than(new).sql("select count(*) from t")?;
        assert_eq!(rows, (turn + 1).to_string());
    }
    // Writes that have not reached the standby are lost.
    pair.stop_following()?;
    pair.current()?.sql("insert into t values (2)")?;
    let new = pair.failover_by_kill()?;
    assert_eq!(new.sql("select count(*) from t where n = 2")?, "0");
    pair.rebuild()?;
    Ok(())
}

#[test]
fn a_synchronous_primary_confirms_nothing_alone() -> Result<()> {
    let pair = PostgresPair::start_synchronous(Postgres::options().password("s3cret"))?;
    pair.primary.sql(MAKE)?;
    pair.stop_following()?;
    let insert = Sleeper::running(&pair.primary.url(), "insert into t values (43)")?;
    until("it to wait for the standby", || {
        match pair.primary.sql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")?.as_str()
        {
            "1" => Ok(()),
            _ => Err(Error::new("it does not")),
        }
    })?;
    pair.follow_again()?;
    assert_eq!(insert.end()?, "");
    let new = pair.failover()?;
    assert_eq!(new.sql("select count(*) from t")?, "2");
    assert_eq!(new.sql("show synchronous_standby_names")?, "*");
    Ok(())
}
