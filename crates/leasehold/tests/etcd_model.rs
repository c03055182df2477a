//! Every order in which an etcd may execute the delayed requests of one client, that gives up claims while it keeps their
//! lease alive for another lock. The gate of `storage/etcd` leaves no key behind in any of them. Each of its parts is needed:
//! without it, the model finds a key that stays, or a lock that is lost.
//!
//! A step sends a request, or executes one that was sent. A request that is lost is one that is never executed. The client may
//! wait for an answer or not, so it knows an outcome or does not.

use std::collections::{HashSet, VecDeque};

/// The part that is left out of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Claims do not compare the gate.
    NoGate,
    /// The gate is shut by one request, and the key deleted by an earlier one.
    DeletedBeforeShut,
    /// A claim that is sent again compares the gate as it was when the claim was first sent.
    OldRevision,
    /// A key that is overdue is deleted whatever the gate shows, also by a request that is executed late.
    DeletedUnconditionally,
}

/// A request of the client. The number is the gate's revision that it compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    /// Creates the key, if there is none.
    Claim { gate: u8 },
    /// Shuts the gate and deletes the key, in one step.
    Release,
    /// The same, if the gate is at this revision.
    Sweep { gate: u8 },
    /// Only shuts the gate.
    Shut,
    /// Only deletes the key.
    Delete,
}

/// What the client does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Plan {
    /// Claims twice under one owner, gives up, and releases.
    Release,
    /// Claims, gives up, sweeps without hearing an answer, and claims again. The last claim is granted.
    ClaimAgain,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct World {
    /// The gate's revision at the server.
    gate: u8,
    has_key: bool,
    /// The gate's revision as far as the client knows.
    known: u8,
    /// What was sent and not executed.
    sent: Vec<Request>,
    /// How many steps of the plan are done.
    done: usize,
    /// Whether the client was told that it holds the lock.
    is_granted: bool,
}

impl World {
    const START: Self =
        Self { gate: 0, has_key: false, known: 0, sent: Vec::new(), done: 0, is_granted: false };

    /// Executes a request at the server. Returns `true` if it had an effect.
    fn execute(&mut self, request: Request, flaw: Flaw) -> bool {
        let is_open = |gate| flaw == Flaw::NoGate || gate == self.gate;
        match request {
            Request::Claim { gate } if is_open(gate) => self.has_key = true,
            Request::Claim { .. } => return false,
            Request::Sweep { gate } if gate != self.gate && flaw != Flaw::DeletedUnconditionally => {
                return false;
            }
            Request::Release | Request::Sweep { .. } => (self.gate, self.has_key) = (self.gate + 1, false),
            Request::Shut => self.gate += 1,
            Request::Delete => self.has_key = false,
        }
        true
    }

    /// Sends a request, and hears no answer.
    fn send(&mut self, request: Request) {
        self.sent.push(request);
        self.sent.sort_unstable();
    }

    /// Sends a request and waits for its answer, which tells the gate's revision.
    fn call(&mut self, request: Request, flaw: Flaw) -> bool {
        let done = self.execute(request, flaw);
        self.known = self.gate;
        done
    }

    /// Does the next step of the plan. Returns `false` if there is none.
    fn go_on(&mut self, plan: Plan, flaw: Flaw) -> bool {
        let claim = Request::Claim { gate: self.known };
        match (plan, self.done) {
            (_, 0) | (Plan::Release, 1) => self.send(claim),
            (Plan::Release, 2) if flaw == Flaw::DeletedBeforeShut => {
                self.call(Request::Delete, flaw);
            }
            (Plan::Release, 2) => {
                self.call(Request::Release, flaw);
            }
            (Plan::Release, 3) if flaw == Flaw::DeletedBeforeShut => {
                self.call(Request::Shut, flaw);
            }
            (Plan::ClaimAgain, 1) => self.send(Request::Sweep { gate: self.known }),
            // The sweep may be executed later, so the gate is shut once more before the next claim.
            (Plan::ClaimAgain, 2) if flaw != Flaw::OldRevision => {
                self.call(Request::Shut, flaw);
            }
            (Plan::ClaimAgain, 2) => {}
            (Plan::ClaimAgain, 3) => self.is_granted = self.call(claim, flaw),
            _ => return false,
        }
        self.done += 1;
        true
    }

    /// Says what is wrong, when the plan is done.
    fn wrong(&self, plan: Plan) -> Option<&'static str> {
        match plan {
            Plan::Release if self.done >= 3 && self.has_key => Some("a key stays"),
            Plan::ClaimAgain if self.is_granted && !self.has_key => Some("a lock is lost"),
            _ => None,
        }
    }
}

/// Goes through all orders. Returns what is wrong in the first that ends wrongly, and how many states there are.
fn explore(plan: Plan, flaw: Flaw) -> (Option<&'static str>, usize) {
    let (mut seen, mut open) = (HashSet::from([World::START]), VecDeque::from([World::START]));
    while let Some(world) = open.pop_front() {
        let mut next = Vec::new();
        let mut on = world.clone();
        let is_over = !on.go_on(plan, flaw);
        if !is_over {
            next.push(on);
        }
        for i in 0..world.sent.len() {
            let mut executed = world.clone();
            let request = executed.sent.remove(i);
            executed.execute(request, flaw);
            next.push(executed);
        }
        if is_over && let Some(wrong) = world.wrong(plan) {
            return (Some(wrong), seen.len());
        }
        open.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
    }
    (None, seen.len())
}

#[test]
fn no_order_leaves_a_key_or_loses_a_lock() {
    for plan in [Plan::Release, Plan::ClaimAgain] {
        let (wrong, states) = explore(plan, Flaw::None);
        assert_eq!(wrong, None, "{plan:?}");
        assert!(states > 8, "{plan:?}: {states}");
    }
}

#[test]
fn each_part_is_needed() {
    for (plan, flaw, wrong) in [
        (Plan::Release, Flaw::NoGate, "a key stays"),
        (Plan::Release, Flaw::DeletedBeforeShut, "a key stays"),
        (Plan::ClaimAgain, Flaw::OldRevision, "a lock is lost"),
        (Plan::ClaimAgain, Flaw::DeletedUnconditionally, "a lock is lost"),
    ] {
        assert_eq!(explore(plan, flaw).0, Some(wrong), "{flaw:?}");
    }
}
