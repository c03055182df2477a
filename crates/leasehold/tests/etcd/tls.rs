//! TLS: which servers are trusted.

use leasehold::ErrorKind;
use leasehold_testbed::{Etcd, Tls};

use crate::tools::*;

fn trusting(server: &Etcd) -> String {
    own(&with(&server.url(), &format!("ca={}", server.tls().expect("TLS").ca().display())))
}

#[test]
fn a_server_with_a_certificate_of_the_named_authority_is_trusted_and_others_are_not() {
    run(async {
        let server = Etcd::options().tls().password("pw").start().expect("a server");
        works(&trusting(&server)).await;
        works(&own(&with(&server.url(), "insecure=true"))).await;
        assert_eq!(refusal(&server.url()).await.kind(), ErrorKind::Unavailable, "the system's authorities");
        let other = server.tls().expect("TLS").other_ca();
        let error = refusal(&with(&server.url(), &format!("ca={}", other.display()))).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let missing = refusal(&with(&server.url(), "ca=/no/such/file")).await;
        assert_eq!(missing.kind(), ErrorKind::Invalid, "{missing}");
        let plain = server.url().replace("etcds:", "etcd:");
        assert_eq!(refusal(&plain).await.kind(), ErrorKind::Unavailable, "TLS is required");
    });
}

#[test]
fn a_server_that_requires_a_client_certificate_gets_one() {
    run(async {
        let server = Etcd::options().client_certificates().start().expect("a server");
        let (tls, trusting) = (server.tls().expect("TLS"), trusting(&server));
        assert_eq!(refusal(&trusting).await.kind(), ErrorKind::Unavailable);
        let half = with(&trusting, &format!("cert={}", tls.client_cert().display()));
        assert_eq!(refusal(&half).await.kind(), ErrorKind::Invalid);
        works(&with(&half, &format!("key={}", tls.client_key().display()))).await;
        // Its key is the client's, and its authority is another one.
        let key = format!("cert={}&key={}", tls.stranger_cert().display(), tls.client_key().display());
        assert_eq!(refusal(&with(&trusting, &key)).await.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn a_certificate_that_is_wrong_is_refused() {
    let server = Etcd::options().tls().start().expect("a server");
    for (uses, about) in [
        (Tls::use_expired as fn(&Tls) -> _, "expired"),
        (Tls::use_wrong_host, "of another host"),
        (Tls::use_self_signed, "self-signed"),
        (Tls::use_unknown_authority, "of another authority"),
    ] {
        uses(server.tls().expect("TLS")).expect("replaced");
        // Its own readiness is asked by `etcdctl`, which does not trust it either.
        server.kill9();
        server.launch().expect("started");
        until("it to listen", || {
            let tried = std::net::TcpStream::connect(("127.0.0.1", server.port()));
            tried.map(drop).map_err(|error| leasehold_testbed::Error::new(error.to_string()))
        });
        let error = run(refusal(&trusting(&server)));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{about}: {error}");
    }
    server.tls().expect("TLS").use_wrong_host().expect("replaced");
    server.kill9();
    server.launch().expect("started");
    run(async {
        let named = with(&trusting(&server), "server_name=elsewhere.example");
        answered(async || try_bare(&named).await.map(drop)).await;
    });
}
