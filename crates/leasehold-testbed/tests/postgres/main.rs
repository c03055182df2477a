//! Every PostgreSQL setup starts, answers, survives the faults of tests, and is promoted.

use std::process::{Child, Command, Stdio};

use leasehold_testbed::{Error, PgBouncer, Postgres, PostgresPair, Result, shared, until};

mod access;
mod faults;

const MAKE: &str = "create table t (n int); insert into t values (42)";
const READ: &str = "select n from t";

#[test]
fn keeps_its_data_through_kill_9() -> Result<()> {
    let postgres = Postgres::start()?;
    postgres.sql(MAKE)?;
    postgres.kill9();
    assert!(!postgres.is_running());
    postgres.restart()?;
    assert_eq!(postgres.sql(READ)?, "42");
    postgres.stop();
    postgres.sql(READ).expect_err("no server answers");
    postgres.cont();
    assert_eq!(postgres.sql(READ)?, "42");
    postgres.terminate()?;
    postgres.restart()?;
    assert_eq!(postgres.sql(READ)?, "42");
    postgres.stop();
    postgres.kill9();
    assert!(!postgres.is_running());
    Ok(())
}

#[test]
fn counts_statements_and_connections() -> Result<()> {
    let postgres = Postgres::start()?;
    let before = postgres.commands()?;
    for _ in 0..5 {
        postgres.sql("select 1")?;
    }
    assert_eq!(postgres.commands()? - before, 5);
    assert!(postgres.transactions()? > 0);
    // Those of the statements before may still be about to end.
    let are = |wanted: u64| {
        until("the connections", || match postgres.connections()? {
            n if n == wanted => Ok(()),
            n => Err(Error::new(format!("{n}"))),
        })
    };
    are(0)?;
    let _sleeper = Sleeper::start(&postgres.url())?;
    are(1)
}

#[test]
fn counts_what_statements_write() -> Result<()> {
    let postgres = Postgres::start()?;
    postgres.sql("create table t (n int primary key, m int) with (fillfactor = 50)")?;
    let (wal, size) = (postgres.wal()?, postgres.size_of("t")?);
    postgres.sql("insert into t select n, 0 from generate_series(1, 1000) n")?;
    postgres.sql("UPDATE t set m = 1 where n <= 10")?;
    postgres.sql("delete from t where n = 1")?;
    let update = postgres.statements("update t")?;
    assert_eq!((update.calls, update.rows), (1, 10));
    assert!(update.wal_records >= 10 && update.wal_bytes > 300, "{update:?}");
    assert_eq!(postgres.statements("select nothing like this")?.calls, 0);
    until("the rows to be counted", || match postgres.rows("t")? {
        rows if (rows.inserted, rows.updated, rows.hot, rows.deleted) == (1000, 10, 10, 1) => Ok(()),
        rows => Err(Error::new(format!("{rows:?}"))),
    })?;
    assert!(postgres.wal()? > wal + update.wal_bytes && postgres.size_of("t")? > size);
    assert!(postgres.size_of("t_pkey")? > 0);
    Ok(())
}

#[test]
fn a_standby_follows_and_is_promoted() -> Result<()> {
    let pair = PostgresPair::start_with(Postgres::options().password("s3cret"))?;
    pair.primary.sql(MAKE)?;
    pair.await_caught_up()?;
    assert_eq!(pair.standby.sql(READ)?, "42");
    pair.standby.sql("insert into t values (43)").expect_err("it only reads");
    pair.primary.kill9();
    pair.standby.promote()?;
    pair.standby.sql("insert into t values (43)")?;
    pair.standby.restart()?;
    assert!(pair.standby.is_primary()?);
    let output =
        std::process::Command::new("psql").args([&pair.url(), "-Atc", "select count(*) from t"]).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "2", "{output:?}");
    Ok(())
}

#[test]
fn password_tls_and_settings() -> Result<()> {
    let postgres = Postgres::options().password("s3cret").tls().setting("lock_timeout", "1234ms").start()?;
    assert_eq!(postgres.sql("show lock_timeout")?, "1234ms");
    assert_eq!(postgres.sql("select ssl from pg_stat_ssl where pid = pg_backend_pid()")?, "t");
    let url = postgres.url();
    let psql = |url: &str, ca: &str| -> Result<String> {
        let output = std::process::Command::new("psql")
            .args([url, "-Atc", "select 1"])
            .env("PGSSLROOTCERT", ca)
            .output()?;
        Ok(String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr })
            .into())
    };
    let ca = postgres.tls().expect("it has certificates").ca();
    let ca = ca.to_string_lossy();
    assert_eq!(psql(&url, &ca)?.trim(), "1");
    assert!(psql(&url.replace("s3cret", "wrong"), &ca)?.contains("password authentication failed"));
    assert!(psql(&url.replace("verify-full", "disable"), &ca)?.contains("no encryption"));
    Ok(())
}

#[test]
fn pgbouncer_shares_connections() -> Result<()> {
    for options in [Postgres::options(), Postgres::options().password("s3cret").tls()] {
        let postgres = options.start()?;
        let bouncer = PgBouncer::start(&postgres)?;
        bouncer.sql(MAKE)?;
        let before = bouncer.commands()?;
        assert_eq!(bouncer.sql(READ)?, "42");
        assert_eq!(bouncer.commands()? - before, 1);
        assert_eq!(bouncer.connections()?, 0);
        postgres.user("app", "hunter2")?;
        let url = bouncer.user("app", "hunter2")?;
        if postgres.tls().is_none() {
            assert_eq!(psql(&url, "select current_user")?, "app");
        }
        bouncer.kill9();
        bouncer.sql(READ).expect_err("no server listens");
        assert_eq!(postgres.sql(READ)?, "42");
        bouncer.restart()?;
        postgres.restart()?;
        until("PgBouncer to connect again", || bouncer.sql(READ))?;
        bouncer.terminate()?;
    }
    Ok(())
}

#[test]
fn the_shared_one_has_a_database_for_each_test() -> Result<()> {
    let url = shared::postgres()?.database("mine")?;
    let output =
        std::process::Command::new("psql").args([&url, "-Atc", "select current_database()"]).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "mine");
    Ok(())
}

/// Runs a statement through `psql`, as any client would.
fn psql(url: &str, sql: &str) -> Result<String> {
    let output = Command::new("psql").args([url, "-Atc", sql]).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(Error::new(String::from_utf8_lossy(&output.stderr))),
    }
}

/// A client in the middle of a statement.
struct Sleeper(Option<Child>);

impl Sleeper {
    fn start(url: &str) -> Result<Self> {
        Self::running(url, "select pg_sleep(60)")
    }

    fn running(url: &str, sql: &str) -> Result<Self> {
        let mut command = Command::new("psql");
        command.args([url, "-qAtc", sql]).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(Some(command.spawn()?)))
    }

    /// Waits until the client ends, and returns its output.
    fn end(mut self) -> Result<String> {
        let output = self.0.take().expect("it ends once").wait_with_output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
