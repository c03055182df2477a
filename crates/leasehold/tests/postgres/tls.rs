//! Encryption and certificates: `sslmode` and the other options of TLS.

use leasehold::ErrorKind;
use leasehold_testbed::{Postgres, Result, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::tools::*;

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Returns the URL without its options.
fn blank(postgres: &Postgres) -> String {
    postgres.url().split('?').next().expect("a place").to_owned()
}

fn ca(postgres: &Postgres) -> String {
    format!("sslrootcert={}", postgres.tls().expect("it has certificates").ca().display())
}

/// Returns the version of TLS that the connection of that name uses, or an empty text.
fn version(postgres: &Postgres, application: &str) -> String {
    let sql = "select coalesce(s.version, '') from pg_stat_ssl s join pg_stat_activity a using (pid)";
    postgres.sql(&format!("{sql} where a.application_name = '{application}' limit 1")).expect("answered")
}

#[test]
fn every_mode_means_what_libpq_means_by_it() {
    run(async {
        // A server that requires TLS, and one without it.
        let postgres = Postgres::options().tls().start().expect("a server");
        let trusted = ca(&postgres);
        for mode in MODES {
            let url = with(&blank(&postgres), &format!("sslmode={mode}&{trusted}&application_name={mode}"));
            if mode == "disable" {
                let error = refusal(&url).await;
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert!(error.to_string().contains("no encryption"), "{error}");
                continue;
            }
            let _open = bare(&url).await;
            assert_eq!(version(&postgres, mode), "TLSv1.3", "{mode}");
        }
        let url =
            with(&blank(&postgres), "sslmode=require&ssl_max_protocol_version=TLSv1.2&application_name=old");
        let _open = bare(&url).await;
        assert_eq!(version(&postgres, "old"), "TLSv1.2");

        let plain = Postgres::start().expect("a server");
        for mode in MODES {
            let url = with(&blank(&plain), &format!("sslmode={mode}&{trusted}&application_name={mode}"));
            if matches!(mode, "disable" | "allow" | "prefer") {
                let _open = bare(&url).await;
                assert_eq!(version(&plain, mode), "", "{mode}");
            } else {
                let error = refusal(&url).await;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(error.to_string().contains("has no TLS"), "{error}");
            }
        }
    });
}

#[test]
fn a_server_that_refuses_tls_is_used_without_it_unless_it_is_required() {
    run(async {
        let postgres = Postgres::options().tls().start().expect("a server");
        let trusted = ca(&postgres);
        let url = |mode: &str| with(&blank(&postgres), &format!("sslmode={mode}&{trusted}"));
        allow(&postgres, &["hostnossl all all all trust"]);
        for mode in ["disable", "allow", "prefer"] {
            bare(&url(mode)).await;
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = refusal(&url(mode)).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("pg_hba.conf"), "{error}");
        }
    });
}

#[test]
fn untrusted_certificates_are_refused() {
    run(async {
        let postgres = Postgres::options().tls().start().expect("a server");
        let tls = postgres.tls().expect("it has certificates");
        let own = format!("sslrootcert={}", tls.server_cert().display());
        let other = format!("sslrootcert={}", tls.other_ca().display());
        type Change = fn(&Tls) -> Result<()>;
        // The change of the certificates, the authority, the mode, and the complaint.
        let cases: [(Change, String, &str, Option<&str>); 17] = [
            (Tls::use_expired, ca(&postgres), "verify-full", Some("Expired")),
            (Tls::use_expired, ca(&postgres), "verify-ca", Some("Expired")),
            (Tls::use_expired, ca(&postgres), "require", Some("Expired")),
            (Tls::use_expired, ca(&postgres), "prefer", Some("Expired")),
            (Tls::use_wrong_host, ca(&postgres), "verify-full", Some("not valid for name")),
            (Tls::use_wrong_host, ca(&postgres), "verify-ca", None),
            (Tls::use_self_signed, ca(&postgres), "verify-full", Some("invalid peer certificate")),
            (Tls::use_self_signed, ca(&postgres), "verify-ca", Some("invalid peer certificate")),
            (Tls::use_self_signed, "sslsni=1".into(), "verify-full", Some("invalid peer certificate")),
            (Tls::use_self_signed, "sslsni=1".into(), "require", None),
            // A self-signed certificate, as in PostgreSQL's documentation: the client has a copy.
            (Tls::use_self_signed, own, "verify-full", None),
            (Tls::use_unknown_authority, ca(&postgres), "verify-full", Some("UnknownIssuer")),
            (Tls::use_unknown_authority, ca(&postgres), "verify-ca", Some("UnknownIssuer")),
            (Tls::use_unknown_authority, ca(&postgres), "require", Some("UnknownIssuer")),
            (Tls::use_unknown_authority, "sslrootcert=system".into(), "verify-full", Some("UnknownIssuer")),
            (Tls::use_unknown_authority, other, "verify-full", None),
            (Tls::use_trusted, ca(&postgres), "verify-full", None),
        ];
        for (change, trusted, mode, complaint) in cases {
            change(tls).expect("changed");
            postgres.launch().expect("started");
            let url = with(&blank(&postgres), &format!("sslmode={mode}&{trusted}"));
            let outcome = within(LONG, async {
                loop {
                    match try_bare(&url).await {
                        // The server has not started yet.
                        Err(error) if error.to_string().contains("refused") => tokio::task::yield_now().await,
                        Err(error) if error.to_string().contains("57P03") => tokio::task::yield_now().await,
                        outcome => return outcome.map(drop),
                    }
                }
            });
            match (outcome.await, complaint) {
                (Ok(()), None) => {}
                (Err(error), Some(complaint)) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(error.to_string().contains("no TLS with the server"), "{error}");
                    assert!(error.to_string().contains(complaint), "{trusted} {mode}: {error}");
                }
                (outcome, _) => panic!("{trusted} {mode}: {outcome:?}, not {complaint:?}"),
            }
        }
    });
}

#[test]
fn a_server_with_an_old_tls_is_not_used_even_without_tls() {
    run(async {
        let postgres = Postgres::options().tls().start().expect("a server");
        let trusted = ca(&postgres);
        // A login without TLS would be accepted.
        allow(&postgres, &["host all all all trust"]);
        postgres.set("ssl_min_protocol_version", "TLSv1").expect("set");
        postgres.set("ssl_max_protocol_version", "TLSv1").expect("set");
        for mode in ["prefer", "require", "verify-full"] {
            let url = with(&blank(&postgres), &format!("sslmode={mode}&{trusted}"));
            let error = within(LONG, async {
                loop {
                    match try_bare(&url).await {
                        // The server has not read its settings yet.
                        Ok(_) => tokio::task::yield_now().await,
                        Err(error) => return error,
                    }
                }
            });
            let error = error.await;
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("no TLS with the server"), "{mode}: {error}");
        }
    });
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it() {
    run(async {
        let options = Postgres::options().client_certificates();
        for options in [options.clone().setting("ssl_max_protocol_version", "TLSv1.2"), options] {
            let postgres = options.start().expect("a server");
            let tls = postgres.tls().expect("it has certificates");
            let directory = tempfile::tempdir().expect("a directory");
            let key = private(&directory, "key", std::fs::read(tls.client_key()).expect("read"));
            let url = with(&postgres.url(), &ca(&postgres));
            let cert = |cert: std::path::PathBuf| {
                with(&url, &format!("sslcert={}&sslkey={}", cert.display(), key.display()))
            };
            bare(&cert(tls.client_cert())).await;
            for (url, complaint) in [
                (url.clone(), "certificate"),
                (with(&cert(tls.client_cert()), "sslcertmode=disable"), "certificate"),
                (cert(tls.stranger_cert()), "alert"),
            ] {
                let error = refusal(&url).await;
                assert!(error.to_string().contains(complaint), "{error}");
            }
            // An error of the URL is found without a connection.
            let half = with(&url, &format!("sslcert={}", tls.client_cert().display()));
            let other = with(&half, &format!("sslkey={}", tls.server_cert().display()));
            for url in [half, other, cert("/nowhere".into())] {
                assert_eq!(refusal(&url).await.kind(), ErrorKind::Invalid);
            }
            let loose = directory.path().join("loose");
            std::fs::copy(&key, &loose).expect("copied");
            share(&loose, 0o644);
            let loose = format!("sslcert={}&sslkey={}", tls.client_cert().display(), loose.display());
            let error = refusal(&with(&url, &loose)).await;
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    });
}

#[test]
fn a_plain_connection_to_another_machine_is_logged_once() {
    let logs = crate::net::logs::Logs::of_all();
    run(async {
        // Nothing is sent: this finds the address by which the machine would reach the network.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let out = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
        let Ok(own) = out.map(|address| address.ip()).map(|ip| (!ip.is_loopback()).then_some(ip)) else {
            return;
        };
        let Some(own) = own else { return };
        let postgres = Postgres::options().setting("listen_addresses", "*").start().expect("a server");
        allow(&postgres, &["host all all all trust"]);
        let url = postgres.url().replace("127.0.0.1", &own.to_string());
        let count = |text: &str| logs.lines().iter().filter(|line| line.contains(text)).count();
        let line = format!("{own}:{}", postgres.port());
        bare(&with(&url, "sslmode=disable")).await;
        bare(&postgres.url()).await;
        assert_eq!(count(&line), 0);
        bare(&url).await;
        assert_eq!(count(&line), 1);
        assert_eq!(count("not encrypted"), 1);
    });
}

/// Starts a proxy that answers the request for TLS with `answer`, and passes everything else on to the server.
async fn tls_stripping_proxy(answer: &'static [u8], port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                let mut first = [0; 8];
                client.read_exact(&mut first).await?;
                if first == [0, 0, 0, 8, 4, 210, 22, 47] {
                    client.write_all(answer).await?;
                } else {
                    server.write_all(&first).await?;
                }
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    own
}

#[test]
fn a_server_that_denies_tls_does_not_get_the_login_in_plain() {
    run(async {
        let postgres = Postgres::options().tls().password("s3cret").start().expect("a server");
        allow(&postgres, &["host all all all scram-sha-256"]);
        let trusted = ca(&postgres);
        let error = b"E\0\0\0\x20SFATAL\0C28000\0MS3CRETLIE\0\0";
        for answer in [&b"N"[..], b"S", b"Sgarbage that is no TLS", error, b"X"] {
            let port = tls_stripping_proxy(answer, postgres.port()).await;
            let url = blank(&postgres).replace(&format!(":{}", postgres.port()), &format!(":{port}"));
            for mode in ["require", "verify-ca", "verify-full"] {
                let url = with(&url, &format!("sslmode={mode}&{trusted}"));
                let error = refusal(&url).await;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(!error.to_string().contains("S3CRETLIE"), "{error}");
            }
            let prefer = within(LONG, try_bare(&with(&url, "sslmode=prefer"))).await;
            // As in libpq: a server without TLS is used without it. A server with TLS that fails is not used.
            assert_eq!(prefer.is_ok(), answer == b"N", "{prefer:?}");
        }
    });
}

#[test]
fn direct_tls_needs_a_server_that_confirms_the_protocol() {
    run(async {
        // Servers before 17 reject it. Since then they confirm the protocol in the handshake.
        let postgres = Postgres::options().tls().start().expect("a server");
        let url = with(&postgres.url(), &format!("{}&sslnegotiation=direct", ca(&postgres)));
        let knows = postgres.sql("show server_version_num").expect("answered").as_str() >= "170000";
        match within(LONG, try_bare(&url)).await {
            Ok(_) => assert!(knows),
            Err(error) => {
                assert!(!knows);
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
    });
}
