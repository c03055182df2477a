use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::{FutureExt, StreamExt};
use leasehold::storage::{
    AcquireReply, AnyStorage, Claim, Cursor, Hint, Holder, Limits, Name, Owner, ReleaseReply, RenewReply,
    Storage, Token,
};
use leasehold::{ErrorKind, Locks, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::space::{Connect, Space};
use crate::timing::Timing;

/// What a case works with: clients, names that no other case uses, and durations.
#[derive(Clone)]
pub(crate) struct Context {
    space: Space,
    connect: Connect,
    prefix: String,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
}

impl Context {
    pub(crate) async fn new(space: Space) -> Self {
        let connect = space.open();
        let storage = connect().await.expect("the storage can be connected to");
        let (limits, timing) = (storage.limits(), space.times());
        Self { space, connect, prefix: prefix(), limits, timing }
    }

    /// Connects one more independent client.
    pub(crate) async fn client(&self) -> Client {
        let connected = (self.connect)().await;
        Client(connected.expect("the storage can be connected to once more"))
    }

    pub(crate) async fn clients(&self, n: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..n {
            clients.push(self.client().await);
        }
        clients
    }

    /// Connects one more independent [`Locks`], with an engine on this runtime.
    pub(crate) async fn locks(&self) -> Locks {
        let storage = self.client().await.0;
        let built = Locks::builder().on_current_runtime().build(storage);
        built.unwrap_or_else(|error| panic!("no client over this storage: {error}"))
    }

    /// Returns a copy that uses other names, for another round.
    pub(crate) fn fresh(&self) -> Self {
        Self { prefix: prefix(), ..self.clone() }
    }

    /// Returns the prefix of all names of this case.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn name(&self, rest: &str) -> Name {
        named(&format!("{}{rest}", self.prefix))
    }

    pub(crate) fn secrets(&self) -> &[String] {
        self.space.secrets()
    }

    /// Makes a claim of a new owner for a lease that outlasts the case.
    pub(crate) fn claim(&self, rest: &str) -> Claim {
        self.claim_for(self.name(rest))
    }

    pub(crate) fn claim_for(&self, name: Name) -> Claim {
        Claim::new(name, Owner::random(), self.timing.long())
    }

    /// Makes a claim of a new owner for a lease that ends soon.
    pub(crate) fn short_claim(&self, rest: &str) -> Claim {
        let ttl = self.timing.short(&self.limits);
        Claim::new(self.name(rest), Owner::random(), ttl).patience(self.timing.slack())
    }

    /// Runs `body`, with other names each time, until it passes. A failure counts only if the run took at
    /// most `quick`: on a machine that was too busy for that, a failure says nothing about the storage.
    pub(crate) async fn undisturbed<F>(&self, quick: Duration, body: impl Fn(Self) -> F)
    where
        F: Future<Output = ()>,
    {
        for round in 1.. {
            let start = Instant::now();
            match AssertUnwindSafe(body(self.fresh())).catch_unwind().await {
                Ok(()) => return,
                Err(failure) if start.elapsed() <= quick || round == 5 => resume_unwind(failure),
                Err(_) => {}
            }
        }
    }
}

/// One client, with methods for single claims. An `Err` fails the case, because the storage is reachable.
pub(crate) struct Client(pub(crate) AnyStorage);

impl Client {
    pub(crate) async fn try_acquire(&self, claim: &Claim) -> Result<AcquireReply> {
        only(self.0.acquire(std::slice::from_ref(claim)).await, "acquire")
    }

    pub(crate) async fn acquire(&self, claim: &Claim) -> AcquireReply {
        let answer = self.try_acquire(claim).await;
        answer.unwrap_or_else(|error| panic!("acquire failed: {error}"))
    }

    /// Acquires a lock that must be granted.
    pub(crate) async fn take(&self, claim: &Claim, why: &str) -> Token {
        match self.acquire(claim).await {
            AcquireReply::Granted { token, ttl } => {
                let asked = claim.ttl;
                assert!(ttl >= asked || claim.wait, "a TTL of {asked:?} was asked for and {ttl:?} given");
                if ttl < asked {
                    let renewed = self.renew(claim).await;
                    let whole = matches!(renewed, RenewReply::Renewed { ttl } if ttl >= asked);
                    assert!(whole, "{ttl:?} of {asked:?} were given, and a renewal says {renewed:?}");
                }
                token
            }
            other => panic!("{why}: expected a grant, got {other:?}"),
        }
    }

    /// Sends a claim that must be refused.
    pub(crate) async fn refused(&self, claim: &Claim, why: &str) -> Option<Holder> {
        match self.acquire(claim).await {
            AcquireReply::Held { holder, .. } => holder,
            other => panic!("{why}: expected `Held`, got {other:?}"),
        }
    }

    /// Sends the claim until it is granted, for at most `within`.
    pub(crate) async fn take_within(&self, claim: &Claim, within: Duration, why: &str) -> Token {
        let (start, pause) = (Instant::now(), Duration::from_millis(10));
        loop {
            match self.acquire(claim).await {
                AcquireReply::Granted { token, .. } => return token,
                other if start.elapsed() > within => {
                    panic!("{why}: not granted within {within:?}, but {other:?}")
                }
                _ => sleep(pause).await,
            }
        }
    }

    pub(crate) async fn try_renew(&self, claim: &Claim) -> Result<RenewReply> {
        only(self.0.renew(std::slice::from_ref(claim)).await, "renew")
    }

    pub(crate) async fn renew(&self, claim: &Claim) -> RenewReply {
        let answer = self.try_renew(claim).await;
        answer.unwrap_or_else(|error| panic!("renew failed: {error}"))
    }

    /// Renews a lease that must be held.
    pub(crate) async fn keep(&self, claim: &Claim, why: &str) {
        let answer = self.renew(claim).await;
        assert!(
            matches!(answer, RenewReply::Renewed { ttl } if ttl >= claim.ttl),
            "{why}: expected `Renewed` for at least {:?}, got {answer:?}",
            claim.ttl
        );
    }

    pub(crate) async fn try_release(&self, claim: &Claim) -> Result<ReleaseReply> {
        only(self.0.release(std::slice::from_ref(claim)).await, "release")
    }

    pub(crate) async fn release(&self, claim: &Claim) -> ReleaseReply {
        let answer = self.try_release(claim).await;
        answer.unwrap_or_else(|error| panic!("release failed: {error}"))
    }

    /// Releases a lease that must be held.
    pub(crate) async fn give(&self, claim: &Claim, why: &str) {
        let answer = self.release(claim).await;
        assert_eq!(answer, ReleaseReply::Released, "{why}");
    }

    /// Returns the holder of a lock that has at most one.
    pub(crate) async fn inspect(&self, name: &Name) -> Option<Holder> {
        let answer = self.0.inspect(name).await;
        let mut holders = answer.unwrap_or_else(|error| panic!("inspect failed: {error}"));
        assert!(holders.len() <= 1, "an exclusive lock has one holder: {holders:?}");
        holders.pop()
    }

    pub(crate) async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Vec<Holder> {
        let answer = self.0.list(prefix, after, limit).await;
        answer.unwrap_or_else(|error| panic!("list failed: {error}"))
    }

    /// Subscribes to hints, at most once per client.
    pub(crate) fn ears(&self) -> Ears {
        Ears::listen(Box::pin(self.0.hints()))
    }
}

/// Retries until the outcome is known: a storage may answer "unknown" while it still executes a dropped
/// call.
pub(crate) async fn known<T, F: Future<Output = Result<T>>>(within: Duration, ask: impl Fn() -> F) -> T {
    let (start, pause) = (Instant::now(), Duration::from_millis(10));
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.kind() == ErrorKind::Unavailable && start.elapsed() <= within => {
                sleep(pause).await;
            }
            Err(error) => panic!("not known within {within:?}: {error}"),
        }
    }
}

/// A subscription that collects hints in the background.
pub(crate) struct Ears(mpsc::UnboundedReceiver<Hint>);

impl Ears {
    fn listen(mut hints: Pin<Box<dyn Stream<Item = Hint> + Send>>) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(hint) = hints.next().await {
                if tx.send(hint).is_err() {
                    return;
                }
            }
        });
        Self(rx)
    }

    /// Returns `true` if this hint arrives within that time. Skips other hints.
    pub(crate) async fn hear(&mut self, wanted: &Hint, within: Duration) -> bool {
        let wait = async {
            while let Some(hint) = self.0.recv().await {
                if hint == *wanted {
                    return true;
                }
            }
            false
        };
        timeout(within, wait).await.unwrap_or(false)
    }

    /// Discards the hints received so far.
    pub(crate) fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}

/// Makes a name from a text that is known to be valid.
pub(crate) fn named(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("BUG in the suite: {error}"))
}

fn only<T>(answers: Vec<Result<T>>, verb: &str) -> Result<T> {
    let n = answers.len();
    let mut answers = answers.into_iter();
    match (n, answers.next()) {
        (1, Some(answer)) => answer,
        _ => panic!("{verb} of 1 claim gave {n} answers"),
    }
}

fn prefix() -> String {
    let drawn = Owner::random().to_string();
    format!("conformance-{}/", &drawn[..16])
}
