//! What a person wants to know of a server: what it is, and what to change for it to promise more.

use super::config::Config;
use super::link::Link;
use crate::storage::Finding;

impl Link {
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut all = vec![self.server(), self.table(), self.disk(), self.failover(), self.way(config)];
        all.extend(self.isolation());
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
        let switch = |on: bool| if on { "on" } else { "off" };
        let good = facts.fsync && facts.full_page_writes;
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
        let standbys = self.facts.standbys;
        let (good, text) = match (self.facts.synchronous, standbys) {
            (true, _) => (true, "a grant waits for a synchronous standby; promote that one and no other"),
            (false, 0) => (true, "there is none, and no lock while this server is away"),
            (false, _) => (
                false,
                "a standby that takes over may lack the last grants; for failover-safe set `synchronous_standby_names`",
            ),
        };
        Finding::new("failover", format!("{text} standbys=`{standbys}`"), good)
    }

    fn way(&self, config: &Config) -> Finding {
        let notified = config.notify.or(!self.pooled);
        let text = match (self.pooled, notified) {
            (false, true) => "direct, so statements are prepared and waiters are notified",
            (false, false) => {
                "direct, and by the URL waiters are not notified: they ask again, at most 0.5 s apart"
            }
            (true, false) => {
                "a pooler answers, so waiters are not notified: they ask again, at most 0.5 s apart; for push connect directly"
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
            .then(|| Finding::bad("isolation", format!("{text} isolation=`{isolation}`")))
    }
}
