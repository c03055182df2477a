//! One of the servers: what it is asked, and what is still owed to it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ballot::Vote;
use super::config::Config;
use super::script::{At, Ending, Renewed};
use super::standing::{Known, Mark, Standing};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::progress::Progress;
use crate::storage::redis::config::Place;
use crate::storage::redis::link::{Link, Server};
use crate::storage::redis::list;
use crate::storage::{Claim, Cursor, Holder, Name, Owner, ReleaseReply, Token};

pub(super) struct Node {
    pub(super) index: usize,
    pub(super) server: Arc<Server>,
    pub(super) hinter: Arc<Hinter>,
    place: Place,
    config: Arc<Config>,
    client: Arc<str>,
    clock: Clock,
    identities: Arc<Identities>,
    /// Set when the server has said that its vote does not count, until its marker is looked at.
    unmarked: AtomicBool,
    owed: Mutex<Owed>,
}

/// What is known of each server.
pub(super) struct Identities(Mutex<Vec<Identity>>);

#[derive(Clone, Default)]
struct Identity {
    /// Its run id, as it was last seen.
    run_id: Option<String>,
    /// What it is called, and how often it has taken locks under that name.
    count: Option<(String, u64)>,
}

#[derive(Default)]
struct Owed {
    /// Requests that may give an owner the lock, and of which the answer is not known.
    open: HashMap<(Name, Owner), Open>,
    /// What is being undone. Nothing is asked for these until it is.
    undoing: HashSet<(Name, Owner)>,
    /// From how many of those on the old ones among them are thrown away.
    many: usize,
    /// When owners were last released: what was begun before must not be sent after.
    ended: HashMap<(Name, Owner), Moment>,
    /// The same in the order in which it happened.
    by_time: VecDeque<(Moment, (Name, Owner))>,
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
/// From how many requests on, that were never answered, those are thrown away that are too old to matter.
const MANY: usize = 1024;
/// How old a release is that does not matter any more.
const OLD: Duration = Duration::from_secs(30);

impl Identities {
    pub(super) fn of(servers: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![Identity::default(); servers])))
    }

    /// Notes how often a server has taken locks.
    fn count(&self, index: usize, name: &str, taken: u64) {
        let mut all = self.all();
        let known = &mut all[index].count;
        match known {
            Some((same, most)) if same == name => *most = std::cmp::max(*most, taken),
            _ => *known = Some((name.to_owned(), taken)),
        }
    }

    /// How often the others than this server have taken locks, as words for its script.
    fn others(&self, index: usize) -> String {
        let all = self.all();
        let others = all.iter().enumerate().filter(|(i, _)| *i != index);
        let words = others.filter_map(|(_, other)| other.count.as_ref());
        words.map(|(name, taken)| format!("{name}={taken}")).collect::<Vec<_>>().join(" ")
    }

    fn all(&self) -> MutexGuard<'_, Vec<Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the run id of a server; which other server has the same.
    fn note(&self, index: usize, run_id: &str) -> Option<usize> {
        let mut all = self.all();
        let same =
            all.iter().position(|other| other.run_id.as_deref() == Some(run_id)).filter(|i| *i != index);
        if same.is_none() {
            all[index].run_id = Some(run_id.to_owned());
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
            unmarked: AtomicBool::new(true),
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
            match self.answered(self.at(&link).propose(&going, sent)).await {
                Ok(proposed) => {
                    self.settle(&going);
                    if proposed.standing == Standing::Votes {
                        self.identities.count(self.index, &proposed.name, proposed.taken);
                    } else {
                        self.unmarked.store(true, Ordering::Relaxed);
                    }
                    proposed.votes
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
            return self
                .answered(self.at(&link).commit(claims, None, &self.identities.others(self.index)))
                .await;
        };
        let sent = self.clock.now();
        let all: Vec<_> = claims.iter().map(|(claim, _)| claim.clone()).collect();
        let going: Vec<_> = claims.iter().zip(self.begin(&all, sent, since)).filter(|(_, go)| *go).collect();
        let going: Vec<_> = going.into_iter().map(|(claim, _)| claim.clone()).collect();
        if going.is_empty() {
            return Ok(Vec::new());
        }
        let others = self.identities.others(self.index);
        let written = self.answered(self.at(&link).commit(&going, Some(sent), &others)).await?;
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
    pub(super) async fn release(
        self: Arc<Self>,
        claims: &[Claim],
        ending: Ending,
    ) -> Result<Vec<ReleaseReply>> {
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
                (left, Ok(released.into_iter().map(|one| one.unwrap_or(ReleaseReply::NotHeld)).collect()))
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

    /// The names of which this server has records.
    pub(super) async fn names(
        &self,
        progress: &Progress,
        prefix: &str,
        after: Option<&Cursor>,
    ) -> Result<BTreeSet<Name>> {
        let link = self.join().await?;
        list::names(&link, &self.config.redis.keys, progress, prefix, after).await
    }

    /// Who holds these here; what is no lock is left out.
    pub(super) async fn holders(&self, names: &[Name]) -> Result<Vec<Holder>> {
        let link = self.join().await?;
        let names: Vec<_> = names.iter().collect();
        let seen = self.answered(self.at(&link).inspect(&names)).await?;
        Ok(seen.into_iter().filter_map(|seen| seen.ok().flatten()).collect())
    }

    /// Returns `true` if the server has said that its vote does not count, and nobody has looked why since.
    pub(super) fn is_unmarked(&self) -> bool {
        self.unmarked.load(Ordering::Relaxed)
    }

    /// Begins to look why.
    pub(super) fn take_unmarked(&self) {
        self.unmarked.store(false, Ordering::Relaxed);
    }

    /// What the server knows of itself and of the others; `longest` is the longest TTL that this client promises.
    pub(super) async fn visit(&self, longest: Duration) -> Result<Known> {
        let link = self.join().await?;
        let known = self.answered(self.at(&link).visit(longest)).await?;
        if let (Standing::Votes, Some(marker)) = (known.standing, &known.marker) {
            self.identities.count(self.index, &marker.name, marker.taken);
        }
        Ok(known)
    }

    /// Has the server remember that others take part, as words `name=count`.
    pub(super) async fn remember(&self, others: &str) -> Result<()> {
        let link = self.join().await?;
        self.answered(self.at(&link).commit(&[], None, others)).await.map(drop)
    }

    /// Writes a marker in place of one that was seen when `sent`. Returns `true` if it is written.
    pub(super) async fn mark(&self, seen: &Known, mark: &Mark, sent: Moment) -> Result<bool> {
        let link = self.join().await?;
        self.answered(self.at(&link).mark(seen, mark, sent)).await
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
        owed.forget_unanswered(sent);
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
        owed.forget_ended(now);
        for claim in claims {
            let key = (claim.name.clone(), claim.owner);
            owed.by_time.push_back((now, key.clone()));
            owed.ended.insert(key, now);
        }
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    /// Throws away the releases that are too old to matter, and looks at no others. Returns how many it has looked at.
    fn forget_ended(&mut self, now: Moment) -> usize {
        let mut looked = 1;
        while let Some((at, key)) = self.by_time.front() {
            if now.since(*at) < OLD {
                break;
            }
            if self.ended.get(key) == Some(at) {
                self.ended.remove(key);
            }
            self.by_time.pop_front();
            looked += 1;
        }
        looked
    }

    /// Throws away requests that are too old to be executed, when there are twice as many as were left the last time: so
    /// each costs the same, however many there are. Returns how many it has looked at.
    fn forget_unanswered(&mut self, now: Moment) -> usize {
        let looked = self.open.len();
        if looked <= std::cmp::max(self.many, MANY) {
            return 0;
        }
        self.open.retain(|_, open| now < open.until);
        self.many = self.open.len() * 2;
        looked
    }
}

/// How long a span of a server's clock may last here: it may run 1 % slower, and count roughly.
fn by_a_slow_clock(span: Duration) -> Duration {
    span + span / 64 + Duration::from_millis(20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_cost_the_same_however_many_there_are() {
        let (mut owed, name) = (Owed::default(), Name::new("a").expect("valid"));
        let (mut ended, mut unanswered) = (0, 0);
        let all = 50_000;
        for n in 0..all {
            // A thousand a second; each matters for half a minute.
            let now = Moment::from_nanos(n * 1_000_000);
            ended += owed.forget_ended(now);
            unanswered += owed.forget_unanswered(now);
            let key = (name.clone(), Owner::random());
            owed.by_time.push_back((now, key.clone()));
            owed.ended.insert(key.clone(), now);
            owed.open.insert(key, Open { requests: 1, until: now.after(OLD) });
        }
        let all = usize::try_from(all).expect("fits");
        assert!(ended <= all * 2, "{ended} looks for {all} releases");
        assert!(unanswered <= all * 3, "{unanswered} looks for {all} requests");
        assert!(owed.ended.len() <= 30_001 && owed.open.len() <= 60_002);
        assert_eq!(owed.ended.len(), owed.by_time.len());
    }
}
