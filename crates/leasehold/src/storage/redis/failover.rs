//! What becomes of leases when another server is promoted to primary.
//!
//! `D` is `failover_grace`: no TTL is longer, and a primary grants nothing in the first `D` after it was first seen under
//! its run id. Two clients may hold a lock only if the old primary still renews a lease that the new one does not know.
//! Two rules prevent that:
//!
//! 1. A grant or a renewal counts only once **every** replica that could be promoted has confirmed it (`WAIT`, on the
//!    connection that wrote it). A promoted replica no longer follows the old primary, and confirms nothing. So whatever
//!    counts was sent before the promotion, at `s <= p`, and its holder considers it expired at `s + TTL <= p + D`.
//! 2. The new primary grants nothing before `p + D`, because its clients see it at the promotion `p` at the earliest.
//!
//! Neither rule needs two clocks to agree, nor acknowledgments to be fresh. A primary that was stopped for a while may
//! find old acknowledgments in its sockets, and would consider its replicas healthy.
//!
//! 3. The old primary must also stop by itself in time. Other programs write there, too, and its clients must get an
//!    error instead of waiting. It refuses writes when fewer than `min-replicas-to-write` replicas have reported within
//!    the last `min-replicas-max-lag` = `L` whole seconds, which it checks once a second. From the last report of a
//!    replica, up to `L + 1` seconds pass by rounding, and one more until the check: `L + 2 s`. That must be at most `D`.
//!    (`down-after-milliseconds` of the Sentinels only delays the promotion, and is not relied on.)
//! 4. Any replica may be promoted while the others stay connected to the old primary. It must stop if it misses that one.
//!    So `min-replicas-to-write` must be at least the number of replicas that the Sentinels know, including those that
//!    are down.

use std::time::Duration;

use super::config::{Config, Servers};
use super::facts::Facts;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Tier;

/// What becomes of leases when another server is promoted to primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    /// There is no replica to promote.
    None,
    /// No lease is held twice, if so many replicas must confirm it.
    Safe { replicas: u32 },
    /// Leases may be held twice, for this reason.
    Unsafe(String),
}

/// The first major version in which `min-replicas-to-write` applies to scripts, too.
const FIRST_THAT_STOPS: u32 = 7;
/// What counting whole seconds, and checking once a second, add to the lag.
const ROUNDING: Duration = Duration::from_secs(2);

impl Facts {
    /// Returns what becomes of leases when a replica of this server is promoted.
    pub(super) fn failover(&self, config: &Config) -> Failover {
        let count = std::cmp::max(self.known_replicas.unwrap_or(0), self.replicas);
        if count == 0 {
            return Failover::None;
        }
        let Some(grace) = config.failover_grace else {
            return Failover::Unsafe("the URL option `failover_grace` is not set".into());
        };
        if !matches!(config.servers, Servers::Sentinels { .. }) {
            return Failover::Unsafe(
                "only Sentinels report which replicas may be promoted; write `redis+sentinel:`".into(),
            );
        }
        let (Some(least), Some(lag_s)) = (self.replicas_min, self.lag_max_s) else {
            return Failover::Unsafe(
                "whether the primary stops when it is cut off is unknown; give the user `+config|get`".into(),
            );
        };
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < FIRST_THAT_STOPS) {
            return Failover::Unsafe(
                "a primary of this version does not stop scripts when it is cut off".into(),
            );
        }
        // The server refuses nothing if either setting is zero.
        let longest = grace.saturating_sub(ROUNDING).as_secs();
        match u32::try_from(count) {
            Ok(replicas) if least >= count && lag_s > 0 && lag_s <= longest => Failover::Safe { replicas },
            _ if longest == 0 => Failover::Unsafe(
                "a primary that is cut off goes on for 3s; make `failover_grace` longer".into(),
            ),
            _ => Failover::Unsafe(format!(
                "a primary that is cut off goes on; set `min-replicas-to-write` to {count}, as many as the Sentinels know, \
                 and `min-replicas-max-lag` to {longest} or less \
                 min-replicas-to-write=`{least}` min-replicas-max-lag=`{lag_s}`"
            )),
        }
    }

    /// Returns how many replicas must confirm a grant or a renewal.
    pub(super) fn confirmations(&self, config: &Config) -> u32 {
        match self.failover(config) {
            Failover::Safe { replicas } => replicas,
            _ => 0,
        }
    }

    /// Refuses a server at which leases do not survive a failover any more, although that was promised.
    pub(super) fn check_failover(&self, config: &Config, place: &str) -> Result<()> {
        // A server without replicas is refused, too: all of them may have been removed.
        if self.tier(config) == Tier::FailoverSafe {
            return Ok(());
        }
        let why = match self.failover(config) {
            Failover::Unsafe(why) => why,
            _ => "the Sentinels know no replica of it".into(),
        };
        let text =
            "leases were promised to survive a failover, and do not any more; correct that, or connect anew";
        Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}` why=`{why}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe(facts: &Facts, url: &str) -> bool {
        let config = Config::new(url).expect("right");
        matches!(facts.failover(&config), Failover::Safe { .. })
    }

    fn facts() -> Facts {
        Facts {
            version: "7.0.15".into(),
            replicas: 1,
            known_replicas: Some(1),
            replicas_min: Some(1),
            lag_max_s: Some(1),
            ..Facts::default()
        }
    }

    #[test]
    fn leases_survive_a_failover_if_the_old_primary_stops_in_time() {
        let sentinels = |grace: &str| format!("redis+sentinel://a,b,c/main?failover_grace={grace}");
        assert!(safe(&facts(), &sentinels("3s")));
        assert!(!safe(&facts(), &sentinels("2999ms")), "a lag of one second lasts up to three");
        for (lag, grace, fits) in [(10, "12s", true), (10, "11999ms", false), (0, "60s", false)] {
            assert_eq!(
                safe(&Facts { lag_max_s: Some(lag), ..facts() }, &sentinels(grace)),
                fits,
                "{lag} {grace}"
            );
        }
        for wrong in [
            Facts { replicas_min: Some(0), ..facts() },
            Facts { replicas_min: None, ..facts() },
            Facts { lag_max_s: None, ..facts() },
            // One replica may be promoted while the other one keeps the old primary writable.
            Facts { known_replicas: Some(2), ..facts() },
            Facts { replicas: 2, ..facts() },
            Facts { version: "6.2.14".into(), ..facts() },
            Facts { version: String::new(), ..facts() },
        ] {
            assert!(!safe(&wrong, &sentinels("60s")), "{wrong:?}");
        }
        assert!(safe(
            &Facts { known_replicas: Some(2), replicas_min: Some(2), ..facts() },
            &sentinels("60s")
        ));
        assert!(!safe(&facts(), "redis://a?failover_grace=60s"), "no Sentinel reports what may be promoted");
        assert!(!safe(&facts(), "redis+sentinel://a,b,c/main"));
    }

    #[test]
    fn a_server_without_replicas_can_be_restart_safe() {
        let alone =
            Facts { known: true, replicas: 0, known_replicas: None, policy: "noeviction".into(), ..facts() };
        let tier = |url: &str| alone.tier(&Config::new(url).expect("right"));
        assert_eq!(tier("redis://a?failover_grace=60s"), Tier::RestartSafe);
        assert_eq!(tier("redis://a"), Tier::CrashSafe);
    }
}
