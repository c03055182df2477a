//! Servers that reply with errors, or with what no server replies.

use std::time::Duration;

use leasehold::storage::{ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Lost};
use leasehold_testbed::redis::proxy::{Rule, hostile, states};
use leasehold_testbed::{Redis, RedisProxy};

use crate::tools::*;

/// The commands that a client sends while it connects, in order.
const GREETING: [&str; 4] = ["hello", "info", "time", "config get"];

#[test]
fn every_error_of_a_call_is_returned_and_the_next_call_works() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        for state in states::ALL {
            let code = state.split(' ').next().expect("a code");
            let mine = claim("job");
            let unknown = |error: leasehold::Error| {
                let kind = match code {
                    "NOPERM" | "MOVED" | "ASK" => ErrorKind::Unsupported,
                    "WRONGPASS" => ErrorKind::Invalid,
                    _ => ErrorKind::Unavailable,
                };
                assert_eq!(error.kind(), kind, "{code}: {error}");
                let text = error.to_string();
                assert!(text.contains("server=`") && !text.contains("Sxyz"), "{code}: {text}");
            };
            let rule = || if code == "NOSCRIPT" { Rule::on("*").times(2) } else { Rule::on("evalsha") };
            let armed = proxy.add(rule().error(state));
            unknown(acquire(&storage, &mine).await.expect_err(code));
            armed.end();
            let token = take(&storage, &mine).await;

            let armed = proxy.add(rule().error(state));
            unknown(renew(&storage, &mine).await.expect_err(code));
            armed.end();
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })), "{code}");

            let armed = proxy.add(rule().error(state));
            unknown(storage.inspect(&mine.name).await.expect_err(code));
            armed.end();
            let holder = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(holder.token, token, "{code}");

            let armed = proxy.add(Rule::on("scan").error(state));
            unknown(storage.list("", None, 10).await.expect_err(code));
            armed.end();
            assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 1, "{code}");

            let armed = proxy.add(rule().error(state));
            unknown(release(&storage, &mine).await.expect_err(code));
            armed.end();
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{code}");
        }
    });
}

#[test]
fn an_error_of_a_wrong_server_makes_the_next_call_reconnect() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let storage = bare(&own(&proxy.url())).await;
        let mine = claim("job");
        for (state, again) in [
            (states::READONLY, true),
            (states::MASTERDOWN, true),
            (states::CLUSTERDOWN, true),
            (states::NOAUTH, true),
            (states::LOADING, false),
            (states::BUSY, false),
            (states::OOM, false),
            (states::MISCONF, false),
            (states::NOREPLICAS, false),
            (states::TRYAGAIN, false),
        ] {
            let before = proxy.count("time");
            proxy.add(Rule::on("evalsha").error(state));
            acquire(&storage, &mine).await.expect_err(state);
            take(&storage, &mine).await;
            assert_eq!(proxy.count("time") - before, u64::from(again), "{state}");
        }
    });
}

#[test]
fn every_error_while_connecting_is_returned() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let url = own(&proxy.url());
        for step in GREETING {
            for state in states::ALL {
                let code = state.split(' ').next().expect("a code");
                let armed = proxy.add(Rule::on(step).error(state));
                let connected = within(LONG, try_bare(&url)).await;
                armed.end();
                // An ACL may forbid the queries for the facts. Then less is promised.
                let forbidden = ["INFO", "CONFIG GET"].contains(&step.to_uppercase().as_str())
                    && ["NOPERM", "ERR"].contains(&code);
                match connected {
                    Ok(storage) => {
                        assert!(forbidden, "{step}: connected in spite of {code}");
                        let tier = storage.guarantees().tier;
                        assert!(tier <= leasehold::Tier::CrashSafe, "{step}: {code}: {tier:?}");
                    }
                    Err(error) => {
                        assert!(!forbidden, "{step}: {code}: {error}");
                        assert!(error.to_string().contains("server=`"), "{step}: {code}: {error}");
                        assert_ne!(error.kind(), ErrorKind::Internal, "{step}: {code}: {error}");
                    }
                }
            }
        }
        let storage = bare(&url).await;
        take(&storage, &claim("job")).await;
    });
}

#[test]
fn errors_of_the_subscription_stop_no_waiter() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        for state in states::ALL {
            let url = own(&proxy.url());
            let refused = proxy.add(Rule::on("subscribe").error(state));
            let untracked = proxy.add(Rule::on("client tracking").error(state));
            let (storage, mut hints) = listening(&url).await;
            refused.end();
            untracked.end();
            let (mine, yours) = (claim("job"), claim("job").wait(true));
            take(&storage, &mine).await;
            is_held(&storage, &yours).await;
            release(&storage, &mine).await.expect("answered");
            let hinted = async {
                while futures_util::StreamExt::next(&mut hints).await
                    != Some(leasehold::storage::Hint::Owner(yours.owner))
                {}
            };
            within(soon(), hinted).await;
            release(&storage, &yours).await.expect("answered");
        }
    });
}

#[test]
fn a_server_that_is_busy_with_a_script_is_retried() {
    run(async {
        let redis = Redis::options().setting("busy-reply-threshold", "50").start().expect("a server");
        let locks = client(&redis.url()).await;
        let guard = hold(&locks, "job", time(3_000)).await;
        let script = "local n = 0 while true do n = n + 1 end";
        let (port, busy) = (redis.port().to_string(), ["eval", script, "0"]);
        let child = tokio::process::Command::new("redis-cli")
            .args(["-p", &port])
            .args(busy)
            .stdout(std::process::Stdio::null())
            .spawn();
        let mut child = child.expect("redis-cli");
        until("it to be busy", || match redis.command(&["get", "x"]) {
            Err(error) if error.to_string().contains("BUSY") => Ok(()),
            other => Err(leasehold_testbed::Error::new(format!("{other:?}"))),
        });
        // A client that connects now gets the reason, and does not misjudge the server.
        let error = refusal(&redis.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        tell(&redis, &["script", "kill"]);
        let _ = child.wait().await;
        let renewed = async { while guard.ensure(time(2_000)).await.is_err() {} };
        within(soon(), renewed).await;
        guard.release().await.expect("released");
    });
}

#[test]
fn hostile_answers_are_errors_and_cost_no_memory() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let url = own(&proxy.url());
        let before = memory();
        for (what, bytes) in hostile::all() {
            let storage = bare(&url).await;
            let mine = claim("job");
            for (command, step) in
                [("evalsha", 0), ("evalsha", 1), ("evalsha", 2), ("evalsha", 3), ("scan", 4)]
            {
                let armed = proxy.add(Rule::on(command).bytes(bytes.clone()));
                let claims = [mine.clone()];
                let calling = async {
                    match step {
                        0 => storage.acquire(&claims).await.pop().expect("an answer").map(drop),
                        1 => storage.renew(&claims).await.pop().expect("an answer").map(drop),
                        2 => storage.release(&claims).await.pop().expect("an answer").map(drop),
                        3 => storage.inspect(&mine.name).await.map(drop),
                        _ => storage.list("", None, 10).await.map(drop),
                    }
                };
                // A reply that does not end is dropped, as the engine does.
                match tokio::time::timeout(Duration::from_millis(50), calling).await {
                    Ok(Ok(())) => panic!("{what}: believed at {step}"),
                    Ok(Err(error)) => assert_ne!(error.kind(), ErrorKind::Internal, "{what}: {error}"),
                    Err(_) => {}
                }
                armed.end();
            }
            // The bytes after a malformed reply may be malformed, too, and end another connection.
            let granted = async { while acquire(&storage, &mine).await.is_err() {} };
            within(soon(), granted).await;
            release(&storage, &mine).await.expect("answered");
        }
        let more = memory().saturating_sub(before);
        assert!(more < 256 << 20, "{more} bytes more");
    });
}

#[test]
fn hostile_answers_while_connecting_are_errors() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let url = own(&proxy.url());
        for (what, bytes) in hostile::all() {
            for step in GREETING {
                let armed = proxy.add(Rule::on(step).always().bytes(bytes.clone()));
                // A connection that does not end is dropped. The one of the step before may still send its commands.
                let connected = tokio::time::timeout(Duration::from_millis(150), try_bare(&url)).await;
                armed.end();
                match connected {
                    Ok(Ok(storage)) => {
                        let safe = storage.guarantees().tier;
                        assert!(safe <= leasehold::Tier::CrashSafe, "{what} at {step}: {safe:?}");
                    }
                    Ok(Err(error)) => {
                        assert_ne!(error.kind(), ErrorKind::Internal, "{what} at {step}: {error}")
                    }
                    Err(_) => {}
                }
            }
        }
    });
}

/// Returns the peak memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

#[test]
fn a_password_that_is_changed_puts_holds_at_risk_and_then_ends_them() {
    run(async {
        let redis = Redis::options().acl("app", "old", "~* &* +@all").start().expect("a server");
        let url = redis.url_as("app", "old");
        let locks = client(&url).await;
        let mut events = locks.events();
        let guard = hold(&locks, "job", time(1_200)).await;
        tell(&redis, &["acl", "setuser", "app", "resetpass", ">new"]);
        tell(&redis, &["client", "kill", "user", "app"]);
        is_at_risk(&mut events).await;
        assert!(guard.is_held());
        assert_eq!(within(soon(), guard.lost()).await, Lost::Expired);

        tell(&redis, &["acl", "setuser", "app", ">old"]);
        let guard = hold(&locks, "job", time(3_000)).await;
        tell(&redis, &["acl", "setuser", "app", "<old"]);
        tell(&redis, &["client", "kill", "user", "app"]);
        is_at_risk(&mut events).await;
        // The password is restored before the lease expires.
        tell(&redis, &["acl", "setuser", "app", ">old"]);
        let renewed = async { while guard.ensure(time(2_000)).await.is_err() {} };
        within(soon(), renewed).await;
        guard.release().await.expect("released");
    });
}
