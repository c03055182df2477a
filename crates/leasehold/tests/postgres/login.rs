//! How a client reaches a server and logs in.

use leasehold::storage::Storage as _;
use leasehold::{ErrorKind, Locks};
use leasehold_faultproxy::{Flow, Proxy, Which};
use leasehold_testbed::{PgBouncer, Postgres};

use crate::tools::*;

/// Returns the URL with other hosts.
fn hosts(url: &str, hosts: &str) -> String {
    let (before, rest) = url.split_once("127.0.0.1:").expect("a place");
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}{hosts}{after}")
}

/// Returns a port on which no server listens.
fn unused_port() -> u16 {
    // It is free again at once, and the system does not give it out again soon.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn a_unix_socket_can_be_written_in_every_way() {
    run(async {
        let postgres = Postgres::options().unix_socket().password("s3cret").start().expect("a server");
        let by_testbed = postgres.socket_url().expect("a socket");
        let directory = postgres.sql("show unix_socket_directories").expect("answered");
        let (port, encoded) = (postgres.port(), directory.replace('/', "%2F"));
        for url in [
            by_testbed,
            format!("postgres://leasehold:s3cret@{encoded}:{port}/leasehold"),
            format!("postgres://leasehold:s3cret@/leasehold?host={directory}&port={port}"),
            format!("postgresql:///leasehold?host={encoded}&port={port}&user=leasehold&password=s3cret"),
            // A socket uses no TLS, whatever the mode.
            format!("postgres://leasehold:s3cret@{encoded}:{port}/leasehold?sslmode=verify-full"),
            // A socket that does not exist, and a server.
            format!("postgres://leasehold:s3cret@%2Fnowhere,127.0.0.1:{port}/leasehold?port={port}")
                .replace(&format!(":{port}/"), "/"),
        ] {
            let storage = bare(&url).await;
            let shown = format!("{storage} {storage:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        let nowhere = format!("postgres://leasehold@%2Fnowhere:{port}/leasehold");
        let error = refusal(&nowhere).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("server=`%2Fnowhere"), "{error}");
    });
}

#[test]
fn without_a_host_the_default_socket_is_used() {
    run(async {
        let postgres =
            Postgres::options().setting("unix_socket_directories", "/tmp").start().expect("a server");
        let port = postgres.port();
        bare(&format!("postgres:///leasehold?user=leasehold&port={port}")).await;
        let url = format!("postgres:///?port={}&user=leasehold", unused_port());
        assert_eq!(refusal(&url).await.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn the_first_host_that_answers_is_used_and_the_others_cost_little() {
    run(async {
        let postgres = Postgres::start().expect("a server");
        let stopped = Postgres::start().expect("a server");
        stopped.stop();
        let hole = Proxy::start(format!("127.0.0.1:{}", postgres.port())).await.expect("a proxy");
        hole.faults().flow_both(Which::All, Flow::BlackHole);
        let (port, unused) = (postgres.port(), unused_port());
        let firsts = [
            format!("127.0.0.1:{unused}"),
            format!("127.0.0.1:{}", stopped.port()),
            hole.addr().to_string(),
            "nowhere.invalid".to_owned(),
            // A network that is for documentation: no host answers there.
            "198.51.100.1:5432".to_owned(),
        ];
        for first in &firsts {
            let url = hosts(&postgres.url(), &format!("{first},127.0.0.1:{port}"));
            bare(&with(&url, "connect_timeout=6")).await;
        }
        // All of them before the server, and all of them alone.
        let all = firsts.join(",");
        bare(&with(&hosts(&postgres.url(), &format!("{all},127.0.0.1:{port}")), "connect_timeout=12")).await;
        let none = with(&hosts(&postgres.url(), &all), "connect_timeout=2");
        let error = within(time(4_000), refusal(&none)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        // A name with two addresses, of which one answers; and an address instead of resolving the name.
        bare(&hosts(&postgres.url(), &format!("localhost:{port}"))).await;
        let url = hosts(&postgres.url(), &format!("nowhere.invalid:{port}"));
        bare(&with(&url, "hostaddr=127.0.0.1")).await;
        stopped.cont();
    });
}

#[test]
fn hosts_in_any_order_are_all_used() {
    run(async {
        let servers = [Postgres::start().expect("a server"), Postgres::start().expect("a server")];
        let list = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port())).join(",");
        let url = with(&hosts(&servers[0].url(), &list), "load_balance_hosts=random");
        let mut open = Vec::new();
        // The chance that one is never first is that of a coin that falls the same way so often.
        for _ in 0..40 {
            open.push(bare(&url).await);
            if servers.iter().all(|server| server.connections().expect("answered") > 0) {
                return;
            }
        }
        panic!("one server is never asked");
    });
}

#[test]
fn a_login_that_is_refused_says_why() {
    run(async {
        let postgres = Postgres::options().password("s3cret").start().expect("a server");
        let place = format!("127.0.0.1:{}", postgres.port());
        postgres.user("app", "pw").expect("made");
        postgres.sql("create database closed").expect("made");
        postgres.sql("revoke connect on database closed from public").expect("revoked");
        for (url, said) in [
            (format!("postgres://leasehold:wrong@{place}/leasehold"), "refuses the user or the password"),
            (format!("postgres://stranger:s3cret@{place}/leasehold"), "refuses the user or the password"),
            (
                format!("postgres://leasehold@{place}/leasehold?passfile=/dev/null"),
                "password file is no file",
            ),
            (format!("postgres://leasehold:s3cret@{place}/nowhere"), "no such database"),
            (format!("postgres://leasehold:s3cret@{place}/leasehold?options=-c%20nonsense%3D1"), "`options`"),
            (
                format!("postgres://leasehold:s3cret@{place}/leasehold?channel_binding=require"),
                "channel_binding",
            ),
            (format!("postgres://app:pw@{place}/closed"), "grant it CONNECT"),
        ] {
            let error = refusal(&url).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(said), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
        // With several hosts the error says what is wrong, but a host that does not answer now may accept the login later.
        let url = format!("postgres://leasehold:wrong@127.0.0.1:{},{place}/leasehold", unused_port());
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("refuses the user or the password"), "{error}");

        postgres.limit_connections_of("app", 0).expect("limited");
        let error = refusal(&format!("postgres://app:pw@{place}/leasehold")).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("no connection left"), "{error}");
        postgres.kill9();
        let error = refusal(&postgres.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("no connection to the server"), "{error}");
    });
}

#[test]
fn every_kind_of_password_is_supported() {
    run(async {
        let postgres = Postgres::options().tls().password("s3cret").start().expect("a server");
        let ca = format!("sslrootcert={}", postgres.tls().expect("it has certificates").ca().display());
        let url = with(&postgres.url(), &ca);
        bare(&with(&url, "channel_binding=require")).await;
        bare(&with(&url, "channel_binding=disable")).await;
        for (encryption, method) in [("scram-sha-256", "password"), ("md5", "md5")] {
            let sql =
                format!("set password_encryption = '{encryption}'; alter role leasehold password 's3cret'");
            postgres.sql(&sql).expect("changed");
            allow(&postgres, &[&format!("host all all all {method}")]);
            bare(&url).await;
            let error = refusal(&url.replace("s3cret", "wrong")).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            // Such a login does not prove that the server knows the password.
            let error = refusal(&with(&url, "channel_binding=require")).await;
            assert!(error.to_string().contains("channel_binding=require"), "{error}");
        }
    });
}

#[test]
fn the_password_file_is_read_as_libpq_reads_it() {
    run(async {
        let postgres = Postgres::options().password("s3:cr\\et").start().expect("a server");
        let (directory, port) = (tempfile::tempdir().expect("a directory"), postgres.port());
        let text = format!(
            "# comment\n*:1:*:*:no\n127.0.0.1:{port}:leasehold:leasehold:s3\\:cr\\\\et\n*:*:*:*:no\n"
        );
        let file = private(&directory, "pass file", text);
        let shown = file.display().to_string().replace(' ', "%20");
        let url = format!("postgres://leasehold@127.0.0.1:{port}/leasehold?passfile={shown}");
        bare(&url).await;
        // The password of the URL comes first.
        let error = refusal(&url.replace("leasehold@", "leasehold:wrong@")).await;
        assert!(error.to_string().contains("refuses the user or the password"), "{error}");
        // The file is read again for each connection.
        std::fs::write(&file, "*:*:*:leasehold:old").expect("written");
        assert_eq!(refusal(&url).await.kind(), ErrorKind::Invalid);
        std::fs::write(&file, "nothing").expect("written");
        let error = refusal(&url).await;
        assert!(error.to_string().contains("asks for a password"), "{error}");
        share(&file, 0o640);
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        let error = refusal(&url.replace("pass%20file", "nowhere")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    });
}

#[test]
fn the_server_sees_the_application_name() {
    run(async {
        let postgres = Postgres::start().expect("a server");
        let asked = |column: &str| {
            let sql = format!("select distinct {column} from pg_stat_activity where datname = 'leasehold'");
            postgres.sql(&format!("{sql} and application_name <> 'psql'")).expect("answered")
        };
        let first = bare(&postgres.url()).await;
        assert_eq!(asked("application_name"), "leasehold");
        drop(first);
        until("it to be gone", || match postgres.connections()? {
            0 => Ok(()),
            n => Err(leasehold_testbed::Error::new(format!("{n} connections"))),
        });
        let _second = bare(&with(&postgres.url(), "fallback_application_name=a")).await;
        assert_eq!(asked("application_name"), "a");
        let _third = bare(&with(&postgres.url(), "fallback_application_name=a&application_name=b")).await;
        assert_eq!(asked("application_name").lines().last(), Some("b"));
    });
}

#[test]
fn a_login_through_a_pooler_succeeds_or_says_why_not() {
    run(async {
        let postgres = Postgres::start().expect("a server");
        let pooler = PgBouncer::start(&postgres).expect("a pooler");
        // A pooler is recognized by the process id that it gives for canceling; then there are no notifications.
        assert!(!bare(&pooler.url()).await.guarantees().push);
        assert!(bare(&postgres.url()).await.guarantees().push);
        let error = refusal(&pooler.url_of("nowhere")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let error = refusal(&with(&pooler.url(), "options=-c%20geqo%3Doff")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("startup parameter"), "{error}");
    });
}

#[test]
fn no_password_is_shown_anywhere() {
    const CANARY: &str = "S3CRETCANARY";
    let logs = crate::net::logs::Logs::of_all();
    let shown = run(async {
        let postgres = Postgres::options().password(CANARY).start().expect("a server");
        let place = format!("127.0.0.1:{}", postgres.port());
        let mut shown = Vec::new();
        let config = leasehold::storage::postgres::Config::new(&postgres.url());
        let storage = bare(&postgres.url()).await;
        shown.push(format!("{storage} {storage:?} {config:?} {config:#?}"));
        let locks = Locks::connect(&postgres.url()).await.expect("connected");
        let guard = locks.lock("job").acquire().await.expect("granted");
        shown.push(format!("{locks:?} {guard:?} {:?} {:?}", locks.inspect("job").await, guard.ticket()));
        guard.release().await.expect("released");
        // A server that repeats the password in its errors.
        let repeats = format!("password authentication failed for {CANARY} with '{CANARY}'\nand `{CANARY}`");
        for code in ["28P01", "28000", "3D000", "08P01", "XX000", CANARY] {
            let port = fake_server(code, repeats.clone()).await;
            let error = refusal(&format!("postgres://u:{CANARY}@127.0.0.1:{port}/db")).await;
            shown.push(format!("{error} {error:?}"));
        }
        // URLs that are wrong, and logins that fail.
        for url in [
            format!("postgres://leasehold:{CANARY}x@{place}/leasehold"),
            format!("postgres://stranger:{CANARY}@{place}/leasehold"),
            format!("postgres://u:{CANARY}@127.0.0.1:1/db"),
            format!("postgres://u:{CANARY}@nowhere.invalid/db"),
            format!("postgres://leasehold:{CANARY}@{place}/nowhere"),
            format!("postgres://leasehold:{CANARY}@{place}/leasehold?sslmode=require"),
            format!("postgres://leasehold:{CANARY}@{place}/leasehold?channel_binding=require"),
            format!("postgres://leasehold:{CANARY}@{place}/leasehold?sslmode=perhaps"),
            format!("postgres://leasehold:{CANARY}@{place}/leasehold?password={CANARY}x"),
            format!("postgres://leasehold:{CANARY}@{place}/leasehold?passwordx={CANARY}")
                .replace(&format!("x={CANARY}"), "x=1"),
            format!("postgres://leasehold:12/{CANARY}@{place}/leasehold"),
            format!("postgres://leasehold:12?{CANARY}@{place}/leasehold"),
            format!("postgres://leasehold:pa:{CANARY}@{place}/leasehold"),
            format!("postgres://leasehold:p@{CANARY}@{place}/leasehold"),
            format!("postgres:{CANARY}@{place}"),
        ] {
            let error = Locks::connect(&url).await.expect_err("wrong");
            shown.push(format!("{error} {error:?}"));
        }
        shown
    });
    logs.and_texts_hide(CANARY, &shown);
}

#[test]
fn a_server_that_is_no_postgresql_is_recognized_by_its_first_bytes() {
    run(async {
        let greetings = [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "-ERR unknown command\r\n",
            "R\x7f\x7f\x7f\x7f",
            "220 ready\r\n",
            "",
        ];
        for greeting in greetings {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    // Byte by byte, and then nothing more.
                    for byte in greeting.as_bytes() {
                        let _gone = tokio::io::AsyncWriteExt::write_all(&mut client, &[*byte]).await;
                        tokio::task::yield_now().await;
                    }
                    let _gone = tokio::io::AsyncReadExt::read(&mut client, &mut [0; 1024]).await;
                }
            });
            for mode in ["disable", "prefer", "require"] {
                let url = format!("postgres://u:p@127.0.0.1:{port}/db?sslmode={mode}");
                let error = refusal(&url).await;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                let is_recognized = !greeting.is_empty() && mode == "disable";
                assert!(!is_recognized || error.to_string().contains("no PostgreSQL"), "{greeting}: {error}");
            }
        }
    });
}

/// Starts a server that has no TLS, asks for the password in plain, and then ends with an error.
async fn fake_server(code: &str, message: String) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0D{message}\0H{message}\0\0");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let talk = async {
                let mut asked = [0; 1024];
                while client.read(&mut asked).await? == 8 {
                    client.write_all(b"N").await?;
                }
                client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
                let _password = client.read(&mut asked).await?;
                client.write_all(b"E").await?;
                client.write_i32(i32::try_from(fields.len() + 4).expect("small")).await?;
                client.write_all(fields.as_bytes()).await
            };
            // The client has closed the connection.
            let _gone: std::io::Result<()> = talk.await;
        }
    });
    port
}
