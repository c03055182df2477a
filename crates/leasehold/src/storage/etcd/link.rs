//! A connection to one member, and the calls on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;

use super::errors::Fault;
use super::grpc::{Channel, Exchange};
use super::proto::{RangeRequest, RangeResponse};
use crate::storage::net::hints::{HEARTBEAT, Task};
use crate::storage::net::pulse::Pulse;
use crate::storage::net::server;

/// A connection to one member.
pub(super) struct Link {
    channel: Channel,
    identity: Identity,
    health: Arc<Health>,
    _tasks: [Task; 2],
}

/// The cluster, and how often its revision has gone back, as after a backup was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: u64,
    pub(super) restores: u32,
}

/// Whether the member answers.
pub(super) struct Health {
    pub(super) pulse: Pulse,
    /// Whether a watch is open, which is silent as long as nothing happens.
    is_watched: AtomicBool,
}

/// How often the member is asked whether it lives, if it has not answered a request for as long.
const SILENCE: Duration = Duration::from_secs(1);

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(super) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(super) const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(super) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
pub(super) const MEMBERS: &str = "/etcdserverpb.Cluster/MemberList";
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

impl Link {
    /// Makes the connection. `driver` runs it. `probe` is a key that the user may read.
    pub(super) fn new(
        channel: Channel,
        identity: Identity,
        pulse: Pulse,
        probe: Vec<u8>,
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let health = Arc::new(Health { pulse, is_watched: AtomicBool::new(false) });
        let (driven, checked, checking) = (Arc::clone(&health), Arc::clone(&health), channel.clone());
        let driver = tokio::spawn(async move {
            driver.await;
            driven.pulse.give_up();
        });
        let check = tokio::spawn(async move { check(&checked, &checking, probe).await });
        Self { channel, identity, health, _tasks: [Task(driver), Task(check)] }
    }

    /// Takes the connection out of use.
    pub(super) fn give_up(&self) {
        self.health.pulse.give_up();
    }

    /// Calls a method of the member.
    pub(super) async fn call<R: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<R, Fault> {
        let asking = self.health.pulse.ask();
        let answer = tokio::select! {
            answer = self.channel.call(path, request) => answer,
            () = self.health.pulse.given_up() => Err(Fault::Broken),
        };
        match &answer {
            Err(Fault::Broken) => self.give_up(),
            Err(fault) => {
                asking.answered();
                if fault.is_cut_off() || fault.is_logged_out() {
                    self.give_up();
                }
            }
            Ok(_) => asking.answered(),
        }
        answer
    }

    /// Opens a stream of watches, which ends when the member does not answer any more.
    pub(super) async fn watch(&self) -> Result<Exchange, Fault> {
        self.health.is_watched.store(true, Ordering::Relaxed);
        self.channel.exchange(WATCH).await
    }

    /// Waits until the connection is taken out of use.
    pub(super) async fn given_up(&self) {
        self.health.pulse.given_up().await;
    }
}

impl server::Link for Link {
    type Identity = Identity;

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn is_fit(&self) -> bool {
        self.health.pulse.is_fit()
    }
}

/// Asks the member whether it lives, while it owes an answer or has a watch. Pings of HTTP/2 would do the same, but the
/// server refuses more than one in five seconds.
async fn check(health: &Health, channel: &Channel, probe: Vec<u8>) {
    // It answers this by itself, without a leader.
    let request =
        RangeRequest { key: probe, serializable: true, count_only: true, ..RangeRequest::default() };
    loop {
        let pause = if health.is_watched.load(Ordering::Relaxed) { HEARTBEAT } else { SILENCE };
        tokio::time::sleep(pause).await;
        if !health.pulse.is_silent_for(SILENCE) && !health.is_watched.load(Ordering::Relaxed) {
            continue;
        }
        match timeout(SILENCE, channel.call::<RangeResponse>(RANGE, &request)).await {
            Ok(Ok(_) | Err(Fault::Status { .. })) => {}
            Ok(Err(_)) | Err(_) => return health.pulse.give_up(),
        }
    }
}
