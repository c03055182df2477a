//! The clients of other makers, each through its own package.

use std::sync::Mutex;
use std::time::Duration;

use leasehold_testbed::{Interop, interop};
use rslock::{LockError, LockManager};
use tokio::runtime::Runtime;

/// A client that acquires and releases one lock at a time.
pub(crate) trait Client {
    /// Tries once to acquire.
    fn acquire(&self, name: &str, ttl: Duration) -> bool;
    /// Releases the lock acquired last. Returns `None` if the package does not report whether it was held.
    fn release(&self) -> Option<bool>;
    /// Extends the lock acquired last. Returns `None` if the package cannot do so, or does not report it.
    fn extend(&self, ttl: Duration) -> Option<bool>;
}

/// A package, and the prefix of its keys.
pub(crate) struct Maker {
    pub(crate) name: &'static str,
    pub(crate) prefix: &'static str,
}

impl Maker {
    pub(crate) fn named(name: &'static str) -> Self {
        let package = interop::ALL.iter().find(|package| package.name == name);
        assert!(package.is_some() || name == "rslock", "{name}");
        Self { name, prefix: package.map_or("", |package| package.prefix) }
    }

    pub(crate) fn client(&self) -> Box<dyn Client> {
        let url = crate::redis().url();
        match interop::ALL.iter().find(|package| package.name == self.name) {
            Some(package) => {
                let (extends, tells) = (package.extends, package.tells_release);
                Box::new(Packaged { process: package.start(&url).expect("started"), extends, tells })
            }
            None => Box::new(Rslock::new(&url)),
        }
    }
}

/// A package of npm or PyPI, in a process of its own.
struct Packaged {
    process: Interop,
    extends: bool,
    tells: bool,
}

impl Client for Packaged {
    fn acquire(&self, name: &str, ttl: Duration) -> bool {
        self.process.acquire(name, ttl).expect("it answers")
    }

    fn release(&self) -> Option<bool> {
        let released = self.process.release().expect("it answers");
        self.tells.then_some(released)
    }

    fn extend(&self, ttl: Duration) -> Option<bool> {
        // Some packages report an error instead if the lock is gone.
        self.extends.then(|| self.process.extend(ttl).unwrap_or(false))
    }
}

/// The crate `rslock`, in this process. Its values are 20 random bytes.
struct Rslock {
    runtime: Runtime,
    manager: LockManager,
    taken: Mutex<Option<rslock::Lock>>,
}

impl Rslock {
    fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut manager = LockManager::new(vec![url]);
        manager.set_retry(1, Duration::from_millis(1));
        Self { runtime: runtime.expect("a runtime"), manager, taken: Mutex::default() }
    }
}

impl Client for Rslock {
    fn acquire(&self, name: &str, ttl: Duration) -> bool {
        match self.runtime.block_on(self.manager.lock(name, ttl)) {
            Ok(lock) => {
                *self.taken.lock().expect("no panic") = Some(lock);
                true
            }
            Err(LockError::Unavailable) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn release(&self) -> Option<bool> {
        let taken = self.taken.lock().expect("no panic");
        self.runtime.block_on(self.manager.unlock(taken.as_ref().expect("it took one")));
        None
    }

    fn extend(&self, ttl: Duration) -> Option<bool> {
        let taken = self.taken.lock().expect("no panic");
        let extended = self.runtime.block_on(self.manager.extend(taken.as_ref().expect("it took one"), ttl));
        Some(extended.is_ok())
    }
}
