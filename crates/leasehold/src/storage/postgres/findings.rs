//! What a person wants to know of a server: what it is, and what to change for it to promise more.

use super::config::Config;
use super::facts::Detail;
use super::link::Link;
use crate::storage::Finding;

impl Link {
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut all = vec![self.server(), self.table(), self.disk(), self.failover(), self.way(config)];
        all.extend(self.isolation());
        all.extend(self.unknown());
        all
    }

    fn server(&self) -> Finding {
        let (place, version) = (self.place(), &self.facts.version);
        Finding::good("server", format!("a primary server=`{place}` version=`{version}`"))
    }

    fn table(&self) -> Finding {
        let text = if self.facts.logged {
            "the table is logged, so a crash forgets no lock"
        } else {
            "the table is UNLOGGED or temporary, so a crash forgets all locks; run `alter table … set logged`"
        };
        Finding::new("table", text, self.facts.logged)
    }

    fn disk(&self) -> Finding {
        let facts = &self.facts;
        let switch = |on: Option<bool>| on.map_or("unknown", |on| if on { "on" } else { "off" });
        let good = facts.fsync == Some(true) && facts.full_page_writes == Some(true);
        let text = if good {
            "a grant is there before it is answered, whatever `synchronous_commit` says"
        } else {
            "a crash of the machine may lose or damage what is kept; for restart-safe set `fsync` and `full_page_writes` on"
        };
        let settings =
            format!("fsync=`{}` full_page_writes=`{}`", switch(facts.fsync), switch(facts.full_page_writes));
        Finding::new("disk", format!("{text} {settings}"), good)
    }

    fn failover(&self) -> Finding {
        let facts = &self.facts;
        let count = facts.standbys.as_ref().map_or_else(|| "unknown".to_owned(), |all| all.len().to_string());
        let synchronous = facts.synchronous();
        let (good, text) = match (&synchronous, facts.standbys.as_deref()) {
            (Some(_), _) if facts.reaches_every_standby() => {
                (true, "a grant waits for every standby; promote one of them, and no other")
            }
            (Some(_), _) => (
                false,
                "a grant waits for some standbys, and one that lacks it may be promoted; for failover-safe let \
                 `synchronous_standby_names` wait for all: `ANY n`, or `FIRST n`, of n standbys, by their names, \
                 since a backup, an archive or a subscriber counts for `*`",
            ),
            (None, Some([])) => (true, "there is none, and no lock while this server is away"),
            (None, _) => (
                false,
                "a standby that takes over may lack the last grants; for failover-safe set `synchronous_standby_names`",
            ),
        };
        let waits = synchronous.map(|synchronous| format!(" waits_for=`{}`", synchronous.count));
        Finding::new("failover", format!("{text} standbys=`{count}`{}", waits.unwrap_or_default()), good)
    }

    /// What the server keeps to itself.
    fn unknown(&self) -> Vec<Finding> {
        let finding = |(detail, said): &(&'static Detail, String)| {
            let Detail { right, without, .. } = detail;
            Finding::warning("unknown", format!("{without}; allow the user {right} said=`{said}`"))
        };
        self.facts.unknown.iter().map(finding).collect()
    }

    fn way(&self, config: &Config) -> Finding {
        let notified = config.notify.or(!self.pooled);
        let text = match (self.pooled, notified) {
            (false, true) => "direct, so statements are prepared and waiters are notified",
            (false, false) => {
                "direct, and by the URL waiters are not notified: they ask again, the first at most 0.25 s apart, the others at most 2 s"
            }
            (true, false) => {
                "a pooler answers, so waiters are not notified: they ask again, the first at most 0.25 s apart, the others at most 2 s; for push connect directly"
            }
            (true, true) => {
                "a pooler answers; `notify=on` works only if each client keeps its connection (session mode)"
            }
        };
        Finding::new("connection", text, notified && !self.pooled)
    }

    /// Only a pooler's sessions are not set as we need them.
    fn isolation(&self) -> Option<Finding> {
        let isolation = &self.facts.isolation;
        let text = "statements that are rolled back are run again; set the role's `default_transaction_isolation` to \
            `read committed`";
        (self.pooled && isolation != "read committed")
            .then(|| Finding::warning("isolation", format!("{text} isolation=`{isolation}`")))
    }
}
