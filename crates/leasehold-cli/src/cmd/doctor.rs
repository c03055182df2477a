//! `leasehold doctor`

use std::time::Duration;

use leasehold::storage::{Severity, schema};
use leasehold::{ErrorKind, Guarantees, LeaseClock, Locks, Options};
use serde::Serialize;

use crate::args::Doctor;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::{safe, short};
use crate::session::Context;

pub(crate) async fn run(args: &Doctor, cx: &Context) -> Result<Exit> {
    if args.sql { sql(cx) } else { check(cx).await }
}

/// Prints the statements that create what the storage needs, for administrators who manage the schema themselves.
fn sql(cx: &Context) -> Result<Exit> {
    let Some(sql) = schema(cx.store.url())? else {
        let kind = cx.store.scheme();
        return Err(Failure::usage(format!(
            "--sql is for storages with tables, and this one needs none; run `doctor` without it storage=`{kind}`"
        )));
    };
    cx.output.result(&Sql { sql: &sql }, || sql.trim_end().to_owned())?;
    Ok(Exit::Success)
}

async fn check(cx: &Context) -> Result<Exit> {
    let mut report = Report { storage: cx.store.shown(), tier: None, checks: Vec::new() };
    let examined = cx
        .with_locks(async |locks| {
            report.storage = storage(locks);
            report.ok("connect", report.storage.clone());
            findings(locks, &mut report).await;
            examine(locks, &mut report).await;
            Ok(())
        })
        .await;
    if let Err(failure) = examined {
        match failure.text {
            Some(text) if report.checks.is_empty() => {
                let text = format!("{text} storage=`{}`", report.storage);
                report.fail("connect", text);
            }
            // The report contains the fault already, and closing has only met it once more.
            Some(_) if report.has_failed() => {}
            Some(text) => report.fail("close", text),
            None => return Err(failure),
        }
    }
    print(&report, cx)
}

fn print(report: &Report, cx: &Context) -> Result<Exit> {
    let exit = if report.has_failed() { Exit::Unhealthy } else { Exit::Success };
    let printed = cx.output.result(report, || {
        let checks = report.checks.iter().map(|check| {
            let status = check.status.as_str();
            format!("{status:<4}  {:<10}  {}", check.name, safe(&check.detail))
        });
        checks.collect::<Vec<_>>().join("\n")
    });
    match printed {
        Ok(_) => Ok(exit),
        Err(unprinted) if exit == Exit::Success => Err(unprinted),
        Err(unprinted) => Err(Failure { exit, ..unprinted.after("the storage is not fit to keep locks") }),
    }
}

async fn examine(locks: &Locks, report: &mut Report) {
    promises(locks.guarantees(), report);
    match round_trip(locks).await {
        // No other client asks for that name, so it is the storage that grants nothing.
        Err(error) if error.kind() == ErrorKind::Contended => report.warn(
            "round trip",
            "the storage grants nothing now, as a new primary does for its `failover_grace`; run `doctor` again"
                .to_owned(),
        ),
        Err(error) => report.fail("round trip", chain(&error)),
        Ok(trip) => {
            report.ok("round trip", "acquired, renewed, inspected and released a lock of its own".to_owned());
            trip.report(report);
        }
    }
}

/// Adds what the storage reports about its servers or its file.
async fn findings(locks: &Locks, report: &mut Report) {
    match locks.findings().await {
        Err(error) => report.fail("server", chain(&error)),
        Ok(found) => {
            for finding in found {
                let status = match finding.severity {
                    Severity::Good => Status::Ok,
                    Severity::Warning => Status::Warn,
                    _ => Status::Fail,
                };
                report.checks.push(Check { name: finding.about, status, detail: finding.detail });
            }
        }
    }
}

fn promises(has: Guarantees, report: &mut Report) {
    report.tier = Some(has.tier.to_string());
    report.ok("tier", format!("{}: which faults the storage survives", has.tier));
    match has.clock {
        LeaseClock::Boot => report.ok("clock", "the machine's, which cannot be set".to_owned()),
        LeaseClock::ServerMonotonic => report.ok("clock", "the server's, which cannot be set".to_owned()),
        _ => report.warn("clock", "the server's wall clock: setting it ends or stretches leases".to_owned()),
    }
    if has.fencing {
        report.ok("fencing", "tokens grow forever".to_owned());
    } else {
        report.warn("fencing", "tokens may start again: do not rely on them".to_owned());
    }
    let order = if has.fair { "in the order in which they came" } else { "in no order" };
    let wake = if has.push { "woken by a release" } else { "woken by polling" };
    report.ok("waiters", format!("served {order}, {wake}"));
}

/// The result of taking and releasing a scratch lock twice.
struct RoundTrip {
    tokens: [u64; 2],
    seen: bool,
    slowest: Duration,
    ttl: Duration,
}

/// How long `doctor` waits for a new primary that grants nothing yet, before it reports that instead.
const NEW_PRIMARY_LIMIT: Duration = Duration::from_secs(10);

async fn round_trip(locks: &Locks) -> leasehold::Result<RoundTrip> {
    let limits = locks.limits();
    let ttl = Options::default().ttl.clamp(limits.ttl_min, limits.ttl_max);
    // No other client uses this name: the process id differs from other runs on this machine, the time from runs elsewhere.
    let nanos = super::run::clock::boot_nanos();
    let name = format!("leasehold.doctor/{}-{nanos}", std::process::id());
    let lock = locks.lock(&name).ttl(ttl).wait(NEW_PRIMARY_LIMIT);
    let (mut tokens, mut seen, mut slowest) = ([0; 2], true, Duration::ZERO);
    for token in &mut tokens {
        // The time during which a new primary grants nothing does not count.
        let mut start = super::run::clock::boot_nanos();
        let guard = match lock.try_acquire().await? {
            Some(guard) => guard,
            None => {
                let guard = lock.acquire().await?;
                start = super::run::clock::boot_nanos();
                guard
            }
        };
        slowest = std::cmp::max(slowest, since(start));
        *token = guard.token().get();
        let start = super::run::clock::boot_nanos();
        guard.extend(ttl).await?;
        slowest = std::cmp::max(slowest, since(start));
        let holders = locks.inspect(&name).await?;
        seen &= holders.iter().any(|holder| holder.owner == guard.owner() && holder.token == guard.token());
        guard.release().await?;
        seen &= locks.inspect(&name).await?.is_empty();
    }
    Ok(RoundTrip { tokens, seen, slowest, ttl })
}

fn since(start: u64) -> Duration {
    Duration::from_nanos(super::run::clock::boot_nanos().saturating_sub(start))
}

impl RoundTrip {
    fn report(&self, report: &mut Report) {
        let [first, second] = self.tokens;
        if second > first {
            report.ok("token", format!("grows: {first}, then {second}"));
        } else {
            report.fail("token", format!("does not grow: {first}, then {second}"));
        }
        if self.seen {
            report.ok("inspect", "shows the holder, and none after the release".to_owned());
        } else {
            report.fail("inspect", "does not show the holder, or shows one after the release".to_owned());
        }
        let latency = format!("{} at most, with the default ttl of {}", short(self.slowest), short(self.ttl));
        // A renewal comes after a third of the TTL. An answer that takes a tenth of the TTL leaves time for two retries.
        if self.slowest * 10 < self.ttl {
            report.ok("latency", latency);
        } else {
            report.warn("latency", format!("{latency}; use a longer ttl"));
        }
    }
}

/// Returns the storage's name without its secrets, as the library shows it.
fn storage(locks: &Locks) -> String {
    let shown = format!("{locks:?}");
    let inner = shown.strip_prefix("Locks(").and_then(|s| s.strip_suffix(')'));
    inner.unwrap_or(&shown).to_owned()
}

#[derive(Serialize)]
struct Sql<'a> {
    sql: &'a str,
}

#[derive(Serialize)]
struct Report {
    storage: String,
    tier: Option<String>,
    checks: Vec<Check>,
}

impl Report {
    fn ok(&mut self, name: &'static str, detail: String) {
        self.checks.push(Check { name, status: Status::Ok, detail });
    }

    fn warn(&mut self, name: &'static str, detail: String) {
        self.checks.push(Check { name, status: Status::Warn, detail });
    }

    fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail)
    }

    fn fail(&mut self, name: &'static str, detail: String) {
        self.checks.push(Check { name, status: Status::Fail, detail });
    }
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}
