//! Users, passwords, and tokens that expire.

use leasehold::ErrorKind;
use leasehold::storage::RenewReply;
use leasehold_testbed::Etcd;

use crate::net::logs::Logs;
use crate::tools::*;

#[test]
fn no_error_and_no_log_line_shows_a_password() {
    let logs = Logs::of_all();
    run(async {
        let server = Etcd::options().password("S3CRET-CANARY").start().expect("a server");
        works(&own(&server.url())).await;
        let mut texts = Vec::new();
        for (from, to, kind) in [
            ("root:S3CRET-CANARY", "root:S3CRET-CANARY-WRONG", ErrorKind::Invalid),
            ("root:S3CRET-CANARY", "nobody:S3CRET-CANARY", ErrorKind::Invalid),
            ("root:S3CRET-CANARY@", "", ErrorKind::Invalid),
        ] {
            let error = refusal(&server.url().replace(from, to)).await;
            assert_eq!(error.kind(), kind, "{to} {error}");
            texts.push(format!("{error} {error:?}"));
        }
        logs.and_texts_hide("S3CRET-CANARY", &texts);
    });
}

#[test]
fn a_token_that_expires_costs_no_lock() {
    run(async {
        let server = Etcd::options().password("pw").arg("--auth-token-ttl=1").start().expect("a server");
        let url = own(&server.url());
        let (storage, mut hints) = listening(&url).await;
        let (held, waiter) = (claim("job"), claim("job").wait(true));
        take(&storage, &held).await;
        // Longer than the token lives without use.
        tokio::time::sleep(time(3_000)).await;
        assert!(matches!(renew(&storage, &held).await, Ok(RenewReply::Renewed { .. })));
        is_held(&storage, &waiter).await;
        tokio::time::sleep(time(3_000)).await;
        release(&storage, &held).await.expect("released");
        let wanted = leasehold::storage::Hint::Owner(waiter.owner);
        let heard = async {
            while let Some(hint) = futures_util::StreamExt::next(&mut hints).await {
                // After a new login the stream is another one, and everything is asked again.
                if hint == wanted || hint == leasehold::storage::Hint::Any {
                    return;
                }
            }
        };
        within(soon(), heard).await;
        take(&storage, &waiter).await;
    });
}

#[test]
fn a_user_with_the_rights_of_the_page_can_do_everything_below_its_prefix() {
    run(async {
        let server = Etcd::options().password("pw").start().expect("a server");
        tell(&server, &["role", "add", "locks"]);
        tell(&server, &["role", "grant-permission", "--prefix=true", "locks", "readwrite", "shop/"]);
        tell(&server, &["user", "add", "app:hunter2"]);
        tell(&server, &["user", "grant-role", "app", "locks"]);
        let place = server.url().replace("root:pw", "app:hunter2");
        works(&with(&place, "prefix=shop/")).await;
        let locks = client(&with(&place, "prefix=shop/")).await;
        let guard = hold(&locks, "job", LONG).await;
        let other = client(&with(&place, "prefix=shop/")).await;
        let waiting = waiting(other.lock("job"));
        waiters(&locks, "job", 1).await;
        guard.release().await.expect("released");
        within(soon(), waiting).await.expect("no panic").expect("granted").release().await.expect("released");
        let error = refusal(&with(&place, "prefix=bank/")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("role"), "{error}");
    });
}
