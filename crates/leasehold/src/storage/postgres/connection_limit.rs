//! Limits how many connections this process opens to the same servers at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Lets [`AT_ONCE`] connections be opened at a time. A server that is asked for hundreds at once takes so long for each
/// that all would be given up, and asked for again.
pub(super) struct ConnectionLimit {
    permits: Semaphore,
    /// How many connections have been opened.
    opened: AtomicU64,
}

/// How many connections are opened at a time.
const AT_ONCE: usize = 16;

impl ConnectionLimit {
    /// Returns the limit of these servers, which all clients of this process share.
    pub(super) fn of(servers: &str) -> Arc<Self> {
        static LIMITS: Mutex<Option<HashMap<String, Weak<ConnectionLimit>>>> = Mutex::new(None);
        let mut limits = LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = limits.get_or_insert_default();
        if let Some(limit) = limits.get(servers).and_then(Weak::upgrade) {
            return limit;
        }
        limits.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(Self { permits: Semaphore::new(AT_ONCE), opened: AtomicU64::new(0) });
        limits.insert(servers.to_owned(), Arc::downgrade(&limit));
        limit
    }

    /// Waits for a permit. Returns `None` if no connection at all was opened for `patience`: then the permits are held by
    /// attempts that the server does not answer.
    pub(super) async fn permit(&self, patience: Duration) -> Option<SemaphorePermit<'_>> {
        loop {
            let before = self.opened.load(Ordering::Relaxed);
            if let Ok(permit) = timeout(patience, self.permits.acquire()).await {
                return permit.ok();
            }
            if self.opened.load(Ordering::Relaxed) == before {
                return None;
            }
        }
    }

    /// Counts a connection that was opened.
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_waited_for_as_long_as_connections_are_opened() {
        let limit = ConnectionLimit::of("a_server");
        assert!(Arc::ptr_eq(&limit, &ConnectionLimit::of("a_server")));
        assert!(!Arc::ptr_eq(&limit, &ConnectionLimit::of("another_server")));
        let mut permits = Vec::new();
        for _ in 0..AT_ONCE {
            permits.push(limit.permit(PATIENCE).await.expect("there is room"));
        }
        // No connection is opened: the next attempt does not wait for ever.
        assert!(limit.permit(PATIENCE).await.is_none());
        let (waited, ()) = tokio::join!(limit.permit(PATIENCE), async {
            for _ in 0..5 {
                tokio::time::sleep(PATIENCE / 2).await;
                limit.opened();
            }
            permits.pop();
        });
        assert!(waited.is_some());
    }
}
