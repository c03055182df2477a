//! Streams of changes and events.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use napi::bindgen_prelude::Either7;
use napi_derive::napi;

use crate::outcome::{Outcome, Record};
use crate::reactor::Reactor;

type Records = Pin<Box<dyn Stream<Item = Record> + Send>>;

/// A stream of changes or events, which ends when its client is closed.
#[napi]
pub struct NativeStream(Arc<Mutex<Option<Records>>>);

#[napi]
impl NativeStream {
    pub(crate) fn new<S>(stream: S) -> Self
    where
        S: Stream + Send + 'static,
        S::Item: Into<Record>,
    {
        let records: Records = Box::pin(futures_util::StreamExt::map(stream, Into::into));
        Self(Arc::new(Mutex::new(Some(records))))
    }

    /// Waits for the next record. Returns `false` at the end.
    #[napi]
    pub fn next(&self, reactor: &Reactor, id: i64) -> Option<Outcome> {
        let records = Arc::clone(&self.0);
        reactor.start(id, async move {
            let next = poll_fn(|cx| {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                records
                    .as_mut()
                    .map_or(std::task::Poll::Ready(None), |records| records.as_mut().poll_next(cx))
            });
            next.await.map_or(Either7::A(false), Either7::D)
        })
    }

    /// Ends the stream.
    #[napi]
    pub fn end(&self) {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(records);
    }
}
