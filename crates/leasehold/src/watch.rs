use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::LeaseStatus;
use crate::lost::Lost;
use crate::storage::{Name, Token};

/// A view of the lease of a [`Guard`](crate::Guard), which borrows nothing and does not hold the lock.
///
/// A task that waits for the loss of a lock keeps a watch, while the guard itself stays where it is released. A watch
/// costs one reference count, and makes no request.
#[derive(Clone)]
pub struct Watch(Arc<LeaseStatus>);

impl Watch {
    pub(crate) fn new(status: Arc<LeaseStatus>) -> Self {
        Self(status)
    }

    /// Returns the name of the lock.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Returns the fencing token.
    pub fn token(&self) -> Token {
        self.0.token
    }

    /// Returns `true` if the guard holds the lock right now; see [`Guard::is_held`](crate::Guard::is_held).
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Returns the remaining time of the lease if it is not renewed again; zero once it has ended.
    pub fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    /// Waits until the lock is lost and returns the reason, as [`Guard::lost`](crate::Guard::lost) does. Returns `None`
    /// once the guard releases the lock, or gives it up in another way.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let guard = locks.lock("invoice/42").acquire().await?;
    /// let watch = guard.watch();
    /// let alarm = tokio::spawn(async move { watch.lost().await });
    /// guard.release().await?;
    /// assert_eq!(alarm.await.expect("no panic"), None);
    /// # Ok(()) }
    /// ```
    pub async fn lost(&self) -> Option<Lost> {
        self.0.ended().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("name", self.name())
            .field("token", &self.token())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
