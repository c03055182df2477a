//! Clocks that jump, TTLs at their bounds, lost data, and restarts.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, ReleaseReply, Storage};
use leasehold::{ErrorKind, Lost, Renewal};
use leasehold_testbed::{Clock, Error, Port, Redis, Scratch};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use proptest::test_runner::TestRunner;
use tokio::time::Instant;

use crate::net::clocks as scenario;
use crate::tools::*;

/// A server that reads its wall clock from a file.
#[cfg(target_os = "linux")]
struct Watch {
    child: Child,
    port: Port,
    clock: Clock,
    _scratch: Scratch,
}

#[cfg(target_os = "linux")]
impl Watch {
    fn start() -> Self {
        let (scratch, port) = (Scratch::new().expect("a directory"), Port::free().expect("a port"));
        let clock = Clock::in_scratch(&scratch, "redis").expect("a C compiler");
        let child = Command::new("redis-server")
            .args(["--port", &port.number().to_string(), "--save", "", "--bind", "127.0.0.1"])
            .current_dir(scratch.path())
            .envs(clock.env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server");
        let watch = Self { child, port, clock, _scratch: scratch };
        until("it to answer", || watch.ask(&["ping"]).map(drop));
        watch
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    /// Sets its clock to so many seconds from ours, and waits until the server reports that.
    fn set(&self, seconds: i64) {
        self.clock.set(seconds).expect("set");
        until("its clock to be set", || {
            let shown: i64 =
                self.ask(&["time"])?.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0);
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
            if (shown - now - seconds).abs() <= 2 { Ok(()) } else { Err(Error::new(format!("{shown}"))) }
        });
    }

    fn ask(&self, args: &[&str]) -> leasehold_testbed::Result<String> {
        let output =
            Command::new("redis-cli").args(["-e", "-p", &self.port.number().to_string()]).args(args).output();
        let output = output.map_err(|e| Error::new(e.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(Error::new(text)) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_clock_that_jumps_ahead_ends_leases_and_no_token_goes_back() {
    let watch = Watch::start();
    run(scenario::jump_ahead(&watch.url(), |seconds| watch.set(seconds)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_clock_that_jumps_back_keeps_no_dead_holder_and_no_dead_waiter_alive() {
    let watch = Watch::start();
    run(scenario::jump_back(&watch.url(), |seconds| watch.set(seconds)));
}

#[test]
fn a_lease_that_lasts_longer_than_its_ttl_is_cut_back_by_a_claim() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mut held = claim("job");
        held.ttl = time(2_000);
        take(&storage, &held).await;
        let key = format!("{}job", url.rsplit('=').next().expect("a prefix"));
        tell(common(), &["pexpire", &key, "3600000"]);
        match acquire(&other, &claim("job")).await.expect("answered") {
            AcquireReply::Held { holder: Some(holder), .. } => {
                assert!(holder.remaining <= held.ttl, "{holder:?}")
            }
            granted => panic!("{granted:?}"),
        }
        let left: u64 = tell(common(), &["pttl", &key]).parse().expect("milliseconds");
        assert!(Duration::from_millis(left) <= held.ttl, "{left}");
        release(&storage, &held).await.expect("answered");
    });
}

#[test]
fn every_ttl_within_the_bounds_is_given_to_the_millisecond() {
    let (storage, prefix) = run(async {
        let url = own(&common().url());
        (bare(&url).await, url.rsplit('=').next().expect("a prefix").to_owned())
    });
    let bounds = storage.limits();
    let (least, most) = (100_u64, u64::try_from(bounds.ttl_max.as_millis()).expect("a day"));
    assert_eq!((bounds.ttl_min, bounds.ttl_max), (Duration::from_millis(least), Duration::from_secs(86_400)));
    let ttls = prop_oneof![1 => least..200, 3 => least..=most, 1 => most - 100..=most];
    let strategy =
        (ttls.clone(), ttls, any::<bool>()).prop_map(|(first, second, short)| (first, second, short));
    let mut runner = TestRunner::new(ProptestConfig { cases: 40, ..ProptestConfig::default() });
    let outcome = runner.run(&strategy, |(first, second, shorten)| {
        // Each case has a runtime of its own, so the storage connects again.
        run(async {
            let storage = bare(&with(&common().url(), &format!("prefix={prefix}"))).await;
            let mine =
                Claim::new(name("job"), leasehold::storage::Owner::random(), Duration::from_millis(first));
            match acquire(&storage, &mine).await.expect("answered") {
                AcquireReply::Granted { ttl, .. } => assert_eq!(ttl, mine.ttl),
                held => panic!("{held:?}"),
            }
            left(&prefix, first);
            let mut again = mine.clone().shorten(shorten);
            again.ttl = Duration::from_millis(second);
            match renew(&storage, &again).await.expect("answered") {
                leasehold::storage::RenewReply::Renewed { ttl } => {
                    assert_eq!(ttl, again.ttl);
                    left(&prefix, if shorten { second } else { std::cmp::max(first, second) });
                }
                // On a slow machine the shortest leases have expired by then.
                leasehold::storage::RenewReply::NotHeld => assert!(first < 1_000, "{first}"),
                other => panic!("{other:?}"),
            }
            let _over_or_not = release(&storage, &mine).await.expect("answered");
        });
        Ok(())
    });
    outcome.expect("every TTL");
}

#[track_caller]
fn left(prefix: &str, ttl: u64) {
    let left: i64 = tell(common(), &["pttl", &format!("{prefix}job")]).parse().expect("milliseconds");
    let ttl = i64::try_from(ttl).expect("a day");
    assert!(left <= ttl && (left > ttl - 5_000 || left == -2), "{left} of {ttl}");
}

#[test]
fn ttls_out_of_bounds_are_refused_before_anything_is_sent() {
    run(async {
        let locks = client(&own(&common().url())).await;
        for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(86_401), Duration::MAX] {
            let error = locks.lock("job").ttl(ttl).try_acquire().await.expect_err("out of bounds");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{ttl:?}");
        }
        assert!(locks.inspect("job").await.expect("answered").is_empty());
    });
}

#[test]
fn a_server_that_starts_again_and_has_forgotten_all_ends_holds_at_once() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        let (locks, other) = (client(&redis.url()).await, client(&redis.url()).await);
        // `locks` listens because it waits, and so notices the restart. `other` does not listen.
        let first = hold(&other, "first", LONG).await;
        let waiting = waiting(locks.lock("first"));
        waiters(&other, "first", 1).await;
        let guard = hold(&locks, "job", LONG).await;
        redis.kill9();
        redis.restart().expect("started");
        // The next renewal would be in twenty seconds.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        let next = within(soon(), other.lock("job").acquire()).await.expect("granted");
        assert!(next.token() > guard.token());
        let waiter = within(LONG, waiting).await.expect("no panic").expect("granted");
        assert!(waiter.token() > first.token());
    });
}

#[test]
fn a_server_that_starts_again_and_remembers_ends_no_hold() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&redis.url()).await;
        let guard = hold(&locks, "job", LONG).await;
        let token = guard.token();
        redis.kill9();
        redis.restart().expect("started");
        guard
            .verify()
            .await
            .or_else(|error| match error.kind() {
                ErrorKind::Unavailable => Ok(()),
                _ => Err(error),
            })
            .expect("held");
        let again = async { while guard.verify().await.is_err() {} };
        within(soon(), again).await;
        assert!(guard.is_held());
        guard.release().await.expect("released");
        assert!(hold(&locks, "job", LONG).await.token() > token);
    });
}

#[test]
fn tokens_grow_when_the_record_is_deleted() {
    let url = own(&common().url());
    let record = format!("{{{}job}}\\0t", url.rsplit('=').next().expect("a prefix"));
    let delete = format!("return redis.call('DEL', \"{record}\")");
    run(scenario::deleted_record(&url, || assert_eq!(tell(common(), &["eval", &delete, "0"]), "1")));
}

#[test]
fn a_flush_ends_holds_at_once_for_a_client_that_listens() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (locks, other) = (client(&redis.url()).await, client(&redis.url()).await);
        let first = hold(&other, "first", LONG).await;
        let waiting = waiting(locks.lock("first"));
        waiters(&other, "first", 1).await;
        let guard = hold(&locks, "job", LONG).await;
        until("it to ask for news", || match redis.command_counts()?.get("client|tracking") {
            Some(_) => Ok(()),
            None => Err(Error::new("not yet")),
        });
        tell(&redis, &["flushall"]);
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        drop(first);
        drop(within(LONG, waiting).await);
    });
}

#[test]
fn a_flush_ends_holds_at_the_next_renewal_for_a_client_that_does_not_listen() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&redis.url()).await;
        let ttl = time(3_000);
        let guard = hold(&locks, "job", ttl).await;
        let never =
            locks.lock("unrenewed").ttl(LONG).renewal(Renewal::Never).acquire().await.expect("granted");
        tell(&redis, &["flushall"]);
        let since = Instant::now();
        assert_eq!(within(LONG, guard.lost()).await, Lost::Taken);
        assert!(since.elapsed() < ttl / 3 + time(500), "{:?}", since.elapsed());
        never.verify().await.expect_err("gone");
    });
}

#[test]
fn a_server_may_forget_its_scripts_at_any_time() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (locks, storage) = (client(&redis.url()).await, bare(&redis.url()).await);
        let (ended, mut end) = tokio::sync::oneshot::channel();
        let flusher = {
            let port = redis.port().to_string();
            tokio::spawn(async move {
                let mut flushes = 0;
                while matches!(end.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
                    let flush = ["-p", &port, "script", "flush"];
                    let _ = tokio::process::Command::new("redis-cli").args(flush).output().await;
                    flushes += 1;
                }
                flushes
            })
        };
        for turn in 0..100 {
            let mine = claim(&format!("bare{}", turn % 7));
            take(&storage, &mine).await;
            renew(&storage, &mine).await.expect("answered");
            storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            hold(&locks, "job", LONG).await.release().await.expect("released");
        }
        ended.send(()).expect("the task listens");
        assert!(flusher.await.expect("no panic") > 5);
        assert!(redis.command_counts().expect("answered").get("eval").copied().unwrap_or(0) > 5);
    });
}
