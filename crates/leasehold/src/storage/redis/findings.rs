//! What `leasehold doctor` reports about a server: what it is, and what to change for it to promise more.

use super::config::{Config, Servers};
use super::facts::Facts;
use super::failover::Failover;
use super::link::Link;
use crate::storage::Finding;

/// The first version of each branch in which no script is known to break out of the interpreter: CVE-2025-49844,
/// CVE-2025-46817 and CVE-2025-46818, and with them the older CVE-2024-46981. Every later branch began with the fixes.
const FIXED_REDIS: &[[u32; 3]] = &[[6, 2, 20], [7, 2, 11], [7, 4, 6], [8, 0, 4], [8, 2, 2]];
const FIXED_VALKEY: &[[u32; 3]] = &[[7, 2, 11], [8, 0, 6], [8, 1, 4]];

impl Link {
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        self.facts.findings(config, &self.place)
    }
}

impl Facts {
    fn findings(&self, config: &Config, place: &str) -> Vec<Finding> {
        let part = match &config.servers {
            Servers::One(_) => "one server",
            Servers::Sentinels { .. } => "the primary that the Sentinels report",
            Servers::Cluster(_) => "a primary of a Cluster",
            Servers::Quorum(_) => "a member of a quorum",
        };
        let (product, version, replicas) = (&self.product, &self.version, self.replicas);
        let mut all = vec![Finding::good(
            "server",
            format!("{part} server=`{place}` product=`{product}` version=`{version}` replicas=`{replicas}`"),
        )];
        all.extend(self.vulnerabilities(place));
        if !self.known {
            let text = "the user may not call INFO, so nothing can be promised; give it `+info +config|get`";
            all.push(Finding::warning("server", format!("{text} server=`{place}`")));
            return all;
        }
        all.extend([self.memory(place), self.disk(config, place), self.promotion(config, place)]);
        all
    }

    fn memory(&self, place: &str) -> Finding {
        let policy = &self.policy;
        let (good, text) = if self.evicts() {
            (false, "when it is full, locks are evicted; set `maxmemory-policy noeviction`")
        } else if policy.is_empty() {
            (false, "what happens when it is full is unknown; give the user `+config|get`")
        } else {
            (true, "when it is full, new locks are refused and none is evicted")
        };
        Finding::new("memory", format!("{text} server=`{place}` policy=`{policy}`"), good)
    }

    fn disk(&self, config: &Config, place: &str) -> Finding {
        let (journal, fsync) = (if self.journal { "yes" } else { "no" }, &self.fsync);
        let text = if self.survives_restart() {
            "a grant is on disk before it is answered, so a restart forgets nothing"
        } else if matches!(config.servers, Servers::Quorum(_)) {
            "after a restart it grants nothing for `max_ttl`, which bounds every TTL; without that bound set \
             `appendonly yes` and `appendfsync always`"
        } else if self.journal && fsync.is_empty() {
            "when a grant is on disk is unknown, so a restart may forget it; give the user `+config|get`"
        } else {
            "a restart may forget locks; for restart-safe set `appendonly yes` and `appendfsync always`"
        };
        let detail = format!("{text} server=`{place}` appendonly=`{journal}` appendfsync=`{fsync}`");
        Finding::new("disk", detail, self.survives_restart())
    }

    fn promotion(&self, config: &Config, place: &str) -> Finding {
        const QUORUM: &str = "three or more independent servers (`redis+quorum:`)";
        let replicas = self.replicas;
        let (good, text) = match (&config.servers, config.failover_grace) {
            (Servers::Quorum(_), _) => (true, "a majority decides, and no server is promoted".to_owned()),
            (_, Some(_)) => match self.failover(config) {
                Failover::None => (
                    true,
                    "there is none; a restarted server grants nothing until every lease has ended".into(),
                ),
                Failover::Safe { .. } => {
                    let text = "a new primary grants nothing until every lease has ended, and the old one stops in time";
                    (true, text.into())
                }
                Failover::Unsafe(why) => (false, format!("a lock may be held twice: {why}; or use {QUORUM}")),
            },
            (Servers::Cluster(_), None) => {
                let text = format!("may forget the last grants; for failover-safe use {QUORUM}");
                (replicas == 0, if replicas == 0 { format!("there is none; {text}") } else { text })
            }
            (Servers::One(_), None) if replicas == 0 => {
                (true, format!("there is none, and no lock while this server is away; else use {QUORUM}"))
            }
            (Servers::Sentinels { .. }, None) => {
                let text = "may forget the last grants; for failover-safe set the URL option `failover_grace`, as long as \
                    the longest TTL, and at the servers `min-replicas-to-write` and `min-replicas-max-lag`";
                (false, format!("{text}; or use {QUORUM}"))
            }
            _ => (false, format!("may forget the last grants; for failover-safe use Sentinels, or {QUORUM}")),
        };
        let detail = format!("{text} server=`{place}` replicas=`{replicas}`");
        Finding::new("failover", detail, good)
    }

    /// Warns of a version in which scripts are known to break out. Every user that may call scripts can exploit that.
    fn vulnerabilities(&self, place: &str) -> Option<Finding> {
        let fixed = if self.product == "valkey" { FIXED_VALKEY } else { FIXED_REDIS };
        let version = numbers(&self.version)?;
        if is_fixed(version, fixed) {
            return None;
        }
        let list: Vec<_> = fixed.iter().map(|[a, b, c]| format!("{a}.{b}.{c}")).collect();
        let (list, version) = (list.join(", "), &self.version);
        Some(Finding::warning(
            "security",
            format!(
                "every user that may call scripts can break into this version (CVE-2025-49844 and others); update to {list} \
                 or later, unless your distribution has fixed it server=`{place}` version=`{version}`"
            ),
        ))
    }
}

fn is_fixed(version: [u32; 3], fixed: &[[u32; 3]]) -> bool {
    let branch = fixed.iter().find(|first| first[..2] == version[..2]);
    branch.map_or_else(|| fixed.last().is_some_and(|last| version > *last), |first| version >= *first)
}

fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_versions_are_distinguished_from_vulnerable_ones() {
        let redis = |version: &str| is_fixed(numbers(version).expect("a version"), FIXED_REDIS);
        let valkey = |version: &str| is_fixed(numbers(version).expect("a version"), FIXED_VALKEY);
        for old in ["6.0.16", "6.2.19", "7.0.15", "7.2.10", "7.4.5", "8.0.3", "8.2.1"] {
            assert!(!redis(old), "{old}");
        }
        for new in ["6.2.20", "6.2.21", "7.2.11", "7.4.6", "8.0.4", "8.2.2", "8.4.0", "9.0.0"] {
            assert!(redis(new), "{new}");
        }
        for (old, new) in [("7.2.10", "7.2.11"), ("8.0.5", "8.0.6"), ("8.1.3", "8.1.4"), ("8.0.1", "9.0.0")] {
            assert!(!valkey(old) && valkey(new), "{old} {new}");
        }
        assert_eq!(numbers("unstable"), None);
    }
}
