//! The scripts of one server, and their replies.

use std::sync::LazyLock;
use std::time::Duration;

use super::ballot::{Prior, Vote};
use super::marker::{KnownServer, Marker, NewMarker, VoteStatus, read_votes};
use crate::clock::{Moment, millis};
use crate::error::Result;
use crate::storage::redis::config::Config;
use crate::storage::redis::errors::explain_script_error;
use crate::storage::redis::keys::Companion;
use crate::storage::redis::link::{Link, Server};
use crate::storage::redis::replies::{Reply, too_late, wrong_type};
use crate::storage::redis::request::Request;
use crate::storage::redis::script::{Script, script};
use crate::storage::{Claim, Holder, Name, ReleaseReply, Token, WAITER_TTL};

static PROPOSE: LazyLock<Script> = script!("propose.lua");
static COMMIT: LazyLock<Script> = script!("commit.lua");
static RENEW: LazyLock<Script> = script!("renew.lua");
static RELEASE: LazyLock<Script> = script!("release.lua");
static INSPECT: LazyLock<Script> = script!("inspect.lua");
static READ_MARKER: LazyLock<Script> = script!("read_marker.lua");
static WRITE_MARKER: LazyLock<Script> = script!("write_marker.lua");

/// The companions of a lock that a script changes.
const LOCKING: [Companion; 3] = [Companion::Record, Companion::Queue, Companion::Waiters];

/// How long a released lock is reserved for the waiter that was notified.
const RESERVED: Duration = Duration::from_millis(25);

/// How late a marker may be written after the servers' markers were read.
const MARKED_WITHIN: Duration = Duration::from_secs(2);

/// The scripts of one server, called on one connection.
#[derive(Clone, Copy)]
pub(super) struct Scripts<'a> {
    pub(super) config: &'a Config,
    pub(super) server: &'a Server,
    pub(super) link: &'a Link,
    /// The id of this client.
    pub(super) client: &'a str,
    /// Whether this client is subscribed to its channel at this server.
    pub(super) listening: bool,
}

/// The reply of one server to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// The lease lasts for `ttl`. Its token is `None` if it is not written at this server.
    Ours { ttl: Duration, token: Option<Token> },
    /// Another owner has the lock.
    Others,
    /// The lock is free.
    Free,
    /// The renewal came too late to shorten the lease.
    Late,
}

/// The reply of one server to proposed claims.
pub(super) struct Proposed {
    pub(super) status: VoteStatus,
    /// The name of the server, and its vote count under that name.
    pub(super) name: String,
    pub(super) vote_count: u64,
    pub(super) votes: Vec<Vote>,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReleaseMode {
    /// For good: the next waiter is notified.
    Release,
    /// As if it had never begun: the lock is left to the owners that retry already, and a waiter keeps its place.
    Withdraw,
}

impl Scripts<'_> {
    /// Calls `propose.lua`.
    pub(super) async fn propose(self, claims: &[Claim], sent: Moment) -> Result<Proposed> {
        let names = claims.iter().map(|claim| &claim.name);
        let own = [self.config.keys.marker()];
        let mut request = self.request(&PROPOSE, names, &LOCKING, &own, claims.len() * 5 + 3);
        request.put(millis(WAITER_TTL)).text(self.run_id()).put(self.config.access.database);
        for claim in claims {
            request.put(claim.owner).put(millis(claim.ttl));
            request.put(self.limit(sent, claim.patience));
            request.text(if claim.wait { "wait" } else { "" }).text(self.listening_client());
        }
        let mut reply = request.send(self.server, self.link).await?;
        let status = VoteStatus::read(&mut reply)?;
        let (name, vote_count) = (reply.text()?, reply.number()?);
        let votes = claims.iter().map(|claim| read_vote(&mut reply, claim, status));
        Ok(Proposed { status, name, vote_count, votes: votes.collect::<Result<_>>()? })
    }

    /// Calls `commit.lua`. Returns for each claim whether its token is written. With `sent`, the moment at which the
    /// request leaves, a free lock is taken, too. `others` are vote counts of other servers.
    pub(super) async fn commit(
        self,
        claims: &[(Claim, Token)],
        sent: Option<Moment>,
        others: &str,
    ) -> Result<Vec<Result<bool>>> {
        let names = claims.iter().map(|(claim, _)| &claim.name);
        let own = [self.config.keys.marker(), self.config.keys.vote_counts()];
        let mut request = self.request(&COMMIT, names, &LOCKING, &own, claims.len() * 6 + 3);
        request.text(self.run_id()).put(self.config.access.database).text(others);
        for (claim, token) in claims {
            request.put(claim.owner).put(token).put(millis(claim.ttl));
            // Without the server's time there is no limit, and no free lock is taken.
            match sent.and_then(|sent| self.link.time.not_after(sent, claim.patience)) {
                Some(limit) => request.put(limit),
                None => request.text(""),
            };
            // The holder is notified when another client ends its lease.
            request.text(self.listening_client());
            request.text(claim.label.as_deref().unwrap_or(""));
        }
        let mut reply = request.send(self.server, self.link).await?;
        let mut written = Vec::with_capacity(claims.len());
        for _ in claims {
            written.push(match reply.integer()? {
                5 => Err(explain_script_error(&reply.text()?, reply.place)),
                written => Ok(written == 1),
            });
        }
        Ok(written)
    }

    /// Calls `renew.lua`.
    pub(super) async fn renew(self, claims: &[Claim], sent: Moment) -> Result<Vec<Renewed>> {
        let names = claims.iter().map(|claim| &claim.name);
        let mut request = self.request(&RENEW, names, &LOCKING[..1], &[], claims.len() * 3 + 1);
        request.text(&self.config.keys.channels());
        for claim in claims {
            request.put(claim.owner).put(millis(claim.ttl));
            if claim.shorten {
                request.put(self.limit(sent, claim.patience));
            } else {
                request.text("");
            }
        }
        let mut reply = request.send(self.server, self.link).await?;
        let mut all = Vec::with_capacity(claims.len());
        for _ in claims {
            let (ms, more) = (reply.integer()?, reply.number()?);
            all.push(match (ms, more) {
                (-1, _) => Renewed::Late,
                (0, 1) => Renewed::Free,
                (0, _) => Renewed::Others,
                (ms, token) => {
                    let ttl = Duration::from_millis(u64::try_from(ms).map_err(|_| reply.malformed())?);
                    Renewed::Ours { ttl, token: (token > 0).then(|| Token::new(token)) }
                }
            });
        }
        Ok(all)
    }

    /// Calls `release.lua`. With `within`, a moment and a span after it, a release that is executed later ends nothing,
    /// and its reply is `None`.
    pub(super) async fn release(
        self,
        claims: &[Claim],
        mode: ReleaseMode,
        within: Option<(Moment, Duration)>,
    ) -> Result<Vec<Option<ReleaseReply>>> {
        let channels = self.config.keys.channels();
        let names = claims.iter().map(|claim| &claim.name);
        let mut request = self.request(&RELEASE, names, &LOCKING, &[], claims.len() * 3 + 3);
        request.text(self.client).text(&channels).put(millis(RESERVED));
        let limit = within.map(|(sent, span)| self.limit(sent, span));
        for claim in claims {
            request.put(claim.owner);
            match limit {
                Some(limit) => request.put(limit),
                None => request.text(""),
            };
            request.text(if mode == ReleaseMode::Withdraw { "withdraw" } else { "" });
        }
        let mut reply = request.send(self.server, self.link).await?;
        let mut all = Vec::with_capacity(claims.len());
        for _ in claims {
            all.push(match reply.integer()? {
                0 => Some(ReleaseReply::NotHeld),
                1 => Some(ReleaseReply::Released),
                _ => None,
            });
        }
        Ok(all)
    }

    /// Calls `inspect.lua`.
    pub(super) async fn inspect(self, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
        let what = [Companion::Record, Companion::Queue];
        let request = self.request(&INSPECT, names.iter().copied(), &what, &[], 0);
        let mut reply = request.send(self.server, self.link).await?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            all.push(match reply.integer()? {
                0 => Ok(None),
                2 => Ok(reply.holder(name)?),
                4 => Err(wrong_type(&reply.text()?, name)),
                _ => return Err(reply.malformed()),
            });
        }
        Ok(all)
    }

    /// Calls `read_marker.lua`. `ttl_max` is the longest TTL that this client promises.
    pub(super) async fn read_marker(self, ttl_max: Duration) -> Result<KnownServer> {
        let own = [self.config.keys.marker(), self.config.keys.vote_counts()];
        let mut request = self.request(&READ_MARKER, [].into_iter(), &[], &own, 3);
        request.text(self.run_id()).put(self.config.access.database).put(millis(ttl_max));
        let mut reply = request.send(self.server, self.link).await?;
        let status = VoteStatus::read(&mut reply)?;
        let (marker, others) = (reply.text()?, reply.text()?);
        let waiting = Duration::from_millis(reply.number()?);
        let was_replica = reply.integer()? != 0;
        let facts = &self.link.facts;
        Ok(KnownServer {
            status,
            marker: Marker::read(&marker),
            text: marker,
            others: read_votes(&others),
            waiting,
            run_id: facts.identity.run_id.clone(),
            database: self.config.access.database,
            survives_restart: facts.survives_restart(),
            uptime: facts.uptime + self.server.now().since(self.link.opened),
            was_replica,
        })
    }

    /// Calls `write_marker.lua`: replaces the marker that was read at `sent`. Returns `true` if it is written.
    pub(super) async fn write_marker(
        self,
        known: &KnownServer,
        marker: &NewMarker,
        sent: Moment,
    ) -> Result<bool> {
        let own = [self.config.keys.marker()];
        let mut request = self.request(&WRITE_MARKER, [].into_iter(), &[], &own, 10);
        request.put(self.limit(sent, MARKED_WITHIN)).text(&known.text);
        let NewMarker { state, name, vote_count, elapsed, period, ttl_max } = marker;
        request.put(millis(*elapsed)).text(state.word()).text(name).text(&known.run_id).put(known.database);
        request.put(vote_count).put(millis(*period)).put(millis(*ttl_max));
        let mut reply = request.send(self.server, self.link).await?;
        Ok(reply.integer()? == 1)
    }

    fn run_id(&self) -> &str {
        &self.link.facts.identity.run_id
    }

    /// Returns this client, if the server can notify it.
    fn listening_client(&self) -> &str {
        if self.listening { self.client } else { "" }
    }

    /// Returns the moment from which on a request is too late, by the server's clock in µs. It is 0, and so always too
    /// late, if the server's time is not known.
    fn limit(&self, sent: Moment, span: Duration) -> u64 {
        self.link.time.not_after(sent, span).unwrap_or(0)
    }

    /// Begins a request about the locks of these names, with some of their companions, with the server's `own` keys, and
    /// with about `args` arguments.
    fn request<'n>(
        self,
        script: &'static LazyLock<Script>,
        names: impl ExactSizeIterator<Item = &'n Name>,
        companions: &[Companion],
        own: &[String],
        args: usize,
    ) -> Request {
        let mut request = Request::new(script, names.len() * (companions.len() + 1) + own.len(), args);
        for name in names {
            request.with(|key| self.config.keys.lock(name, key));
            for what in companions {
                request.with(|key| self.config.keys.companion(name, *what, key));
            }
        }
        for key in own {
            request.text(key);
        }
        request.args();
        request
    }
}

/// Reads the reply to one proposed claim.
fn read_vote(reply: &mut Reply<'_>, claim: &Claim, status: VoteStatus) -> Result<Vote> {
    Ok(match reply.integer()? {
        1 => {
            let last = reply.number()?;
            let prior = match reply.integer()? {
                0 => Prior::Other,
                1 => Prior::Proposed,
                _ => Prior::Committed,
            };
            Vote::Taken { last, time_us: reply.time, prior, counted: status == VoteStatus::Counts }
        }
        2 => {
            let holder = reply.holder(&claim.name)?;
            let left = u64::try_from(reply.integer()?).ok().map(Duration::from_millis);
            Vote::Refused { holder, left }
        }
        3 => Vote::Failed(too_late(&claim.name)),
        4 => Vote::Failed(wrong_type(&reply.text()?, &claim.name)),
        5 => Vote::Failed(explain_script_error(&reply.text()?, reply.place)),
        _ => return Err(reply.malformed()),
    })
}
