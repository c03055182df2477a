//! How a server is reached: addresses, users and passwords.

use leasehold::storage::Storage;
use leasehold::{ErrorKind, Locks};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};

use crate::tools::*;

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
