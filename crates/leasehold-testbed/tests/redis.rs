//! Every Redis set-up starts, answers, survives what tests do to it, and fails over.

use leasehold_testbed::{Error, Redis, RedisCluster, RedisSentinels, Result, shared, until};

#[test]
fn keeps_its_data_through_kill_9() -> Result<()> {
    let redis = Redis::start()?;
    redis.command(&["set", "key", "value"])?;
    redis.kill9();
    assert!(!redis.is_running());
    redis.command(&["get", "key"]).expect_err("nobody listens");
    redis.restart()?;
    assert_eq!(redis.command(&["get", "key"])?, "value");

    redis.terminate()?;
    assert!(!redis.is_running());
    redis.restart()?;
    assert_eq!(redis.command(&["get", "key"])?, "value");
    Ok(())
}

#[test]
fn a_volatile_one_forgets() -> Result<()> {
    let redis = Redis::options().volatile().start()?;
    redis.command(&["set", "key", "value"])?;
    redis.restart()?;
    assert_eq!(redis.command(&["get", "key"])?, "");
    Ok(())
}

#[test]
fn stopped_it_is_silent_and_continued_it_answers() -> Result<()> {
    let redis = Redis::start()?;
    redis.stop();
    assert!(redis.is_running());
    // It accepts connections and says nothing.
    let silent = std::process::Command::new("timeout")
        .args(["1", "redis-cli", "-p", &redis.port().to_string(), "ping"])
        .output()?;
    assert_eq!(silent.status.code(), Some(124), "{silent:?}");
    redis.cont();
    assert_eq!(redis.command(&["ping"])?, "PONG");
    redis.stop();
    redis.kill9();
    assert!(!redis.is_running());
    Ok(())
}

#[test]
fn counts_commands_and_connections() -> Result<()> {
    let redis = Redis::start()?;
    let before = redis.commands()?;
    for _ in 0..5 {
        redis.command(&["incr", "n"])?;
    }
    assert_eq!(redis.commands()? - before, 5);
    assert_eq!(redis.command_counts()?["incr"], 5);

    let before = redis.connections()?;
    let connection = std::net::TcpStream::connect(("127.0.0.1", redis.port()))?;
    until("the connection to count", || match redis.connections()? {
        n if n == before + 1 => Ok(()),
        n => Err(Error::new(format!("{n}"))),
    })?;
    drop(connection);
    Ok(())
}

#[test]
fn passwords_and_sockets() -> Result<()> {
    let redis = Redis::options().password("s3cret").unix_socket().start()?;
    assert_eq!(redis.url(), format!("redis://:s3cret@127.0.0.1:{}/0", redis.port()));
    redis.command(&["set", "key", "value"])?;
    let raw = |args: &[&str]| -> Result<String> {
        let output = std::process::Command::new("redis-cli")
            .args(["-p", &redis.port().to_string()])
            .args(args)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(raw(&["get", "key"])?.contains("NOAUTH"));
    let socket = redis.socket_url().expect("it has one").replace("redis+unix://:s3cret@", "");
    assert!(std::fs::metadata(socket).is_ok());

    let redis = Redis::options().user("app", "s3cret").start()?;
    assert_eq!(redis.command(&["acl", "whoami"])?, "app");
    Ok(())
}

#[test]
fn tls() -> Result<()> {
    let redis = Redis::options().tls().password("s3cret").start()?;
    assert!(redis.url().starts_with("rediss://"), "{}", redis.url());
    assert_eq!(redis.command(&["set", "key", "value"])?, "OK");
    // Not in the clear.
    let plain =
        std::process::Command::new("redis-cli").args(["-p", &redis.port().to_string(), "ping"]).output()?;
    assert!(!String::from_utf8_lossy(&plain.stdout).contains("PONG"));
    let tls = redis.tls().expect("it has certificates");
    tls.use_expired()?;
    redis.launch()?;
    until("the client to see that it has expired", || match redis.command(&["ping"]) {
        Err(error) if error.to_string().contains("certificate") => Ok(()),
        other => Err(Error::new(format!("{other:?}"))),
    })
}

#[test]
fn three_know_nothing_of_each_other() -> Result<()> {
    let three = Redis::three()?;
    three[0].command(&["set", "key", "value"])?;
    assert_eq!(three[1].command(&["get", "key"])?, "");
    Ok(())
}

#[test]
fn the_shared_one_is_one() -> Result<()> {
    assert_eq!(shared::redis()?.url(), shared::redis()?.url());
    Ok(())
}

#[test]
fn sentinels_promote() -> Result<()> {
    let all = RedisSentinels::start_with(Redis::options().password("s3cret"))?;
    let first = all.primary()?;
    first.command(&["set", "key", "value"])?;
    first.command(&["wait", "1", "5000"])?;
    first.kill9();
    let second = all.await_primary_other_than(first.port())?;
    assert_eq!(second.command(&["get", "key"])?, "value");
    // The old one comes back as a replica, and can be promoted again.
    first.restart()?;
    second.await_replicas(1)?;
    assert!(!first.is_primary()?);
    assert_eq!(all.failover()?.port(), first.port());
    Ok(())
}

#[test]
fn a_cluster_serves_every_slot() -> Result<()> {
    let cluster = RedisCluster::start()?;
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(cluster.node_of(key)?.command(&["set", key, "value"])?, "OK");
    }
    cluster.nodes()[0].restart()?;
    cluster.await_ready()?;
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(cluster.node_of(key)?.command(&["get", key])?, "value");
    }
    Ok(())
}
