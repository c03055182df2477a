//! The crate `distributed-lock-postgres`, by what the program in `advisory/` hands in: that crate cannot be built
//! together with Leasehold's SQLite. Its futures are boxed, which is nothing beside what it asks the server.

use std::pin::Pin;
use std::sync::OnceLock;

use crate::Result;

/// A future of a trait's.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Is how to connect it.
pub trait Driver: Send + Sync + 'static {
    /// Opens that many connections.
    fn connect<'a>(&'a self, store: &'a str, connections: u32) -> Boxed<'a, Box<dyn Client>>;

    /// Says what was built in, with versions.
    fn versions(&self) -> String;
}

/// Is a pool of connections.
pub trait Client: Send + Sync {
    /// Makes what a worker takes one lock with.
    fn lock(&self, name: &str) -> Box<dyn Lock>;

    /// Closes its connections.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Is a lock that nobody need hold.
pub trait Lock: Send + Sync {
    /// Waits for it.
    fn acquire(&self) -> Boxed<'_, Box<dyn Held>>;

    /// Does not.
    fn try_acquire(&self) -> Boxed<'_, Option<Box<dyn Held>>>;
}

/// Is a lock that is held.
pub trait Held: Send {
    /// Gives it back.
    fn release(self: Box<Self>) -> Boxed<'static, ()>;
}

static DRIVER: OnceLock<Box<dyn Driver>> = OnceLock::new();

/// Hands the driver in, before [`main`](crate::main).
pub fn use_driver(driver: impl Driver) {
    // A second one changes nothing.
    let _ = DRIVER.set(Box::new(driver));
}

/// What was handed in, if anything.
pub(crate) fn driver() -> Option<&'static dyn Driver> {
    DRIVER.get().map(|driver| &**driver)
}

pub(super) async fn connect(store: &str, workers: usize) -> Result<Box<dyn Client>> {
    let driver = driver().ok_or("distributed-lock-postgres is not built in; use scripts/bench postgres")?;
    driver.connect(store, u32::try_from(workers)?).await
}
