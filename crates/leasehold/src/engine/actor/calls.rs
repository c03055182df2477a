//! The calls to the storage: batches of claims, inspections and lists.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};

use super::Actor;
use super::acquisition::Stage;
use crate::clock::Moment;
use crate::engine::call::{Call, CallId, Key};
use crate::engine::handle::Reply;
use crate::engine::lane::{BatchInfo, LaneClaim};
use crate::engine::timing::{CALL_LIMIT, patience, renew_limit};
use crate::engine::work;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::progress::Progress;
use crate::storage::{
    AcquireReply, AnyStorage, Claim, Holder, Name, Owner, ReleaseReply, RenewReply, Storage,
};

/// A call to the storage that has ended.
pub(super) enum Completed {
    Acquired(Batch, Vec<Result<AcquireReply>>),
    Renewed(Batch, Vec<Result<RenewReply>>),
    Released(Batch, Vec<Result<ReleaseReply>>),
    Broken {
        holders: Vec<Holder>,
    },
    /// An inspection of the lease of an acquisition. It is `unasked` if no caller has asked for it.
    LeaseInspected {
        key: Key,
        call: Call,
        found: Result<Option<Holder>>,
        reply: Option<Reply<()>>,
        unasked: bool,
    },
    /// An inspection of an observed name.
    NameInspected {
        name: Name,
        found: Result<Option<Holder>>,
    },
    /// A call that has sent its result to its caller.
    Replied,
}

/// Claims that were sent together.
pub(super) struct Batch {
    pub(super) info: BatchInfo,
    pub(super) sent: Moment,
    /// For each claim, its acquisition and its number.
    pub(super) ids: Vec<(Key, CallId)>,
    pub(super) claims: Vec<Claim>,
}

impl Batch {
    /// Returns for each claim its acquisition, its call, and its answer.
    pub(super) fn answers<T>(&self, answers: Vec<T>) -> impl Iterator<Item = (Key, Call, T)> {
        let ids = self.ids.iter().zip(answers);
        ids.map(|((key, id), answer)| (*key, Call { id: *id, sent: self.sent }, answer))
    }
}

/// How many holders are listed in one call.
const PAGE: usize = 1000;

impl Actor {
    /// Sends every batch that the lanes allow: renewals and releases first, and then acquires.
    pub(super) fn send_batches(&mut self) {
        while let Some((info, claims)) = self.renews.next_batch() {
            let (batch, limit) = self.make_batch(info, claims, renew_limit);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.renew(&batch.claims)).await;
                Completed::Renewed(batch, answers)
            }));
        }
        while let Some((info, claims)) = self.releases.next_batch() {
            let (batch, limit) = self.make_batch(info, claims, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.release(&batch.claims)).await;
                Completed::Released(batch, answers)
            }));
        }
        while let Some((info, claims)) = self.acquires.next_batch() {
            let (batch, limit) = self.make_batch(info, claims, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.acquire(&batch.claims)).await;
                Completed::Acquired(batch, answers)
            }));
        }
    }

    /// Makes a batch of claims, and notes for each that it leaves now. Returns the batch, and how long to wait for its
    /// answers: the shortest of the limits that `limit_for` returns for how long each lease lasts.
    fn make_batch(
        &mut self,
        info: BatchInfo,
        claims: Vec<LaneClaim>,
        limit_for: fn(Duration) -> Duration,
    ) -> (Batch, Duration) {
        let (now, limits, mut shortest) = (self.clock.now(), self.shared.limits, CALL_LIMIT);
        let mut batch = Batch {
            info,
            sent: now,
            ids: Vec::with_capacity(claims.len()),
            claims: Vec::with_capacity(claims.len()),
        };
        work::changed(claims.len());
        for LaneClaim { id, key, .. } in claims {
            // A claim that was withdrawn is not in a lane any more. These checks catch a withdrawal that was forgotten.
            let Some(acquisition) = self.get_mut(key) else { continue };
            if acquisition.in_lane.take_if(|in_lane| in_lane.id == id).is_none() {
                continue;
            }
            let limit = limit_for(acquisition.lasts());
            let (call, claim) = (Call { id, sent: now }, &mut acquisition.claim);
            match &mut acquisition.stage {
                Stage::Attempt(stage) => stage.attempt.sent(call),
                Stage::Resume(stage) => stage.resume.sent(call),
                Stage::Lease(stage) => {
                    let lease = &mut stage.lease;
                    (claim.ttl, claim.shorten) = (lease.ttl(), lease.shortens_at(now));
                    claim.patience = patience(lease.ttl());
                    lease.sent(call);
                    stage.status.publish(now, lease, stage.extends);
                }
                Stage::Cleanup(stage) => stage.sent(call, claim, limit, &limits),
            }
            shortest = std::cmp::min(shortest, limit);
            batch.ids.push((key, id));
            batch.claims.push(claim.clone());
            self.rearm(key);
        }
        (batch, shortest)
    }

    /// Makes a call to the storage, and sends its result to a caller.
    pub(super) fn reply_with<T: Send + 'static, F>(&self, reply: Reply<T>, make: impl FnOnce(AnyStorage) -> F)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let future = make(self.storage.clone());
        self.calls.push(Box::pin(async move {
            let _ = reply.send(call_one(future).await);
            Completed::Replied
        }));
    }

    /// Lists all holders, and sends them to a caller. Each step of a page has the time of one call: a list
    /// may have any number of pages, and a page any number of keys to visit. The list ends early if the
    /// caller leaves.
    pub(super) fn reply_with_list(&self, mut reply: Reply<Vec<Holder>>, prefix: String) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            tokio::select! {
                biased;
                () = reply.closed() => {}
                listed = list_all(&storage, &prefix) => {
                    let _ = reply.send(listed);
                }
            }
            Completed::Replied
        }));
    }

    /// Inspects an observed name.
    pub(super) fn inspect_observed(&mut self, name: Name) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let found = call_one(storage.inspect(&name)).await;
            Completed::NameInspected { name, found: found.map(|holders| holders.into_iter().next()) }
        }));
    }

    /// Verifies a lease for a caller, by an inspection.
    pub(super) fn verify(&mut self, key: Key, reply: Reply<()>) {
        // If it was lost meanwhile, the guard knows why.
        if self.lease_stage(key).is_some() {
            let id = self.next_call();
            self.inspect_lease(key, id, Some(reply));
        }
    }

    /// Inspects a lease because of a hint or a sweep. However many there are, one inspection is in flight, and one
    /// follows.
    pub(super) fn inspect_unasked(&mut self, key: Key) {
        let Some(stage) = self.lease_stage(key) else { return };
        stage.inspections = std::cmp::min(stage.inspections + 1, 2);
        if stage.inspections == 2 {
            return;
        }
        self.inspections += 1;
        let id = self.next_call();
        self.start_inspection(key, id, None, true);
    }

    /// Notes that an inspection because of a hint or a sweep is over. If another one was due meanwhile, it follows.
    pub(super) fn lease_inspected(&mut self, key: Key) {
        let Some(stage) = self.lease_stage(key) else { return };
        if std::mem::take(&mut stage.inspections) == 2 {
            self.inspect_unasked(key);
        }
    }

    /// Inspects the lease of an acquisition.
    pub(super) fn inspect_lease(&mut self, key: Key, id: CallId, reply: Option<Reply<()>>) {
        self.start_inspection(key, id, reply, false);
    }

    fn start_inspection(&mut self, key: Key, id: CallId, reply: Option<Reply<()>>, unasked: bool) {
        let Some(acquisition) = self.get(key) else { return };
        let (storage, name) = (self.storage.clone(), acquisition.claim.name.clone());
        let owner = acquisition.claim.owner;
        let call = Call { id, sent: self.clock.now() };
        self.calls.push(Box::pin(async move {
            let found = call_one(storage.inspect(&name)).await.map(|holders| holder_of(holders, owner));
            Completed::LeaseInspected { key, call, found, reply, unasked }
        }));
    }

    /// Ends the leases that an inspection shows.
    pub(super) fn break_lock(&mut self, name: Name, reply: Reply<Vec<Holder>>) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let mut broken = Vec::new();
            let ended = call_one(break_seen(&storage, &name, &mut broken)).await;
            let _ = reply.send(ended.map(|()| broken.clone()));
            Completed::Broken { holders: broken }
        }));
    }

    /// Subscribes to hints, unless that is done.
    pub(super) fn subscribe(&mut self) {
        if self.hints.is_none() {
            let hints = catch_unwind(AssertUnwindSafe(|| self.storage.hints().boxed()));
            self.hints = Some(hints.unwrap_or_else(|_| stream::pending().boxed()));
        }
    }

    /// Reports to the storage which names are observed from now on, and which no longer are.
    pub(super) fn watch(&self, added: &[Name], removed: &[Name]) {
        // A storage that panics here sends no hints. The names are inspected periodically all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| self.storage.watch(added, removed)));
    }
}

/// Returns the answer for a caller of `verify`, or `None` if the lease is gone. Then the guard knows why.
pub(super) fn verified(key: Key, found: &Result<Option<Holder>>) -> Option<Result<()>> {
    match found {
        Ok(Some(holder)) if holder.owner == key.owner => Some(Ok(())),
        Ok(_) => None,
        Err(error) => Some(Err(error.clone())),
    }
}

/// Calls a storage with a batch. The call is limited in time, and there is one answer for each claim, even if the
/// storage panics.
pub(super) async fn call<T>(
    limit: Duration,
    claims: usize,
    future: impl Future<Output = Vec<Result<T>>>,
) -> Vec<Result<T>> {
    let failed = |error: Error| (0..claims).map(|_| Err(error.clone())).collect();
    match tokio::time::timeout(limit, AssertUnwindSafe(future).catch_unwind()).await {
        Ok(Ok(answers)) if answers.len() == claims => answers,
        Ok(Ok(answers)) => failed(Error::new(
            ErrorKind::Internal,
            format!(
                "the storage answered another number of claims than it was asked asked=`{claims}` answered=`{}`",
                answers.len()
            ),
        )),
        Ok(Err(_)) => failed(panicked()),
        Err(_) => failed(silent(limit)),
    }
}

/// Calls a storage for one thing.
pub(super) async fn call_one<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(CALL_LIMIT, AssertUnwindSafe(future).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(panicked()),
        Err(_) => Err(silent(CALL_LIMIT)),
    }
}

/// Calls a storage for one thing that may take long. The call fails if it makes no progress for the time of one call.
async fn call_by_steps<T>(progress: &Progress, future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(AssertUnwindSafe(progress.of(future)).catch_unwind());
    let mut made = progress.made();
    loop {
        match tokio::time::timeout(CALL_LIMIT, &mut future).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => return Err(panicked()),
            Err(_) if progress.made() > made => made = progress.made(),
            Err(_) => return Err(silent(CALL_LIMIT)),
        }
    }
}

/// Returns the error of a storage that has panicked.
pub(super) fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "the storage panicked")
}

/// Returns the error of a storage that does not answer in time.
pub(super) fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the storage did not answer limit=`{limit:?}`"))
}

async fn list_all(storage: &AnyStorage, prefix: &str) -> Result<Vec<Holder>> {
    let (progress, mut holders) = (Progress::begin(), Vec::<Holder>::new());
    loop {
        let after = holders.last().map(Holder::cursor);
        let page = call_by_steps(&progress, storage.list(prefix, after.as_ref(), PAGE)).await?;
        if let (Some(after), Some(first)) = (&after, page.first())
            && first.cursor() <= *after
        {
            return Err(Error::new(
                ErrorKind::Internal,
                "the storage lists the same holders again and again",
            ));
        }
        let more = page.len() >= PAGE;
        holders.extend(page);
        if !more {
            return Ok(holders);
        }
        // A storage that answers at once would otherwise keep the engine from renewing until the last page.
        tokio::task::yield_now().await;
    }
}

/// Returns the holder with this owner, or the first if that one does not hold.
fn holder_of(mut holders: Vec<Holder>, owner: Owner) -> Option<Holder> {
    let own = holders.iter().position(|holder| holder.owner == owner).unwrap_or(0);
    (own < holders.len()).then(|| holders.swap_remove(own))
}

/// Ends the leases that an inspection shows, and no others. Adds each holder to `broken` as its lease ends.
pub(super) async fn break_seen(storage: &AnyStorage, name: &Name, broken: &mut Vec<Holder>) -> Result<()> {
    for holder in storage.inspect(name).await? {
        let claim = Claim { share: holder.share, ..Claim::new(name.clone(), holder.owner, CALL_LIMIT) };
        match storage.release(&[claim]).await.pop() {
            Some(Ok(ReleaseReply::Released)) => broken.push(holder),
            Some(Ok(ReleaseReply::NotHeld)) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(Error::new(ErrorKind::Internal, "the storage did not answer the claim")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_makes_progress_is_waited_for_and_one_that_does_not_is_given_up() {
        let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        paused.expect("a runtime").block_on(async {
            let (progress, begun) = (Progress::begin(), tokio::time::Instant::now());
            let progressing = async {
                for _ in 0..10 {
                    tokio::time::sleep(CALL_LIMIT * 4 / 5).await;
                    progress.step();
                }
                Ok(())
            };
            call_by_steps(&progress, progressing).await.expect("waited for");
            assert!(begun.elapsed() >= CALL_LIMIT * 8);

            let begun = tokio::time::Instant::now();
            let stuck = async {
                progress.step();
                std::future::pending::<Result<()>>().await
            };
            let error = call_by_steps(&progress, stuck).await.expect_err("it is stuck");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(begun.elapsed() <= CALL_LIMIT * 2, "{:?}", begun.elapsed());
        });
    }
}
