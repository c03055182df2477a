//! What can be promised of a server.

use super::config::Config;
use super::facts::Facts;
use super::failover::Failover;
use crate::storage::{Guarantees, LeaseClock, Tier};

impl Facts {
    /// Returns what the storage promises over this server.
    pub(super) fn guarantees(&self, config: &Config) -> Guarantees {
        Guarantees {
            fencing: true,
            fair: true,
            push: true,
            ..Guarantees::new(self.tier(config), LeaseClock::ServerWall)
        }
    }

    /// Returns the tier of this server, alone or as one of many alike.
    pub(super) fn tier(&self, config: &Config) -> Tier {
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
}
