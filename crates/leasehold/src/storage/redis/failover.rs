//! What becomes of leases when another server takes the primary's place.
//!
//! `D` is `failover_grace`: no TTL is longer, and a primary grants nothing in the first `D` after it was seen under its
//! run id. Two may hold a lock only if the old primary goes on renewing a lease that the new one does not know, so:
//!
//! 1. A grant or a renewal counts only when **every** replica that could be promoted has it (`WAIT`, on the connection on
//!    which it was written). A replica that was promoted follows the old primary no more, and confirms nothing. So
//!    whatever counts was sent before the promotion, at `s <= p`, and its holder believes until `s + TTL <= p + D`.
//! 2. The new primary grants nothing before `p + D`: its clients see it at the promotion `p` at the earliest.
//!
//! Neither needs two clocks to agree, or acknowledgments to be fresh: a primary that was stopped and goes on may still
//! find old ones in its sockets, and would take its replicas to be well.
//!
//! 3. The old primary must also stop by itself, in time: others than us write there too, and its clients must be told
//!    instead of waiting. It refuses writes when fewer than `min-replicas-to-write` replicas have spoken within the last
//!    `min-replicas-max-lag` = `L` whole seconds, of which it makes sure once a second. From the last word of a replica
//!    until it refuses, up to `L + 1` seconds pass by rounding, and one more until it looks: `L + 2 s`. That must be no
//!    more than `D`. (`down-after-milliseconds` of the Sentinels only makes the promotion later, which helps, and is not
//!    counted on.)
//! 4. Any one of the replicas may be promoted, and the others may stay on the old primary's side. Only if it misses that
//!    one does it stop: `min-replicas-to-write` must be at least the number of replicas that the Sentinels know, those
//!    that are away included.

use std::time::Duration;

use super::config::{Config, Servers};
use super::facts::Facts;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Tier;

/// What becomes of leases when another server takes the primary's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    /// None can take its place.
    None,
    /// No lease is held twice, as long as all these replicas must confirm it.
    Safe { replicas: u32 },
    /// Leases may be held twice, for this reason.
    Unsafe(String),
}

/// Scripts of older versions write whatever `min-replicas-to-write` says.
const FIRST_THAT_STOPS: u32 = 7;
/// What is added to the lag by counting whole seconds, and by looking once a second.
const ROUNDING: Duration = Duration::from_secs(2);

impl Facts {
    /// Says what becomes of leases when another server takes the place of this one.
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
                "only Sentinels tell which replicas may take its place; write `redis+sentinel:`".into(),
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
        // Nothing is refused if either is zero.
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

    /// How many replicas must confirm what counts.
    pub(super) fn confirmations(&self, config: &Config) -> u32 {
        match self.failover(config) {
            Failover::Safe { replicas } => replicas,
            _ => 0,
        }
    }

    /// Refuses a server of which it was promised, and is not true any more, that leases survive a failover.
    pub(super) fn check_failover(&self, config: &Config, place: &str) -> Result<()> {
        // Without a replica it cannot be promised, and nothing is: as when all of them were taken away.
        if self.tier(config) == Tier::FailoverSafe {
            return Ok(());
        }
        let why = match self.failover(config) {
            Failover::Unsafe(why) => why,
            _ => "the Sentinels know no replica of it".into(),
        };
        let text = "leases were promised to survive a failover, and that is not so any more; mend it, or connect anew";
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
    fn the_old_primary_must_stop_in_time() {
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
            // The other one may be promoted while this one keeps the old primary going.
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
        assert!(!safe(&facts(), "redis://a?failover_grace=60s"), "nobody knows what may be promoted");
        assert!(!safe(&facts(), "redis+sentinel://a,b,c/main"));
    }

    #[test]
    fn a_server_that_none_can_replace_only_restarts() {
        let alone =
            Facts { known: true, replicas: 0, known_replicas: None, policy: "noeviction".into(), ..facts() };
        let tier = |url: &str| alone.tier(&Config::new(url).expect("right"));
        assert_eq!(tier("redis://a?failover_grace=60s"), Tier::RestartSafe);
        assert_eq!(tier("redis://a"), Tier::CrashSafe);
    }
}
