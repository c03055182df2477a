//! `leasehold doctor`

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use leasehold::storage::postgres::{self, Postgres};
use leasehold::storage::redis::{self, Finding, Redis};
use leasehold::storage::redis_quorum::{self, RedisQuorum};
use leasehold::{ErrorKind, Guarantees, LeaseClock, Locks, Options};
use rustix::fs::Access;
use serde::Serialize;

use crate::args::Doctor;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::{safe, short};
use crate::session::Context;

pub(crate) async fn run(args: &Doctor, cx: &Context) -> Result<Exit> {
    if args.sql { sql(cx) } else { check(cx).await }
}

/// Prints what makes the tables, for whoever may.
fn sql(cx: &Context) -> Result<Exit> {
    let kind = cx.store.scheme();
    if !matches!(kind, "postgres" | "postgresql") {
        return Err(Failure::usage(format!(
            "--sql is for PostgreSQL, and this storage has no tables to make; give a postgres: URL storage=`{kind}`"
        )));
    }
    let sql = Postgres::schema(&postgres::Config::new(cx.store.url())?);
    cx.output.result(&Sql { sql: &sql }, || sql.trim_end().to_owned())?;
    Ok(Exit::Success)
}

async fn check(cx: &Context) -> Result<Exit> {
    let mut report = Report { storage: cx.store.shown(), tier: None, checks: Vec::new() };
    let examined = cx
        .with_locks(async |locks| {
            report.storage = storage(locks);
            report.ok("connect", report.storage.clone());
            if let Some(path) = cx.store.file() {
                file(&path, &mut report);
            }
            examine(locks, &mut report).await;
            servers(cx.store.url(), &mut report).await;
            Ok(())
        })
        .await;
    if let Err(failure) = examined {
        match failure.text {
            Some(text) if report.checks.is_empty() => {
                let text = format!("{text} storage=`{}`", report.storage);
                report.fail("connect", text);
            }
            // What is wrong was said already, and closing only meets it once more.
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
        // No other client asks for that name: it is the storage that keeps everybody out.
        Err(error) if error.kind() == ErrorKind::Contended => report.warn(
            "round trip",
            "the storage grants nothing now, as a new primary does for its `failover_grace`; ask again"
                .to_owned(),
        ),
        Err(error) => report.fail("round trip", chain(&error)),
        Ok(trip) => {
            report.ok("round trip", "acquired, renewed, inspected and released a lock of its own".to_owned());
            trip.report(report);
        }
    }
}

/// What the servers of a Redis, or a PostgreSQL, say of themselves.
async fn servers(url: &str, report: &mut Report) {
    match findings(url).await {
        Err(error) => report.fail("server", chain(&error)),
        Ok(found) => {
            for finding in found {
                let status = if finding.good { Status::Ok } else { Status::Warn };
                report.checks.push(Check { name: finding.about, status, detail: finding.detail });
            }
        }
    }
}

/// Nothing of a storage that is no server.
async fn findings(url: &str) -> leasehold::Result<Vec<Finding>> {
    if let Ok(config) = redis::Config::new(url) {
        Redis::connect(config).await?.findings().await
    } else if let Ok(config) = redis_quorum::Config::new(url) {
        Ok(RedisQuorum::connect(config).await?.findings().await)
    } else if let Ok(config) = postgres::Config::new(url) {
        Postgres::connect(config).await?.findings().await
    } else {
        Ok(Vec::new())
    }
}

/// Where SQLite's file is and who may change it.
fn file(path: &Path, report: &mut Report) {
    let shown = path.display();
    match path.metadata() {
        Err(error) => report.fail("file", format!("cannot be looked at path=`{shown}` error=`{error}`")),
        Ok(file) if file.mode() & 0o002 != 0 => {
            let mode = file.mode() & 0o777;
            report.warn(
                "file",
                format!("everybody may change it; run `chmod o-w` on it path=`{shown}` mode=`{mode:03o}`"),
            );
        }
        Ok(file) if !is_writable(path) => {
            let (mode, uid) = (file.mode() & 0o777, file.uid());
            report.fail(
                "file",
                format!(
                    "it or its directory cannot be written to; change the owner or the permissions path=`{shown}` mode=`{mode:03o}` uid=`{uid}`"
                ),
            );
        }
        Ok(file) => {
            let (mode, uid) = (file.mode() & 0o777, file.uid());
            report.ok("file", format!("path=`{shown}` mode=`{mode:03o}` uid=`{uid}`"));
        }
    }
}

/// SQLite writes to the file, and makes others beside it.
fn is_writable(file: &Path) -> bool {
    let may = Access::READ_OK | Access::WRITE_OK;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::access(file, may).is_ok() && rustix::fs::access(dir, may | Access::EXEC_OK).is_ok()
}

fn promises(has: Guarantees, report: &mut Report) {
    report.tier = Some(has.tier.to_string());
    report.ok("tier", format!("{}: which faults the storage survives", has.tier));
    match has.clock {
        LeaseClock::Boot => report.ok("clock", "the machine's, which nobody can set".to_owned()),
        LeaseClock::ServerMonotonic => report.ok("clock", "the server's, which nobody can set".to_owned()),
        _ => report.warn("clock", "the server's wall clock: setting it ends or stretches leases".to_owned()),
    }
    if has.fencing {
        report.ok("fencing", "tokens grow for ever".to_owned());
    } else {
        report.warn("fencing", "tokens may start again: do not rely on them".to_owned());
    }
    let order = if has.fair { "in the order in which they came" } else { "in no order" };
    let wake = if has.push { "woken by a release" } else { "woken by polling" };
    report.ok("waiters", format!("served {order}, {wake}"));
}

/// What taking and releasing a scratch lock twice has shown.
struct RoundTrip {
    tokens: [u64; 2],
    seen: bool,
    slowest: Duration,
    ttl: Duration,
}

/// How long a new primary may keep everybody out until that is told and not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

async fn round_trip(locks: &Locks) -> leasehold::Result<RoundTrip> {
    let limits = locks.limits();
    let ttl = Options::default().ttl.clamp(limits.ttl_min, limits.ttl_max);
    // Nobody else's name: the process id tells the doctors of one machine apart, the time those of several.
    let nanos = super::run::clock::boot_nanos();
    let name = format!("leasehold.doctor/{}-{nanos}", std::process::id());
    let lock = locks.lock(&name).ttl(ttl).wait(PATIENCE);
    let (mut tokens, mut seen, mut slowest) = ([0; 2], true, Duration::ZERO);
    for token in &mut tokens {
        // Without the time for which a new primary keeps everybody out.
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
        let holder = locks.inspect(&name).await?;
        seen &= holder.is_some_and(|holder| holder.owner == guard.owner() && holder.token == guard.token());
        guard.release().await?;
        seen &= locks.inspect(&name).await?.is_none();
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
            report.fail("inspect", "does not show what was just done".to_owned());
        }
        let latency = format!("{} at most, with the default ttl of {}", short(self.slowest), short(self.ttl));
        // Renewals come every third of the TTL: an answer that takes a tenth leaves room for two more.
        if self.slowest * 10 < self.ttl {
            report.ok("latency", latency);
        } else {
            report.warn("latency", format!("{latency}; use a longer ttl"));
        }
    }
}

/// The storage's name without its secrets, as the library shows it.
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
