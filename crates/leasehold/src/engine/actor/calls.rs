//! What goes out to the storage, and how its answers come back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};

use super::Actor;
use super::seats::{Seat, Stage};
use crate::clock::Moment;
use crate::engine::Reply;
use crate::engine::attempt::patience;
use crate::engine::lane::Class;
use crate::engine::lease::renew_limit;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Acquire, AnyStorage, Claim, Holder, Name, Owner, Release, Renew, Storage};

/// A call to the storage that has ended.
pub(super) enum Done {
    Acquired(Class, Vec<(Owner, Moment, Result<Acquire>)>),
    Renewed(Class, Vec<(Owner, Moment, Result<Renew>)>),
    Released(Class, Vec<(Owner, Moment, Result<Release>)>),
    Broken { holder: Holder },
    Found { owner: Owner, seen: Result<Option<Holder>> },
    Verified { owner: Owner, seen: Result<Option<Holder>>, reply: Option<Reply<()>> },
    Looked { name: Name, seen: Result<Option<Holder>> },
    Replied,
}

/// The longest that a call which no lease limits may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How many holders are listed in one call.
const PAGE: usize = 1000;

impl Actor {
    /// Sends what the lanes hold. Renewals and releases go before claims (rule R5).
    pub(super) fn depart(&mut self) {
        while let Some((class, owners)) = self.renews.depart() {
            let (sent, claims, limit) = self.board(&owners, renew_limit);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, claims.len(), storage.renew(&claims)).await;
                Done::Renewed(class, zip(&claims, sent, answers))
            }));
        }
        while let Some((class, owners)) = self.releases.depart() {
            let (sent, claims, limit) = self.board(&owners, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, claims.len(), storage.release(&claims)).await;
                Done::Released(class, zip(&claims, sent, answers))
            }));
        }
        while let Some((class, owners)) = self.acquires.depart() {
            let (sent, claims, limit) = self.board(&owners, patience);
            let storage = self.storage.clone();
            self.calls.push(Box::pin(async move {
                let answers = call(limit, claims.len(), storage.acquire(&claims)).await;
                Done::Acquired(class, zip(&claims, sent, answers))
            }));
        }
    }

    /// Notes for each that its claim leaves now; the claims, and how long their answers are waited for. `limit` makes
    /// that of how long a lease lasts.
    pub(super) fn board(
        &mut self,
        owners: &[Owner],
        limit: fn(Duration) -> Duration,
    ) -> (Moment, Vec<Claim>, Duration) {
        let (now, mut shortest) = (self.clock.now(), CALL_LIMIT);
        let mut claims = Vec::with_capacity(owners.len());
        for owner in owners {
            let seat = self.seats.get_mut(owner).expect("BUG: a seat that goes takes its claims along");
            if let Stage::Held { lease, .. } = &seat.stage {
                (seat.claim.ttl, seat.claim.shorten) = (lease.ttl(), lease.shortens());
                seat.claim.patience = patience(lease.ttl());
            }
            let limit = limit(seat.lasts());
            match &mut seat.stage {
                Stage::Seeking { attempt, .. } => attempt.sent(now),
                Stage::Resuming(resuming) => (resuming.sent, resuming.ask_at) = (now, Moment::FAR),
                Stage::Held { lease, hold, .. } => {
                    lease.sent(now);
                    hold.publish(now, lease);
                }
                Stage::Clearing { resolver, .. } => resolver.sent(now, now.after(limit)),
            }
            shortest = std::cmp::min(shortest, limit);
            claims.push(seat.claim.clone());
            self.rearm(*owner);
        }
        (now, claims, shortest)
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

    pub(super) fn look(&mut self, name: Name) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let seen = call_one(storage.inspect(&name)).await;
            Done::Looked { name, seen }
        }));
    }

    /// Asks whether a lease is still there.
    pub(super) fn verify(&mut self, owner: Owner, reply: Option<Reply<()>>) {
        let Some(Seat { claim, stage: Stage::Held { looks, .. }, .. }) = self.seats.get_mut(&owner) else {
            // Lost meanwhile: the guard knows why.
            return;
        };
        if reply.is_none() {
            // However many hints there are, one look is under way, and one follows.
            *looks = std::cmp::min(*looks + 1, 2);
            if *looks == 2 {
                return;
            }
            self.looking += 1;
        }
        let (storage, name) = (self.storage.clone(), claim.name.clone());
        self.calls.push(Box::pin(async move {
            let seen = call_one(storage.inspect(&name)).await;
            Done::Verified { owner, seen, reply }
        }));
    }

    pub(super) fn break_lock(&mut self, name: Name, reply: Reply<Option<Holder>>) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let broken = call_one(break_seen(&storage, &name)).await;
            let done = match &broken {
                Ok(Some(holder)) => Done::Broken { holder: holder.clone() },
                _ => Done::Replied,
            };
            let _ = reply.send(broken);
            done
        }));
    }

    /// A look that a hint has caused is over; what was hinted meanwhile causes one more.
    pub(super) fn looked(&mut self, owner: Owner) {
        if let Some(Seat { stage: Stage::Held { looks, .. }, .. }) = self.seats.get_mut(&owner) {
            let again = *looks == 2;
            *looks = 0;
            if again {
                self.verify(owner, None);
            }
        }
    }

    /// Looks at the lease that is to be resumed.
    pub(super) fn find(&mut self, owner: Owner, name: Name) {
        let storage = self.storage.clone();
        self.calls.push(Box::pin(async move {
            let seen = call_one(storage.inspect(&name)).await;
            Done::Found { owner, seen }
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

pub(super) fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "the storage panicked")
}

pub(super) fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the storage did not answer limit=`{limit:?}`"))
}

pub(super) fn zip<T>(
    claims: &[Claim],
    sent: Moment,
    answers: Vec<Result<T>>,
) -> Vec<(Owner, Moment, Result<T>)> {
    claims.iter().zip(answers).map(|(claim, answer)| (claim.owner, sent, answer)).collect()
}

pub(super) async fn list_all(storage: &AnyStorage, prefix: &str) -> Result<Vec<Holder>> {
    let mut holders: Vec<Holder> = Vec::new();
    loop {
        let after = holders.last().map(|holder| holder.name.clone());
        let page = storage.list(prefix, after.as_ref(), PAGE).await?;
        if let (Some(after), Some(first)) = (&after, page.first())
            && first.name <= *after
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
    }
}

/// Ends the lease that is seen, and no other.
pub(super) async fn break_seen(storage: &AnyStorage, name: &Name) -> Result<Option<Holder>> {
    let Some(holder) = storage.inspect(name).await? else {
        return Ok(None);
    };
    let claim = Claim::new(name.clone(), holder.owner, CALL_LIMIT);
    match storage.release(&[claim]).await.pop() {
        Some(Ok(Release::Released)) => Ok(Some(holder)),
        Some(Ok(Release::NotHeld)) => Ok(None),
        Some(Err(error)) => Err(error),
        None => Err(Error::new(ErrorKind::Internal, "the storage did not answer the claim")),
    }
}
