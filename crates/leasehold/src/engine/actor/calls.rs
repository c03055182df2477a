//! What goes out to the storage, and how its answers come back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};

use super::Actor;
use super::acquisition::Stage;
use crate::clock::Moment;
use crate::engine::call::{Call, CallId, Key};
use crate::engine::handle::Reply;
use crate::engine::lane::{Flight, Waiting};
use crate::engine::timing::{CALL_LIMIT, patience, renew_limit};
use crate::engine::work;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::progress::Progress;
use crate::storage::{
    AcquireReply, AnyStorage, Claim, Holder, Name, Owner, ReleaseReply, RenewReply, Storage,
};

/// A call to the storage that has ended.
pub(super) enum Done {
    Acquired(Batch, Vec<Result<AcquireReply>>),
    Renewed(Batch, Vec<Result<RenewReply>>),
    Released(Batch, Vec<Result<ReleaseReply>>),
    Broken {
        holders: Vec<Holder>,
    },
    /// A look at the lease of an acquisition.
    Seen {
        key: Key,
        look: Call,
        seen: Result<Option<Holder>>,
        reply: Option<Reply<()>>,
        unasked: bool,
    },
    /// A look for those who observe a name.
    Looked {
        name: Name,
        seen: Result<Option<Holder>>,
    },
    Replied,
}

/// Claims that were sent together.
pub(super) struct Batch {
    pub(super) flight: Flight,
    pub(super) sent: Moment,
    /// The acquisition of each claim, and its number.
    pub(super) asked: Vec<(Key, CallId)>,
    pub(super) claims: Vec<Claim>,
}

impl Batch {
    /// The acquisition of each claim, the call that it was, and its answer.
    pub(super) fn answers<T>(&self, answers: Vec<T>) -> impl Iterator<Item = (Key, Call, T)> {
        let asked = self.asked.iter().zip(answers);
        asked.map(|((key, id), answer)| (*key, Call { id: *id, sent: self.sent }, answer))
    }
}

/// How many holders are listed in one call.
const PAGE: usize = 1000;

impl Actor {
    /// Sends what the lanes hold. Renewals and releases go before claims.
    pub(super) fn depart(&mut self) {
        while let Some((flight, waiting)) = self.renews.depart() {
            let (batch, limit) = self.board(flight, waiting, renew_limit);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.renew(&batch.claims)).await;
                Done::Renewed(batch, answers)
            }));
        }
        while let Some((flight, waiting)) = self.releases.depart() {
            let (batch, limit) = self.board(flight, waiting, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.release(&batch.claims)).await;
                Done::Released(batch, answers)
            }));
        }
        while let Some((flight, waiting)) = self.acquires.depart() {
            let (batch, limit) = self.board(flight, waiting, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, batch.claims.len(), storage.acquire(&batch.claims)).await;
                Done::Acquired(batch, answers)
            }));
        }
    }

    /// Notes for each that its claim leaves now. Returns the batch, and how long its answers are waited for. `limit`
    /// makes that of how long a lease lasts.
    fn board(
        &mut self,
        flight: Flight,
        waiting: Vec<Waiting>,
        limit: fn(Duration) -> Duration,
    ) -> (Batch, Duration) {
        let (now, mut shortest) = (self.clock.now(), CALL_LIMIT);
        let mut batch = Batch {
            flight,
            sent: now,
            asked: Vec::with_capacity(waiting.len()),
            claims: Vec::with_capacity(waiting.len()),
        };
        work::changed(waiting.len());
        for Waiting { id, key, .. } in waiting {
            // What was withdrawn does not wait any more; this is for the day on which that is forgotten somewhere.
            let Some(acquisition) = self.get_mut(key) else { continue };
            if acquisition.queued.take_if(|queued| queued.id == id).is_none() {
                continue;
            }
            let limit = limit(acquisition.lasts());
            let (call, claim) = (Call { id, sent: now }, &mut acquisition.claim);
            match &mut acquisition.stage {
                Stage::Attempt(attempting) => attempting.attempt.sent(call),
                Stage::Resume(resuming) => resuming.resume.sent(call),
                Stage::Lease(holding) => {
                    let lease = &mut holding.lease;
                    (claim.ttl, claim.shorten) = (lease.ttl(), lease.shortens());
                    claim.patience = patience(lease.ttl());
                    lease.sent(call);
                    holding.hold.publish(now, lease, holding.extends);
                }
                Stage::Cleanup(cleaning) => cleaning.cleanup.sent(call, now.after(limit)),
            }
            shortest = std::cmp::min(shortest, limit);
            batch.asked.push((key, id));
            batch.claims.push(claim.clone());
            self.rearm(key);
        }
        (batch, shortest)
    }

    pub(super) fn reply_with<T: Send + 'static, F>(&self, reply: Reply<T>, ask: impl FnOnce(AnyStorage) -> F)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let asked = ask(self.storage.clone());
        self.calls.push(Box::pin(async move {
            let _ = reply.send(call_one(asked).await);
            Done::Replied
        }));
    }

    /// Lists the holders, and sends them as the reply. Each step of a page has the time of a call: a list may have any
    /// number of pages, and a storage any number of keys to go through. Ends when the caller leaves.
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
            Done::Replied
        }));
    }

    /// Looks at a name for those who observe it.
    pub(super) fn look(&mut self, name: Name) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let seen = call_one(storage.inspect(&name)).await;
            Done::Looked { name, seen: seen.map(|holders| holders.into_iter().next()) }
        }));
    }

    /// Asks for a caller whether a lease is still there.
    pub(super) fn verify(&mut self, key: Key, reply: Reply<()>) {
        // Lost meanwhile: the guard knows why.
        if self.holding(key).is_some() {
            let id = self.next_call();
            self.look_at_lease(key, id, Some(reply));
        }
    }

    /// Looks whether a lease is still there, because of a hint or a sweep. However many there are, one look is in
    /// flight, and one follows.
    pub(super) fn look_unasked(&mut self, key: Key) {
        let Some(holding) = self.holding(key) else { return };
        holding.looks = std::cmp::min(holding.looks + 1, 2);
        if holding.looks == 2 {
            return;
        }
        self.looking += 1;
        let id = self.next_call();
        self.look_at(key, id, None, true);
    }

    /// A look that a hint has caused is over; what was hinted meanwhile causes one more.
    pub(super) fn looked(&mut self, key: Key) {
        let Some(holding) = self.holding(key) else { return };
        if std::mem::take(&mut holding.looks) == 2 {
            self.look_unasked(key);
        }
    }

    /// Looks at the lease of an acquisition.
    pub(super) fn look_at_lease(&mut self, key: Key, id: CallId, reply: Option<Reply<()>>) {
        self.look_at(key, id, reply, false);
    }

    fn look_at(&mut self, key: Key, id: CallId, reply: Option<Reply<()>>, unasked: bool) {
        let Some(acquisition) = self.get(key) else { return };
        let (storage, name) = (self.storage.clone(), acquisition.claim.name.clone());
        let owner = acquisition.claim.owner;
        let look = Call { id, sent: self.clock.now() };
        self.calls.push(Box::pin(async move {
            let seen = call_one(storage.inspect(&name)).await.map(|holders| holder_of(holders, owner));
            Done::Seen { key, look, seen, reply, unasked }
        }));
    }

    pub(super) fn break_lock(&mut self, name: Name, reply: Reply<Vec<Holder>>) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let mut broken = Vec::new();
            let ended = call_one(break_seen(&storage, &name, &mut broken)).await;
            let _ = reply.send(ended.map(|()| broken.clone()));
            Done::Broken { holders: broken }
        }));
    }

    /// Subscribes to hints, once.
    pub(super) fn subscribe(&mut self) {
        if self.hints.is_none() {
            let hints = catch_unwind(AssertUnwindSafe(|| self.storage.hints().boxed()));
            self.hints = Some(hints.unwrap_or_else(|_| stream::pending().boxed()));
        }
    }

    /// Tells the storage which names are observed from now on, and which are not any more.
    pub(super) fn watch(&self, added: &[Name], removed: &[Name]) {
        // One that panics tells nothing; then the observers look by themselves.
        let _ = catch_unwind(AssertUnwindSafe(|| self.storage.watch(added, removed)));
    }
}

/// What a caller is told who asked whether a lease is still there; `None` if it is not, and the guard says why.
pub(super) fn verified(key: Key, seen: &Result<Option<Holder>>) -> Option<Result<()>> {
    match seen {
        Ok(Some(holder)) if holder.owner == key.owner => Some(Ok(())),
        Ok(_) => None,
        Err(error) => Some(Err(error.clone())),
    }
}

/// Calls a storage with a batch: limited in time, and with as many answers as there were claims, even if it
/// panics.
pub(super) async fn call<T>(
    limit: Duration,
    claims: usize,
    asked: impl Future<Output = Vec<Result<T>>>,
) -> Vec<Result<T>> {
    let failed = |error: Error| (0..claims).map(|_| Err(error.clone())).collect();
    match tokio::time::timeout(limit, AssertUnwindSafe(asked).catch_unwind()).await {
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
pub(super) async fn call_one<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(CALL_LIMIT, AssertUnwindSafe(asked).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(panicked()),
        Err(_) => Err(silent(CALL_LIMIT)),
    }
}

/// Calls a storage for one thing that may take long; gives up when no step was made for the time of a call.
async fn call_by_steps<T>(progress: &Progress, asked: impl Future<Output = Result<T>>) -> Result<T> {
    let mut asked = pin!(AssertUnwindSafe(progress.of(asked)).catch_unwind());
    let mut made = progress.made();
    loop {
        match tokio::time::timeout(CALL_LIMIT, &mut asked).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => return Err(panicked()),
            Err(_) if progress.made() > made => made = progress.made(),
            Err(_) => return Err(silent(CALL_LIMIT)),
        }
    }
}

pub(super) fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "the storage panicked")
}

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
        // A storage that answers at once would keep the engine from its renewals until the last page.
        tokio::task::yield_now().await;
    }
}

/// Returns the holder with this owner, or the first if that one does not hold.
fn holder_of(mut holders: Vec<Holder>, owner: Owner) -> Option<Holder> {
    let own = holders.iter().position(|holder| holder.owner == owner).unwrap_or(0);
    (own < holders.len()).then(|| holders.swap_remove(own))
}

/// Ends the leases that are seen, and no others. Adds each holder to `broken` as its lease ends.
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
    fn a_call_that_gets_on_is_waited_for_and_one_that_does_not_is_given_up() {
        let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        paused.expect("a runtime").block_on(async {
            let (progress, begun) = (Progress::begin(), tokio::time::Instant::now());
            let getting_on = async {
                for _ in 0..10 {
                    tokio::time::sleep(CALL_LIMIT * 4 / 5).await;
                    progress.step();
                }
                Ok(())
            };
            call_by_steps(&progress, getting_on).await.expect("waited for");
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
