//! What a server must be, and what is promised because of it.

use leasehold::storage::Storage;
use leasehold::{ErrorKind, Locks, Tier};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};

use crate::tools::*;

#[test]
fn a_replica_a_cluster_node_and_a_sentinel_are_refused_with_what_to_write() {
    run(async {
        let primary = Redis::start().expect("a server");
        let replica = Redis::options().replica_of(&primary).start().expect("a server");
        let error = refusal(&replica.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("replica"), "{error}");
        replica.promote().expect("promoted");
        works(&replica.url()).await;

        let node = Redis::options().setting("cluster-enabled", "yes").start().expect("a server");
        let error = refusal(&node.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("redis+cluster:"), "{error}");

        let proxy = RedisProxy::before(common()).expect("a proxy");
        let hello =
            b"%3\r\n$5\r\nproto\r\n:3\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
        proxy.add(Rule::on("hello").after(1).after_effect().bytes(*hello));
        let error = refusal(&proxy.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("redis+sentinel:"), "{error}");
    });
}

#[test]
fn a_server_too_old_for_the_protocol_is_refused() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let old = "ERR unknown command `HELLO`, with args beginning with: `3`, ";
        proxy.add(Rule::on("hello").always().error(old));
        let error = refusal(&proxy.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Redis 6"), "{error}");
    });
}

#[test]
fn what_is_promised_follows_from_what_the_server_keeps() {
    run(async {
        async fn tier(redis: &Redis) -> Tier {
            bare(&redis.url()).await.guarantees().tier
        }
        let always = Redis::start().expect("a server");
        assert_eq!(tier(&always).await, Tier::RestartSafe);
        tell(&always, &["config", "set", "appendfsync", "everysec"]);
        assert_eq!(tier(&always).await, Tier::CrashSafe);
        let nothing = Redis::options().volatile().start().expect("a server");
        assert_eq!(tier(&nothing).await, Tier::CrashSafe);
        // With a replica, a failover may lose what the server has on its disk.
        tell(&always, &["config", "set", "appendfsync", "always"]);
        let _replica = Redis::options().replica_of(&always).start().expect("a server");
        always.await_replicas(1).expect("it follows");
        assert_eq!(tier(&always).await, Tier::CrashSafe);

        let required = Locks::builder().require(Tier::RestartSafe).connect(&nothing.url()).await;
        let error = required.expect_err("it forgets");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("restart-safe"), "{error}");
        Locks::builder().require(Tier::CrashSafe).connect(&nothing.url()).await.expect("it does that");
    });
}

#[test]
fn a_server_that_evicts_is_refused_unless_that_is_accepted() {
    run(async {
        let redis = Redis::start().expect("a server");
        for policy in [
            "volatile-lru",
            "allkeys-lru",
            "volatile-lfu",
            "allkeys-lfu",
            "volatile-random",
            "allkeys-random",
            "volatile-ttl",
        ] {
            tell(&redis, &["config", "set", "maxmemory-policy", policy]);
            let error = refusal(&redis.url()).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(
                error.to_string().contains(policy) && error.to_string().contains("allow_eviction"),
                "{error}"
            );
            let accepted = bare(&with(&redis.url(), "allow_eviction=true")).await;
            assert_eq!(accepted.guarantees().tier, Tier::Advisory);
        }
        // A storage that was connected before finds out with its next connection.
        tell(&redis, &["config", "set", "maxmemory-policy", "noeviction"]);
        let storage = bare(&redis.url()).await;
        tell(&redis, &["config", "set", "maxmemory-policy", "allkeys-lru"]);
        tell(&redis, &["client", "kill", "type", "normal"]);
        let refused = async {
            loop {
                let error = acquire(&storage, &claim("job")).await.expect_err("it evicts");
                if error.kind() == ErrorKind::Unsupported {
                    return error;
                }
            }
        };
        assert!(within(soon(), refused).await.to_string().contains("allkeys-lru"));
    });
}

/// The error has the server's text.
#[test]
fn an_error_that_a_retry_does_not_mend_is_returned_at_once() {
    let says = async |url: String, kind: ErrorKind, text: &str| {
        let error = refusal(&url).await;
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(error.to_string().contains(text), "{url}: {error}");
    };
    run(async {
        let host = |redis: &Redis| format!("127.0.0.1:{}", redis.port());
        let plain = host(common());
        says(format!("redis://{plain}/99"), ErrorKind::Invalid, "said=`DB index is out of range`").await;
        // A plain server waits for the end of a line.
        says(format!("rediss://{plain}/0"), ErrorKind::Unavailable, "speaks TLS").await;

        let node = Redis::options().setting("cluster-enabled", "yes").start().expect("a server");
        says(format!("redis://{}/1", host(&node)), ErrorKind::Unsupported, "redis+cluster:").await;

        let renamed = Redis::options().setting("rename-command", "EVALSHA x").start().expect("a server");
        let storage = bare(&renamed.url()).await;
        let error = acquire(&storage, &claim("job")).await.expect_err("it has no scripts");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("said=`unknown command …`"), "{error}");

        let servers = leasehold_testbed::RedisSentinels::start().expect("servers");
        for database in [0, 2] {
            let url = format!("redis://127.0.0.1:{}/{database}", servers.sentinels()[0].port());
            says(url, ErrorKind::Unsupported, "redis+sentinel:").await;
        }

        let http = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = http.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in http.incoming() {
                let mut stream = stream.expect("a client");
                let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                let _ = std::io::Write::write_all(&mut stream, answer);
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            }
        });
        says(format!("redis://127.0.0.1:{port}"), ErrorKind::Invalid, "no Redis").await;

        // The server closes the connection, so the error can only suggest TLS.
        let tls = Redis::options().tls().start().expect("a server");
        let error = refusal(&format!("redis://{}", host(&tls))).await;
        assert!(error.to_string().contains("TLS"), "{error}");
    });
}
