//! Every PostgreSQL set-up starts, answers, survives what tests do to it, and is promoted.

use leasehold_testbed::{Error, PgBouncer, Postgres, PostgresPair, Result, Tls, shared, until};

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
    postgres.sql(READ).expect_err("nobody answers");
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
    let before = postgres.connections()?;
    let sleeper =
        std::process::Command::new("psql").args([&postgres.url(), "-c", "select pg_sleep(60)"]).spawn();
    let mut sleeper = sleeper?;
    until("the connection to count", || match postgres.connections()? {
        n if n == before + 1 => Ok(()),
        n => Err(Error::new(format!("{n}"))),
    })?;
    sleeper.kill()?;
    sleeper.wait()?;
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
    // A certificate that nobody should trust.
    let tls = postgres.tls().expect("it has certificates");
    for (change, complaint) in [
        (Tls::use_expired as fn(&Tls) -> Result<()>, "certificate verify failed"),
        (Tls::use_wrong_host, "does not match host"),
    ] {
        change(tls)?;
        postgres.launch()?;
        until("the client to complain", || match psql(&url, &ca)? {
            said if said.contains(complaint) => Ok(()),
            said => Err(Error::new(said)),
        })?;
    }
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
        bouncer.kill9();
        bouncer.sql(READ).expect_err("nobody listens");
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
