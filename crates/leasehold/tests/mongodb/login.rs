//! How a client logs in, and that no secret is shown.

use std::time::Duration;

use leasehold::storage::Storage as _;
use leasehold::{ErrorKind, Event, Events, Locks, Lost, Tier};
use leasehold_faultproxy::{End, Proxy, Which};
use leasehold_testbed::MongoDb;

use crate::tools::*;

const PASSWORD: &str = "s3cret";

fn server() -> MongoDb {
    MongoDb::options().password(PASSWORD).start().expect("a server")
}

/// Makes a user of the database `admin`.
fn user(server: &MongoDb, name: &str, password: &str, roles: impl Into<Bson>, mechanisms: &[&str]) {
    let command =
        doc! { "createUser": name, "pwd": password, "roles": roles.into(), "mechanisms": mechanisms };
    tell(server, "admin", command);
}

#[test]
fn a_password_is_proved_by_scram_of_either_hash() {
    run(async {
        let server = server();
        works(&server.url()).await;
        for (mechanism, name) in [("SCRAM-SHA-1", "one"), ("SCRAM-SHA-256", "two")] {
            let roles = doc! { "role": "readWrite", "db": "leasehold" };
            user(&server, name, "p@ss:w/r%d?&=é", vec![roles], &[mechanism]);
            let encoded = "p%40ss%3Aw%2Fr%25d%3F%26%3D%C3%A9";
            works(&server.url_as(name, encoded, "")).await;
            works(&server.url_as(name, encoded, &format!("authMechanism={mechanism}"))).await;
            let error = refusal(&server.url_as(name, "wrong", "")).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
    });
}

#[test]
fn a_wrong_user_password_or_database_of_users_is_refused() {
    run(async {
        let server = server();
        let host = server.url().replace(&format!("leasehold:{PASSWORD}@"), "");
        for url in [
            server.url_as("leasehold", "wrong", ""),
            server.url_as("stranger", PASSWORD, ""),
            server.url().replace("authSource=admin", "authSource=other"),
            server.url_as("leasehold", PASSWORD, "authMechanism=SCRAM-SHA-1"),
        ] {
            let error = refusal(&url).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error}");
            assert!(error.to_string().contains("password"), "{error}");
        }
        let error = refusal(&host.replace("&authSource=admin", "")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("asks for a user"), "{error}");
        // Without `authSource`, the users are those of the database in the path.
        let path = server
            .url()
            .replace("/leasehold?", "/admin?")
            .replace("&authSource=admin", "&database=leasehold");
        works(&path).await;
    });
}

#[test]
fn a_user_that_may_only_read_and_write_the_collection_can_do_everything() {
    run(async {
        let server = server();
        let resource = doc! { "db": "leasehold", "collection": "leasehold" };
        let actions = ["find", "insert", "update", "changeStream"];
        let privileges = vec![doc! { "resource": resource, "actions": actions.as_slice() }];
        tell(
            &server,
            "admin",
            doc! { "createRole": "locks", "privileges": privileges, "roles": Bson::Array(vec![]) },
        );
        user(&server, "least", "pw", vec!["locks"], &["SCRAM-SHA-256"]);
        user(
            &server,
            "usual",
            "pw",
            vec![doc! { "role": "readWrite", "db": "leasehold" }],
            &["SCRAM-SHA-256"],
        );
        let monitor =
            vec![Bson::from(doc! { "role": "readWrite", "db": "leasehold" }), Bson::from("clusterMonitor")];
        user(&server, "monitor", "pw", monitor, &["SCRAM-SHA-256"]);
        for (name, tier) in
            [("least", Tier::CrashSafe), ("usual", Tier::CrashSafe), ("monitor", Tier::RestartSafe)]
        {
            let url = server.url_as(name, "pw", "");
            let (locks, other) = (client(&url).await, client(&url).await);
            assert_eq!(locks.guarantees().tier, tier, "{name}");
            assert!(locks.guarantees().push && locks.guarantees().fair, "{name}");
            let mut changes = other.observe("job").expect("a name");
            assert_eq!(within(soon(), changes.next()).await, Some(leasehold::Change::Unlocked));
            let guard = locks.lock("job").label("label").acquire().await.expect("granted");
            assert!(matches!(within(soon(), changes.next()).await, Some(leasehold::Change::Locked { .. })));
            guard.extend(LONG * 2).await.expect("extended");
            let waiting = waiting(other.lock("job"));
            waiters(&locks, "job", 1).await;
            assert_eq!(locks.list("").await.expect("answered").len(), 1);
            guard.release().await.expect("released");
            let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
            assert!(!locks.break_lock("job").await.expect("answered").is_empty());
            assert_eq!(within(soon(), guard.lost()).await, leasehold::Lost::Taken);
            // What may not be asked for is said.
            let findings = bare(&url).await.findings().await.expect("answered");
            let disk = findings.iter().find(|finding| finding.about == "disk").expect("a line");
            assert_eq!(disk.detail.contains("clusterMonitor"), name != "monitor", "{disk:?}");
        }
    });
}

#[test]
fn a_user_without_rights_is_told_what_is_missing() {
    run(async {
        let server = server();
        user(&server, "none", "pw", Bson::Array(vec![]), &["SCRAM-SHA-256"]);
        user(&server, "reader", "pw", vec![doc! { "role": "read", "db": "leasehold" }], &["SCRAM-SHA-256"]);
        for name in ["none", "reader"] {
            let storage = bare(&server.url_as(name, "pw", "")).await;
            let mine = claim("job");
            let mut errors = vec![
                acquire(&storage, &mine).await.expect_err("forbidden"),
                renew(&storage, &mine).await.expect_err("forbidden"),
                release(&storage, &mine).await.expect_err("forbidden"),
            ];
            errors.extend(
                storage.acquire(&[mine.clone(), claim("other")]).await.into_iter().filter_map(Result::err),
            );
            assert_eq!(errors.len(), 5);
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(error.to_string().contains("readWrite"), "{error}");
            }
        }
    });
}

#[test]
fn a_password_that_is_changed_while_connected_ends_no_hold() {
    run(async {
        let server = server();
        user(
            &server,
            "app",
            "first",
            vec![doc! { "role": "readWrite", "db": "leasehold" }],
            &["SCRAM-SHA-256"],
        );
        let direct =
            server.url_as("app", "first", "").replace("replicaSet=leasehold", "directConnection=true");
        let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("a proxy");
        let storage = bare(&proxy.url_for(&direct)).await;
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let change =
            |password: &str| drop(tell(&server, "admin", doc! { "updateUser": "app", "pwd": password }));
        change("second");
        // A new connection is refused. The password may be accepted again, so this is no reason to give up a hold.
        let refused = async {
            loop {
                proxy.faults().end(Which::All, End::Reset);
                match acquire(&storage, &mine).await {
                    Err(error) if error.to_string().contains("password") => return error,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    Ok(_) => {}
                }
            }
        };
        assert_eq!(within(LONG, refused).await.kind(), ErrorKind::Unavailable);
        change("first");
        answered(async || acquire(&storage, &mine).await).await;
        assert_eq!(take(&storage, &mine).await, token);
    });
}

/// Returns a server with a user `app`, a client of it, and the proxy between them.
async fn rotating(secret: &str) -> (MongoDb, Locks, Proxy) {
    let server = server();
    let role = doc! { "role": "readWrite", "db": "leasehold" };
    user(&server, "app", secret, vec![role], &["SCRAM-SHA-256"]);
    let direct = server.url_as("app", secret, "").replace("replicaSet=leasehold", "directConnection=true");
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("a proxy");
    let locks = client(&proxy.url_for(&direct)).await;
    (server, locks, proxy)
}

/// Has a hold put at risk by a change of its login, and ended at its deadline. Then has another one put at risk, and kept
/// because the change is undone in time. Returns what the client said meanwhile.
async fn risk_and_end(locks: &Locks, change: impl Fn(), undo: impl Fn()) -> Vec<String> {
    let (mut events, mut said) = (locks.events(), Vec::new());
    let guard = hold(locks, "job", time(1_500)).await;
    change();
    is_at_risk_saying(&mut events, &mut said).await;
    assert!(guard.is_held());
    assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);
    match locks.lock("job").wait(Duration::from_millis(500)).acquire().await {
        Ok(guard) => panic!("granted: {guard:?}"),
        Err(error) => said.push(format!("{error} {error:?}")),
    }
    undo();
    let next = async {
        loop {
            match locks.lock("job").ttl(time(6_000)).acquire().await {
                Ok(guard) => return guard,
                Err(error) => said.push(error.to_string()),
            }
        }
    };
    let guard = within(LONG, next).await;
    change();
    is_at_risk_saying(&mut events, &mut said).await;
    undo();
    let renewed = async {
        while let Err(error) = guard.ensure(time(5_000)).await {
            assert_ne!(error.kind(), ErrorKind::Lost, "{said:?}");
        }
    };
    within(LONG, renewed).await;
    guard.release().await.expect("released");
    said
}

/// Waits until a renewal has failed, and keeps what the events until then show.
async fn is_at_risk_saying(events: &mut Events, said: &mut Vec<String>) {
    let failing = async {
        loop {
            let event = events.next().await.expect("it goes on");
            said.push(format!("{event:?}"));
            if let Event::RenewFailed { .. } = event {
                return;
            }
        }
    };
    within(LONG, failing).await;
}

#[test]
fn a_password_that_is_changed_puts_holds_at_risk_and_then_ends_them() {
    const OLD: &str = "0LDS3CRET";
    const NEW: &str = "N3WS3CRET";
    let logs = crate::net::logs::Logs::of_all();
    let said = run(async {
        let (server, locks, proxy) = rotating(OLD).await;
        let set = |password: &str| {
            tell(&server, "admin", doc! { "updateUser": "app", "pwd": password });
            // A connection stays logged in.
            proxy.faults().end(Which::All, End::Reset);
        };
        risk_and_end(&locks, || set(NEW), || set(OLD)).await
    });
    for secret in [OLD, NEW] {
        logs.and_texts_hide(secret, &said);
    }
}

#[test]
fn a_user_that_is_removed_or_loses_its_role_puts_holds_at_risk_and_then_ends_them() {
    run(async {
        let (server, locks, _proxy) = rotating("first").await;
        let roles = || vec![doc! { "role": "readWrite", "db": "leasehold" }];
        let revoke = || drop(tell(&server, "admin", doc! { "revokeRolesFromUser": "app", "roles": roles() }));
        let grant = || drop(tell(&server, "admin", doc! { "grantRolesToUser": "app", "roles": roles() }));
        risk_and_end(&locks, revoke, grant).await;
        let remove = || drop(tell(&server, "admin", doc! { "dropUser": "app" }));
        let make = || user(&server, "app", "first", roles(), &["SCRAM-SHA-256"]);
        risk_and_end(&locks, remove, make).await;
    });
}

#[test]
fn no_password_is_shown_anywhere() {
    const CANARY: &str = "S3CRETCANARY";
    let logs = crate::net::logs::Logs::of_all();
    let shown = run(async {
        let server = MongoDb::options().password(CANARY).start().expect("a server");
        let host = format!("127.0.0.1:{}", server.port());
        let mut shown = Vec::new();
        let storage = bare(&server.url()).await;
        shown.push(format!("{storage} {storage:?} {:?}", Config::new(&server.url())));
        shown.push(format!("{:?}", storage.findings().await));
        let locks = client(&server.url()).await;
        let guard = hold(&locks, "job", LONG).await;
        shown.push(format!("{locks:?} {guard:?} {:?} {:?}", locks.inspect("job").await, guard.ticket()));
        server.stop();
        let unanswered = claim("other");
        shown.push(format!("{:?}", guard.verify().await));
        shown.push(format!("{:?}", tokio::time::timeout(time(500), acquire(&storage, &unanswered)).await));
        server.cont();
        // Every kind of wrong URL.
        for url in [
            format!("mongodb://leasehold:{CANARY}x@{host}/?authSource=admin"),
            format!("mongodb://stranger:{CANARY}@{host}/?authSource=admin"),
            format!("mongodb://leasehold:{CANARY}@127.0.0.1:1/?serverSelectionTimeoutMS=100"),
            format!("mongodb://leasehold:{CANARY}@{host}/a.b"),
            format!("mongodb://leasehold:{CANARY}@{host}/?prefixx=1"),
            format!("mongodb://leasehold:{CANARY}@{host}/?password={CANARY}"),
            format!("mongodb://leasehold:{CANARY}@{host}/?notify=perhaps"),
            format!("mongodb://leasehold:{CANARY}@{host}/?maxPoolSize=many"),
            format!("mongodb://leasehold:{CANARY}@{host}/?authMechanism=none"),
            format!("mongodb://leasehold@{host}/?authMechanismProperties=AWS_SESSION_TOKEN:{CANARY},x"),
            format!("mongodb://leasehold:12/{CANARY}@{host}/"),
            format!("mongodb://leasehold:pa:{CANARY}@{host}/"),
            format!("mongodb://leasehold:p@{CANARY}@{host}/"),
            format!("mongodb://lease/hold:{CANARY}@{host}/"),
            format!("mongodb://leasehold:{CANARY}%zz@{host}/"),
            format!("mongodb://leasehold:{CANARY}@{host}?w=-1"),
            format!("mongodb://leasehold:{CANARY}@{host}:99999/"),
            format!("mongodb:{CANARY}@{host}"),
            format!("mongodb+srv://leasehold:{CANARY}@db.nowhere.invalid/"),
            format!("mongodb+srv://leasehold:{CANARY}@nowhere/"),
            format!("mongodb+srv://leasehold:{CANARY}@{host}/"),
        ] {
            let error = Locks::connect(&url).await.expect_err(&url);
            shown.push(format!("{error} {error:?}"));
        }
        shown
    });
    logs.and_texts_hide(CANARY, &shown);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    run(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("mongodb://127.0.0.1:{}/", silent.local_addr().expect("an address").port());
        let since = tokio::time::Instant::now();
        let tls = with(&url, "tls=true");
        let errors = futures_util::future::join(refusal(&url), refusal(&tls)).await;
        for error in [errors.0, errors.1] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        assert!(since.elapsed() < time(8_000), "{:?}", since.elapsed());
    });
}
