//! The calls to the members, over whichever connection is open.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::connect::Connector;
use super::errors::Fault;
use super::link::{GRANT, KEEP_ALIVE, Link, RANGE, TIME_TO_LIVE, TXN};
use super::ops::one;
use super::proto::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::storage::net::server::Server;

/// A member, and the term of its leader.
pub(super) type Term = (u64, u64);

/// The members, as one server.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) server: Arc<Server<Connector>>,
    /// The servers as errors name them.
    pub(super) place: Arc<str>,
}

impl Api {
    pub(super) fn now(&self) -> Moment {
        self.server.now()
    }

    /// Returns the error for the caller.
    pub(super) fn explain(&self, fault: &Fault) -> Error {
        fault.explain(&self.place)
    }

    pub(super) async fn link(&self) -> Result<Arc<Link>, Fault> {
        self.server.link().await.map_err(Fault::from)
    }

    /// Calls a method. A user whose token has expired logs in once more, by another connection.
    pub(super) async fn call<R: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<R, Fault> {
        match self.link().await?.call(path, request).await {
            Err(fault) if fault.is_logged_out() => self.link().await?.call(path, request).await,
            answer => answer,
        }
    }

    pub(super) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Fault> {
        let answer: TxnResponse = self.call(TXN, request).await?;
        if let Some(header) = &answer.header {
            self.server.connector().saw(header.revision);
        }
        Ok(answer)
    }

    pub(super) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Fault> {
        self.call(RANGE, request).await
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<LeaseGrantResponse, Fault> {
        self.call(GRANT, &LeaseGrantRequest { ttl }).await
    }

    /// Keeps a lease alive. Returns how long it lives from now on, in seconds, and by which member and leader; zero if it has
    /// ended.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<(i64, Term), Fault> {
        let answer: LeaseKeepAliveResponse = self.call(KEEP_ALIVE, &LeaseKeepAliveRequest { id }).await?;
        Ok((answer.ttl, term(answer.header)?))
    }

    /// Returns which member and leader answer what needs a majority.
    pub(super) async fn term(&self, probe: Vec<u8>) -> Result<Term, Fault> {
        let answer = self.range(&RangeRequest { count_only: true, ..one(probe) }).await?;
        term(answer.header)
    }

    /// Returns how long a lease still lives, in seconds; -1 if it has ended.
    pub(super) async fn time_to_live(&self, id: i64) -> Result<i64, Fault> {
        let answer: LeaseTimeToLiveResponse = self.call(TIME_TO_LIVE, &LeaseTimeToLiveRequest { id }).await?;
        Ok(answer.ttl)
    }

    /// Returns how long a lease lives after it was kept alive; zero, if it has ended.
    pub(super) async fn granted_ttl(&self, id: i64) -> Result<Duration, Fault> {
        let answer: LeaseTimeToLiveResponse = self.call(TIME_TO_LIVE, &LeaseTimeToLiveRequest { id }).await?;
        let granted = if answer.ttl < 0 { 0 } else { answer.granted_ttl };
        Ok(Duration::from_secs(u64::try_from(granted).unwrap_or(0)))
    }
}

fn term(header: Option<ResponseHeader>) -> Result<Term, Fault> {
    header.map(|header| (header.member_id, header.raft_term)).ok_or(Fault::Broken)
}
