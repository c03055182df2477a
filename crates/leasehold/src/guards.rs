use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select, select_all};

use crate::engine::{Handle, LeaseStatus};
use crate::error::{Error, Result};
use crate::guard::{Guard, unless_lost};
use crate::lost::Lost;

/// Proves that this process holds several locks, until they are released, dropped, or one of them is lost.
///
/// A slice of [`Guard`]s, in the order in which the locks were given to [`Locks::all`](crate::Locks::all). Each has a
/// token, a deadline and a lease of its own. The locks are released together, the largest name first: by
/// [`Guards::release`], or in the background when this value is dropped.
#[must_use = "dropping Guards releases the locks"]
pub struct Guards {
    engine: Handle,
    guards: Vec<Guard>,
    /// `true` if the caller has not got them yet. Then dropping them undoes their acquisition.
    arriving: bool,
}

impl Guards {
    /// Makes a value that holds nothing. What it gets is not the caller's before [`Guards::arrive`].
    pub(crate) fn none(engine: Handle) -> Self {
        Self { engine, guards: Vec::new(), arriving: true }
    }

    pub(crate) fn from_parts(engine: Handle, guards: Vec<Guard>) -> Self {
        Self { engine, guards, arriving: false }
    }

    pub(crate) fn into_parts(mut self) -> (Handle, Vec<Guard>) {
        (self.engine.clone(), std::mem::take(&mut self.guards))
    }

    pub(crate) fn push(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// Releases all guards but the first `len`, in the background.
    pub(crate) fn truncate(&mut self, len: usize) {
        let rest = self.guards.split_off(len);
        drop(Self { engine: self.engine.clone(), guards: rest, arriving: self.arriving });
    }

    /// Gives the guards to the caller, in its own order: the place of each in that order.
    pub(crate) fn arrive(&mut self, places: &[usize]) {
        self.arriving = false;
        let mut placed: Vec<_> = places.iter().zip(self.guards.drain(..)).collect();
        placed.sort_unstable_by_key(|(place, _)| **place);
        self.guards.extend(placed.into_iter().map(|(_, guard)| guard));
    }

    /// Returns `true` if every lock is held right now. Makes no request.
    ///
    /// See [`Guard::is_held`].
    pub fn is_held(&self) -> bool {
        self.iter().all(Guard::is_held)
    }

    /// Returns the remaining time of the lease that ends first, unless it is renewed again. Makes no request.
    pub fn remaining(&self) -> Duration {
        self.iter().map(Guard::remaining).fold(Duration::MAX, std::cmp::min)
    }

    /// Waits until one of the locks is lost and returns the reason. [`Guard::is_held`] tells which one. Never completes
    /// if there is no lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn lost(&self) -> Lost {
        first_lost(self.iter()).await.1
    }

    /// Releases all locks, with one batch of requests. `Ok` means that each was held without interruption until now.
    ///
    /// # Errors
    ///
    /// The errors of [`Guard::release`], for the first lock that has one. A loss comes before any other error. The
    /// other locks are released all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not stop the releases.
    pub async fn release(mut self) -> Result<()> {
        let statuses = self.end();
        self.engine.release_together(&statuses).await
    }

    /// Runs `work`, and releases the locks. Drops the work at the moment at which one is lost.
    pub(crate) async fn run<T>(self, work: impl AsyncFnOnce(&Self) -> T) -> Result<T> {
        let done = match select(pin!(first_lost(self.iter())), pin!(work(&self))).await {
            Either::Left(((place, lost), _)) => Err((place, lost)),
            Either::Right((done, _)) => Ok(done),
        };
        let done = done.map_err(|(place, lost)| Error::lost_for(self.guards[place].name(), lost))?;
        unless_lost(self.release().await, done)
    }

    /// Takes the guards apart, so that dropping them has no effect. The largest name comes first.
    fn end(&mut self) -> Vec<Arc<LeaseStatus>> {
        let mut statuses: Vec<_> = self.guards.drain(..).filter_map(Guard::into_status).collect();
        statuses.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        statuses
    }
}

impl Deref for Guards {
    type Target = [Guard];

    fn deref(&self) -> &[Guard] {
        &self.guards
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        if !self.guards.is_empty() {
            let statuses = self.end();
            self.engine.abandon_together(&statuses, self.arriving);
        }
    }
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.guards).finish()
    }
}

/// Waits until one of the locks is lost. Returns its place, and the reason.
pub(crate) async fn first_lost<'a>(guards: impl Iterator<Item = &'a Guard>) -> (usize, Lost) {
    let each = guards.enumerate();
    let each = each.map(|(place, guard)| Box::pin(async move { (place, guard.lost_unreleased().await) }));
    let each: Vec<_> = each.collect();
    if each.is_empty() { std::future::pending().await } else { select_all(each).await.0 }
}
