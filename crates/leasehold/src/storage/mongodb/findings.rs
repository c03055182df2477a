//! What an operator wants to know of the servers: what they are, and what to change for them to promise more.

use super::config::Config;
use super::facts::{Facts, Topology};
use crate::storage::Finding;

impl Facts {
    pub(super) fn findings(&self, config: &Config, place: &str) -> Vec<Finding> {
        vec![self.server(place), self.members(), self.disk(), self.waking(config)]
    }

    fn server(&self, place: &str) -> Finding {
        let what = match self.topology {
            Topology::Standalone => "a standalone server",
            Topology::ReplicaSet => "the primary of a replica set",
            Topology::Sharded => "a router of a sharded cluster",
        };
        Finding::good("server", format!("{what} server=`{place}` version=`{}`", self.version))
    }

    fn members(&self) -> Finding {
        let counts = format!("members=`{}` arbiters=`{}`", self.data, self.arbiters);
        match (self.topology, self.data, self.arbiters) {
            (Topology::Standalone, ..) => {
                Finding::good("failover", "there is no other member, and no lock while this server is away")
            }
            (Topology::Sharded, ..) => {
                Finding::warning("failover", "what the shards are is not asked, so it is not promised")
            }
            (_, 1, 0) => Finding::good(
                "failover",
                format!("there is no other member, and no lock while this server is away {counts}"),
            ),
            (_, data, arbiters) if data + arbiters < 3 || data < 2 => Finding::warning(
                "failover",
                format!("no lock while one member is away; for failover-safe use three members {counts}"),
            ),
            (_, _, 0) => Finding::good("failover", format!("a majority has every grant {counts}")),
            _ => Finding::warning(
                "failover",
                format!(
                    "a majority has every grant, but arbiters keep no data: no lock while a member is away; \
                     replace them by members that do {counts}"
                ),
            ),
        }
    }

    fn disk(&self) -> Finding {
        let engine = self.engine.as_ref().map_or("unknown", |(name, _)| name);
        let shown = |text: &str| format!("{text} engine=`{engine}`");
        match (&self.engine, self.topology, self.journaled) {
            (None, ..) => Finding::warning(
                "disk",
                shown(
                    "the user may not ask for the engine; for a higher tier give it the role `clusterMonitor`",
                ),
            ),
            (Some((_, false)), ..) => {
                Finding::warning("disk", shown("the engine keeps nothing, so a restart forgets all locks"))
            }
            (_, Topology::ReplicaSet, None) => Finding::warning(
                "disk",
                shown(
                    "the user may not ask for the set's configuration; for a higher tier give it the role `clusterMonitor`",
                ),
            ),
            (_, Topology::ReplicaSet, Some(false)) => Finding::warning(
                "disk",
                shown(
                    "`writeConcernMajorityJournalDefault` is off, so a crash of a majority may forget locks; set it on",
                ),
            ),
            _ => Finding::good("disk", shown("a grant is in the journal before it is answered")),
        }
    }

    fn waking(&self, config: &Config) -> Finding {
        let text = match (self.pushes(), config.notify) {
            (true, true) => "waiters are woken by a change stream",
            (true, false) => "by the URL waiters are not woken: they ask again, at most 0.5 s apart",
            (false, _) => {
                "a standalone server has no change streams: waiters ask again, at most 0.5 s apart; for push make it a \
                 replica set of one"
            }
        };
        Finding::new("waking", text, self.pushes() && config.notify)
    }
}
