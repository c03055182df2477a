//! One server of a quorum: the requests to it, and the cleanup of those that were not answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ballot::Vote;
use super::config::Config;
use super::identities::Identities;
use super::marker::{KnownServer, NewMarker, VoteStatus};
use super::pending::{Pending, by_a_slow_clock};
use super::scripts::{ReleaseMode, Renewed, Scripts};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::progress::Progress;
use crate::storage::redis::config::Place;
use crate::storage::redis::link::{Link, Server};
use crate::storage::redis::list;
use crate::storage::{Claim, Cursor, Holder, Name, ReleaseReply, Token};

/// One server of a quorum.
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) server: Arc<Server>,
    pub(super) hinter: Arc<Hinter>,
    place: Place,
    config: Arc<Config>,
    client: Arc<str>,
    clock: Clock,
    identities: Arc<Identities>,
    /// Whether the server has replied that its vote does not count, since its marker was last read.
    uncounted: AtomicBool,
    pending: Pending,
}

/// How long the reply to any request is awaited, so that an abandoned request ends, too. No caller waits so long.
const REPLY_LIMIT: Duration = Duration::from_secs(2);
/// How late a release that cleans up may be executed: it must not end what the same owner is granted afterward.
const CLEANUP_WITHIN: Duration = Duration::from_millis(500);
/// The pauses between the releases of a cleanup: the first, and the longest.
const CLEANUP_PAUSE_MIN: Duration = Duration::from_millis(10);
const CLEANUP_PAUSE_MAX: Duration = Duration::from_millis(500);

impl Node {
    pub(super) fn new(
        index: usize,
        server: Arc<Server>,
        hinter: Arc<Hinter>,
        config: &Arc<Config>,
        client: &Arc<str>,
        identities: &Arc<Identities>,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            server,
            hinter,
            place: config.places[index].clone(),
            config: Arc::clone(config),
            client: Arc::clone(client),
            clock: Clock::boot(),
            identities: Arc::clone(identities),
            uncounted: AtomicBool::new(true),
            pending: Pending::default(),
        })
    }

    /// Returns the connection. Fails if it leads to the same server as another address.
    pub(super) async fn link(&self) -> Result<Arc<Link>> {
        let link = self.server.link().await?;
        match self.identities.record_run_id(self.index, &link.facts.identity.run_id) {
            None => Ok(link),
            Some(other) => {
                let text =
                    "two addresses of the URL lead to the same server, and a quorum needs different ones";
                let other = &self.config.places[other];
                Err(Error::invalid(format!("{text} server=`{}` same=`{other}`", self.place)))
            }
        }
    }

    /// Proposes claims, the first step of an acquire. Sends nothing after `limit`.
    pub(super) async fn propose(&self, claims: &[Claim], sent: Moment, limit: Moment) -> Vec<Vote> {
        let link = match self.link_by(limit).await {
            Ok(link) => link,
            Err(error) => return claims.iter().map(|_| Vote::Failed(error.clone())).collect(),
        };
        let may_send = self.pending.begin(claims, sent, sent);
        let sending: Vec<_> =
            claims.iter().zip(&may_send).filter(|(_, may)| **may).map(|(claim, _)| claim.clone()).collect();
        let mut votes = self.propose_at(&link, &sending, sent).await.into_iter();
        let busy = || {
            let text = "the server has not confirmed yet that an earlier try is undone; retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place))
        };
        let votes = may_send.into_iter().map(|may| if may { votes.next() } else { None });
        votes.map(|vote| vote.unwrap_or_else(|| Vote::Failed(busy()))).collect()
    }

    async fn propose_at(&self, link: &Link, claims: &[Claim], sent: Moment) -> Vec<Vote> {
        if claims.is_empty() {
            return Vec::new();
        }
        match self.limited(self.scripts(link).propose(claims, sent)).await {
            Ok(proposed) => {
                self.pending.finish(claims);
                if proposed.status == VoteStatus::Counts {
                    self.identities.record_votes(self.index, &proposed.name, proposed.vote_count);
                } else {
                    self.uncounted.store(true, Ordering::Relaxed);
                }
                proposed.votes
            }
            Err(error) => claims.iter().map(|_| Vote::Unknown(error.clone())).collect(),
        }
    }

    /// Writes tokens, the second step of an acquire. Returns for each claim whether its token is written.
    pub(super) async fn commit(&self, claims: &[(Claim, Token)]) -> Result<Vec<Result<bool>>> {
        let link = self.link().await?;
        let others = self.identities.votes_of_others(self.index);
        self.limited(self.scripts(&link).commit(claims, None, &others)).await
    }

    /// Writes tokens, and takes free locks, for owners that were seen to hold at `since`.
    pub(super) async fn restore(&self, claims: &[(Claim, Token)], since: Moment) -> Result<()> {
        let link = self.link().await?;
        let sent = self.clock.now();
        let all: Vec<_> = claims.iter().map(|(claim, _)| claim.clone()).collect();
        let may_send = self.pending.begin(&all, sent, since);
        let sending = claims.iter().zip(may_send).filter(|(_, may)| *may).map(|(claim, _)| claim.clone());
        let sending: Vec<_> = sending.collect();
        if !sending.is_empty() {
            let others = self.identities.votes_of_others(self.index);
            self.limited(self.scripts(&link).commit(&sending, Some(sent), &others)).await?;
            self.pending.finish(sending.iter().map(|(claim, _)| claim));
        }
        Ok(())
    }

    pub(super) async fn renew(&self, claims: &[Claim], sent: Moment) -> Result<Vec<Renewed>> {
        let link = self.link().await?;
        self.limited(self.scripts(&link).renew(claims, sent)).await
    }

    /// Ends leases. A cleanup goes on in the background for those of which that is not final.
    pub(super) async fn release(
        self: Arc<Self>,
        claims: &[Claim],
        mode: ReleaseMode,
    ) -> Result<Vec<ReleaseReply>> {
        let sent = self.clock.now();
        self.pending.release(claims, sent);
        let replies = match self.link().await {
            Ok(link) => {
                // An owner that withdraws may ask again, and then must not be released late.
                let within = (mode == ReleaseMode::Withdraw).then_some((sent, CLEANUP_WITHIN));
                self.limited(self.scripts(&link).release(claims, mode, within)).await
            }
            Err(error) => Err(error),
        };
        let left = match &replies {
            Ok(replies) => self.not_final(claims.to_vec(), sent, replies),
            Err(_) => claims.to_vec(),
        };
        if !left.is_empty() {
            tokio::spawn(self.cleanup(left, mode, sent));
        }
        let replies = replies?.into_iter();
        Ok(replies.map(|reply| reply.unwrap_or(ReleaseReply::NotHeld)).collect())
    }

    /// Returns the claims whose release is not final: it was executed too late, or a request may be executed after it.
    fn not_final(&self, claims: Vec<Claim>, sent: Moment, replies: &[Option<ReleaseReply>]) -> Vec<Claim> {
        let are_final = self.pending.are_final(&claims, sent);
        let left = claims.into_iter().zip(are_final.into_iter().zip(replies));
        let left = left.filter(|(_, (is_final, reply))| !is_final || reply.is_none());
        left.map(|(claim, _)| claim).collect()
    }

    /// Releases claims again and again, until that is final.
    async fn cleanup(self: Arc<Self>, mut claims: Vec<Claim>, mode: ReleaseMode, since: Moment) {
        self.pending.begin_cleanups(&mut claims);
        let all = claims.clone();
        let (mut pause, mut idle) = (CLEANUP_PAUSE_MIN, since.after(by_a_slow_clock(CLEANUP_WITHIN)));
        let expires = |claim: &Claim| since.after(by_a_slow_clock(claim.ttl + claim.patience));
        loop {
            let now = self.clock.now();
            claims.retain(|claim| now < expires(claim));
            if claims.is_empty() {
                break;
            }
            if let Ok(link) = self.link().await {
                let sent = self.clock.now();
                let within = Some((sent, CLEANUP_WITHIN));
                match self.limited(self.scripts(&link).release(&claims, mode, within)).await {
                    // From `idle` on no earlier release of this cleanup can be executed.
                    Ok(replies) if sent >= idle => claims = self.not_final(claims, sent, &replies),
                    Ok(_) => {}
                    // This one may be executed later, but must not be once the owner asks again.
                    Err(_) => idle = sent.after(by_a_slow_clock(CLEANUP_WITHIN)),
                }
            }
            if claims.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = std::cmp::min(pause * 2, CLEANUP_PAUSE_MAX);
        }
        self.pending.end_cleanups(&all);
    }

    pub(super) async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        let link = self.link().await?;
        self.limited(self.scripts(&link).inspect(&[name])).await?.pop().unwrap_or(Ok(None))
    }

    /// Returns the names for which this server has a record.
    pub(super) async fn names(
        &self,
        progress: &Progress,
        prefix: &str,
        after: Option<&Cursor>,
    ) -> Result<BTreeSet<Name>> {
        let link = self.link().await?;
        list::names(&link, &self.config.redis.keys, progress, prefix, after).await
    }

    /// Returns the holders of these names at this server. A key of another type is left out.
    pub(super) async fn holders(&self, names: &[Name]) -> Result<Vec<Holder>> {
        let link = self.link().await?;
        let names: Vec<_> = names.iter().collect();
        let seen = self.limited(self.scripts(&link).inspect(&names)).await?;
        Ok(seen.into_iter().filter_map(|seen| seen.ok().flatten()).collect())
    }

    /// Returns `true` if the server has replied that its vote does not count, since its marker was last read.
    pub(super) fn is_uncounted(&self) -> bool {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// Resets what [`Node::is_uncounted`] returns, before the marker is read.
    pub(super) fn reset_uncounted(&self) {
        self.uncounted.store(false, Ordering::Relaxed);
    }

    /// Reads what the server knows about itself and the others. `ttl_max` is the longest TTL that this client promises.
    pub(super) async fn read_marker(&self, ttl_max: Duration) -> Result<KnownServer> {
        let link = self.link().await?;
        let known = self.limited(self.scripts(&link).read_marker(ttl_max)).await?;
        if let (VoteStatus::Counts, Some(marker)) = (known.status, &known.marker) {
            self.identities.record_votes(self.index, &marker.name, marker.vote_count);
        }
        Ok(known)
    }

    /// Merges vote counts into those that the server knows of others.
    pub(super) async fn merge_votes(&self, votes: &str) -> Result<()> {
        let link = self.link().await?;
        self.limited(self.scripts(&link).commit(&[], None, votes)).await.map(drop)
    }

    /// Replaces the marker that was read at `sent`. Returns `true` if it is written.
    pub(super) async fn write_marker(
        &self,
        known: &KnownServer,
        marker: &NewMarker,
        sent: Moment,
    ) -> Result<bool> {
        let link = self.link().await?;
        self.limited(self.scripts(&link).write_marker(known, marker, sent)).await
    }

    fn scripts<'a>(&'a self, link: &'a Link) -> Scripts<'a> {
        let listening = self.hinter.is_listening();
        Scripts { config: &self.config.redis, server: &self.server, link, client: &self.client, listening }
    }

    /// Limits the time of a request, so that a silent connection is given up.
    async fn limited<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(REPLY_LIMIT, request).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn link_by(&self, limit: Moment) -> Result<Arc<Link>> {
        let left = limit.since(self.clock.now());
        tokio::time::timeout(left, self.link()).await.unwrap_or_else(|_| Err(self.silent()))
    }

    fn silent(&self) -> Error {
        let text = "the server does not answer; retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place))
    }
}
