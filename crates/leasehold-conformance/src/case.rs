use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use leasehold::Guarantees;
use tokio::runtime;

use crate::context::Context;
use crate::space::Space;

/// One clause of the contract, and the function that checks it.
#[derive(Clone, Copy)]
pub struct Case {
    group: &'static str,
    name: &'static str,
    needs: &'static [Need],
    run: Run,
}

type Run = fn(Context) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A promise that a storage makes or does not make. Cases that need a missing one are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Fair,
    Fencing,
    Push,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The case failed; the text says what was observed.
    Failed(String),
    /// The case was not run; the text says why.
    Ignored(String),
    /// The storage keeps this promise.
    Passed,
}

impl Case {
    pub(crate) const fn new(
        group: &'static str,
        name: &'static str,
        needs: &'static [Need],
        run: Run,
    ) -> Self {
        Self { group, name, needs, run }
    }

    /// Returns the group, which is the file that contains the case.
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// Returns the promise as a sentence with underscores.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case on a thread and a runtime of its own, for a limited time.
    pub fn run(&self, space: &Space) -> Verdict {
        self.verdict(space, probe(space).as_ref())
    }

    /// Runs the case if the storage can be connected to and promises what the case needs.
    pub(crate) fn verdict(&self, space: &Space, promised: Result<&Guarantees, &String>) -> Verdict {
        let missing = match promised {
            Ok(guarantees) => self.missing(guarantees),
            Err(error) => return Verdict::Failed(error.clone()),
        };
        missing.map_or_else(|| self.run_promised(space), Verdict::Ignored)
    }

    /// Returns why the case cannot run over a storage with these guarantees, or `None` if it can.
    pub(crate) fn missing(&self, guarantees: &Guarantees) -> Option<String> {
        let has = |need: &Need| match need {
            Need::Fair => guarantees.fair,
            Need::Fencing => guarantees.fencing,
            Need::Push => guarantees.push,
        };
        let missing = self.needs.iter().find(|need| !has(need))?;
        Some(format!("{missing:?} not promised").to_lowercase())
    }

    /// Returns `true` if the case is about the order in which waiters are served.
    pub(crate) fn needs_order(&self) -> bool {
        self.needs.iter().any(|need| matches!(need, Need::Fair))
    }

    /// Returns `true` if the case is about waking waiters.
    pub(crate) fn needs_hints(&self) -> bool {
        self.needs.iter().any(|need| matches!(need, Need::Push))
    }

    pub(crate) fn run_promised(&self, space: &Space) -> Verdict {
        let run = self.run;
        let ended = limited(self.name, space, move |space| async move {
            run(Context::new(space).await).await;
        });
        match ended {
            Ok(()) => Verdict::Passed,
            Err(text) => Verdict::Failed(text),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({}::{})", self.group, self.name)
    }
}

/// Connects once and returns what the storage promises.
pub(crate) fn probe(space: &Space) -> Result<Guarantees, String> {
    limited("connecting", space, |space| async move {
        use leasehold::storage::Storage as _;
        match space.open()().await {
            Ok(storage) => storage.guarantees(),
            Err(error) => panic!("the storage cannot be connected to: {error}"),
        }
    })
}

/// Runs a future on a thread and a runtime of its own. A panic or a hang becomes an `Err` with the reason.
fn limited<T, F>(
    what: &str,
    space: &Space,
    run: impl FnOnce(Space) -> F + Send + 'static,
) -> Result<T, String>
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (limit, space) = (space.times().case(), space.clone());
    let (tx, rx) = mpsc::channel();
    let case = move || {
        let runtime = runtime(&space);
        let ended = runtime.block_on(AssertUnwindSafe(run(space)).catch_unwind());
        // A client that hangs while it is dropped must not hang the suite.
        runtime.shutdown_timeout(Duration::from_secs(1));
        // After the limit, the receiver is gone.
        tx.send(ended).unwrap_or_default();
    };
    let spawned = thread::Builder::new().name(what.to_owned()).spawn(case);
    if let Err(error) = spawned {
        return Err(format!("no thread for the case: {error}"));
    }
    match rx.recv_timeout(limit) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(text(&*panic)),
        Err(_) => Err(format!("`{what}` did not end within {limit:?}")),
    }
}

fn runtime(space: &Space) -> runtime::Runtime {
    let built = if space.is_paused() {
        runtime::Builder::new_current_thread().enable_all().start_paused(true).build()
    } else {
        runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    };
    built.expect("the operating system gives a runtime")
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked without a text").to_owned()
}
