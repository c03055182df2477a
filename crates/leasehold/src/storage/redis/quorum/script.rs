//! What one server is asked, in its scripts, and what it answers.

use std::sync::LazyLock;
use std::time::Duration;

use super::ballot::{Before, Vote};
use super::standing::{Known, Mark, Marker, Standing, read_counts};
use crate::clock::{Moment, millis};
use crate::error::Result;
use crate::storage::redis::answers::explain_text;
use crate::storage::redis::config::Config;
use crate::storage::redis::keys::Companion;
use crate::storage::redis::link::{Link, Server};
use crate::storage::redis::replies::{foreign, holder, late};
use crate::storage::redis::request::{Request, Source, script};
use crate::storage::{Claim, Holder, Name, ReleaseReply, Token, WAITER_TTL};

static PROPOSE: LazyLock<Source> = script!("propose.lua");
static COMMIT: LazyLock<Source> = script!("commit.lua");
static RENEW: LazyLock<Source> = script!("renew.lua");
static RELEASE: LazyLock<Source> = script!("release.lua");
static INSPECT: LazyLock<Source> = script!("inspect.lua");
static VISIT: LazyLock<Source> = script!("visit.lua");
static MARK: LazyLock<Source> = script!("mark.lua");

/// The companions of a lock that a script changes.
const LOCKING: [Companion; 3] = [Companion::Record, Companion::Queue, Companion::Waiters];

/// For how long a lock that was released is kept for the waiter who was told.
const KEPT: Duration = Duration::from_millis(25);

/// How late a marker may be written after it was seen what the servers know.
const MARKED_WITHIN: Duration = Duration::from_secs(2);

/// A server, and a connection to it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) config: &'a Config,
    pub(super) server: &'a Server,
    pub(super) link: &'a Link,
    /// This client's id.
    pub(super) client: &'a str,
    /// Whether this client's channel is listened to at this server.
    pub(super) listening: bool,
}

/// What a server says to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// Its lock is the owner's, for so long, with that token, if it is written there.
    Ours { ttl: Duration, token: Option<Token> },
    /// Somebody else has it.
    Others,
    /// Nobody has it.
    Free,
    /// The renewal came too late to shorten the lease.
    Late,
}

/// What a server says to claims.
pub(super) struct Proposed {
    pub(super) standing: Standing,
    /// What the server is called, and how often it has taken locks under that name.
    pub(super) name: String,
    pub(super) taken: u64,
    pub(super) votes: Vec<Vote>,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// For good: the next waiter is told.
    Release,
    /// As if it had not begun: whoever asks already is to have the lock, and a waiter keeps its place.
    Withdraw,
}

impl At<'_> {
    /// Asks for locks.
    pub(super) async fn propose(self, claims: &[Claim], sent: Moment) -> Result<Proposed> {
        let names = claims.iter().map(|claim| &claim.name);
        let own = [self.config.keys.marker()];
        let mut request = self.request(&PROPOSE, names, &LOCKING, &own, claims.len() * 5 + 3);
        request.put(millis(WAITER_TTL)).text(self.run_id()).put(self.config.access.database);
        let client = if self.listening { self.client } else { "" };
        for claim in claims {
            request.put(claim.owner).put(millis(claim.ttl));
            request.put(self.link.time.not_after(sent, claim.patience).unwrap_or(0));
            request.text(if claim.wait { "wait" } else { "" }).text(client);
        }
        let mut answer = request.on(self.server, self.link).await?;
        let standing = Standing::read(&mut answer)?;
        let (name, taken) = (answer.text()?, answer.number()?);
        let counts = standing == Standing::Votes;
        let mut votes = Vec::with_capacity(claims.len());
        for claim in claims {
            votes.push(match answer.integer()? {
                1 => {
                    let last = answer.number()?;
                    let before = match answer.integer()? {
                        0 => Before::Nobodys,
                        1 => Before::Proposed,
                        _ => Before::Committed,
                    };
                    Vote::Ours { last, time_us: answer.time, before, counts }
                }
                2 => {
                    let holder = holder(&mut answer, &claim.name)?;
                    let left = u64::try_from(answer.integer()?).ok().map(Duration::from_millis);
                    Vote::Others { holder, left }
                }
                3 => Vote::Not(late(&claim.name)),
                4 => Vote::Not(foreign(&answer.text()?, &claim.name)),
                5 => Vote::Not(explain_text(&answer.text()?, answer.place())),
                _ => return Err(answer.senseless()),
            });
        }
        Ok(Proposed { standing, name, taken, votes })
    }

    /// Writes tokens where the lock is the owner's; with the moment at which this is sent, also where nobody has it. Whether each is written.
    /// `others` says how often other servers have taken locks, which this one is to remember.
    pub(super) async fn commit(
        self,
        claims: &[(Claim, Token)],
        sent: Option<Moment>,
        others: &str,
    ) -> Result<Vec<Result<bool>>> {
        let names = claims.iter().map(|(claim, _)| &claim.name);
        let own = [self.config.keys.marker(), self.config.keys.others()];
        let mut request = self.request(&COMMIT, names, &LOCKING, &own, claims.len() * 6 + 3);
        request.text(self.run_id()).put(self.config.access.database).text(others);
        for (claim, token) in claims {
            request.put(claim.owner).put(token).put(millis(claim.ttl));
            match sent.and_then(|sent| self.link.time.not_after(sent, claim.patience)) {
                Some(limit) => request.put(limit),
                None => request.text(""),
            };
            // Who holds is told when somebody else ends its lease.
            request.text(if self.listening { self.client } else { "" });
            request.text(claim.label.as_deref().unwrap_or(""));
        }
        let mut answer = request.on(self.server, self.link).await?;
        let mut written = Vec::with_capacity(claims.len());
        for _ in claims {
            written.push(match answer.integer()? {
                5 => Err(explain_text(&answer.text()?, answer.place())),
                written => Ok(written == 1),
            });
        }
        Ok(written)
    }

    pub(super) async fn renew(self, claims: &[Claim], sent: Moment) -> Result<Vec<Renewed>> {
        let names = claims.iter().map(|claim| &claim.name);
        let mut request = self.request(&RENEW, names, &LOCKING[..1], &[], claims.len() * 3 + 1);
        request.text(&self.config.keys.channels());
        for claim in claims {
            request.put(claim.owner).put(millis(claim.ttl));
            if claim.shorten {
                request.put(self.link.time.not_after(sent, claim.patience).unwrap_or(0));
            } else {
                request.text("");
            }
        }
        let mut answer = request.on(self.server, self.link).await?;
        let mut all = Vec::with_capacity(claims.len());
        for _ in claims {
            let (ms, more) = (answer.integer()?, answer.number()?);
            all.push(match (ms, more) {
                (-1, _) => Renewed::Late,
                (0, 1) => Renewed::Free,
                (0, _) => Renewed::Others,
                (ms, token) => {
                    let ttl = Duration::from_millis(u64::try_from(ms).map_err(|_| answer.senseless())?);
                    Renewed::Ours { ttl, token: (token > 0).then(|| Token::new(token)) }
                }
            });
        }
        Ok(all)
    }

    /// Ends leases; not those whose end comes later than `within` after `sent`, and `None` for these.
    pub(super) async fn release(
        self,
        claims: &[Claim],
        ending: Ending,
        within: Option<(Moment, Duration)>,
    ) -> Result<Vec<Option<ReleaseReply>>> {
        let channels = self.config.keys.channels();
        let names = claims.iter().map(|claim| &claim.name);
        let mut request = self.request(&RELEASE, names, &LOCKING, &[], claims.len() * 3 + 3);
        request.text(self.client).text(&channels).put(millis(KEPT));
        let limit = within.map(|(sent, span)| self.link.time.not_after(sent, span).unwrap_or(0));
        for claim in claims {
            request.put(claim.owner);
            match limit {
                Some(limit) => request.put(limit),
                None => request.text(""),
            };
            request.text(if ending == Ending::Withdraw { "withdraw" } else { "" });
        }
        let mut answer = request.on(self.server, self.link).await?;
        let mut all = Vec::with_capacity(claims.len());
        for _ in claims {
            all.push(match answer.integer()? {
                0 => Some(ReleaseReply::NotHeld),
                1 => Some(ReleaseReply::Released),
                _ => None,
            });
        }
        Ok(all)
    }

    /// Who holds each of the names at this server.
    pub(super) async fn inspect(self, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
        let what = [Companion::Record, Companion::Queue];
        let request = self.request(&INSPECT, names.iter().copied(), &what, &[], 0);
        let mut answer = request.on(self.server, self.link).await?;
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            all.push(match answer.integer()? {
                0 => Ok(None),
                2 => Ok(holder(&mut answer, name)?),
                4 => Err(foreign(&answer.text()?, name)),
                _ => return Err(answer.senseless()),
            });
        }
        Ok(all)
    }

    /// Asks what the server knows of itself and of the others; `longest` is the longest TTL that this client promises.
    pub(super) async fn visit(self, longest: Duration) -> Result<Known> {
        let own = [self.config.keys.marker(), self.config.keys.others()];
        let mut request = self.request(&VISIT, [].into_iter(), &[], &own, 3);
        request.text(self.run_id()).put(self.config.access.database).put(millis(longest));
        let mut answer = request.on(self.server, self.link).await?;
        let standing = Standing::read(&mut answer)?;
        let (marker, others) = (answer.text()?, answer.text()?);
        let left = Duration::from_millis(answer.number()?);
        let facts = &self.link.facts;
        Ok(Known {
            standing,
            marker: Marker::read(&marker),
            text: marker,
            others: read_counts(&others),
            left,
            run_id: facts.identity.run_id.clone(),
            database: self.config.access.database,
            keeps: facts.survives_restart(),
            up: facts.up + self.server.now().since(self.link.opened),
        })
    }

    /// Writes a marker in place of one that was seen when `sent`. Returns `true` if it is written.
    pub(super) async fn mark(self, seen: &Known, mark: &Mark, sent: Moment) -> Result<bool> {
        let own = [self.config.keys.marker()];
        let mut request = self.request(&MARK, [].into_iter(), &[], &own, 10);
        request.put(self.link.time.not_after(sent, MARKED_WITHIN).unwrap_or(0)).text(&seen.text);
        let Mark { kind, name, taken, age, span, longest } = mark;
        request.put(millis(*age)).text(kind.word()).text(name).text(&seen.run_id).put(seen.database);
        request.put(taken).put(millis(*span)).put(millis(*longest));
        let mut answer = request.on(self.server, self.link).await?;
        Ok(answer.integer()? == 1)
    }

    fn run_id(&self) -> &str {
        &self.link.facts.identity.run_id
    }

    /// Begins a request about the locks of these names, with some of their companions, keys of the server's `own`, and
    /// so many arguments.
    fn request<'n>(
        self,
        script: &'static LazyLock<Source>,
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
