//! Candidates of elections: the real `Election::lead`, whose futures the simulator polls.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;

use crate::election::Election;
use crate::error::{ErrorKind, Result};
use crate::guard::Guard;
use crate::storage::Owner;

/// The candidates of one client.
pub(super) struct Leading {
    candidates: Vec<Candidate>,
    /// The guards of the works that run.
    pub(super) terms: Vec<Arc<Guard>>,
    /// The owners of the guards in `terms` that were seen to be lost.
    pub(super) over: BTreeSet<Owner>,
    /// How many works have begun.
    pub(super) begun: u64,
    /// How candidates have ended that should have gone on.
    pub(super) wrong: Vec<String>,
    /// The owner ids that were made since the last poll of a caller.
    made: Arc<Mutex<Vec<Owner>>>,
    /// The owner ids that the simulator does not know yet.
    fresh: Vec<Owner>,
}

/// A program that leads whenever it is elected.
struct Candidate {
    future: Pin<Box<dyn Future<Output = Result<()>>>>,
    /// The owner of its present acquisition.
    owner: Option<Owner>,
    office: Arc<Mutex<Office>>,
}

/// What the work of a candidate and the simulator tell each other.
#[derive(Default)]
struct Office {
    /// The guard of the work that runs.
    term: Option<Arc<Guard>>,
    begun: u64,
    /// `true` if the work ends by itself.
    ends: bool,
}

/// The work of one term. It ends by itself when it is told to.
struct Work(Arc<Mutex<Office>>);

fn lock(office: &Mutex<Office>) -> MutexGuard<'_, Office> {
    office.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    fn begin(office: &Arc<Mutex<Office>>, term: Arc<Guard>) -> Self {
        let mut begins = lock(office);
        begins.begun += 1;
        begins.term = Some(term);
        Self(Arc::clone(office))
    }
}

impl Future for Work {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if lock(&self.0).ends { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        lock(&self.0).term = None;
    }
}

impl Leading {
    /// Makes the candidates of a client, which notes the owner ids that it makes in `made`.
    pub(super) fn new(made: Arc<Mutex<Vec<Owner>>>) -> Self {
        let (terms, wrong, fresh) = (Vec::new(), Vec::new(), Vec::new());
        Self { candidates: Vec::new(), terms, over: BTreeSet::new(), begun: 0, wrong, made, fresh }
    }

    /// Lets a program stand for election.
    pub(super) fn stand(&mut self, election: Election) {
        let office = Arc::new(Mutex::new(Office::default()));
        let works = Arc::clone(&office);
        let future = Box::pin(async move { election.lead(|term| Work::begin(&works, term)).await });
        self.candidates.push(Candidate { future, owner: None, office });
        self.poll();
    }

    /// Lets the candidates take what has arrived for them. Returns `true` if one has made a request, has begun or ended
    /// its work, or has ended.
    pub(super) fn poll(&mut self) -> bool {
        let mut busy = false;
        let Self { candidates, wrong, made, fresh, begun, .. } = self;
        candidates.retain_mut(|candidate| {
            let ended = candidate.future.as_mut().now_or_never();
            let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
            busy |= !made.is_empty() || ended.is_some();
            candidate.owner = made.last().copied().or(candidate.owner);
            fresh.extend(made);
            let mut office = lock(&candidate.office);
            *begun += std::mem::take(&mut office.begun);
            match &ended {
                Some(Ok(())) if !office.ends => wrong.push("it has ended before its work".to_owned()),
                Some(Err(error)) if ![ErrorKind::Closed, ErrorKind::Lost].contains(&error.kind()) => {
                    wrong.push(error.to_string());
                }
                _ => {}
            }
            ended.is_none()
        });
        let before: Vec<_> = self.terms.iter().map(|term| term.owner()).collect();
        self.note_terms();
        busy | !self.terms.iter().map(|term| term.owner()).eq(before)
    }

    fn note_terms(&mut self) {
        self.terms =
            self.candidates.iter().filter_map(|candidate| lock(&candidate.office).term.clone()).collect();
    }

    /// Lets the works end by themselves: those that run, and each other one when it begins.
    pub(super) fn end_works(&mut self) {
        for candidate in &self.candidates {
            lock(&candidate.office).ends = true;
        }
    }

    /// Lets the work of a candidate end by itself.
    pub(super) fn end_work(&mut self, place: usize) {
        lock(&self.candidates[place].office).ends = true;
    }

    /// Drops the future of a candidate.
    pub(super) fn leave(&mut self, place: usize) {
        drop(self.candidates.remove(place));
        self.note_terms();
    }

    /// Returns the owner ids that were made since the last time.
    pub(super) fn take_fresh(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.fresh)
    }

    /// Returns how many candidates there are.
    pub(super) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Returns `true` if a candidate waits for that lease or leads with it.
    pub(super) fn wants(&self, owner: Owner) -> bool {
        self.candidates.iter().any(|candidate| candidate.owner == Some(owner))
    }

    /// Ends with its client, at once.
    pub(super) fn crash(&mut self) {
        self.candidates.clear();
        self.terms.clear();
        self.over.clear();
    }
}
