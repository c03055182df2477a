//! What the servers report about themselves, and what that proves.

use super::api::Api;
use super::errors::Fault;
use super::link::{MEMBERS, STATUS};
use super::ops;
use super::proto::{MemberListRequest, MemberListResponse, RangeRequest, StatusRequest, StatusResponse};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Guarantees, LeaseClock, Tier};

/// What the servers reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) version: String,
    /// The members with a vote. `None` if the user may not query them.
    pub(super) members: Option<usize>,
    pub(super) learners: usize,
    /// The alarms and other errors of the member that answered, such as that it has no space.
    pub(super) errors: Vec<String>,
    /// The size of its database, in bytes.
    pub(super) size: i64,
}

/// How many operations a server may allow in a transaction. The first is its default.
const OPERATIONS: [usize; 4] = [128, 64, 32, 16];
/// How many operations a claim has at most in its own transaction, or in one for several.
const OPERATIONS_EACH: usize = 3;
/// How many gates a transaction shuts at most, besides its claims: those of two leases for each of a few TTLs.
pub(super) const GATES_MAX: usize = 8;

/// Three numbers.
type Version = (u32, u32, u32);

/// Defects of etcd that matter to locks: the first versions without them, of each minor version; and what they do.
pub(super) const DEFECTS: &[Defect] = &[
    Defect {
        fixed: &[(3, 4, 31), (3, 5, 13)],
        breaks_failover: true,
        about: "a former leader may revoke leases that are alive",
    },
    Defect {
        fixed: &[(3, 4, 38), (3, 5, 23), (3, 6, 5)],
        breaks_failover: false,
        about: "a lease that was revoked may be reported as kept alive, which is checked here",
    },
    Defect {
        fixed: &[(3, 4, 44), (3, 5, 30), (3, 6, 11)],
        breaks_failover: false,
        about: "a user may read and delete keys of others by attaching leases",
    },
];

/// A defect of some versions.
#[derive(Debug)]
pub(super) struct Defect {
    fixed: &'static [Version],
    /// Whether two clients may hold a lock after a change of the leader.
    breaks_failover: bool,
    pub(super) about: &'static str,
}

impl Defect {
    /// Returns `true` if that version has it. An unknown version has it.
    fn is_in(&self, version: Option<Version>) -> bool {
        let Some(version) = version else { return true };
        let minor = |version: &Version| (version.0, version.1);
        match self.fixed.iter().find(|fixed| minor(fixed) == minor(&version)) {
            Some(fixed) => version < *fixed,
            None => self.fixed.iter().any(|fixed| minor(&version) < minor(fixed)),
        }
    }
}

impl Facts {
    /// Queries the member that is connected.
    pub(super) async fn ask(api: &Api) -> Result<Self> {
        let status: StatusResponse =
            api.call(STATUS, &StatusRequest {}).await.map_err(|fault| api.explain(&fault))?;
        let members: Result<MemberListResponse, Fault> = api.call(MEMBERS, &MemberListRequest {}).await;
        let members = members.ok().map(|list| list.members);
        let learners = members.iter().flatten().filter(|member| member.is_learner).count();
        let facts = Self {
            members: members.map(|members| members.len() - learners),
            learners,
            version: status.version,
            errors: status.errors,
            size: status.db_size,
        };
        facts.check(&api.place)?;
        Ok(facts)
    }

    /// Returns how many claims a call may have, so that no transaction has more operations than the server allows.
    pub(super) async fn batch_max(api: &Api, probe: &[u8]) -> Result<usize> {
        for operations in OPERATIONS {
            let one = RangeRequest { count_only: true, ..ops::one(probe.to_vec()) };
            match api.txn(&ops::all(vec![ops::read(one); operations])).await {
                Ok(_) => return Ok((operations - GATES_MAX) / OPERATIONS_EACH),
                Err(fault) if fault.is_too_many_operations() => {}
                Err(fault) => return Err(api.explain(&fault)),
            }
        }
        let text = "the server allows too few operations in a transaction; raise its `--max-txn-ops`";
        Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{}`", api.place)))
    }

    fn check(&self, place: &str) -> Result<()> {
        match self.version() {
            Some((3, ..=3, _)) => {
                let text = "the server is too old; use etcd 3.4 or later";
                Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{text} server=`{place}` version=`{}`", self.version.escape_debug()),
                ))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(self.tier(), LeaseClock::ServerMonotonic);
        (guarantees.fencing, guarantees.fair, guarantees.push) = (true, true, true);
        guarantees
    }

    pub(super) fn tier(&self) -> Tier {
        let breaks = self.defects().any(|defect| defect.breaks_failover);
        match self.members {
            Some(3..) if !breaks => Tier::FailoverSafe,
            _ => Tier::RestartSafe,
        }
    }

    /// Returns the defects of this version.
    pub(super) fn defects(&self) -> impl Iterator<Item = &'static Defect> {
        let version = self.version();
        DEFECTS.iter().filter(move |defect| defect.is_in(version))
    }

    fn version(&self) -> Option<Version> {
        let core = self.version.split(['-', '+']).next()?;
        let mut numbers = core.splitn(3, '.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, members: Option<usize>) -> Facts {
        Facts { version: version.to_owned(), members, ..Facts::default() }
    }

    #[test]
    fn the_tier_is_what_is_proved() {
        assert_eq!(facts("3.5.30", Some(3)).tier(), Tier::FailoverSafe);
        assert_eq!(facts("3.6.11", Some(5)).tier(), Tier::FailoverSafe);
        assert_eq!(facts("3.5.30", Some(2)).tier(), Tier::RestartSafe, "neither of two may be down");
        assert_eq!(facts("3.5.30", Some(1)).tier(), Tier::RestartSafe);
        assert_eq!(facts("3.5.30", None).tier(), Tier::RestartSafe, "the user may not query it");
        assert_eq!(facts("3.4.23", Some(3)).tier(), Tier::RestartSafe, "a former leader may revoke leases");
        assert_eq!(facts("unknown", Some(3)).tier(), Tier::RestartSafe);
    }

    #[test]
    fn a_version_has_the_defects_that_were_fixed_later() {
        let count = |version| facts(version, None).defects().count();
        assert_eq!(["3.4.23", "3.4.31", "3.4.44"].map(count), [3, 2, 0]);
        assert_eq!(["3.5.12", "3.5.23", "3.5.30-rc.0"].map(count), [3, 1, 0]);
        assert_eq!(["3.6.4", "3.6.11", "3.7.0", "nonsense"].map(count), [2, 0, 0, 3]);
    }

    #[test]
    fn an_older_server_is_refused() {
        let error = facts("3.3.27", Some(1)).check("h").expect_err("too old");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("3.4") && error.to_string().contains("3.3.27"), "{error}");
    }
}
