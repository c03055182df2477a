//! Connections over TLS.

use leasehold::ErrorKind;
use leasehold_testbed::Redis;

use crate::tools::*;

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
