//! Watches the files that must stay in their places, and the write-ahead log if this process observes a lock.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::Opened;
use crate::fd;

/// The least time between two reports: a busy file must not become a busy loop.
const REPORTS_APART: Duration = Duration::from_millis(5);
/// The events of a file that leaves its path. A file that is open is not deleted: it has fewer links, an attribute.
const GONE: WatchFlags = WatchFlags::MOVE_SELF.union(WatchFlags::DELETE_SELF).union(WatchFlags::ATTRIB);

/// An inotify watcher of one lock file.
pub(super) struct FileWatch {
    events: AsyncFd<OwnedFd>,
    /// The number of the watch on the log.
    log: i32,
    log_path: PathBuf,
    not_before: Instant,
}

/// The changes since the last report.
#[derive(Clone, Copy, Default)]
pub(super) struct Changed {
    /// A process wrote to the log.
    pub(super) log: bool,
    /// A file was moved, removed, or given other attributes.
    pub(super) file: bool,
}

impl FileWatch {
    pub(super) fn new(opened: &Opened) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (paths, live) = (&opened.paths, &opened.live);
        for file in [&paths.database, &paths.index, live] {
            inotify::add_watch(&events, file, GONE)?;
        }
        let log = inotify::add_watch(&events, &paths.log, GONE)?;
        for dir in [Some(paths.live_dir.as_path()), paths.database.parent()].into_iter().flatten() {
            inotify::add_watch(&events, dir, WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)?;
        }
        let (events, log_path) = (fd::watch(events)?, paths.log.clone());
        Ok(Self { events, log, log_path, not_before: Instant::now() })
    }

    /// Sets whether writes to the log are reported.
    pub(super) fn watch_log(&mut self, on: bool) {
        let flags = if on { GONE | WatchFlags::MODIFY } else { GONE };
        // On the same file, this only changes which events are reported. On a file that has taken its place, it adds a
        // watch whose reports are superfluous but harmless.
        let _gone = inotify::add_watch(self.events.get_ref(), &self.log_path, flags);
    }

    /// Waits for the next changes.
    async fn next(&mut self) -> Changed {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let Ok(mut ready) = self.events.readable().await else {
                return std::future::pending().await;
            };
            let mut changed = Changed::default();
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
            while let Ok(event) = reader.next() {
                if event.wd() == self.log && event.events().contains(ReadFlags::MODIFY) {
                    changed.log = true;
                } else {
                    changed.file = true;
                }
            }
            ready.clear_ready();
            if changed.log || changed.file {
                self.not_before = Instant::now() + REPORTS_APART;
                return changed;
            }
        }
    }
}

/// Waits for the next changes. Waits forever without a watcher.
pub(super) async fn changed(files: Option<&mut FileWatch>) -> Changed {
    match files {
        Some(files) => files.next().await,
        None => std::future::pending().await,
    }
}

/// Returns what to do if files cannot be watched. The system reports its limits on inotify by the numbers of others.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "no watch is left; raise `fs.inotify.max_user_watches`",
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "no descriptor is left, or no watcher; raise `ulimit -n` or `fs.inotify.max_user_instances`"
        }
        _ => crate::system::exhausted(error).unwrap_or("the system refused"),
    }
}
