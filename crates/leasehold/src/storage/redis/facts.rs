//! What a server tells of itself, and what can be promised of it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, Value, from_redis_value};

use super::answers::{explain_greeting, explain_text};
use super::config::{Config, Servers};
use super::failover::Failover;
use super::request::senseless;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Guarantees, LeaseClock, Tier};

/// What a server told when it was connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Facts {
    /// Changes when the server is restarted, or another one is the primary.
    pub(in crate::storage) identity: Identity,
    /// Its clock, in microseconds.
    pub(in crate::storage) time_us: u64,
    /// Whether it says what it is; a user may be forbidden to ask.
    pub(super) known: bool,
    /// `redis` or `valkey`.
    pub(super) product: String,
    pub(super) version: String,
    pub(super) primary: bool,
    pub(in crate::storage) cluster: bool,
    /// What it does when its memory is full.
    pub(super) policy: String,
    /// Whether it writes down every change, and when that is on its disk.
    pub(super) journal: bool,
    pub(super) fsync: String,
    /// How many replicas are connected to it.
    pub(super) replicas: u64,
    /// How many the Sentinels know, if they were asked; those that are away count.
    pub(super) known_replicas: Option<u64>,
    /// Without so many replicas it refuses writes (`min-replicas-to-write`), if it tells.
    pub(super) replicas_min: Option<u64>,
    /// A replica that has been silent for longer does not count (`min-replicas-max-lag`), if it tells.
    pub(super) lag_max_s: Option<u64>,
    /// How long it has been running at least. It reports the difference of two times that are each rounded down to a
    /// second, so up to a second too much.
    pub(in crate::storage) up: Duration,
}

/// Which server, and which life of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::storage) struct Identity {
    pub(in crate::storage) run_id: String,
    replication_id: String,
}

impl Facts {
    /// What to ask. Those that are refused count as unknown.
    pub(in crate::storage) fn questions(config: &Config) -> Pipeline {
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

    /// # Errors
    ///
    /// If an answer says that the server is not ready, or makes no sense. What it knows is then known by asking again.
    pub(in crate::storage) fn read(answers: Vec<Value>, config: &Config, place: &str) -> Result<Self> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        // Nobody can be forbidden to ask this.
        let hello: HashMap<String, Value> = greeting(next(), place)?;
        let hello =
            |name: &str| hello.get(name).cloned().and_then(|value| from_redis_value::<String>(value).ok());
        let (role, mode) = (hello("role"), hello("mode"));
        if hello("proto").as_deref() != Some("3") {
            return Err(senseless(place));
        }
        if mode.as_deref() == Some("sentinel") {
            let text = "the server is a Sentinel; write `redis+sentinel:`, and after the hosts what it calls the primary";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")));
        }
        if config.access.database > 0 {
            match next() {
                Value::ServerError(_) if mode.as_deref() == Some("cluster") => {
                    let text = "the server is a node of a Cluster; write `redis+cluster:`";
                    return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")));
                }
                chosen => greeting::<Value>(chosen, place)?,
            };
        }
        let info: String = if_allowed(next(), place)?.unwrap_or_default();
        let time: (u64, u64) = greeting(next(), place)?;
        let mut settings =
            || -> Result<HashMap<String, String>> { Ok(if_allowed(next(), place)?.unwrap_or_default()) };
        let fsync = settings()?.remove("appendfsync");
        let policy = settings()?.remove("maxmemory-policy");
        let mut stopping = if config.failover_grace.is_some() { settings()? } else { HashMap::new() };
        let mut stopping = |name: &str| stopping.remove(name)?.parse().ok();
        if !info.is_empty() && !info.contains("redis_version:") {
            return Err(senseless(place));
        }
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        if field("loading") == "1" {
            // Meanwhile it says that it keeps no journal.
            return Err(explain_text("LOADING", place));
        }
        let policy = policy.unwrap_or_else(|| field("maxmemory_policy"));
        Ok(Self {
            identity: Identity { run_id: field("run_id"), replication_id: field("master_replid") },
            time_us: time.0.saturating_mul(1_000_000).saturating_add(time.1),
            known: !info.is_empty(),
            product: hello("server").unwrap_or_default(),
            version: hello("version").unwrap_or_default(),
            primary: role.as_deref() == Some("master"),
            cluster: mode.as_deref() == Some("cluster"),
            policy,
            journal: field("aof_enabled") == "1",
            fsync: fsync.unwrap_or_default(),
            replicas: field("connected_slaves").parse().unwrap_or(0),
            known_replicas: None,
            replicas_min: stopping("min-replicas-to-write"),
            lag_max_s: stopping("min-replicas-max-lag"),
            up: Duration::from_secs(field("uptime_in_seconds").parse::<u64>().unwrap_or(0).saturating_sub(1)),
        })
    }

    /// Refuses a server that is not fit to keep locks.
    pub(in crate::storage) fn check(&self, config: &Config, place: &str) -> Result<()> {
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

    /// Refuses a server that is not one of its own, or of which that cannot be known.
    fn check_independence(&self, place: &str) -> Result<()> {
        let text = if self.identity.run_id.is_empty() {
            "a quorum needs to know each server's run id; let the user call INFO"
        } else if !self.primary {
            "the server is a replica, and a quorum needs servers that know nothing of each other; name primaries"
        } else if self.cluster {
            "the server is a node of a Cluster, and a quorum needs servers that know nothing of each other; \
                write `redis+cluster:`, or name others"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}`")))
    }

    /// What this server, alone or as one of many alike, keeps of the promises.
    pub(in crate::storage) fn tier(&self, config: &Config) -> Tier {
        if !self.known || self.evicts() || self.policy.is_empty() {
            Tier::Advisory
        } else if matches!(self.failover(config), Failover::Safe { .. }) {
            Tier::FailoverSafe
        } else if self.failover(config) == Failover::None
            && (self.survives_restart() || config.failover_grace.is_some())
        {
            Tier::RestartSafe
        } else {
            Tier::CrashSafe
        }
    }

    /// Whether a restart makes it forget nothing that it has answered: a grant is on its disk before.
    pub(in crate::storage) fn survives_restart(&self) -> bool {
        self.journal && self.fsync == "always"
    }

    pub(in crate::storage) fn guarantees(&self, config: &Config) -> Guarantees {
        Guarantees {
            fencing: true,
            fair: true,
            push: true,
            ..Guarantees::new(self.tier(config), LeaseClock::ServerWall)
        }
    }

    pub(in crate::storage) fn evicts(&self) -> bool {
        !self.policy.is_empty() && self.policy != "noeviction"
    }
}

/// What the server says, or nothing if the user may not ask: a command that is forbidden, or has another name.
fn if_allowed<T: FromRedisValue>(value: Value, place: &str) -> Result<Option<T>> {
    match &value {
        Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => Ok(None),
        _ => greeting(value, place).map(Some),
    }
}

fn greeting<T: FromRedisValue>(value: Value, place: &str) -> Result<T> {
    match value {
        Value::ServerError(error) => Err(explain_greeting(&error.into(), place)),
        value => from_redis_value(value).map_err(|_| senseless(place)),
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
    fn a_server_that_is_loading_has_not_said_yet_what_it_keeps() {
        let loading = Facts::read(answers("loading:1\r\naof_enabled:0"), &config(), "h:1");
        assert_eq!(loading.expect_err("it is loading").kind(), ErrorKind::Unavailable);
        let facts = Facts::read(answers("loading:0\r\naof_enabled:1"), &config(), "h:1").expect("known");
        assert!(facts.survives_restart());
    }

    #[test]
    fn a_server_started_at_the_end_of_a_second_has_not_been_running_for_one() {
        let up = |said| {
            let info = format!("uptime_in_seconds:{said}");
            Facts::read(answers(&info), &config(), "h:1").expect("known").up
        };
        assert_eq!([up(0), up(1), up(61)], [0, 0, 60].map(Duration::from_secs));
    }
}
