//! What a server reports about itself, and what can be promised because of it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, Value, from_redis_value};

use super::config::{Config, Servers};
use super::errors::{explain_handshake, explain_script_error};
use super::replies::malformed;
use crate::error::{Error, ErrorKind, Result};

/// What a server reported when the connection was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Another one after a restart, or when another server is the primary.
    pub(super) identity: Identity,
    /// Its clock, in microseconds.
    pub(super) time_us: u64,
    /// Whether it answers `INFO`. An ACL may forbid that.
    pub(super) known: bool,
    /// The product: `redis` or `valkey`.
    pub(super) product: String,
    pub(super) version: String,
    pub(super) primary: bool,
    pub(super) cluster: bool,
    /// The eviction policy (`maxmemory-policy`).
    pub(super) policy: String,
    /// Whether it has an append-only file (`appendonly`).
    pub(super) journal: bool,
    /// When it syncs that file to the disk (`appendfsync`).
    pub(super) fsync: String,
    /// The number of connected replicas.
    pub(super) replicas: u64,
    /// The number of replicas that the Sentinels know, including those that are down.
    pub(super) known_replicas: Option<u64>,
    /// The number of replicas without which it refuses writes (`min-replicas-to-write`), if it reports that.
    pub(super) replicas_min: Option<u64>,
    /// After how many seconds a silent replica does not count (`min-replicas-max-lag`), if it reports that.
    pub(super) lag_max_s: Option<u64>,
    /// The time since its start, at least. The server reports the difference of two times that are each rounded down to
    /// a second, which is up to a second too long.
    pub(super) uptime: Duration,
}

/// A server, and one run of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) run_id: String,
    replication_id: String,
}

impl Facts {
    /// Returns the queries whose replies [`Facts::read`] takes. A reply that is refused counts as unknown.
    pub(super) fn queries(config: &Config) -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HELLO");
        if config.access.database > 0 {
            pipeline.cmd("SELECT").arg(config.access.database);
        }
        pipeline.cmd("INFO").cmd("TIME");
        pipeline.cmd("CONFIG").arg("GET").arg("appendfsync");
        pipeline.cmd("CONFIG").arg("GET").arg("maxmemory-policy");
        if config.failover_grace.is_some() {
            pipeline.cmd("CONFIG").arg("GET").arg("min-replicas-*");
        }
        pipeline
    }

    /// Reads the replies to the queries.
    ///
    /// # Errors
    ///
    /// If a reply says that the server is not ready, or is malformed.
    pub(super) fn read(replies: Vec<Value>, config: &Config, place: &str) -> Result<Self> {
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let hello = Hello::read(next(), place)?;
        if config.access.database > 0 {
            hello.check_selected(next(), place)?;
        }
        let info = Info(if_allowed(next(), place)?.unwrap_or_default());
        let (seconds, micros): (u64, u64) = accepted(next(), place)?;
        let mut settings =
            || -> Result<HashMap<String, String>> { Ok(if_allowed(next(), place)?.unwrap_or_default()) };
        let fsync = settings()?.remove("appendfsync");
        let policy = settings()?.remove("maxmemory-policy");
        let mut stopping = if config.failover_grace.is_some() { settings()? } else { HashMap::new() };
        let mut stopping = |name: &str| stopping.remove(name)?.parse().ok();
        info.check(place)?;
        let uptime_s = info.field("uptime_in_seconds").parse::<u64>().unwrap_or(0);
        Ok(Self {
            identity: Identity {
                run_id: info.field("run_id").to_owned(),
                replication_id: info.field("master_replid").to_owned(),
            },
            time_us: seconds.saturating_mul(1_000_000).saturating_add(micros),
            known: !info.0.is_empty(),
            product: hello.field("server").unwrap_or_default(),
            version: hello.field("version").unwrap_or_default(),
            primary: hello.field("role").as_deref() == Some("master"),
            cluster: hello.is_cluster(),
            policy: policy.unwrap_or_else(|| info.field("maxmemory_policy").to_owned()),
            journal: info.field("aof_enabled") == "1",
            fsync: fsync.unwrap_or_default(),
            replicas: info.field("connected_slaves").parse().unwrap_or(0),
            known_replicas: None,
            replicas_min: stopping("min-replicas-to-write"),
            lag_max_s: stopping("min-replicas-max-lag"),
            uptime: Duration::from_secs(uptime_s.saturating_sub(1)),
        })
    }

    /// Refuses a server that cannot keep locks.
    pub(super) fn check(&self, config: &Config, place: &str) -> Result<()> {
        if matches!(config.servers, Servers::Quorum(_)) {
            self.check_independence(place)?;
        }
        if !self.primary {
            let text = match config.servers {
                Servers::One(_) => {
                    "the server is a replica; name its primary, or write `redis+sentinel:` to have it found"
                }
                _ => "the server is a replica now; retry when there is a primary",
            };
            return Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`")));
        }
        if self.evicts() && !config.allow_eviction {
            let text = "the server forgets locks when its memory is full; set `maxmemory-policy noeviction`, \
                or accept that with the URL option `allow_eviction=true`";
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{text} server=`{place}` policy=`{}`", self.policy),
            ));
        }
        if config.failover_grace.is_some() && self.identity.run_id.is_empty() {
            let text = "`failover_grace` needs to know the server's run id; let the user call INFO";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")));
        }
        Ok(())
    }

    /// Refuses a server that is not independent, or of which that is unknown.
    fn check_independence(&self, place: &str) -> Result<()> {
        let text = if self.identity.run_id.is_empty() {
            "a quorum needs to know each server's run id; let the user call INFO"
        } else if !self.primary {
            "the server is a replica, and a quorum needs independent servers; name primaries"
        } else if self.cluster {
            "the server is a node of a Cluster, and a quorum needs independent servers; \
                write `redis+cluster:`, or name others"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")))
    }

    /// Returns `true` if a restart loses nothing that it has replied: each write is on its disk before the reply.
    pub(super) fn survives_restart(&self) -> bool {
        self.journal && self.fsync == "always"
    }

    pub(super) fn evicts(&self) -> bool {
        !self.policy.is_empty() && self.policy != "noeviction"
    }
}

/// The reply to `HELLO`, which no ACL can forbid.
struct Hello(HashMap<String, Value>);

impl Hello {
    fn read(reply: Value, place: &str) -> Result<Self> {
        let hello = Self(accepted(reply, place)?);
        if hello.field("proto").as_deref() != Some("3") {
            return Err(malformed(place));
        }
        if hello.field("mode").as_deref() == Some("sentinel") {
            let text = "the server is a Sentinel; write `redis+sentinel:`, and after the hosts its name for the primary";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")));
        }
        Ok(hello)
    }

    /// Checks the reply to `SELECT`.
    fn check_selected(&self, reply: Value, place: &str) -> Result<()> {
        if self.is_cluster() && matches!(reply, Value::ServerError(_)) {
            let text = "the server is a node of a Cluster; write `redis+cluster:`";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")));
        }
        accepted::<Value>(reply, place).map(drop)
    }

    fn is_cluster(&self) -> bool {
        self.field("mode").as_deref() == Some("cluster")
    }

    fn field(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().and_then(|value| from_redis_value(value).ok())
    }
}

/// The reply to `INFO`; empty if an ACL forbids it.
struct Info(String);

impl Info {
    /// Refuses a reply that is malformed, and a server that is not ready.
    fn check(&self, place: &str) -> Result<()> {
        if !self.0.is_empty() && !self.0.contains("redis_version:") {
            return Err(malformed(place));
        }
        if self.field("loading") == "1" {
            // A server that loads its data reports that it has no append-only file.
            return Err(explain_script_error("LOADING", place));
        }
        Ok(())
    }

    fn field(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }
}

/// Returns the reply, or `None` if the user may not send that command: an ACL forbids it, or it was renamed.
fn if_allowed<T: FromRedisValue>(value: Value, place: &str) -> Result<Option<T>> {
    match &value {
        Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => Ok(None),
        _ => accepted(value, place).map(Some),
    }
}

/// Returns the reply, or the error that it is.
fn accepted<T: FromRedisValue>(value: Value, place: &str) -> Result<T> {
    match value {
        Value::ServerError(error) => Err(explain_handshake(&error.into(), place)),
        value => from_redis_value(value).map_err(|_| malformed(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("redis://h").expect("right")
    }

    fn answers(info: &str) -> Vec<Value> {
        let text = |text: &str| Value::BulkString(text.into());
        let hello = [("proto", "3"), ("role", "master"), ("mode", "standalone")];
        vec![
            Value::Map(hello.map(|(name, value)| (text(name), text(value))).into()),
            text(&format!("redis_version:7.0.15\r\n{info}\r\n")),
            Value::Array(vec![text("1795227082"), text("629332")]),
            Value::Map(vec![(text("appendfsync"), text("always"))]),
            Value::Map(vec![(text("maxmemory-policy"), text("noeviction"))]),
        ]
    }

    #[test]
    fn a_server_that_is_loading_is_unavailable() {
        let loading = Facts::read(answers("loading:1\r\naof_enabled:0"), &config(), "h:1");
        assert_eq!(loading.expect_err("it loads").kind(), ErrorKind::Unavailable);
        let facts = Facts::read(answers("loading:0\r\naof_enabled:1"), &config(), "h:1").expect("known");
        assert!(facts.survives_restart());
    }

    #[test]
    fn the_reported_uptime_is_rounded_down_by_a_second() {
        let uptime = |reported| {
            let info = format!("uptime_in_seconds:{reported}");
            Facts::read(answers(&info), &config(), "h:1").expect("known").uptime
        };
        assert_eq!([uptime(0), uptime(1), uptime(61)], [0, 0, 60].map(Duration::from_secs));
    }
}
