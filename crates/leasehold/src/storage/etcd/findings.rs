//! What an operator wants to know of the servers: what they are, and what to change for them to promise more.

use super::facts::Facts;
use crate::storage::Finding;

impl Facts {
    pub(super) fn findings(&self, place: &str) -> Vec<Finding> {
        let version = self.version.escape_debug();
        let server = Finding::good("server", format!("etcd server=`{place}` version=`{version}`"));
        [server, self.failover(), self.alarms(), self.leases()]
            .into_iter()
            .chain(self.known_defects())
            .collect()
    }

    fn failover(&self) -> Finding {
        let Some(members) = self.members else {
            let text = "the user may not ask for the members, so failover-safe is not promised";
            return Finding::warning("failover", text);
        };
        let counts = format!("members=`{members}` learners=`{}`", self.learners);
        match members {
            0 | 1 => Finding::good(
                "failover",
                format!("there is no other member, and no lock while this server is away {counts}"),
            ),
            2 => Finding::warning(
                "failover",
                format!("no lock while one member is away; for failover-safe use three members {counts}"),
            ),
            _ => Finding::good("failover", format!("a majority has every grant on its disks {counts}")),
        }
    }

    fn alarms(&self) -> Finding {
        let size = format!("database=`{} MiB`", self.size >> 20);
        if self.errors.iter().any(|error| error.contains("NOSPACE")) {
            let text = "the database is full: nothing is granted, while renewals and releases go on; compact and defragment \
                        it, and disarm the alarm";
            return Finding::warning("space", format!("{text} {size}"));
        }
        if !self.errors.is_empty() {
            let text = "the server reports an error; see `etcdctl endpoint status` and `etcdctl alarm list`";
            return Finding::warning("space", format!("{text} {size}"));
        }
        Finding::good("space", format!("no alarm is active {size}"))
    }

    #[expect(clippy::unused_self, reason = "a finding like the others")]
    fn leases(&self) -> Finding {
        let text = "the server ends leases up to 1 s late, and gives them their full TTL again when it elects a leader or is \
                    restarted";
        Finding::good("expiry", text)
    }

    fn known_defects(&self) -> impl Iterator<Item = Finding> {
        self.defects()
            .map(|defect| Finding::warning("defect", format!("in this version {}; update it", defect.about)))
    }
}
