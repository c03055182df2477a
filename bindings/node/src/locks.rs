//! Clients and locks.

use leasehold::{Lock, Locks, Tier};
use napi::Either;
use napi::bindgen_prelude::Either7;
use napi_derive::napi;

use crate::guard::NativeGuard;
use crate::options::NativeOptions;
use crate::outcome::{Failure, Finding, Holder, Outcome, duration, failed, holders, nothing};
use crate::reactor::Reactor;
use crate::stream::NativeStream;

/// A client.
#[napi]
pub struct NativeLocks(pub(crate) Locks);

/// What the storage of a client promises.
#[napi(object, object_from_js = false)]
pub struct Guarantees {
    pub tier: &'static str,
    pub fencing: bool,
    pub fair: bool,
    pub push: bool,
    pub clock: &'static str,
}

/// Connects to a storage. `program` is the script, which the default label names.
#[napi]
pub(crate) fn connect(
    reactor: &Reactor,
    id: i64,
    url: String,
    program: String,
    options: NativeOptions,
    require: Option<String>,
) -> Option<Outcome> {
    reactor.start(id, async move {
        match connected(&url, &program, options, require).await {
            Ok(locks) => Either7::G(NativeLocks(locks)),
            Err(error) => failed(&error),
        }
    })
}

async fn connected(
    url: &str,
    program: &str,
    options: NativeOptions,
    require: Option<String>,
) -> leasehold::Result<Locks> {
    let mut defaults = leasehold::Options::default();
    options.change(&mut defaults);
    let mut builder = Locks::builder().options(defaults).program(program);
    if let Some(ttl) = options.ttl {
        builder = builder.ttl(duration(ttl));
    }
    if let Some(label) = options.label {
        builder = builder.label(label);
    }
    if let Some(tier) = require {
        builder = builder.require(tier.parse::<Tier>()?);
    }
    builder.connect(url).await
}

#[napi]
impl NativeLocks {
    #[napi]
    pub fn lock(&self, name: String, options: NativeOptions) -> NativeLock {
        NativeLock(options.apply(self.0.lock(name)))
    }

    #[napi]
    pub fn resume(&self, reactor: &Reactor, id: i64, ticket: String) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move {
            let guard = async { locks.resume(ticket.parse()?).await };
            match guard.await {
                Ok(guard) => Either7::B(NativeGuard::new(guard)),
                Err(error) => failed(&error),
            }
        })
    }

    #[napi]
    pub fn inspect(&self, reactor: &Reactor, id: i64, name: String) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move { holders(locks.inspect(name).await) })
    }

    #[napi]
    pub fn list(&self, reactor: &Reactor, id: i64, prefix: String) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move { holders(locks.list(prefix).await) })
    }

    #[napi]
    pub fn break_lock(&self, reactor: &Reactor, id: i64, name: String) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move { holders(locks.break_lock(name).await) })
    }

    #[napi]
    pub fn findings(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move {
            match locks.findings().await {
                Ok(findings) => Either7::F(findings.into_iter().map(Finding::from).collect()),
                Err(error) => failed(&error),
            }
        })
    }

    #[napi]
    pub fn close(&self, reactor: &Reactor, id: i64, limit: f64) -> Option<Outcome> {
        let locks = self.0.clone();
        reactor.start(id, async move { nothing(locks.close_within(duration(limit)).await) })
    }

    #[napi]
    pub fn observe(&self, name: String) -> Either<NativeStream, Failure> {
        match self.0.observe(name) {
            Ok(changes) => Either::A(NativeStream::new(changes)),
            Err(error) => Either::B(Failure::from(&error)),
        }
    }

    #[napi]
    pub fn events(&self) -> NativeStream {
        NativeStream::new(self.0.events())
    }

    #[napi]
    pub fn held(&self) -> Vec<Holder> {
        self.0.held().iter().map(Holder::from).collect()
    }

    #[napi]
    pub fn guarantees(&self) -> Guarantees {
        let guarantees = self.0.guarantees();
        Guarantees {
            tier: guarantees.tier.as_str(),
            fencing: guarantees.fencing,
            fair: guarantees.fair,
            push: guarantees.push,
            clock: guarantees.clock.as_str(),
        }
    }

    /// The storage without its secrets.
    #[napi]
    pub fn describe(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// A lock.
#[napi]
pub struct NativeLock(Lock);

#[napi]
impl NativeLock {
    /// Acquires the lock. With `once`, returns `false` if another client has it.
    #[napi]
    pub fn acquire(&self, reactor: &Reactor, id: i64, once: bool) -> Option<Outcome> {
        let lock = self.0.clone();
        reactor.start(id, async move {
            let guard = if once { lock.try_acquire().await } else { lock.acquire().await.map(Some) };
            match guard {
                Ok(Some(guard)) => Either7::B(NativeGuard::new(guard)),
                Ok(None) => Either7::A(false),
                Err(error) => failed(&error),
            }
        })
    }
}
