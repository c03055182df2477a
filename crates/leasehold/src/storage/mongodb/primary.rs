//! The server that writes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mongodb::bson::{Bson, Document};
use mongodb::event::sdam::SdamEvent;
use tokio::sync::watch;

use crate::clock::{Clock, Moment};
use crate::storage::Hint;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::hints::Hinter;

/// The server that writes, as its answers and the driver's heartbeats show it: which one it is, and its clock.
pub(super) struct Primary {
    hinter: Arc<Hinter>,
    clock: Clock,
    state: Mutex<State>,
    /// Counts the elections that are known of.
    elections: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The election that made it the primary. For a standalone server, its process.
    election: Option<Bson>,
    /// Whether it is neither a member of a set nor a router.
    is_standalone: bool,
    time: Arc<ServerClock>,
}

impl Primary {
    pub(super) fn new(hinter: Arc<Hinter>) -> Self {
        Self { hinter, clock: Clock::boot(), state: Mutex::default(), elections: watch::Sender::default() }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns the clock of the server that is the primary now.
    pub(super) fn time(&self) -> Arc<ServerClock> {
        Arc::clone(&self.state().time)
    }

    /// Learns a clock from the time in the answer to a request that was sent then, in milliseconds.
    pub(super) fn learn(&self, time: &ServerClock, sent: Moment, server_ms: i64) {
        let server_us = u64::try_from(server_ms).unwrap_or(0).saturating_mul(1000);
        time.learn(sent, self.now(), server_us);
    }

    /// Returns `true` if a primary has ever answered.
    pub(super) fn is_known(&self) -> bool {
        self.state().election.is_some()
    }

    /// Returns `true` if the server is neither a member of a set nor a router.
    pub(super) fn is_standalone(&self) -> bool {
        self.state().is_standalone
    }

    /// Returns a receiver that is told of each election from now on.
    pub(super) fn elections(&self) -> watch::Receiver<u64> {
        self.elections.subscribe()
    }

    /// Learns from an event of the driver.
    pub(super) fn on_event(&self, event: &SdamEvent) {
        if let SdamEvent::ServerHeartbeatSucceeded(event) = event
            && event.reply.get_bool("isWritablePrimary").unwrap_or(false)
        {
            let now = self.now().as_nanos();
            let took = u64::try_from(event.duration.as_nanos()).unwrap_or(u64::MAX);
            self.on_hello(&event.reply, Moment::from_nanos(now.saturating_sub(took)));
        }
    }

    /// Learns from a primary's answer to `hello`. A newly elected primary has every confirmed write, but its clock is another
    /// one, so the engine verifies every lease.
    pub(super) fn on_hello(&self, hello: &Document, sent: Moment) {
        let process = || hello.get_document("topologyVersion").ok()?.get("processId");
        // A router is no primary, and which one answers does not matter.
        let is_router = hello.get_str("msg").is_ok_and(|text| text == "isdbgrid");
        let election = if is_router { Some(&Bson::Null) } else { hello.get("electionId").or_else(process) };
        let Some(election) = election.cloned() else { return };
        let is_another = {
            let mut state = self.state();
            // An old primary that does not know yet that another one was elected.
            if let (Some(Bson::ObjectId(before)), Bson::ObjectId(now)) = (&state.election, &election)
                && hello.contains_key("electionId")
                && now.bytes() < before.bytes()
            {
                return;
            }
            state.is_standalone = !is_router && !hello.contains_key("setName");
            let before = state.election.replace(election.clone());
            let is_another = before.is_some_and(|before| before != election);
            if is_another {
                state.time = Arc::default();
            }
            is_another
        };
        if let Ok(time) = hello.get_datetime("localTime") {
            self.learn(&self.time(), sent, time.timestamp_millis());
        }
        if is_another {
            self.elections.send_modify(|count| *count += 1);
            self.hinter.send(Hint::Restarted);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
