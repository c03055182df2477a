//! Polls the futures of one thread of JavaScript.
//!
//! 1. A call makes a future and polls it once. If it is not ready, the reactor keeps it under the number that
//!    JavaScript has given it.
//! 2. A waker puts that number into a list. The first number in an empty list rings: a call to JavaScript that never
//!    blocks, and does not keep Node alive.
//! 3. JavaScript calls `turn`, which polls what is in the list and returns what is ready.
//! 4. `cancel` drops a future, which gives up what it waits for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use napi::Status;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;

use crate::outcome::{Outcome, Settled};

/// Calls JavaScript from any thread. Weak: it does not keep Node alive.
type Bell = ThreadsafeFunction<(), (), (), Status, false, true>;

/// The futures of one thread of JavaScript.
#[napi]
pub struct Reactor {
    woken: Arc<Woken>,
    calls: RefCell<HashMap<i64, Call>>,
}

/// A future, and what wakes it up.
struct Call {
    future: Pin<Box<dyn Future<Output = Outcome> + Send>>,
    waker: Waker,
}

/// The numbers of the calls that are to be polled.
struct Woken {
    ids: Mutex<Vec<i64>>,
    bell: Bell,
}

struct CallWaker {
    id: i64,
    woken: Arc<Woken>,
}

impl Wake for CallWaker {
    fn wake(self: Arc<Self>) {
        let mut ids = self.woken.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let rings = ids.is_empty();
        ids.push(self.id);
        drop(ids);
        if rings {
            // An error means that this thread of JavaScript has ended, and its futures with it.
            self.woken.bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

#[napi]
impl Reactor {
    /// Makes a reactor, which calls `ring` when `turn` has something to do.
    #[napi(constructor, ts_args_type = "ring: () => void")]
    pub fn new(ring: Bell) -> Self {
        let woken = Arc::new(Woken { ids: Mutex::default(), bell: ring });
        Self { woken, calls: RefCell::default() }
    }

    /// Polls the calls that were woken up, and returns those that are ready.
    #[napi]
    pub fn turn(&self) -> Vec<Settled> {
        let ids = mem::take(&mut *self.woken.ids.lock().unwrap_or_else(PoisonError::into_inner));
        ids.into_iter().filter_map(|id| self.poll(id)).collect()
    }

    /// Drops a call.
    #[napi]
    pub fn cancel(&self, id: i64) {
        let call = self.calls.borrow_mut().remove(&id);
        drop(call);
    }

    /// Starts a call. Returns the outcome if it is ready at once.
    pub(crate) fn start(
        &self,
        id: i64,
        future: impl Future<Output = Outcome> + Send + 'static,
    ) -> Option<Outcome> {
        let waker = Arc::new(CallWaker { id, woken: Arc::clone(&self.woken) }).into();
        self.calls.borrow_mut().insert(id, Call { future: Box::pin(future), waker });
        self.poll(id).map(|settled| settled.value)
    }

    fn poll(&self, id: i64) -> Option<Settled> {
        // Taken out, so that nothing is borrowed while the future runs.
        let mut call = self.calls.borrow_mut().remove(&id)?;
        match call.future.as_mut().poll(&mut Context::from_waker(&call.waker)) {
            Poll::Ready(value) => Some(Settled { id, value }),
            Poll::Pending => {
                self.calls.borrow_mut().insert(id, call);
                None
            }
        }
    }
}
