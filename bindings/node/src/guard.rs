//! Guards.

use std::sync::Arc;

use leasehold::{Error, ErrorKind, Guard, Watch};
use napi::Either;
use napi::bindgen_prelude::{BigInt, Either7};
use napi_derive::napi;

use crate::outcome::{Failure, Outcome, Record, duration, millis, nothing};
use crate::reactor::Reactor;

/// A guard. When it is collected, the lock is released in the background.
#[napi]
pub struct NativeGuard {
    /// `None` after `detach`. Calls in flight share it.
    guard: Option<Arc<Guard>>,
    watch: Watch,
    owner: String,
    ticket: Option<String>,
}

#[napi]
impl NativeGuard {
    pub(crate) fn new(guard: Guard) -> Self {
        let (watch, owner) = (guard.watch(), guard.owner().to_string());
        Self { guard: Some(Arc::new(guard)), watch, owner, ticket: None }
    }

    #[napi]
    pub fn name(&self) -> String {
        self.watch.name().to_string()
    }

    #[napi]
    pub fn token(&self) -> BigInt {
        self.watch.token().get().into()
    }

    #[napi]
    pub fn owner(&self) -> String {
        self.owner.clone()
    }

    #[napi]
    pub fn held(&self) -> bool {
        self.watch.is_held()
    }

    #[napi]
    pub fn remaining(&self) -> f64 {
        millis(self.watch.remaining())
    }

    /// Waits for the loss. Returns a record with the reason, or `false` once the lock is released. Does not hold the lock.
    #[napi]
    pub fn lost(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        let watch = self.watch.clone();
        reactor.start(id, async move {
            match watch.lost().await {
                Some(lost) => {
                    Either7::D(Record { r#type: "lost", why: Some(lost.as_str()), ..Record::default() })
                }
                None => Either7::A(false),
            }
        })
    }

    #[napi]
    pub fn ensure(&self, reactor: &Reactor, id: i64, least: f64) -> Option<Outcome> {
        self.call(reactor, id, async move |guard| guard.ensure(duration(least)).await)
    }

    #[napi]
    pub fn extend(&self, reactor: &Reactor, id: i64, ttl: f64) -> Option<Outcome> {
        self.call(reactor, id, async move |guard| guard.extend(duration(ttl)).await)
    }

    #[napi]
    pub fn verify(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        self.call(reactor, id, async |guard| guard.verify().await)
    }

    #[napi]
    pub fn outlive_process(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        self.call(reactor, id, async |guard| guard.outlive_process().await)
    }

    #[napi]
    pub fn release(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        if self.guard.is_none() {
            return Some(Either7::A(true));
        }
        self.call(reactor, id, async |guard| guard.release_by_ref().await)
    }

    /// The ticket of the lease.
    #[napi]
    pub fn ticket(&self) -> String {
        let ticket = || self.guard.as_ref().map(|guard| guard.ticket().to_string());
        self.ticket.clone().or_else(ticket).unwrap_or_default()
    }

    /// Leaves the lease to its ticket.
    #[napi]
    pub fn detach(&mut self) -> Either<String, Failure> {
        let Some(guard) = self.guard.take() else { return Either::A(self.ticket()) };
        match Arc::try_unwrap(guard) {
            Ok(guard) => {
                let ticket = guard.into_ticket().to_string();
                self.ticket = Some(ticket.clone());
                Either::A(ticket)
            }
            Err(guard) => {
                self.guard = Some(guard);
                let text = format!(
                    "a call of this guard is pending; await it before it is detached name=`{}`",
                    self.watch.name()
                );
                Either::B(Failure::from(&Error::new(ErrorKind::Invalid, text)))
            }
        }
    }

    fn call<F>(
        &self,
        reactor: &Reactor,
        id: i64,
        call: impl FnOnce(Arc<Guard>) -> F + Send + 'static,
    ) -> Option<Outcome>
    where
        F: Future<Output = leasehold::Result<()>> + Send + 'static,
    {
        let Some(guard) = self.guard.clone() else {
            let text = format!("this guard was detached; resume its ticket name=`{}`", self.watch.name());
            return Some(nothing(Err(Error::new(ErrorKind::Invalid, text))));
        };
        reactor.start(id, async move { nothing(call(guard).await) })
    }
}
