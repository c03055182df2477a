//! The crates `distributed-lock-postgres`, `distributed-lock-mongo` and `etcd-client`, passed in by the programs in
//! `advisory/`, `mongo/` and `etcd/`, because they cannot be built together with the workspace. Their futures are boxed, which costs
//! nothing compared with their requests.

use std::pin::Pin;
use std::sync::OnceLock;

use crate::Result;

/// A boxed future.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A way to connect a client.
pub trait Driver: Send + Sync + 'static {
    /// Opens a pool of this many connections.
    fn connect<'a>(&'a self, store: &'a str, connections: u32) -> Boxed<'a, Box<dyn Client>>;

    /// Returns the versions of the crates that were built in.
    fn versions(&self) -> String;
}

/// A pool of connections.
pub trait Client: Send + Sync {
    /// Makes the lock of a worker.
    fn lock(&self, name: &str) -> Box<dyn Lock>;

    /// Closes its connections.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A lock, held or not.
pub trait Lock: Send + Sync {
    /// Acquires the lock, and waits until it is free.
    fn acquire(&self) -> Boxed<'_, Box<dyn Held>>;

    /// Acquires the lock if it is free.
    fn try_acquire(&self) -> Boxed<'_, Option<Box<dyn Held>>>;
}

/// A lock that is held.
pub trait Held: Send {
    /// Releases the lock.
    fn release(self: Box<Self>) -> Boxed<'static, ()>;
}

static DRIVER: OnceLock<Box<dyn Driver>> = OnceLock::new();

/// Sets the driver; must be called before [`main`](crate::main).
pub fn use_driver(driver: impl Driver) {
    // A second driver is ignored.
    let _ = DRIVER.set(Box::new(driver));
}

/// Returns the driver, if there is one.
pub(crate) fn driver() -> Option<&'static dyn Driver> {
    DRIVER.get().map(|driver| &**driver)
}

pub(super) async fn connect(store: &str, connections: usize) -> Result<Box<dyn Client>> {
    let driver =
        driver().ok_or("this contestant is not built in; use scripts/bench postgres, mongodb or etcd")?;
    driver.connect(store, u32::try_from(connections)?).await
}
