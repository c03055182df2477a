//! The findings of `leasehold doctor`: what the server is, and what to change for it to promise more.

use super::config::Config;
use super::facts::OptionalFact;
use super::link::Link;
use crate::storage::Finding;

impl Link {
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut all =
            vec![self.primary(), self.table(), self.disk(), self.failover(), self.connection(config)];
        all.extend(self.isolation());
        all.extend(self.unknown());
        all
    }

    fn primary(&self) -> Finding {
        let (server, version) = (self.server(), &self.facts.version);
        Finding::good("server", format!("a primary server=`{server}` version=`{version}`"))
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
            "a grant is on the disk before it is answered, whatever `synchronous_commit` says"
        } else {
            "a crash of the machine may lose or damage the tables; for restart-safe set `fsync` and `full_page_writes` on"
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
                 since `*` also admits a backup, an archive or a subscriber",
            ),
            (None, Some([])) => (true, "there is no standby, and no lock while this server is away"),
            (None, _) => (
                false,
                "a standby that is promoted may lack the last grants; for failover-safe set `synchronous_standby_names`",
            ),
        };
        let waits = synchronous.map(|synchronous| format!(" waits_for=`{}`", synchronous.count));
        Finding::new("failover", format!("{text} standbys=`{count}`{}", waits.unwrap_or_default()), good)
    }

    /// Returns a warning for each optional fact that the server refuses.
    fn unknown(&self) -> Vec<Finding> {
        let finding = |(fact, message): &(&'static OptionalFact, String)| {
            let OptionalFact { right, without, .. } = fact;
            Finding::warning("unknown", format!("{without}; allow the user {right} error=`{message}`"))
        };
        self.facts.unknown.iter().map(finding).collect()
    }

    fn connection(&self, config: &Config) -> Finding {
        let notified = config.notify.or(!self.pooled);
        let text = match (self.pooled, notified) {
            (false, true) => "direct, so statements are prepared and waiters are notified",
            (false, false) => {
                "direct, but the URL turns notifications off: waiters ask again, the first at most 0.25 s apart, the others at most 2 s"
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

    /// Returns a warning if statements do not run in READ COMMITTED. Only a pooler's sessions may not be set so.
    fn isolation(&self) -> Option<Finding> {
        let isolation = &self.facts.isolation;
        let text = "statements that are rolled back are run again; set the role's `default_transaction_isolation` to \
            `read committed`";
        (self.pooled && isolation != "read committed")
            .then(|| Finding::warning("isolation", format!("{text} isolation=`{isolation}`")))
    }
}
