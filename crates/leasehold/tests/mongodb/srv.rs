//! `mongodb+srv:`: servers that DNS names, and answers of DNS that must not be followed.

use leasehold::storage::Storage as _;
use leasehold::{ErrorKind, Locks};
use leasehold_testbed::MongoDb;

use crate::dns::{A, Dns, SRV, TXT, in_own_network};
use crate::tools::*;

/// The name in the URL, that of its servers, and a host of its domain.
const NAME: &str = "set.locks.test";
const SERVICE: &str = "_mongodb._tcp.set.locks.test";
const HOST: &str = "db.locks.test";

/// Returns a URL of the name, without TLS.
fn url(options: &str) -> String {
    format!("mongodb+srv://{NAME}/leasehold?tls=false&serverSelectionTimeoutMS=1500&{options}")
}

/// Has two clients of different URLs lock in the same place, and hand a lock over.
async fn are_one_place(one: &str, other: &str) {
    let (locks, others) = (client(one).await, client(other).await);
    let guard = hold(&locks, "job", LONG).await;
    let next = waiting(others.lock("job"));
    waiters(&locks, "job", 1).await;
    let token = guard.token();
    guard.release().await.expect("released");
    let next = within(soon(), next).await.expect("no panic").expect("granted");
    assert!(next.token() > token);
    assert!(is_refused(&locks, "job").await);
    next.release().await.expect("released");
}

/// Returns `true` if another owner holds the lock.
async fn is_refused(locks: &Locks, lock: &str) -> bool {
    locks.lock(lock).try_acquire().await.expect("answered").is_none()
}

#[test]
fn a_name_leads_to_the_servers_and_its_text_to_their_set_and_users() {
    in_own_network("srv::a_name_leads_to_the_servers_and_its_text_to_their_set_and_users", |dns| {
        let server = MongoDb::options().password("s3cret").start().expect("a server");
        let unused = leasehold_testbed::Port::free().expect("a port");
        dns.server(SERVICE, HOST, server.port());
        dns.server(SERVICE, "down.locks.test", unused.number());
        dns.text(NAME, "authSource=admin&replicaSet=leasehold");
        run(async {
            let login = |url: &str| url.replace("//", "//leasehold:s3cret@");
            let by_name = login(&url(""));
            are_one_place(&by_name, &server.url()).await;
            assert!(dns.asked(SERVICE, SRV) > 0 && dns.asked(NAME, TXT) > 0 && dns.asked(HOST, A) > 0);
            let storage = bare(&by_name).await;
            assert_eq!(storage.to_string(), format!("mongodb+srv://{NAME}/leasehold"));
            assert!(storage.guarantees().push);
            // What the URL says has precedence over the text.
            let error = refusal(&login(&url("replicaSet=another"))).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            let error = refusal(&login(&url("authSource=another"))).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            // Servers of another service, and one of several.
            assert_eq!(refusal(&login(&url("srvServiceName=locks"))).await.kind(), ErrorKind::Unavailable);
            dns.remove_all();
            dns.server("_locks._tcp.set.locks.test", HOST, server.port());
            works(&login(&url("srvServiceName=locks&authSource=admin&srvMaxHosts=1"))).await;
        });
    });
}

#[test]
fn a_name_implies_tls() {
    in_own_network("srv::a_name_implies_tls", |dns| {
        let (server, plain) = (MongoDb::options().tls(), MongoDb::options());
        let (server, plain) = (server.start().expect("a server"), plain.start().expect("a server"));
        let tls = server.tls().expect("certificates");
        let implied =
            format!("mongodb+srv://{NAME}/?tlsCAFile={}&serverSelectionTimeoutMS=1500", tls.ca().display());
        run(async {
            dns.server(SERVICE, HOST, server.port());
            works(&implied).await;
            // The certificate must be that of the host to which the name leads.
            dns.remove_all();
            dns.server(SERVICE, "elsewhere.locks.test", server.port());
            let error = refusal(&implied).await;
            assert!(error.to_string().contains("TLS"), "{error}");
            works(&with(&implied, "tlsAllowInvalidCertificates=true")).await;
            dns.remove_all();
            dns.server(SERVICE, HOST, plain.port());
            let error = refusal(&implied).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            works(&url("")).await;
        });
    });
}

/// Connects, which must fail because of the answers of DNS.
async fn is_not_resolved(what: &str) {
    let error = refusal(&url("")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
    assert!(error.to_string().contains("cannot be resolved"), "{what}: {error}");
}

#[test]
fn answers_that_a_name_must_not_give_are_not_followed() {
    in_own_network("srv::answers_that_a_name_must_not_give_are_not_followed", |dns| {
        let server = MongoDb::start().expect("a server");
        let right = |dns: &Dns| {
            dns.remove_all();
            dns.server(SERVICE, HOST, server.port());
        };
        run(async {
            is_not_resolved("no records").await;
            // Servers of another domain, alone and beside the right one. They are not connected to.
            for (domain, beside) in [("evil.test", false), ("locks.test.evil", false), ("evil.test", true)] {
                dns.remove_all();
                let host = format!("db.{domain}");
                dns.server(SERVICE, &host, server.port());
                if beside {
                    dns.server(SERVICE, HOST, server.port());
                }
                is_not_resolved(domain).await;
                assert_eq!(dns.asked(&host, A), 0, "{domain}");
            }
            // A text may only name the set and the users, and there may be one.
            for text in ["tls=false", "readPreference=secondary&replicaSet=leasehold", "replicaSet", "="] {
                right(dns);
                dns.text(NAME, text);
                is_not_resolved(text).await;
            }
            right(dns);
            dns.text(NAME, "replicaSet=leasehold");
            dns.text(NAME, "authSource=admin");
            is_not_resolved("two texts").await;
            // A host without an address.
            dns.remove_all();
            dns.foreign_server(SERVICE, HOST, server.port());
            let error = refusal(&url("")).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            // None of this is kept.
            right(dns);
            are_one_place(&url(""), &server.url()).await;
        });
    });
}

#[test]
fn a_dns_server_that_falls_silent_is_waited_for_with_a_limit_and_ends_no_hold() {
    in_own_network(
        "srv::a_dns_server_that_falls_silent_is_waited_for_with_a_limit_and_ends_no_hold",
        |dns| {
            let server = MongoDb::start().expect("a server");
            dns.server(SERVICE, HOST, server.port());
            run(async {
                let locks = client(&url("")).await;
                let guard = hold(&locks, "job", time(3_000)).await;
                dns.be_silent(true);
                let since = tokio::time::Instant::now();
                let error = Locks::connect(&url("")).await.expect_err("no answer");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                // Connecting has ten seconds.
                assert!(since.elapsed() < time(11_000), "{:?}", since.elapsed());
                // That was longer than the TTL, and the servers are known.
                assert!(guard.is_held());
                guard.verify().await.expect("held");
                dns.be_silent(false);
                let next = client(&url("")).await;
                assert!(is_refused(&next, "job").await);
                guard.release().await.expect("released");
            });
        },
    );
}
