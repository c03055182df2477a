//! One of the servers: what it is asked, and what is still owed to it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ballot::Vote;
use super::config::Config;
use super::script::{At, Ending, Renewed};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::redis::config::Place;
use crate::storage::redis::link::{Link, Server};
use crate::storage::redis::list;
use crate::storage::{Claim, Holder, Name, Owner, Release, Token};

pub(super) struct Node {
    pub(super) index: usize,
    pub(super) server: Arc<Server>,
    pub(super) hinter: Arc<Hinter>,
    place: Place,
    config: Arc<Config>,
    client: Arc<str>,
    clock: Clock,
    identities: Arc<Identities>,
    owed: Mutex<Owed>,
}

/// The run id of each server, as it was last seen.
pub(super) struct Identities(Mutex<Vec<Option<String>>>);

#[derive(Default)]
struct Owed {
    /// Requests that may give an owner the lock, and of which the answer is not known.
    open: HashMap<(Name, Owner), Open>,
    /// What is being undone. Nothing is asked for these until it is.
    undoing: HashSet<(Name, Owner)>,
    /// When owners were last released: what was begun before must not be sent after.
    ended: HashMap<(Name, Owner), Moment>,
}

struct Open {
    requests: u32,
    /// None of them is executed later than that.
    until: Moment,
}

/// How long an answer is waited for, by the one that counts how many there are not. Whoever asked does not wait so long.
const SILENCE: Duration = Duration::from_secs(2);
/// How late a release that undoes something may be executed: it must not end what the same owner is granted later.
const UNDONE_WITHIN: Duration = Duration::from_millis(500);
/// From how many notes on those are thrown away that are too old to matter, and how old that is.
const MANY: usize = 1024;
const OLD: Duration = Duration::from_secs(30);

impl Identities {
    pub(super) fn of(servers: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![None; servers])))
    }

    /// Notes the run id of a server; which other server has the same.
    fn note(&self, index: usize, run_id: &str) -> Option<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = all.iter().position(|other| other.as_deref() == Some(run_id)).filter(|i| *i != index);
        if same.is_none() {
            all[index] = Some(run_id.to_owned());
        }
        same
    }
}

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
            owed: Mutex::default(),
        })
    }

    /// Returns the connection, once it is known that it leads to a server of its own.
    pub(super) async fn join(&self) -> Result<Arc<Link>> {
        let link = self.server.link().await?;
        match self.identities.note(self.index, &link.facts.identity.run_id) {
            None => Ok(link),
            Some(other) => {
                let text =
                    "two addresses of the URL lead to the same server, and a quorum needs different ones";
                let other = &self.config.places[other];
                Err(Error::invalid(format!("{text} server=`{}` same=`{other}`", self.place)))
            }
        }
    }

    /// Asks for locks. Later than `limit` nothing is sent.
    pub(super) async fn propose(&self, claims: &[Claim], sent: Moment, limit: Moment) -> Vec<Vote> {
        let link = match self.join_by(limit).await {
            Ok(link) => link,
            Err(error) => return claims.iter().map(|_| Vote::Not(error.clone())).collect(),
        };
        let asked = self.begin(claims, sent, sent);
        let going: Vec<_> =
            claims.iter().zip(&asked).filter(|(_, asked)| **asked).map(|(c, _)| c.clone()).collect();
        let mut votes = if going.is_empty() {
            Vec::new()
        } else {
            match self.answered(self.at(&link).propose(&going, sent, self.counts(&link))).await {
                Ok(votes) => {
                    self.settle(&going);
                    votes
                }
                Err(error) => going.iter().map(|_| Vote::Unknown(error.clone())).collect(),
            }
        }
        .into_iter();
        let busy = || {
            let text = "the server has not confirmed yet that an earlier try is undone; retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place))
        };
        asked
            .into_iter()
            .map(|asked| if asked { votes.next() } else { None }.unwrap_or_else(|| Vote::Not(busy())))
            .collect()
    }

    /// Writes tokens; with `since`, the moment when these owners were seen to hold, also takes locks that nobody has.
    pub(super) async fn commit(
        &self,
        claims: &[(Claim, Token)],
        since: Option<Moment>,
    ) -> Result<Vec<Result<bool>>> {
        let link = self.join().await?;
        let Some(since) = since else {
            return self.answered(self.at(&link).commit(claims, None)).await;
        };
        let sent = self.clock.now();
        let all: Vec<_> = claims.iter().map(|(claim, _)| claim.clone()).collect();
        let going: Vec<_> = claims.iter().zip(self.begin(&all, sent, since)).filter(|(_, go)| *go).collect();
        let going: Vec<_> = going.into_iter().map(|(claim, _)| claim.clone()).collect();
        if going.is_empty() {
            return Ok(Vec::new());
        }
        let written = self.answered(self.at(&link).commit(&going, Some(sent))).await?;
        let going: Vec<_> = going.into_iter().map(|(claim, _)| claim).collect();
        self.settle(&going);
        Ok(written)
    }

    pub(super) async fn renew(&self, claims: &[Claim], sent: Moment) -> Result<Vec<Renewed>> {
        let link = self.join().await?;
        self.answered(self.at(&link).renew(claims, sent)).await
    }

    /// Ends leases. What of it is not certain, or could still be undone by a late request, goes on being ended after
    /// this has answered.
    pub(super) async fn release(self: Arc<Self>, claims: &[Claim], ending: Ending) -> Result<Vec<Release>> {
        let sent = self.clock.now();
        self.note_end(claims, sent);
        let answers = match self.join().await {
            Ok(link) => {
                // One that may be asked for again must not be ended late.
                let within = (ending == Ending::Withdraw).then_some((sent, UNDONE_WITHIN));
                self.answered(self.at(&link).release(claims, ending, within)).await
            }
            Err(error) => Err(error),
        };
        let (left, answers) = match answers {
            Ok(released) => {
                let certain = self.certain(claims, sent);
                let left = claims.iter().zip(certain.iter().zip(&released));
                let left: Vec<_> = left
                    .filter(|(_, (certain, released))| !**certain || released.is_none())
                    .map(|(claim, _)| claim.clone())
                    .collect();
                (left, Ok(released.into_iter().map(|one| one.unwrap_or(Release::NotHeld)).collect()))
            }
            Err(error) => (claims.to_vec(), Err(error)),
        };
        if !left.is_empty() {
            tokio::spawn(self.undo(left, ending, sent));
        }
        answers
    }

    /// Ends leases again and again, until it is certain that they are over and that no late request begins them anew.
    async fn undo(self: Arc<Self>, mut claims: Vec<Claim>, ending: Ending, since: Moment) {
        {
            let mut owed = self.owed();
            claims.retain(|claim| owed.undoing.insert((claim.name.clone(), claim.owner)));
        }
        let undoing = claims.clone();
        let (mut pause, mut dead) = (Duration::from_millis(10), since.after(by_a_slow_clock(UNDONE_WITHIN)));
        let expires = |claim: &Claim| since.after(by_a_slow_clock(claim.ttl + claim.patience));
        loop {
            let now = self.clock.now();
            claims.retain(|claim| now < expires(claim));
            if claims.is_empty() {
                break;
            }
            if let Ok(link) = self.join().await {
                let sent = self.clock.now();
                let within = Some((sent, UNDONE_WITHIN));
                match self.answered(self.at(&link).release(&claims, ending, within)).await {
                    Ok(released) if sent >= dead => {
                        let mut over = self.certain(&claims, sent).into_iter().zip(&released);
                        claims.retain(|_| !over.next().is_some_and(|(certain, r)| certain && r.is_some()));
                    }
                    Ok(_) => {}
                    // That one may still be executed, and must not be when the owner asks again.
                    Err(_) => dead = sent.after(by_a_slow_clock(UNDONE_WITHIN)),
                }
            }
            if claims.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = std::cmp::min(pause * 2, Duration::from_millis(500));
        }
        let mut owed = self.owed();
        for claim in undoing {
            owed.undoing.remove(&(claim.name, claim.owner));
        }
    }

    pub(super) async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        let link = self.join().await?;
        self.answered(self.at(&link).inspect(&[name])).await?.pop().unwrap_or(Ok(None))
    }

    /// The names of which this server has records, and who holds them here.
    pub(super) async fn list(&self, prefix: &str, after: Option<&Name>) -> Result<Vec<Holder>> {
        let link = self.join().await?;
        let names = list::names(&link, &self.config.redis.keys, prefix, after).await?;
        let (names, mut holders) = (names.iter().collect::<Vec<_>>(), Vec::new());
        for names in names.chunks(list::STEP) {
            let seen = self.at(&link).inspect(names).await?;
            holders.extend(seen.into_iter().filter_map(|seen| seen.ok().flatten()));
        }
        Ok(holders)
    }

    /// Whether what this server grants counts: not if it was started within `max_ttl` and may have forgotten a lock.
    fn counts(&self, link: &Link) -> bool {
        let up = Duration::from_secs(link.facts.uptime_s) + self.clock.now().since(link.opened);
        link.facts.survives_restart() || up >= self.config.max_ttl
    }

    fn at<'a>(&'a self, link: &'a Link) -> At<'a> {
        let listening = self.hinter.is_listening();
        At { config: &self.config.redis, server: &self.server, link, client: &self.client, listening }
    }

    /// Waits for an answer: shorter than for ever, so that a silent connection is given up.
    async fn answered<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(SILENCE, asked).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn join_by(&self, limit: Moment) -> Result<Arc<Link>> {
        let left = limit.since(self.clock.now());
        tokio::time::timeout(left, self.join()).await.unwrap_or_else(|_| Err(self.silent()))
    }

    fn silent(&self) -> Error {
        let text = "the server does not answer; retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place))
    }

    /// Notes that requests for these leave now. Which of them may: not those that were released after `since`.
    fn begin(&self, claims: &[Claim], sent: Moment, since: Moment) -> Vec<bool> {
        let mut owed = self.owed();
        if owed.open.len() > MANY {
            owed.open.retain(|_, open| sent < open.until);
        }
        let all = claims.iter().map(|claim| {
            let key = (claim.name.clone(), claim.owner);
            if owed.undoing.contains(&key) || owed.ended.get(&key).is_some_and(|ended| *ended >= since) {
                return false;
            }
            let until = sent.after(by_a_slow_clock(claim.patience));
            let open = owed.open.entry(key).or_insert(Open { requests: 0, until });
            // Those before are dead by now, or count as well.
            open.requests = if sent >= open.until { 1 } else { open.requests + 1 };
            open.until = std::cmp::max(open.until, until);
            true
        });
        all.collect()
    }

    /// Notes that requests for these were answered.
    fn settle(&self, claims: &[Claim]) {
        let mut owed = self.owed();
        for claim in claims {
            let key = (claim.name.clone(), claim.owner);
            if let Some(open) = owed.open.get_mut(&key) {
                open.requests = open.requests.saturating_sub(1);
                if open.requests == 0 {
                    owed.open.remove(&key);
                }
            }
        }
    }

    /// Whether a release that was sent then, and answered, was executed after all that was asked for these claims.
    fn certain(&self, claims: &[Claim], sent: Moment) -> Vec<bool> {
        let mut owed = self.owed();
        let all = claims.iter().map(|claim| {
            let key = (claim.name.clone(), claim.owner);
            let certain = owed.open.get(&key).is_none_or(|open| sent >= open.until);
            if certain {
                owed.open.remove(&key);
            }
            certain
        });
        all.collect()
    }

    fn note_end(&self, claims: &[Claim], now: Moment) {
        let mut owed = self.owed();
        if owed.ended.len() > MANY {
            owed.ended.retain(|_, ended| now.since(*ended) < OLD);
        }
        owed.ended.extend(claims.iter().map(|claim| ((claim.name.clone(), claim.owner), now)));
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a span of a server's clock may last here: it may run 1 % slower, and count roughly.
fn by_a_slow_clock(span: Duration) -> Duration {
    span + span / 64 + Duration::from_millis(20)
}
