//! The line in which the clients of a process stand that want a connection to the same servers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Lets a few connections be opened at a time. A server that is asked for hundreds at once takes so long for each that all
/// would be given up, and asked for again.
pub(super) struct Line {
    turns: Semaphore,
    /// How many have been opened.
    opened: AtomicU64,
}

const AT_ONCE: usize = 16;

impl Line {
    /// Returns the one of these servers.
    pub(super) fn of(servers: &str) -> Arc<Self> {
        static LINES: Mutex<Option<HashMap<String, Weak<Line>>>> = Mutex::new(None);
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.get_or_insert_default();
        if let Some(line) = lines.get(servers).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Self { turns: Semaphore::new(AT_ONCE), opened: AtomicU64::new(0) });
        lines.insert(servers.to_owned(), Arc::downgrade(&line));
        line
    }

    /// Waits for a turn, which ends when it is dropped. `None` if for so long nobody has got a connection: then there is
    /// nothing to wait for.
    pub(super) async fn turn(&self, limit: Duration) -> Option<SemaphorePermit<'_>> {
        loop {
            let before = self.opened.load(Ordering::Relaxed);
            if let Ok(turn) = timeout(limit, self.turns.acquire()).await {
                return turn.ok();
            }
            if self.opened.load(Ordering::Relaxed) == before {
                return None;
            }
        }
    }

    /// Takes in that a connection was opened.
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn it_moves_on_as_long_as_somebody_gets_through() {
        let line = Line::of("it_moves_on");
        assert!(Arc::ptr_eq(&line, &Line::of("it_moves_on")) && !Arc::ptr_eq(&line, &Line::of("another")));
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(line.turn(LIMIT).await.expect("there is room"));
        }
        // Nobody gets through: those who stand behind do not wait for ever.
        assert!(line.turn(LIMIT).await.is_none());
        let (waited, ()) = tokio::join!(line.turn(LIMIT), async {
            for _ in 0..5 {
                tokio::time::sleep(LIMIT / 2).await;
                line.opened();
            }
            turns.pop();
        });
        assert!(waited.is_some());
    }
}
