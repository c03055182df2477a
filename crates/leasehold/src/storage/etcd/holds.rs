//! What this client may have at the servers: for each of its owners, its key, and when that key must be gone.
//!
//! A lease ends all keys that are attached to it, or none. So a key whose owner is not renewed would live as long as the lease
//! is kept alive for others. This table knows when each key must be gone, and `sweep.rs` deletes it then. A lease is kept
//! alive only if no key on it is overdue.
//!
//! | Event | `in_flight` | `created` | `unknown` | `end` |
//! |---|---|---|---|---|
//! | a claim is sent | + the claim | | | |
//! | it is answered: there is a key | - the claim | its revision | | as long as the key is promised |
//! | it is answered: there is none | - the claim | `None` | | |
//! | it is not answered | - the claim | | + the claim | |
//! | all of its leases end | | | - the claim | |
//! | the key was deleted, after the gates were shut | | `None` | - the claims that were known then | |
//!
//! A claim that cannot be executed any more may have been executed before. So its entry stays until the key was deleted.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::leases::Lease;
use crate::clock::Moment;
use crate::storage::{Claim, Name, Owner};

/// An owner of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) name: Name,
    pub(super) owner: Owner,
}

/// What is known of the key of an owner.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// The revision that created the key, if there is one.
    pub(super) created: Option<i64>,
    /// Whether the owner holds the lock, and is told so.
    pub(super) is_granted: bool,
    /// The lease to which the key is attached.
    pub(super) lease: Option<Arc<Lease>>,
    /// The label in the key, which is that of the claim that created it.
    pub(super) label: Option<Arc<str>>,
    /// When the key must be gone.
    pub(super) end: Moment,
    /// The writes whose outcome is unknown.
    pub(super) unknown: Vec<Arc<Sent>>,
    pub(super) in_flight: Vec<Arc<Sent>>,
    /// Whether the key is being deleted, because it is overdue.
    pub(super) is_swept: bool,
    /// When the table looks at it next.
    filed: Moment,
}

/// A write that attaches a key to one of these leases.
#[derive(Debug)]
pub(super) struct Sent {
    /// Each with the revision of its gate.
    pub(super) leases: Vec<(Arc<Lease>, i64)>,
    /// When nothing of it may be left, if it was not answered.
    pub(super) until: Moment,
}

impl Sent {
    /// Returns `true` if it may still be executed.
    pub(super) fn may_come(&self) -> bool {
        !self.leases.iter().any(|(lease, gate)| is_over(lease) || lease.gate() > *gate)
    }

    /// Returns `true` if nothing of it is left, whether it was executed or not.
    fn is_gone(&self) -> bool {
        self.leases.iter().all(|(lease, _)| is_over(lease))
    }
}

/// Returns `true` if what is on a lease is gone, or ends with it.
fn is_over(lease: &Lease) -> bool {
    lease.has_ended() || lease.is_forgotten()
}

/// The table.
#[derive(Default)]
pub(super) struct Holds {
    state: Mutex<State>,
    /// Notified when a key is due earlier than any before.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    holds: HashMap<Id, Hold>,
    /// When each is due.
    due: BTreeSet<(Moment, Id)>,
}

impl Hold {
    /// Returns when its key must be deleted, or gates be shut, if nothing happens until then.
    fn due(&self) -> Moment {
        if !self.in_flight.is_empty() {
            return Moment::FAR;
        }
        match self.created {
            // No answer has promised a key.
            None => self.unknown.iter().map(|sent| sent.until).min().unwrap_or(self.end),
            // A renewal that comes late may attach the key to a shorter lease.
            Some(_) => self.late().map(|sent| sent.until).fold(self.end, std::cmp::min),
        }
    }

    /// Drops the writes of which nothing is left, and those that cannot be executed any more if a later one may have attached
    /// the key to the same leases. So there are few, however long the lock is held. A later write is never dropped for an
    /// earlier one, because it may have been sent after a deletion that settles the earlier one.
    fn fold_unknown(&mut self) {
        let mut covered: Vec<i64> = Vec::new();
        let mut kept = Vec::with_capacity(self.unknown.len());
        for sent in std::mem::take(&mut self.unknown).into_iter().rev() {
            let left = || sent.leases.iter().filter(|(lease, _)| !is_over(lease)).map(|(lease, _)| lease.id);
            if !sent.may_come() && left().all(|lease| covered.contains(&lease)) {
                continue;
            }
            covered.extend(left());
            kept.push(sent);
        }
        kept.reverse();
        self.unknown = kept;
    }

    /// Returns the writes without an answer that may still be executed.
    fn late(&self) -> impl Iterator<Item = &Arc<Sent>> {
        self.unknown.iter().filter(|sent| sent.may_come())
    }

    /// Returns the leases whose gates must be shut before nothing that was sent can be executed any more.
    pub(super) fn open_leases(&self) -> Vec<Arc<Lease>> {
        let sent = self.late().chain(self.in_flight.iter().filter(|sent| sent.may_come()));
        distinct(sent.flat_map(|sent| &sent.leases).map(|(lease, _)| Arc::clone(lease)))
    }

    /// Returns `true` if only gates have to be shut now.
    pub(super) fn is_kept(&self, now: Moment) -> bool {
        self.created.is_some() && self.end > now
    }

    /// Returns all writes whose outcome is unknown.
    pub(super) fn sent(&self) -> Vec<Arc<Sent>> {
        self.unknown.iter().chain(&self.in_flight).cloned().collect()
    }

    /// Returns the leases to which its key may be attached.
    pub(super) fn leases(&self) -> Vec<Arc<Lease>> {
        let unknown = self.unknown.iter().flat_map(|sent| &sent.leases).map(|(lease, _)| lease);
        distinct(self.lease.iter().chain(unknown).cloned())
    }

    /// Returns `true` if its key must be gone, or is being deleted. The answer to a write in flight may still say that it need
    /// not.
    pub(super) fn is_overdue(&self, now: Moment) -> bool {
        self.is_swept || (self.created.is_some() && self.end <= now && self.in_flight.is_empty())
    }

    /// Returns the lease of a key whose owner only waits, as far as this client knows. Another client may have been granted the
    /// lock for the same owner. That has moved the key to a lease of its own.
    pub(super) fn waits_on(&self) -> Option<i64> {
        let is_sure = !self.is_granted && self.unknown.is_empty() && self.in_flight.is_empty();
        self.lease.as_ref().filter(|_| is_sure).map(|lease| lease.id)
    }

    /// Returns `true` if there is no key, and none will be created.
    fn is_over(&self) -> bool {
        self.created.is_none() && self.unknown.is_empty() && self.in_flight.is_empty()
    }
}

/// Returns each of these leases once.
pub(super) fn distinct(leases: impl Iterator<Item = Arc<Lease>>) -> Vec<Arc<Lease>> {
    let mut all: Vec<Arc<Lease>> = Vec::new();
    for lease in leases {
        if all.iter().all(|known| known.id != lease.id) {
            all.push(lease);
        }
    }
    all
}

impl Id {
    pub(super) fn of(claim: &Claim) -> Self {
        Self { name: claim.name.clone(), owner: claim.owner }
    }
}

impl Holds {
    /// Returns what is known of an owner.
    pub(super) fn get(&self, id: &Id) -> Option<Hold> {
        let mut hold = self.state().holds.get(id).cloned()?;
        hold.unknown.retain(|sent| !sent.is_gone());
        Some(hold)
    }

    /// Records that a write for each of these owners is sent. Until it is answered, its outcome is unknown.
    ///
    /// Returns `None` if the key of one of them is overdue. Its deletion might be executed after the write, and is answered
    /// before or after it.
    pub(super) fn send(&self, now: Moment, writes: Vec<(Id, Sent)>) -> Option<InFlight<'_>> {
        let mut state = self.state();
        if writes.iter().any(|(id, _)| state.holds.get(id).is_some_and(|hold| hold.is_overdue(now))) {
            return None;
        }
        let writes: Vec<_> = writes.into_iter().map(|(id, sent)| (id, Arc::new(sent))).collect();
        for (id, sent) in &writes {
            // It is due later than before.
            let _is_first = state.change(id, |hold| hold.in_flight.push(Arc::clone(sent)));
        }
        drop(state);
        Some(InFlight { holds: self, writes })
    }

    /// Changes what is known of an owner, or begins to know it.
    pub(super) fn change(&self, id: &Id, change: impl FnOnce(&mut Hold)) {
        let is_first = self.state().change(id, change);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Changes what is known of an owner, if anything is.
    pub(super) fn change_known(&self, id: &Id, change: impl FnOnce(&mut Hold)) {
        if self.state().holds.contains_key(id) {
            self.change(id, change);
        }
    }

    /// Changes what is known of an owner, if anything is and its key is not overdue; otherwise returns `false`. Both are one
    /// step: a key that is overdue may be deleted at any time.
    pub(super) fn extend(&self, id: &Id, now: Moment, change: impl FnOnce(&mut Hold)) -> bool {
        let mut state = self.state();
        if state.holds.get(id).is_none_or(|hold| hold.is_overdue(now)) {
            return false;
        }
        let is_first = state.change(id, change);
        drop(state);
        if is_first {
            self.changed.notify_one();
        }
        true
    }

    /// Forgets the key of an owner, which was deleted by that revision, and these writes, which cannot be executed any more.
    pub(super) fn forget(&self, id: &Id, revision: i64, settled: &[Arc<Sent>]) {
        self.change_known(id, |hold| {
            hold.is_swept = false;
            hold.unknown.retain(|sent| !settled.iter().any(|of| Arc::ptr_eq(of, sent)));
            // A write that was in flight may have created another one since.
            if hold.created.is_none_or(|created| created <= revision) {
                (hold.created, hold.lease, hold.is_granted) = (None, None, false);
            }
        });
    }

    /// Keeps only the owners of writes whose outcome is unknown, which no answer has promised a key.
    pub(super) fn keep_unknown(&self) {
        let mut state = self.state();
        let is_kept = |hold: &Hold| hold.created.is_none() && !hold.unknown.is_empty();
        state.holds.retain(|_, hold| is_kept(hold));
        let State { holds, due } = &mut *state;
        due.retain(|(_, id)| holds.contains_key(id));
    }

    /// Returns when the first key is due.
    pub(super) fn next_due(&self) -> Moment {
        self.state().due.first().map_or(Moment::FAR, |(due, _)| *due)
    }

    /// Returns `true` if a key that may be attached to that lease is overdue.
    pub(super) fn is_overdue(&self, lease: &Lease, now: Moment) -> bool {
        let state = self.state();
        let mut overdue = state.due.iter().take_while(|(due, _)| *due <= now);
        overdue.any(|(_, id)| {
            state.holds.get(id).is_some_and(|hold| hold.leases().iter().any(|of| of.id == lease.id))
        })
    }

    /// Returns up to `limit` owners whose keys are overdue, or whose renewals may come late. Marks those whose keys are.
    pub(super) fn overdue(&self, now: Moment, limit: usize) -> Vec<(Id, Hold)> {
        let mut state = self.state();
        loop {
            let due = state.due.iter().take_while(|(due, _)| *due <= now).take(limit);
            let ids: Vec<_> = due.map(|(_, id)| id.clone()).collect();
            // Some may be due later by now, because their gates were shut, or not at all, because their leases have ended.
            let filed = state.due.len();
            for id in &ids {
                let _is_first = state.change(id, |_| {});
            }
            let is_due = |id: &Id| state.holds.get(id).is_some_and(|hold| hold.filed <= now);
            if filed != state.due.len() || !ids.iter().all(is_due) {
                continue;
            }
            let mark = |id: Id| {
                let hold = state.holds.get_mut(&id)?;
                hold.is_swept = !hold.is_kept(now);
                let hold = hold.clone();
                Some((id, hold))
            };
            return ids.into_iter().filter_map(mark).collect();
        }
    }

    /// Returns the owners with a key on that lease, which has ended.
    pub(super) fn on(&self, lease: &Lease) -> Vec<Id> {
        let state = self.state();
        let on = |hold: &Hold| hold.lease.as_ref().is_some_and(|of| of.id == lease.id);
        state.holds.iter().filter(|(_, hold)| on(hold)).map(|(id, _)| id.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Changes what is known of an owner. Returns `true` if it is due earlier than any other.
    fn change(&mut self, id: &Id, change: impl FnOnce(&mut Hold)) -> bool {
        let mut hold = match self.holds.remove(id) {
            Some(hold) => {
                self.due.remove(&(hold.filed, id.clone()));
                hold
            }
            None => Hold::new(),
        };
        change(&mut hold);
        hold.fold_unknown();
        if hold.is_over() {
            return false;
        }
        hold.filed = hold.due();
        let due = (hold.filed, id.clone());
        let is_first = self.due.first().is_none_or(|first| due < *first);
        self.due.insert(due);
        self.holds.insert(id.clone(), hold);
        is_first
    }
}

impl Hold {
    fn new() -> Self {
        Self {
            created: None,
            is_granted: false,
            lease: None,
            label: None,
            end: Moment::ZERO,
            unknown: Vec::new(),
            in_flight: Vec::new(),
            is_swept: false,
            filed: Moment::FAR,
        }
    }
}

/// Writes in flight. If this is dropped, their outcome is unknown.
pub(super) struct InFlight<'a> {
    holds: &'a Holds,
    writes: Vec<(Id, Arc<Sent>)>,
}

impl InFlight<'_> {
    /// Records the outcome of the write of one owner. Both are one step, because a key that no write is in flight for may be
    /// overdue.
    pub(super) fn answered(&mut self, id: &Id, change: impl FnOnce(&mut Hold)) {
        let Some(i) = self.writes.iter().position(|(of, _)| of == id) else { return };
        let (_, sent) = self.writes.swap_remove(i);
        self.holds.change(id, |hold| {
            hold.in_flight.retain(|of| !Arc::ptr_eq(of, &sent));
            change(hold);
        });
    }

    /// Records that nothing was executed, and nothing will be.
    pub(super) fn refused(mut self) {
        while let Some((id, _)) = self.writes.first().cloned() {
            self.answered(&id, |_| {});
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        for (id, sent) in std::mem::take(&mut self.writes) {
            self.holds.change(&id, |hold| {
                hold.in_flight.retain(|of| !Arc::ptr_eq(of, &sent));
                hold.unknown.push(sent);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO.after(Duration::from_secs(seconds))
    }

    fn id(name: &str) -> Id {
        Id { name: Name::new(name).expect("valid"), owner: Owner::random() }
    }

    fn lease() -> Arc<Lease> {
        Arc::new(Lease::new_for_tests(1))
    }

    fn write(id: &Id, lease: &Arc<Lease>, until: u64) -> (Id, Sent) {
        (id.clone(), Sent { leases: vec![(Arc::clone(lease), lease.gate())], until: at(until) })
    }

    #[test]
    fn a_claim_without_an_answer_is_due_when_its_patience_is_over() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        let sent = holds.send(at(0), vec![write(&id, &lease, 5)]);
        assert_eq!(holds.next_due(), Moment::FAR);
        drop(sent);
        assert_eq!(holds.next_due(), at(5));
        assert!(holds.is_overdue(&lease, at(5)) && !holds.is_overdue(&lease, at(4)));
        // After its gate was shut, it may have been executed before.
        lease.shut(1);
        let due = holds.overdue(at(5), 10);
        assert_eq!((due.len(), due[0].1.unknown.len(), due[0].1.open_leases().len()), (1, 1, 0));
        holds.forget(&id, 2, &due[0].1.unknown);
        assert!(holds.get(&id).is_none());
    }

    #[test]
    fn a_renewal_without_an_answer_has_its_gate_shut_and_its_key_stays() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        holds.change(&id, |hold| (hold.created, hold.end) = (Some(7), at(60)));
        drop(holds.send(at(0), vec![write(&id, &lease, 5)]));
        let due = holds.overdue(at(5), 10);
        assert!(due.len() == 1 && due[0].1.is_kept(at(5)) && !due[0].1.is_swept);
        assert_eq!(due[0].1.open_leases().len(), 1);
        lease.shut(9);
        assert!(holds.overdue(at(5), 10).is_empty());
        assert_eq!(holds.next_due(), at(60));
    }

    #[test]
    fn renewals_without_answers_do_not_pile_up() {
        let (holds, lease, other, id) =
            (Holds::default(), lease(), Arc::new(Lease::new_for_tests(2)), id("a"));
        holds.change(&id, |hold| (hold.created, hold.end) = (Some(7), at(60)));
        for revision in 1..100 {
            // Before it renews, it has the gates shut of what was sent before.
            drop(holds.send(at(0), vec![write(&id, if revision == 50 { &other } else { &lease }, 5)]));
            lease.shut(revision);
        }
        other.shut(100);
        holds.change(&id, |_| {});
        let hold = holds.get(&id).expect("known");
        assert_eq!((hold.unknown.len(), hold.leases().len()), (2, 2));
    }

    #[test]
    fn what_was_sent_after_a_release_is_not_forgotten_with_it() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        let first = holds.send(at(0), vec![write(&id, &lease, 5)]);
        let known = holds.get(&id).expect("known").sent();
        assert_eq!(known.len(), 1);
        let second = holds.send(at(0), vec![write(&id, &lease, 6)]);
        drop((first, second));
        holds.forget(&id, 9, &known);
        assert_eq!(holds.get(&id).expect("known").unknown.len(), 1);
        // A key that was created after the deletion stays, too.
        let mut third = holds.send(at(0), vec![write(&id, &lease, 7)]).expect("nothing is deleted");
        third.answered(&id, |hold| (hold.created, hold.end) = (Some(12), at(31)));
        holds.forget(&id, 9, &known);
        assert_eq!(holds.get(&id).expect("known").created, Some(12));
    }

    #[test]
    fn a_key_is_due_at_its_end_also_if_an_earlier_claim_is_unknown() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        drop(holds.send(at(0), vec![write(&id, &lease, 5)]));
        let mut sent = holds.send(at(0), vec![write(&id, &lease, 6)]).expect("nothing is deleted");
        sent.answered(&id, |hold| (hold.created, hold.end) = (Some(7), at(31)));
        drop(sent);
        // The gate of the earlier one has to be shut first.
        assert_eq!(holds.next_due(), at(5));
        lease.shut(8);
        assert!(holds.overdue(at(6), 10).is_empty());
        assert_eq!(holds.next_due(), at(31));
        let due = holds.overdue(at(31), 10);
        assert_eq!((due.len(), due[0].1.unknown.len()), (1, 1));
        holds.forget(&id, 9, &due[0].1.unknown);
        assert_eq!(holds.next_due(), Moment::FAR);
    }

    #[test]
    fn what_is_deleted_while_a_claim_is_in_flight_is_found_when_that_is_answered() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        let sent = holds.send(at(0), vec![write(&id, &lease, 5)]);
        holds.forget(&id, 9, &[]);
        drop(sent);
        assert_eq!(holds.next_due(), at(5));
    }

    #[test]
    fn nothing_is_sent_for_an_owner_whose_key_is_being_deleted() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        drop(holds.send(at(0), vec![write(&id, &lease, 5)]));
        assert_eq!(holds.overdue(at(5), 10).len(), 1);
        assert!(holds.send(at(0), vec![write(&id, &lease, 9)]).is_none());
        let unknown = holds.get(&id).expect("known").unknown;
        holds.forget(&id, 9, &unknown);
        assert!(holds.send(at(0), vec![write(&id, &lease, 9)]).is_some());
    }

    #[test]
    fn a_key_that_is_overdue_is_neither_extended_nor_written() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        let extend =
            |now, end| holds.extend(&id, at(now), |hold| hold.end = std::cmp::max(hold.end, at(end)));
        assert!(!extend(0, 5), "nothing is known of it");
        holds.change(&id, |hold| (hold.created, hold.end) = (Some(7), at(5)));
        assert!(extend(4, 6) && holds.next_due() == at(6));
        // From then on it may be deleted, whether the deletion has begun or not.
        assert!(!extend(6, 9) && holds.next_due() == at(6));
        assert!(holds.send(at(6), vec![write(&id, &lease, 9)]).is_none());
        assert_eq!(holds.overdue(at(6), 10).len(), 1);
        assert!(!extend(5, 9) && holds.get(&id).expect("known").end == at(6));
    }

    #[test]
    fn a_key_is_extended_while_a_write_for_it_is_in_flight() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        holds.change(&id, |hold| (hold.created, hold.end) = (Some(7), at(5)));
        let sent = holds.send(at(4), vec![write(&id, &lease, 9)]).expect("not overdue");
        assert!(holds.extend(&id, at(6), |hold| hold.end = at(10)));
        assert!(holds.send(at(11), vec![write(&id, &lease, 12)]).is_some());
        drop(sent);
    }

    #[test]
    fn a_key_that_is_renewed_is_not_due_in_the_moment_of_the_answer() {
        let (holds, lease, id) = (Holds::default(), lease(), id("a"));
        holds.change(&id, |hold| (hold.created, hold.end) = (Some(7), at(5)));
        let mut sent = holds.send(at(0), vec![write(&id, &lease, 9)]).expect("nothing is deleted");
        assert_eq!(holds.overdue(at(6), 10).len(), 0);
        sent.answered(&id, |hold| hold.end = at(11));
        drop(sent);
        assert_eq!((holds.overdue(at(10), 10).len(), holds.next_due()), (0, at(11)));
    }
}
