use std::fmt;
use std::str::FromStr;

use crate::run::{CALM, POSTGRES, REDIS, Run, TortureCheck, check};

/// A defect, and what must catch it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The defect.
    pub defect: Defect,
    /// Its name on a command line.
    pub name: &'static str,
    /// What is wrong.
    pub what: &'static str,
    /// Where it is planted.
    pub place: Place,
    /// What must catch it.
    pub caught: Caught,
}

/// Where a defect is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In the engine.
    Engine,
    /// In the client part of a storage, on this side of the network.
    Driver,
    /// In a storage.
    Storage,
    /// In a server.
    Server,
}

/// The checks that must catch a defect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Caught {
    /// The cases of the conformance suite that must fail, and no others, except those of the group `locks`.
    pub cases: &'static [&'static str],
    /// The checks of the torture. Each must fail.
    pub torture: &'static [TortureCheck],
    /// The laws of the simulator, one of which must be violated.
    pub laws: &'static [&'static str],
}

const CAUGHT: Caught = Caught { cases: &[], torture: &[], laws: &[] };

impl Caught {
    const fn cases(mut self, cases: &'static [&'static str]) -> Self {
        self.cases = cases;
        self
    }

    const fn torture(mut self, torture: &'static [TortureCheck]) -> Self {
        self.torture = torture;
        self
    }

    const fn laws(mut self, laws: &'static [&'static str]) -> Self {
        self.laws = laws;
        self
    }
}

macro_rules! catalog {
    ($($(#[doc = $what:literal])+ $defect:ident $name:literal in $place:ident: $caught:expr;)*) => {
        /// A defect. Each was found in some lock library or is one statement away from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Defect {
            $($(#[doc = $what])+ $defect,)*
        }

        /// Every defect, with what must catch it.
        pub const CATALOG: &[Entry] = &[$(Entry {
            defect: Defect::$defect,
            name: $name,
            what: concat!($($what),+),
            place: Place::$place,
            caught: $caught,
        },)*];
    };
}

catalog! {
    // ── of the engine ──
    /// Several locks are acquired in the order in which the caller names them.
    AnyOrder "any-order" in Engine:
        CAUGHT.laws(&["Deadlock"]);
    /// The queue entry of a canceled waiter stays.
    CanceledWaiterStays "canceled-waiter-stays" in Engine:
        CAUGHT.torture(&[check("C6", CALM)]);
    /// Deadlines count from the answer.
    DeadlineFromReply "deadline-from-reply" in Engine:
        CAUGHT.torture(&[check("C1", Run { fault: "acquire slow", ttl_ms: 300, workers: 10, locks: 5, style: "clingy", ..CALM })]).laws(&["Exclusion"]);
    /// The engine believes that every claim was granted for the TTL that it requested.
    BelievesTheClaim "believes-the-claim" in Engine:
        CAUGHT.laws(&["Exclusion"]);
    /// A client verifies no lease after a restart of the storage.
    IgnoresRestarts "ignores-restarts" in Engine:
        CAUGHT.laws(&["Verified"]);
    /// Dropping a guard releases nothing.
    DropWithoutRelease "drop-without-release" in Engine:
        CAUGHT.torture(&[check("C6", CALM)]);
    /// A claim that is in flight when its caller drops it is not undone.
    DropWithoutResolver "drop-without-resolver" in Engine:
        CAUGHT.torture(&[check("C6", CALM)]).laws(&["Resolved", "Residue"]);
    /// A lost lock is still listed as held.
    ExpiredStillListed "expired-still-listed" in Engine:
        CAUGHT.torture(&[check("C10", Run { ttl_ms: 300, locks: 3, ..CALM })]);
    /// Claims may be executed at any time, and are not undone after that.
    GhostAcquire "ghost-acquire" in Engine:
        CAUGHT.torture(&[check("C5", Run { fault: "acquire ghost", ttl_ms: 3000, workers: 3, locks: 12, style: "hasty", ..CALM })]);
    /// One pause and one try more than requested.
    IntervalAfterLastTry "interval-after-last-try" in Engine:
        CAUGHT.torture(&[check("C11", Run { ttl_ms: 900, locks: 1, ..CALM })]);
    /// A renewal that is answered after the deadline revives the lease.
    LateRenewalRevives "late-renewal-revives" in Engine:
        CAUGHT.torture(&[check("C1", Run { fault: "renew slow", ttl_ms: 300, workers: 6, locks: 6, style: "clingy", ..CALM })]).laws(&["Final", "Exclusion"]);
    /// A leader goes on after its term is over.
    LeadsOn "leads-on" in Engine:
        CAUGHT.laws(&["Leading"]);
    /// A lease counts as held until its very end.
    NoMargin "no-margin" in Engine:
        CAUGHT.laws(&["Exclusion", "Resolved"]);
    /// A waiter asks again only after a hint.
    NoRecheck "no-recheck" in Engine:
        CAUGHT.torture(&[check("C6", Run { fault: "hints drop", workers: 3, locks: 1, ..CALM })]).laws(&["Progress"]);
    /// A release frees a lock before its minimum time is over.
    ReleasesEarly "releases-early" in Engine:
        CAUGHT.laws(&["Kept"]);
    /// One release is considered enough, although a claim may still be executed.
    NoSecondRelease "no-second-release" in Engine:
        CAUGHT.laws(&["Resolved", "Residue"]);
    /// One owner id for all acquisitions of a client.
    OwnerPerClient "owner-per-client" in Engine:
        CAUGHT.torture(&[check("C1", Run { workers: 2, tasks: 3, locks: 1, ..CALM })]);

    // ── of the client part of a storage ──
    /// An error counts as "held by another client".
    ErrorIsContention "error-is-contention" in Driver:
        CAUGHT.torture(&[
            check("C5", Run { fault: "acquire fail", workers: 3, locks: 20, ..CALM }),
            check("C5", Run { fault: "server kill", workers: 3, locks: 20, ..POSTGRES }),
        ]);
    /// An error counts as a grant.
    ErrorIsSuccess "error-is-success" in Driver:
        CAUGHT.torture(&[
            check("C1", Run { fault: "acquire fail", locks: 1, style: "clingy", ..CALM }),
            check("C1", Run { fault: "link reset", locks: 1, style: "clingy", ..REDIS }),
            check("C1", Run { fault: "backends terminated", locks: 1, style: "clingy", ..POSTGRES }),
        ]);

    // ── of a storage ──
    /// Reports every release as that of a holder.
    AlwaysSaysReleased "always-says-released" in Storage:
        CAUGHT.cases(&[
            "batches::release_answers_each_claim_in_its_place",
            "release::a_second_release_is_not_held",
            "release::release_by_a_waiter_leaves_the_holder",
            "release::release_of_a_free_name_is_not_held",
            "release::release_of_an_expired_lease_is_not_held",
            "release::release_of_an_expired_lease_leaves_its_successor",
            "release::release_touches_only_its_owner",
            "release::release_works_over_any_client",
        ]);
    /// Assigns the answers of a batch to the claims in reverse order.
    AnswersBackwards "answers-backwards" in Storage:
        CAUGHT.cases(&[
            "batches::acquire_answers_each_claim_in_its_place",
            "batches::release_answers_each_claim_in_its_place",
            "batches::renew_answers_each_claim_in_its_place",
        ]);
    /// Checks that the lock is free, and takes it later.
    ChecksThenActs "checks-then-acts" in Storage:
        CAUGHT.cases(&[
            "batches::batches_that_cross_do_not_block_each_other",
            "exclusion::holds_never_overlap",
            "exclusion::one_of_many_concurrent_claims_is_granted",
        ]);
    /// Keeps labels in a column of 255 bytes.
    CutsLabels "cuts-labels" in Storage:
        CAUGHT.cases(&["labels::the_longest_label_comes_back"]);
    /// Shows the password in `Debug`, as a derived one does.
    DerivesDebug "derives-debug" in Storage:
        CAUGHT.cases(&[
            "secrets::a_storage_shows_no_secret",
            "secrets::findings_show_no_secret",
        ]);
    /// Counts the TTL in units that are too short.
    EndsEarly "ends-early" in Storage:
        CAUGHT.cases(&[
            "exclusion::holds_never_overlap",
            "expiry::nobody_is_granted_before_the_ttl_is_over",
            "inspect::a_renewal_shows_in_what_remains",
            "inspect::what_remains_is_shown",
        ]);
    /// Leaves a queue entry for claims that do not wait, too.
    EveryClaimWaits "every-claim-waits" in Storage:
        CAUGHT.cases(&["queue::a_claim_that_does_not_wait_leaves_no_entry"]);
    /// Reports no findings.
    FindsNothing "finds-nothing" in Storage:
        CAUGHT.cases(&["promises::findings_say_what_is_behind_it"]);
    /// Sends no hints to observers.
    HintsNoName "hints-no-name" in Storage:
        CAUGHT.cases(&[
            "hints::a_watched_name_is_hinted_when_it_is_locked",
            "hints::a_watched_name_is_hinted_when_it_is_unlocked",
        ]);
    /// Does not wake the next waiter.
    HintsNoOwner "hints-no-owner" in Storage:
        CAUGHT.cases(&[
            "hints::a_first_waiter_that_leaves_passes_the_turn_on",
            "hints::a_release_hints_the_next_waiter",
            "hints::a_renewal_that_shortens_hints_the_owner",
            "hints::each_client_hears_of_its_own_waiter",
        ]).torture(&[check("C6", Run { ttl_ms: 4000, workers: 9, locks: 3, style: "orderly", ..CALM })]);
    /// Executes every claim, however late.
    IgnoresPatience "ignores-patience" in Storage:
        CAUGHT.cases(&[
            "patience::a_claim_that_comes_too_late_is_not_granted",
            "patience::a_claim_that_comes_too_late_leaves_no_entry",
            "patience::a_claim_that_comes_too_late_leaves_no_lease",
            "renewal::a_shortening_renew_that_comes_too_late_changes_nothing",
        ]).torture(&[
            check("C5", Run { fault: "acquire ghost", ttl_ms: 3000, workers: 3, locks: 12, style: "hasty", ..CALM }),
            check("C5", Run { fault: "server stop", ttl_ms: 2000, workers: 5, locks: 16, style: "hasty", ..REDIS }),
        ]).laws(&["Resolved", "Residue"]);
    /// Releases leases, but not queue entries.
    KeepsEntries "keeps-entries" in Storage:
        CAUGHT.cases(&[
            "hints::a_first_waiter_that_leaves_passes_the_turn_on",
            "inspect::waiters_are_counted_if_known",
            "queue::a_waiter_that_leaves_lets_the_others_pass",
            "queue::a_waiter_that_left_stands_last_when_it_comes_back",
            "queue::release_removes_a_waiters_entry",
        ]).torture(&[check("C6", Run { locks: 1, ..CALM })]).laws(&["Residue"]);
    /// Orders waiters by when their owner was first seen.
    KeepsPlaces "keeps-places" in Storage:
        CAUGHT.cases(&["queue::a_waiter_that_left_stands_last_when_it_comes_back"]);
    /// Grants a free lock to any client, ahead of the waiters.
    LetsNewcomersPass "lets-newcomers-pass" in Storage:
        CAUGHT.cases(&[
            "queue::a_first_waiter_is_not_overtaken",
            "queue::a_waiter_that_left_stands_last_when_it_comes_back",
            "queue::an_entry_that_is_refreshed_lives_on",
            "queue::asking_again_keeps_the_place",
            "queue::expiry_keeps_the_order",
            "queue::waiters_of_several_clients_are_served_in_order",
        ]);
    /// Sorts names by a locale instead of by bytes.
    ListsByCollation "lists-by-collation" in Storage:
        CAUGHT.cases(&["list::names_are_listed_in_order"]);
    /// Keeps the later end, even if the claim is shorter.
    NeverShortens "never-shortens" in Storage:
        CAUGHT.cases(&[
            "hints::a_renewal_that_shortens_hints_the_owner",
            "renewal::renew_shortens_when_the_claim_says_so",
        ]);
    /// Increments the token with every grant, also for the same owner.
    NewTokenForTheSameOwner "new-token-for-the-same-owner" in Storage:
        CAUGHT.cases(&[
            "batches::acquire_answers_each_claim_in_its_place",
            "exclusion::asking_again_grants_the_same_token",
            "exclusion::asking_again_over_another_client_is_granted",
        ]);
    /// Answers a repeated acquire of the holder without a new TTL.
    NoNewTtlWhenRepeated "no-new-ttl-when-repeated" in Storage:
        CAUGHT.cases(&["exclusion::asking_again_gives_a_full_ttl"]);
    /// A page begins behind every holder of the name where the page before ended.
    PagesBehindNames "pages-behind-names" in Storage:
        CAUGHT.cases(&["list::a_page_begins_behind_a_name_and_a_token"]);
    /// Splices the prefix into a LIKE.
    PrefixIsAPattern "prefix-is-a-pattern" in Storage:
        CAUGHT.cases(&["list::a_prefix_is_taken_literally"]);
    /// Deletes by name alone.
    ReleasesForAnyOwner "releases-for-any-owner" in Storage:
        CAUGHT.cases(&[
            "batches::release_answers_each_claim_in_its_place",
            "inspect::waiters_are_counted_if_known",
            "queue::a_waiter_that_leaves_lets_the_others_pass",
            "queue::a_waiter_that_left_stands_last_when_it_comes_back",
            "queue::release_removes_a_waiters_entry",
            "release::release_by_a_waiter_leaves_the_holder",
            "release::release_of_an_expired_lease_leaves_its_successor",
            "release::release_touches_only_its_owner",
        ]).torture(&[check("C1", Run { ttl_ms: 300, workers: 8, locks: 3, style: "clingy", ..CALM })]).laws(&["Exclusion"]);
    /// Shows the TTL as the remaining time.
    RemainderStands "remainder-stands" in Storage:
        CAUGHT.cases(&["inspect::what_remains_is_shown"]);
    /// Inserts the lease if a renewal does not find it.
    RenewsAsUpsert "renews-as-upsert" in Storage:
        CAUGHT.cases(&[
            "batches::renew_answers_each_claim_in_its_place",
            "renewal::renew_never_resurrects_what_expired",
            "renewal::renew_never_resurrects_what_was_released",
            "renewal::renew_of_a_free_name_is_not_held",
        ]).torture(&[check("C5", Run { fault: "renew delay", ttl_ms: 1500, workers: 4, locks: 12, style: "brisk", ..CALM })]).laws(&["Resolved", "Exclusion"]);
    /// Answers a renewal without moving the deadline.
    RenewsWithoutEffect "renews-without-effect" in Storage:
        CAUGHT.cases(&[
            "hints::a_renewal_that_shortens_hints_the_owner",
            "inspect::a_renewal_shows_in_what_remains",
            "renewal::renew_gives_a_full_ttl",
            "renewal::renew_shortens_when_the_claim_says_so",
        ]);
    /// A shortening renewal is executed however late, and sends no hint.
    ShortenWithoutPatience "shorten-without-patience" in Storage:
        CAUGHT.laws(&["Exclusion"]);
    /// Executes a shortening renewal, however late it arrives.
    ShortensLate "shortens-late" in Storage:
        CAUGHT.cases(&["renewal::a_shortening_renew_that_comes_too_late_changes_nothing"]);
    /// Forgets to tell the owner of a lease that another client has shortened it.
    ShortensSilently "shortens-silently" in Storage:
        CAUGHT.cases(&["hints::a_renewal_that_shortens_hints_the_owner"]);
    /// Writes the end of the lease whenever its owner asks again.
    ShortensWhenRepeated "shortens-when-repeated" in Storage:
        CAUGHT.cases(&["exclusion::asking_again_never_shortens"]);
    /// Writes the end of the lease with every renewal.
    ShortensWithEveryRenewal "shortens-with-every-renewal" in Storage:
        CAUGHT.cases(&["renewal::renew_never_shortens"]).laws(&["Exclusion", "Kept"]);
    /// A shorter TTL deletes the lease, and the answer is that it was renewed.
    ShorterTtlDeletes "shorter-ttl-deletes" in Storage:
        CAUGHT.cases(&[
            "renewal::a_shortening_renew_that_comes_too_late_changes_nothing",
            "renewal::renew_never_shortens",
        ]).torture(&[check("C8", Run { ttl_ms: 600, locks: 1, ..CALM })]);
    /// Runs a batch as one transaction, which fails as a whole.
    SpoilsBatches "spoils-batches" in Storage:
        CAUGHT.cases(&["batches::a_refused_claim_does_not_spoil_its_batch"]);
    /// A client that takes over an expired lock gets the deadline of the previous lease.
    TakeoverKeepsDeadline "takeover-keeps-deadline" in Storage:
        CAUGHT.cases(&["exclusion::holds_never_overlap"]).torture(&[check("C1", Run { ttl_ms: 300, locks: 1, style: "clingy", ..CALM })]);
    /// Reuses the token of the expired lease for the next one.
    TokenReusedAfterExpiry "token-reused-after-expiry" in Storage:
        CAUGHT.cases(&[
            "fencing::tokens_grow_over_expiry",
            "fencing::tokens_grow_while_clients_fight",
        ]);
    /// Deletes the counter along with the lease.
    TokensRestart "tokens-restart" in Storage:
        CAUGHT.cases(&[
            "fencing::tokens_grow_over_a_reconnect",
            "fencing::tokens_grow_over_clients",
            "fencing::tokens_grow_over_releases",
            "fencing::tokens_grow_when_a_holder_is_put_out",
            "fencing::tokens_grow_while_clients_fight",
            "fencing::tokens_grow_while_other_names_come_and_go",
        ]).torture(&[check("C4", CALM)]).laws(&["Tokens"]);
    /// Compares names as a padded CHAR column does.
    TrimsNames "trims-names" in Storage:
        CAUGHT.cases(&[
            "names::hostile_names_come_back_byte_by_byte",
            "names::names_that_look_alike_do_not_exclude",
        ]);

    // ── of a server ──
    /// A crash of the server empties the table of leases.
    LeasesUnlogged "leases-unlogged" in Server:
        CAUGHT.torture(&[check("C1", Run { fault: "backend crash", ttl_ms: 5000, workers: 6, locks: 3, style: "clingy", ..POSTGRES })]);
}

impl Defect {
    /// Returns its entry.
    ///
    /// # Panics
    ///
    /// Never, because the same macro makes both.
    pub fn entry(self) -> &'static Entry {
        CATALOG.iter().find(|entry| entry.defect == self).expect("BUG: a defect without an entry")
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Returns where it is planted.
    pub fn place(self) -> Place {
        self.entry().place
    }

    /// Switches it on for every client of this process, if it is a defect of the engine.
    ///
    /// # Errors
    ///
    /// If it is one that only the simulator imitates, or this program was built without the engine's defects.
    pub fn wake(self) -> Result<(), &'static str> {
        match self.place() {
            Place::Engine => wake(self.name()),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Defect {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = CATALOG.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.defect).ok_or_else(|| {
            let names: Vec<_> = CATALOG.iter().map(|entry| entry.name).collect();
            format!("unknown defect name=`{name}` valid=`{}`", names.join(", "))
        })
    }
}

#[cfg(leasehold_planted)]
fn wake(name: &str) -> Result<(), &'static str> {
    if leasehold::__planted::wake(name) { Ok(()) } else { Err("the engine has no such defect") }
}

#[cfg(not(leasehold_planted))]
fn wake(_: &str) -> Result<(), &'static str> {
    Err("built without defects; build with RUSTFLAGS=\"--cfg leasehold_planted\", as scripts/test does")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_defect_is_caught_by_a_check() {
        for entry in CATALOG {
            let Caught { cases, torture, laws } = entry.caught;
            assert!(cases.len() + torture.len() + laws.len() > 0, "{} is caught by no check", entry.name);
        }
    }

    #[test]
    fn names_are_unique_and_are_read_back() {
        let mut names = HashSet::new();
        for entry in CATALOG {
            assert!(names.insert(entry.name), "{} is there twice", entry.name);
            assert_eq!(entry.name.parse(), Ok(entry.defect));
        }
        let text = "nonsense".parse::<Defect>().expect_err("there is none");
        assert!(text.contains("ghost-acquire"), "{text}");
    }
}
