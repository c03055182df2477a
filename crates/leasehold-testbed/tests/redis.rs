//! Every Redis setup starts, answers, survives the faults of tests, and fails over.

use leasehold_testbed::{Error, Redis, RedisCluster, RedisSentinels, Result, shared, until};

#[test]
fn keeps_its_data_through_kill_9() -> Result<()> {
    let redis = Redis::start()?;
    redis.command(&["set", "key", "value"])?;
    redis.kill9();
    assert!(!redis.is_running());
    redis.command(&["get", "key"]).expect_err("no server listens");
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
    // This server accepts connections and does not answer.
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

    // Those of the commands before may still be about to end.
    let are = |wanted: u64| {
        until("the connections", || match redis.connections()? {
            n if n == wanted => Ok(()),
            n => Err(Error::new(format!("{n}"))),
        })
    };
    are(0)?;
    let connection = std::net::TcpStream::connect(("127.0.0.1", redis.port()))?;
    are(1)?;
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
    // A connection without TLS fails.
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
fn a_client_needs_a_certificate_where_one_is_demanded() -> Result<()> {
    let redis = Redis::options().client_certificates().start()?;
    assert_eq!(redis.command(&["ping"])?, "PONG");
    let tls = redis.tls().expect("it has certificates");
    let without = std::process::Command::new("redis-cli")
        .args(["-p", &redis.port().to_string(), "--tls", "--cacert"])
        .arg(tls.ca())
        .arg("ping")
        .output()?;
    assert!(!String::from_utf8_lossy(&without.stdout).contains("PONG"), "{without:?}");
    Ok(())
}

#[test]
fn a_user_may_do_what_the_rules_say() -> Result<()> {
    let redis =
        Redis::options().password("s3cret").acl("app", "w0rd", "~leasehold:* &* +@all -eval").start()?;
    assert_eq!(redis.url_as("app", "w0rd"), format!("redis://app:w0rd@127.0.0.1:{}/0", redis.port()));
    let app = |args: &[&str]| redis.command_as("app", "w0rd", args);
    assert_eq!(app(&["set", "leasehold:a", "1"])?, "OK");
    for refused in [&["set", "b", "1"][..], &["eval", "return 1", "0"]] {
        let error = app(refused).expect_err("the rules forbid it").to_string();
        assert!(error.contains("NOPERM"), "{error}");
    }
    assert_eq!(redis.command(&["set", "b", "1"])?, "OK");
    Ok(())
}

#[test]
fn keys_of_any_bytes_are_named_in_quotes() -> Result<()> {
    let redis = shared::redis()?;
    let key = "\"keys_of_any_bytes\\x00\\xff\\n\"";
    redis.quoted(&["set", key, "value"])?;
    assert_eq!(redis.quoted(&["get", key])?, "\"value\"");
    assert_eq!(redis.quoted(&["keys", "keys_of_any_bytes*"])?, format!("1) {key}"));
    Ok(())
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
    // The old primary comes back as a replica, and can be promoted again.
    first.restart()?;
    second.await_replicas(1)?;
    assert!(!first.is_primary()?);
    assert_eq!(all.failover()?.port(), first.port());
    Ok(())
}

#[test]
fn sentinels_ask_for_a_password_of_their_own() -> Result<()> {
    let options =
        Redis::options().user("app", "s3cret").client_certificates().sentinel_user("watcher", "w0rd");
    let all = RedisSentinels::start_with(options)?;
    assert!(all.url().starts_with("rediss+sentinel://app:s3cret@"), "{}", all.url());
    assert!(
        all.url().ends_with("/leasehold/0?sentinel_user=watcher&sentinel_password=w0rd"),
        "{}",
        all.url()
    );
    let first = all.primary()?;
    assert_ne!(all.failover()?.port(), first.port());

    let all = RedisSentinels::start_with(Redis::options().sentinel_password("w0rd"))?;
    assert!(all.url().ends_with("/leasehold/0?sentinel_password=w0rd"), "{}", all.url());
    let raw = std::process::Command::new("redis-cli")
        .args(["-p", &all.sentinels()[0].port().to_string(), "sentinel", "masters"])
        .output()?;
    assert!(String::from_utf8_lossy(&raw.stdout).contains("NOAUTH"), "{raw:?}");
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

#[test]
fn a_replica_of_a_cluster_takes_over() -> Result<()> {
    let cluster = RedisCluster::options().replicas(1).start()?;
    assert_eq!(cluster.nodes().len(), 6);
    let first = cluster.node_of("key")?;
    first.command(&["set", "key", "value"])?;
    first.command(&["wait", "1", "5000"])?;
    let second = cluster.failover("key")?;
    assert_ne!(first.port(), second.port());
    assert_eq!(cluster.node_of("key")?.port(), second.port());
    assert_eq!(second.command(&["get", "key"])?, "value");

    second.command(&["wait", "1", "5000"])?;
    assert_eq!(cluster.failover_by_kill("key")?.port(), first.port());
    assert_eq!(first.command(&["get", "key"])?, "value");
    second.restart()?;
    cluster.await_ready()?;
    assert_eq!(cluster.node_of("key")?.port(), first.port());
    Ok(())
}

#[test]
fn a_slot_moves_with_its_keys() -> Result<()> {
    let cluster = RedisCluster::start_with(Redis::options().password("s3cret").tls())?;
    let (slot, from) = (cluster.slot_of("{key}")?, cluster.node_of("{key}")?);
    assert_eq!(cluster.primary_of(slot)?.port(), from.port());
    from.quoted(&["set", "\"{key}\\x00\\n\"", "value"])?;
    from.command(&["set", "{key}a", "value"])?;
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).expect("there are three");
    cluster.migrate_slot(slot, to)?;
    assert_eq!(cluster.node_of("{key}")?.port(), to.port());
    assert_eq!(to.quoted(&["get", "\"{key}\\x00\\n\""])?, "\"value\"");
    assert_eq!(to.command(&["mget", "{key}a", "{key}b"])?, "value");
    let error = from.command(&["get", "{key}a"]).expect_err("it has moved").to_string();
    assert!(error.contains(&format!("MOVED {slot} 127.0.0.1:{}", to.port())), "{error}");
    // The slot can move back.
    cluster.migrate_slot(slot, from)?;
    assert_eq!(from.command(&["get", "{key}a"])?, "value");
    Ok(())
}

#[test]
fn a_slot_on_its_way_asks_and_tells_to_try_again() -> Result<()> {
    let cluster = RedisCluster::start()?;
    let (slot, from) = (cluster.slot_of("{key}")?, cluster.node_of("{key}")?);
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).expect("there are three");
    from.command(&["mset", "{key}a", "1", "{key}b", "2"])?;
    let migration = cluster.begin_migration(slot, to)?;
    assert_eq!(migration.keys()?.len(), 2);
    assert_eq!(cluster.node_of("{key}")?.port(), from.port());

    let refused = |node: &Redis, args: &[&str]| match node.command(args) {
        Ok(answer) => panic!("it answers {answer}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(from.command(&["mget", "{key}a", "{key}b"])?, "1\n2");
    assert!(refused(from, &["get", "{key}c"]).contains("ASK "));
    migration.move_key("{key}a")?;
    assert!(refused(from, &["get", "{key}a"]).contains("ASK "));
    assert!(refused(to, &["get", "{key}a"]).contains("MOVED "));
    // A redirected client sends ASKING first, on the same connection.
    let mut client = std::net::TcpStream::connect(("127.0.0.1", to.port()))?;
    let asked = |client: &mut std::net::TcpStream, line: &str| -> Result<String> {
        use std::io::{BufRead as _, BufReader, Write as _};
        client.write_all(format!("ASKING\r\n{line}\r\n").as_bytes())?;
        let mut lines = BufReader::new(client).lines();
        assert_eq!(lines.next().expect("it answers")?, "+OK");
        Ok(lines.next().expect("it answers")?)
    };
    assert_eq!(asked(&mut client, "GET {key}a")?, "$1");
    drop(client);
    let mut client = std::net::TcpStream::connect(("127.0.0.1", to.port()))?;
    let answer = asked(&mut client, "MGET {key}a {key}b")?;
    assert!(answer.starts_with("-TRYAGAIN"), "{answer}");

    migration.move_all()?;
    migration.finish()?;
    assert_eq!(to.command(&["mget", "{key}a", "{key}b"])?, "1\n2");
    cluster.begin_migration(slot, from)?.abort()?;
    assert_eq!(to.command(&["mget", "{key}a", "{key}b"])?, "1\n2");
    Ok(())
}

#[test]
fn valkey_is_started_in_its_place() -> Result<()> {
    let valkey = || Redis::options().valkey();
    let one = valkey().start()?;
    assert!(one.info("server")?.contains("valkey_version:"), "{}", one.info("server")?);

    let all = RedisSentinels::start_with(valkey())?;
    assert!(all.sentinels()[0].log().exists());
    let first = all.primary()?;
    assert_ne!(all.failover()?.port(), first.port());

    let cluster = RedisCluster::options().servers(valkey()).replicas(1).start()?;
    let (slot, from) = (cluster.slot_of("key")?, cluster.node_of("key")?);
    from.command(&["set", "key", "value"])?;
    let to = cluster.nodes()[..3].iter().find(|node| node.port() != from.port()).expect("there are three");
    cluster.migrate_slot(slot, to)?;
    assert_eq!(cluster.node_of("key")?.command(&["get", "key"])?, "value");
    assert_ne!(cluster.failover("key")?.port(), to.port());
    Ok(())
}
