//! Connections over TLS, and logins by a certificate.

use leasehold::ErrorKind;
use leasehold_faultproxy::{End, Proxy, Which};
use leasehold_testbed::{MongoDb, Tls};

use crate::tools::*;

fn ca(tls: &Tls) -> String {
    format!("tlsCAFile={}", tls.ca().display())
}

#[test]
fn over_tls_only_a_server_with_a_valid_certificate_is_trusted() {
    run(async {
        let server = MongoDb::options().tls().start().expect("a server");
        let tls = server.tls().expect("certificates");
        let quick = "serverSelectionTimeoutMS=1500";
        let trusting = with(&with(&server.url(), &ca(tls)), quick);
        works(&trusting).await;
        // A host by its name, where the certificate has that, too.
        works(
            &trusting
                .replace("127.0.0.1", "localhost")
                .replace("replicaSet=leasehold", "directConnection=true"),
        )
        .await;
        // Not with the system's authorities, nor with another one, nor with none.
        let untrusted = with(&with(&server.url(), &format!("tlsCAFile={}", tls.other_ca().display())), quick);
        let keys_only =
            with(&with(&server.url(), &format!("tlsCAFile={}", tls.client_key().display())), quick);
        for url in [with(&server.url(), quick), untrusted.clone(), keys_only] {
            let error = refusal(&url).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("TLS"), "{error}");
        }
        works(&with(&untrusted, "tlsAllowInvalidCertificates=true")).await;
        works(&with(&untrusted, "tlsInsecure=true")).await;
        // Plain text to a TLS port, and TLS to a plain port.
        let plain = trusting.replace("&tls=true", "").replace(&ca(tls), "x=").replace("&x=", "");
        let to_plain = with(&with(&common().url(), "tls=true"), &format!("{}&{quick}", ca(tls)));
        for url in [plain, to_plain] {
            let error = refusal(&url).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{url}: {error}");
            assert!(error.to_string().contains("TLS"), "{error}");
        }
    });
}

#[test]
fn files_that_cannot_be_used_are_said_at_once() {
    run(async {
        let server = MongoDb::options().tls().start().expect("a server");
        let tls = server.tls().expect("certificates");
        let trusting = with(&server.url(), &ca(tls));
        for file in ["tlsCAFile", "tlsCertificateKeyFile"] {
            let url = if file == "tlsCAFile" { server.url() } else { trusting.clone() };
            let error = refusal(&with(&url, &format!("{file}=/nowhere.pem"))).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{file}: {error}");
            assert!(error.to_string().contains("file"), "{file}: {error}");
        }
        // A key without a certificate, and a certificate without a key.
        for half in [tls.client_key(), tls.client_cert()] {
            let error = refusal(&with(&trusting, &format!("tlsCertificateKeyFile={}", half.display()))).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}: {error}", half.display());
        }
    });
}

#[test]
fn certificates_of_another_authority_or_for_another_host_are_not_trusted() {
    run(async {
        for replace in [Tls::use_unknown_authority, Tls::use_wrong_host] {
            let server = MongoDb::options().tls().start().expect("a server");
            let tls = server.tls().expect("certificates");
            let trusting = with(&with(&server.url(), &ca(tls)), "serverSelectionTimeoutMS=1500");
            works(&trusting).await;
            replace(tls).expect("replaced");
            tell(&server, "admin", doc! { "rotateCertificates": 1 });
            let error = refusal(&trusting).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("TLS"), "{error}");
            works(&with(&trusting, "tlsAllowInvalidCertificates=true")).await;
        }
    });
}

#[test]
fn a_certificate_is_a_login() {
    run(async {
        let server = MongoDb::options().tls().password("s3cret").start().expect("a server");
        let tls = server.tls().expect("certificates");
        let user = doc! {
            "createUser": "CN=leasehold", "roles": [{ "role": "readWrite", "db": "leasehold" }],
        };
        let no_login = server.url().replace("leasehold:s3cret@", "").replace("&authSource=admin", "");
        let x509 = with(&with(&no_login, &ca(tls)), "authMechanism=MONGODB-X509");
        let certified = with(&x509, &format!("tlsCertificateKeyFile={}", tls.client_pem().display()));
        // The user does not exist yet.
        let error = refusal(&certified).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        tell(&server, "$external", user);
        works(&certified).await;
        works(&with(&certified, "authSource=%24external")).await;
        // The user may be named: as the subject of the certificate, as the server writes it.
        let named = |user: &str| certified.replace("mongodb://", &format!("mongodb://{user}@"));
        works(&named("CN%3Dleasehold")).await;
        works(&named("CN=leasehold")).await;
        works(&with(&named("CN%3Dleasehold"), "authSource=%24external")).await;
        // Another user exists, too, and is not that of the certificate.
        let roles = vec![doc! { "role": "readWrite", "db": "leasehold" }];
        tell(&server, "$external", doc! { "createUser": "CN=another", "roles": roles });
        for user in ["CN%3Danother", "CN%3Dstranger", "cn%3Dleasehold", "leasehold"] {
            let error = refusal(&named(user)).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{user}: {error}");
            assert!(error.to_string().contains("certificate"), "{user}: {error}");
        }
        // A certificate has no password.
        let error = refusal(&named("CN%3Dleasehold:S3CRET")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(!error.to_string().contains("S3CRET"), "{error}");
        // Without a certificate, or with that of another authority.
        let error = refusal(&x509).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let directory = tempfile::tempdir().expect("a directory");
        let stranger = directory.path().join("stranger.pem");
        let read = |path| std::fs::read_to_string(path).expect("a file");
        std::fs::write(&stranger, read(tls.stranger_cert()) + &read(tls.client_key())).expect("written");
        let url = with(&x509, &format!("tlsCertificateKeyFile={}", stranger.display()));
        let error = refusal(&with(&url, "serverSelectionTimeoutMS=1500")).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    });
}

/// Certificates and authorities are replaced while a lock is held, as often as they live for hours only.
#[test]
fn certificates_that_are_replaced_end_no_hold() {
    run(async {
        let server = MongoDb::options().tls().password("s3cret").start().expect("a server");
        let tls = server.tls().expect("certificates");
        let role = || vec![doc! { "role": "readWrite", "db": "leasehold" }];
        tell(&server, "$external", doc! { "createUser": "CN=leasehold", "roles": role() });
        tell(&server, "$external", doc! { "createUser": "CN=localhost", "roles": role() });
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        let copy = |from: std::path::PathBuf, to: &str| std::fs::copy(from, file(to)).expect("copied");
        copy(tls.ca(), "ca.crt");
        copy(tls.client_pem(), "client.pem");
        let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("a proxy");
        let url = proxy.url_for(&format!("mongodb://127.0.0.1:{}/leasehold", server.port()));
        let url = format!(
            "{url}?directConnection=true&tls=true&authMechanism=MONGODB-X509&serverSelectionTimeoutMS=1000\
             &tlsCAFile={}&tlsCertificateKeyFile={}",
            file("ca.crt").display(),
            file("client.pem").display()
        );
        let locks = client(&url).await;
        let guard = hold(&locks, "job", time(20_000)).await;
        let verified = async |what: &str| {
            let verifying = async {
                while let Err(error) = guard.verify().await {
                    assert_ne!(error.kind(), ErrorKind::Lost, "{what}: {error}");
                }
            };
            within(LONG, verifying).await;
        };
        // The certificate of another user, over the connections that are open and over others.
        copy(tls.server_pem(), "client.pem");
        tell(&server, "$external", doc! { "dropUser": "CN=leasehold" });
        guard.verify().await.expect_err("that user is gone");
        verified("another user").await;
        tell(&server, "$external", doc! { "dropUser": "CN=localhost" });
        tell(&server, "$external", doc! { "createUser": "CN=leasehold", "roles": role() });
        copy(tls.client_pem(), "client.pem");
        proxy.faults().end(Which::All, End::Reset);
        verified("the first user again").await;
        // Another authority has signed the server's certificate. Until it is known, the server is not trusted.
        tls.use_unknown_authority().expect("replaced");
        tell(&server, "admin", doc! { "rotateCertificates": 1 });
        proxy.faults().end(Which::All, End::Reset);
        guard.verify().await.expect_err("that authority is unknown");
        copy(tls.other_ca(), "ca.crt");
        verified("another authority").await;
        guard.release().await.expect("released");
    });
}
