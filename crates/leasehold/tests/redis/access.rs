//! How a server is reached, and which servers are refused.

use leasehold::storage::{AcquireReply, ReleaseReply, Storage};
use leasehold::{ErrorKind, Locks, Tier};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};

use crate::tools::*;

/// Returns the rights that a user needs according to the README of the storage, for the prefix `shop:`, and those
/// without which less is promised.
fn rights() -> (String, String) {
    let page = include_str!("../../src/storage/redis/README.md");
    let rule = page.split_once("ACL SETUSER locks on >password ").expect("a rule").1;
    let rule = rule.split_once("```").expect("its end").0;
    let optional = ["+info", "+config|get", "+client|tracking"];
    let (more, needed): (Vec<_>, Vec<_>) =
        rule.split_whitespace().partition(|right| optional.contains(right));
    (needed.join(" "), more.join(" "))
}

async fn works(url: &str) {
    let locks = client(url).await;
    let guard = hold(&locks, "works", LONG).await;
    guard.verify().await.expect("held");
    guard.release().await.expect("released");
}

#[test]
fn a_unix_socket_and_a_number_of_a_database_lead_there() {
    run(async {
        let redis = Redis::options().unix_socket().start().expect("a server");
        let socket = redis.socket_url().expect("a socket");
        let (over_socket, over_tcp) = (bare(&socket).await, bare(&redis.url()).await);
        let mine = claim("job");
        take(&over_socket, &mine).await;
        is_held(&over_tcp, &claim("job")).await;
        // Another database is a separate namespace.
        let third = redis.url().replace("/0", "/3");
        let in_third = [bare(&with(&socket, "db=3")).await, bare(&third).await];
        let theirs = claim("job");
        take(&in_third[0], &theirs).await;
        is_held(&in_third[1], &claim("job")).await;
        assert!(redis.info("keyspace").expect("answered").contains("db3:keys="));
        let error = refusal(&redis.url().replace("/0", "/99")).await;
        assert!(error.to_string().contains("server=`"), "{error}");
    });
}

#[test]
fn another_prefix_is_another_place() {
    run(async {
        let redis = common();
        let (a, b) = (prefix(), prefix());
        let [a, b] = [a, b].map(|prefix| with(&redis.url(), &format!("prefix={prefix}")));
        let (mine, theirs) = (bare(&a).await, bare(&b).await);
        take(&mine, &claim("job")).await;
        take(&theirs, &claim("job")).await;
        assert_eq!(mine.list("", None, 10).await.expect("answered").len(), 1);
    });
}

#[test]
fn prefix_and_name_are_not_confused() {
    run(async {
        let redis = Redis::start().expect("a server");
        // Both lead to the same key, and so to the same lock.
        let [a, ab] = ["a:", "a:b:"].map(|prefix| with(&redis.url(), &format!("prefix={prefix}")));
        let (outer, inner) = (bare(&a).await, bare(&ab).await);
        take(&outer, &claim("b:c")).await;
        is_held(&inner, &claim("c")).await;
        let seen = inner.list("", None, 10).await.expect("answered");
        assert_eq!(seen.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>(), ["c"]);
    });
}

#[test]
fn a_wrong_user_or_password_is_refused() {
    run(async {
        let redis = Redis::options().acl("app", "p%40ss:w/rd", "~* &* +@all").password("s3cret").start();
        let redis = redis.expect("a server");
        works(&redis.url()).await;
        let host = format!("127.0.0.1:{}", redis.port());
        works(&format!("redis://app:p%2540ss%3Aw%2Frd@{host}/0")).await;
        for wrong in ["redis://app:s3cret@", "redis://:wrong@", "redis://nobody:s3cret@"] {
            let error = refusal(&format!("{wrong}{host}")).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}: {error}");
            assert!(error.to_string().contains("password"), "{error}");
        }
        let error = refusal(&format!("redis://{host}")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("asks for a password"), "{error}");
    });
}

#[test]
fn no_password_is_shown_anywhere() {
    const CANARY: &str = "S3CRETCANARY";
    let logs = crate::net::logs::Logs::of_all();
    let shown = run(async {
        let redis = Redis::options().password(CANARY).start().expect("a server");
        let host = format!("127.0.0.1:{}", redis.port());
        let mut shown = Vec::new();
        let storage = bare(&redis.url()).await;
        shown.push(format!(
            "{storage} {storage:?} {:?}",
            leasehold::storage::redis::Config::new(&redis.url())
        ));
        let locks = client(&redis.url()).await;
        let guard = hold(&locks, "job", LONG).await;
        shown.push(format!("{locks:?} {guard:?} {:?} {:?}", locks.inspect("job").await, guard.ticket()));
        guard.release().await.expect("released");

        let proxy = RedisProxy::before(&redis).expect("a proxy");
        let quoted = format!(
            "ERR unknown command 'AUTH', with args beginning with: 'default' '{CANARY}'; 'HELLO' '3' '{CANARY}'"
        );
        for error in [&quoted, &quoted.replace("ERR", "NOAUTH"), &quoted.replace("ERR", CANARY)] {
            for command in ["hello", "info", "evalsha", "subscribe", "scan"] {
                let armed = proxy.add(Rule::on(command).always().error(error));
                match try_bare(&proxy.url()).await {
                    Ok(storage) => {
                        let answer = acquire(&storage, &claim("other")).await;
                        shown.push(format!("{storage} {storage:?} {answer:?}"));
                        shown.push(format!("{:?}", storage.list("", None, 1).await));
                    }
                    Err(error) => shown.push(format!("{error} {error:?}")),
                }
                armed.end();
            }
        }
        // Every kind of wrong URL.
        for url in [
            format!("redis://:{CANARY}x@{host}"),
            format!("redis://nobody:{CANARY}@{host}"),
            format!("redis://:{CANARY}@127.0.0.1:1"),
            format!("redis://:{CANARY}@{host}/nonumber"),
            format!("redis://:{CANARY}@{host}?prefixx=1"),
            format!("redis://:{CANARY}@{host}?allow_eviction={CANARY}")
                .replace(&format!("={CANARY}"), "=perhaps"),
            format!("redis://user:12/{CANARY}@{host}/0"),
            format!("redis://user:pa:{CANARY}@{host}/0"),
            format!("redis://user:p@{CANARY}@{host}/0"),
            format!("redis://us/er:{CANARY}@{host}/0"),
            format!("redis://user:{CANARY}%zz@{host}/0"),
            format!("redis://{host}?password={CANARY}"),
            format!("redis:{CANARY}@{host}"),
            format!("redis+sentinel://user:12/{CANARY}@{host}/primary"),
            format!("redis+unix:///nowhere?password={CANARY}"),
            format!("redis+unix:///nowhere?password={CANARY}&password={CANARY}"),
        ] {
            let error = Locks::connect(&url).await.expect_err("wrong");
            shown.push(format!("{error} {error:?}"));
        }
        shown
    });
    logs.and_texts_hide(CANARY, &shown);
}

#[test]
fn a_replica_a_cluster_node_and_a_sentinel_are_refused_with_what_to_write() {
    run(async {
        let primary = Redis::start().expect("a server");
        let follow = format!("127.0.0.1 {}", primary.port());
        let replica = Redis::options().setting("replicaof", &follow).start().expect("a server");
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
        let follow = format!("127.0.0.1 {}", always.port());
        let _replica = Redis::options().setting("replicaof", &follow).start().expect("a server");
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

#[test]
fn a_user_with_the_rights_of_the_readme_can_do_everything() {
    run(async {
        let (needed, more) = rights();
        let rights = format!("{needed} {more}");
        for options in [Redis::options(), Redis::options().valkey()] {
            let redis = options.acl("shop", "pw", &rights).start().expect("a server");
            everything_works(&redis).await;
        }
    });
}

async fn everything_works(redis: &Redis) {
    let url = with(&redis.url_as("shop", "pw"), "prefix=shop:");
    let (locks, other) = (client(&url).await, client(&url).await);
    assert_eq!(locks.guarantees().tier, Tier::RestartSafe);
    for lock in ["job", "a{b}c", "}{", "*?[x]"] {
        let mut changes = other.observe(lock).expect("a name");
        assert_eq!(within(soon(), changes.next()).await, Some(leasehold::Change::Unlocked));
        let guard = locks.lock(lock).label("label").acquire().await.expect("granted");
        assert!(matches!(within(soon(), changes.next()).await, Some(leasehold::Change::Locked { .. })));
        guard.extend(LONG * 2).await.expect("extended");
        let waiting = waiting(other.lock(lock));
        waiters(&locks, lock, 1).await;
        assert_eq!(locks.list("").await.expect("answered").len(), 1);
        guard.release().await.expect("released");
        let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
        assert!(!locks.break_lock(lock).await.expect("answered").is_empty());
        assert_eq!(within(soon(), guard.lost()).await, leasehold::Lost::Taken);
    }
    let denied = tell(redis, &["acl", "log"]);
    // The driver's `CLIENT SETINFO` is not needed.
    assert!(!denied.contains("evalsha") && !denied.contains("subscribe"), "{denied}");
}

#[test]
fn a_user_without_info_gets_the_advisory_tier() {
    run(async {
        let redis = Redis::options().acl("shop", "pw", &rights().0).start().expect("a server");
        let url = with(&redis.url_as("shop", "pw"), "prefix=shop:");
        let storage = bare(&url).await;
        assert_eq!(storage.guarantees().tier, Tier::Advisory);
        let mine = claim("job");
        take(&storage, &mine).await;
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        // The user has no rights for another prefix.
        let error = acquire(&bare(&redis.url_as("shop", "pw")).await, &mine).await.expect_err("forbidden");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("may not"), "{error}");
    });
}

#[test]
fn every_right_of_the_readme_is_needed() {
    let scripts = [
        include_str!("../../src/storage/redis/common.lua"),
        include_str!("../../src/storage/redis/acquire.lua"),
        include_str!("../../src/storage/redis/renew.lua"),
        include_str!("../../src/storage/redis/release.lua"),
        include_str!("../../src/storage/redis/inspect.lua"),
    ]
    .concat();
    let outside = ["hello", "auth", "select", "ping", "time", "eval", "evalsha", "subscribe", "scan"];
    let rights = rights().0;
    let commands: Vec<_> = rights.split(' ').filter_map(|right| right.strip_prefix('+')).collect();
    for command in &commands {
        let called = scripts.contains(&format!("'{}'", command.to_uppercase()));
        assert!(outside.contains(command) || called, "no script calls {command}");
    }
}

#[test]
fn hostile_names_and_labels_make_no_keys_but_their_own() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&with(&redis.url(), "prefix=shop:")).await;
        let names = [
            "'",
            "\"",
            "\\",
            "\r\nFLUSHALL\r\n",
            "*1\r\n$8\r\nFLUSHALL\r\n",
            "]] redis.call('FLUSHALL') --",
            "' .. redis.call('FLUSHALL') .. '",
            "%s%n%d",
            "*",
            "?",
            "[a-z]",
            "{",
            "}",
            "{}",
            "}{",
            "a{b}c",
            "shop:job",
            "leasehold:0123456789abcdef",
            "\u{1}",
            "\u{7f}",
            "é",
            "日本",
            "🔒",
            "a b",
            "a\tb",
        ];
        tell(&redis, &["set", "canary", "1"]);
        let mut guards = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let label = names[names.len() - 1 - i];
            let guard = within(LONG, locks.lock(name).label(label).acquire()).await.expect("granted");
            let holder = locks.inspect(name).await.expect("answered").pop().expect("held");
            assert_eq!((holder.name.as_str(), holder.label.as_deref()), (*name, Some(label)));
            guards.push(guard);
        }
        assert_eq!(locks.list("").await.expect("answered").len(), names.len());
        let count: usize = tell(&redis, &["dbsize"]).parse().expect("a number");
        assert_eq!(count, 1 + 2 * names.len(), "the lock and its record");
        for guard in guards {
            guard.release().await.expect("released");
        }
        assert_eq!(tell(&redis, &["dbsize"]), (1 + names.len()).to_string());
        assert_eq!(tell(&redis, &["get", "canary"]), "1");
    });
}

#[test]
fn a_key_of_another_type_is_named() {
    run(async {
        let redis = Redis::start().expect("a server");
        let storage = bare(&with(&redis.url(), "prefix=shop:")).await;
        for (command, kind) in [
            (&["hset", "shop:job", "id", "1"][..], "hash"),
            (&["rpush", "shop:job", "1"], "list"),
            (&["zadd", "shop:job", "1", "1"], "zset"),
        ] {
            tell(&redis, command);
            for error in [
                acquire(&storage, &claim("job")).await.expect_err("not a lock"),
                storage.inspect(&name("job")).await.expect_err("not a lock"),
            ] {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(&format!("type=`{kind}`")), "{error}");
            }
            tell(&redis, &["del", "shop:job"]);
        }
        take(&storage, &claim("job")).await;
    });
}

#[test]
fn a_lock_of_another_library_is_respected_whatever_its_value_is() {
    run(async {
        let redis = Redis::start().expect("a server");
        let storage = bare(&with(&redis.url(), "prefix=shop:")).await;
        for value in ["", "0", "7", "a b", "00000000000000000000000000000000"] {
            tell(&redis, &["set", "shop:job", value, "px", "60000"]);
            let mine = claim("job").wait(true);
            // First without an entry of this waiter, then with one.
            for _ in 0..2 {
                is_held(&storage, &mine).await;
                let holder = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
                assert_eq!(holder.token, leasehold::Token::new(0), "{value}");
                assert_eq!(
                    renew(&storage, &mine).await.expect("answered"),
                    leasehold::storage::RenewReply::NotHeld
                );
            }
            let theirs = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            let breaking = leasehold::storage::Claim::new(name("job"), theirs.owner, LONG);
            assert_eq!(release(&storage, &breaking).await.expect("answered"), ReleaseReply::Released);
            take(&storage, &mine).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        }
    });
}

#[test]
fn over_tls_only_a_server_with_a_valid_certificate_is_trusted() {
    run(async {
        let redis = Redis::options().tls().start().expect("a server");
        let tls = redis.tls().expect("certificates").clone();
        let ca = format!("ca={}", tls.ca().display());
        let trusting = with(&redis.url(), &ca);
        works(&trusting).await;
        works(&trusting.replace("127.0.0.1", "localhost")).await;
        let refuses = async |url: String, what: &str| {
            let error = refusal(&url).await;
            assert!(
                [ErrorKind::Unavailable, ErrorKind::Invalid, ErrorKind::Unsupported].contains(&error.kind())
            );
            assert!(error.to_string().contains(what), "{what}: {error}");
        };
        refuses(redis.url(), "").await;
        let stranger = Redis::options().tls().start().expect("a server");
        let other = format!("ca={}", stranger.tls().expect("certificates").ca().display());
        refuses(with(&redis.url(), &other), "certificate").await;
        works(&with(&redis.url(), "insecure=true")).await;
        // Plain text to a TLS port, and TLS to a plain port.
        refuses(redis.url().replace("rediss", "redis"), "").await;
        refuses(with(&common().url().replace("redis:", "rediss:"), &ca), "").await;
        refuses(with(&redis.url(), "ca=/nowhere.pem"), "ca").await;
        for (file, what) in [("expired", "xpired"), ("wronghost", "certificate")] {
            let path = tls.server_cert().with_file_name(format!("{file}.crt"));
            tell(&redis, &["config", "set", "tls-cert-file", &path.display().to_string()]);
            refuses(trusting.clone(), what).await;
            // The certificate must be reset by a client that trusts every server.
            let reset = tls.server_cert().display().to_string();
            let port = redis.port().to_string();
            let back = ["-p", &port, "--tls", "--insecure", "config", "set", "tls-cert-file", &reset];
            let back = std::process::Command::new("redis-cli").args(back).output().expect("redis-cli");
            assert_eq!(String::from_utf8_lossy(&back.stdout).trim(), "OK");
        }
        works(&trusting).await;
    });
}

#[test]
fn a_server_that_requires_a_client_certificate_gets_one() {
    run(async {
        let redis = Redis::options().client_certificates().start().expect("a server");
        let tls = redis.tls().expect("certificates");
        let trusting = with(&redis.url(), &format!("ca={}", tls.ca().display()));
        assert_eq!(refusal(&trusting).await.kind(), ErrorKind::Unavailable);
        let half = with(&trusting, &format!("cert={}", tls.client_cert().display()));
        assert_eq!(refusal(&half).await.kind(), ErrorKind::Invalid);
        works(&with(&half, &format!("key={}", tls.client_key().display()))).await;
        let swapped = with(&half, &format!("key={}", tls.ca().display()));
        assert_eq!(refusal(&swapped).await.kind(), ErrorKind::Invalid);
    });
}

/// The server accepts the TCP connection and sends nothing.
#[test]
fn a_server_that_never_answers_is_given_up() {
    run(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("127.0.0.1:{}", silent.local_addr().expect("an address").port());
        let since = tokio::time::Instant::now();
        let (plain, tls) = (format!("redis://{url}"), format!("rediss://{url}"));
        let errors = futures_util::future::join(refusal(&plain), refusal(&tls)).await;
        for error in [errors.0, errors.1] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        assert!(since.elapsed() < time(6_000), "{:?}", since.elapsed());
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

#[test]
fn a_command_that_is_forbidden_within_a_script_is_no_reason_to_retry() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        for command in ["mget", "set", "del", "pexpire", "pttl"] {
            tell(&redis, &["acl", "setuser", "app", "reset", "on", ">word", "~*", "&*", "+@all"]);
            let storage = bare(&redis.url_as("app", "word")).await;
            let first = claim(&format!("held-{command}"));
            acquire(&storage, &first).await.expect("granted");
            tell(&redis, &["acl", "setuser", "app", &format!("-{command}")]);
            let mut errors = vec![acquire(&storage, &claim(command)).await.err()];
            errors.push(storage.renew(std::slice::from_ref(&first)).await.remove(0).err());
            errors.push(storage.release(std::slice::from_ref(&first)).await.remove(0).err());
            let errors: Vec<_> = errors.into_iter().flatten().collect();
            assert!(!errors.is_empty(), "{command} is not needed");
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{command}: {error}");
                assert!(error.to_string().contains("the user may not do that"), "{command}: {error}");
            }
        }
    });
}

#[test]
fn keys_of_another_type_beside_a_lock_do_not_fail_other_claims() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        let storage = bare(&redis.url()).await;
        let keep = |key: &str, row: &str| {
            let set = format!("redis.call('set', '{{leasehold:bad}}\\0{key}', '{row}')");
            tell(&redis, &["eval", &set, "0"]);
        };
        let both = |wait| [claim("bad").wait(wait), claim("good").wait(wait)];
        // The queue and the waiters are strings, and the record says that there may be waiters.
        let held = both(false);
        for answer in storage.acquire(&held).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        for key in ["q", "w"] {
            keep(key, "foreign");
        }
        let answers = storage.acquire(&both(true)).await;
        let error = answers[0].as_ref().expect_err("it cannot wait");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(matches!(answers[1], Ok(AcquireReply::Held { .. })), "{:?}", answers[1]);
        let listed = storage.list("", None, 10).await.expect("listed");
        assert_eq!(listed.len(), 2);
        for answer in storage.release(&held).await {
            assert_eq!(answer.expect("released"), ReleaseReply::Released);
        }
        // The record is not one of ours.
        keep("t", "foreign");
        for answer in storage.acquire(&[claim("bad"), claim("other")]).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
    });
}
