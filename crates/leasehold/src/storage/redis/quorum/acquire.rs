//! Acquires: a claim takes the lock at a majority first, then its token is written there.
//!
//! One step is not enough: two claims that chose their tokens while they took the lock could choose the same one. In the
//! second step a token is written only where the lock is still its owner's. So a majority has it before another owner
//! can read a majority. `tests/quorum_model.rs` checks that exhaustively.
//!
//! 1. *Propose:* every server is asked to take the lock, and replies with a vote. A majority wins.
//! 2. *Split votes:* if several claims came together, each may have some servers and none a majority. The claim that has
//!    the first server is preferred: it retries for some milliseconds, while the others withdraw.
//! 3. *Commit:* the token is written where the lock was taken. A majority makes it a grant.
//! 4. *Withdraw:* a claim that failed gives the lock back at each server that has it, or may have it.
//! 5. *Late votes:* a server that answers when all is decided gets the token, too, or is told to withdraw the claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::ballot::{Ballot, Outcome, Vote, majority};
use super::nodes::{Nodes, Replies};
use super::refresh::refresh_soon;
use super::scripts::ReleaseMode;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Token};

/// The pauses before each retry of the preferred claim of a split vote. Without it, claims that come together often
/// leave a free lock to none of them.
const PREFERRED_PAUSES: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8)];
/// When the other claims of a split vote retry: this, and a random part of the spread.
const RETRY_AFTER: Duration = Duration::from_millis(2);
const RETRY_SPREAD: Duration = Duration::from_millis(25);

/// The votes on some claims, by their numbers, that have not come yet.
type LateVotes = (Vec<usize>, Replies<Vec<Vote>>);

/// One call: its claims, and the votes on them so far.
struct Election<'a> {
    nodes: &'a Arc<Nodes>,
    claims: Arc<[Claim]>,
    ballots: Vec<Ballot>,
    sent: Moment,
    /// The time limit of each step.
    limit: Duration,
    late: Vec<LateVotes>,
}

/// The outcome of a claim.
enum Verdict {
    Granted(Token),
    /// The claim is withdrawn.
    Failed(Result<AcquireReply>),
    /// The claim is not withdrawn, because its owner was seen to hold before: its cleanup releases what is left.
    Kept(Result<AcquireReply>),
}

pub(super) async fn acquire(nodes: &Arc<Nodes>, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
    let mut election = Election::propose(nodes, claims, sent).await;
    let withdrawn = election.resolve_split_votes().await;
    let tokens = election.commit().await;
    refresh_soon(nodes);
    let ballots = election.ballots.iter().zip(claims).zip(tokens);
    let verdicts: Vec<_> = ballots.map(|((ballot, claim), token)| verdict(ballot, claim, token)).collect();
    let failed = |i: &usize| matches!(verdicts[*i], Verdict::Failed(_)) && !withdrawn.contains(i);
    let failed: Vec<_> = (0..claims.len()).filter(failed).collect();
    if !failed.is_empty() {
        election.withdraw(&failed).await;
    }
    let replies = verdicts.iter().zip(claims).map(|(verdict, claim)| verdict.reply(claim)).collect();
    tokio::spawn(handle_late_votes(Arc::clone(nodes), election.claims, verdicts, election.late));
    replies
}

impl<'a> Election<'a> {
    /// Executes step 1.
    async fn propose(nodes: &'a Arc<Nodes>, claims: &[Claim], sent: Moment) -> Self {
        let (claims, limit): (Arc<[Claim]>, _) = (claims.into(), nodes.limit(claims));
        let (ballots, replies) = collect_votes(nodes, Arc::clone(&claims), sent, sent.after(limit)).await;
        let late = vec![((0..claims.len()).collect(), replies)];
        Self { nodes, claims, ballots, sent, limit, late }
    }

    /// Executes step 2. Returns the claims that were withdrawn.
    async fn resolve_split_votes(&mut self) -> Vec<usize> {
        let mut preferred = self.preferred();
        if preferred.is_empty() {
            return Vec::new();
        }
        // The others withdraw first: a preferred claim of another client may be waiting for them.
        let lost = |i: &usize| self.ballots[*i].outcome() != Outcome::Won && !preferred.contains(i);
        let withdrawn: Vec<_> = (0..self.claims.len()).filter(lost).collect();
        self.withdraw(&withdrawn).await;
        for pause in PREFERRED_PAUSES {
            if preferred.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            let claims = preferred.iter().map(|i| self.claims[*i].clone()).collect();
            let until = self.nodes.clock.now().after(self.limit);
            let (ballots, replies) = collect_votes(self.nodes, claims, self.sent, until).await;
            for (i, ballot) in preferred.iter().zip(ballots) {
                self.ballots[*i] = ballot;
            }
            self.late.push((preferred, replies));
            preferred = self.preferred();
        }
        withdrawn
    }

    fn preferred(&self) -> Vec<usize> {
        (0..self.ballots.len()).filter(|i| self.ballots[*i].is_preferred()).collect()
    }

    /// Executes step 3. Returns for each claim the token that a majority has written.
    async fn commit(&self) -> Vec<Option<Token>> {
        let mut commits: Vec<_> = self.ballots.iter().map(Commit::new).collect();
        let mut replies = self.nodes.call(|node| {
            let commits = commits.iter().flatten().zip(self.claims.iter());
            let claims: Vec<_> = commits
                .filter(|(commit, _)| commit.servers.contains(&node.index))
                .map(|(commit, claim)| (claim.clone(), commit.token))
                .collect();
            (!claims.is_empty()).then_some(async move { node.commit(&claims).await })
        });
        let until = self.nodes.clock.now().after(self.limit);
        while commits.iter().flatten().any(Commit::is_open) {
            let Some((server, reply)) = replies.next(until).await else { break };
            let mut written = reply.unwrap_or_default().into_iter();
            for commit in commits.iter_mut().flatten().filter(|commit| commit.servers.contains(&server)) {
                let written = written.next().is_some_and(|written| written.unwrap_or(false));
                commit.count(server, written);
            }
        }
        let token = |commit: Commit| commit.is_done().then_some(commit.token);
        commits.into_iter().map(|commit| commit.and_then(token)).collect()
    }

    /// Executes step 4 for some claims. A cleanup continues at the servers that do not answer in time.
    async fn withdraw(&self, which: &[usize]) {
        let mut replies = self.nodes.call(|node| {
            let has = |i: &&usize| {
                let ballot = &self.ballots[**i];
                !ballot.was_committed() && ballot.taken().chain(ballot.unknown()).any(|s| s == node.index)
            };
            let claims: Vec<_> = which.iter().filter(has).map(|i| self.claims[*i].clone()).collect();
            (!claims.is_empty()).then_some(async move { node.release(&claims, ReleaseMode::Withdraw).await })
        });
        let until = self.nodes.clock.now().after(self.limit);
        while replies.next(until).await.is_some() {}
    }
}

/// Proposes claims, and collects votes until every outcome is certain, or the time is over. Returns the votes that have
/// not come yet, too.
async fn collect_votes(
    nodes: &Nodes,
    claims: Arc<[Claim]>,
    sent: Moment,
    until: Moment,
) -> (Vec<Ballot>, Replies<Vec<Vote>>) {
    let mut ballots: Vec<_> = claims.iter().map(|_| Ballot::new(nodes.len())).collect();
    let mut replies = nodes.call(|node| {
        let claims = Arc::clone(&claims);
        Some(async move { node.propose(&claims, sent, until).await })
    });
    while ballots.iter().any(|ballot| ballot.outcome() == Outcome::Open) {
        let Some((server, votes)) = replies.next(until).await else { break };
        for (ballot, vote) in ballots.iter_mut().zip(votes) {
            ballot.cast(server, vote);
        }
    }
    (ballots, replies)
}

/// The second step of a claim that has won.
struct Commit {
    token: Token,
    /// Whether a majority has the token already.
    known: bool,
    /// The servers at which the token is to be written.
    servers: Vec<usize>,
    /// The servers whose votes count.
    counted: Vec<usize>,
    /// How many of these have not replied yet, and how many have written it.
    open: usize,
    written: usize,
    needed: usize,
}

impl Commit {
    fn new(ballot: &Ballot) -> Option<Self> {
        if ballot.outcome() != Outcome::Won {
            return None;
        }
        let (token, known) = ballot.token();
        let counted: Vec<_> = ballot.counted().collect();
        Some(Self {
            token: Token::new(token),
            known,
            servers: if known { Vec::new() } else { ballot.taken().collect() },
            open: counted.len(),
            counted,
            written: 0,
            needed: majority(ballot.servers()),
        })
    }

    fn count(&mut self, server: usize, written: bool) {
        if self.counted.contains(&server) {
            self.open -= 1;
            self.written += usize::from(written);
        }
    }

    fn is_done(&self) -> bool {
        self.known || self.written >= self.needed
    }

    fn is_open(&self) -> bool {
        !self.is_done() && self.written + self.open >= self.needed
    }
}

fn verdict(ballot: &Ballot, claim: &Claim, token: Option<Token>) -> Verdict {
    static SALT: AtomicU32 = AtomicU32::new(0);
    let reply = match (ballot.outcome(), token) {
        (Outcome::Won, Some(token)) => return Verdict::Granted(token),
        (Outcome::Won, None) => {
            let text = "no majority of the servers has confirmed the token in time; retry";
            Err(Error::new(ErrorKind::Unavailable, format!("{text} name=`{}`", claim.name)))
        }
        _ if ballot.is_refused() => {
            let holder = ballot.holder();
            let spread = u64::try_from(RETRY_SPREAD.as_micros()).unwrap_or(u64::MAX);
            let soon = claim.owner.spread(SALT.fetch_add(1, Ordering::Relaxed), spread);
            let soon = RETRY_AFTER + Duration::from_micros(soon);
            let retry_after = if holder.is_some() { ballot.free_after() } else { Some(soon) };
            Ok(AcquireReply::Held { holder, retry_after })
        }
        _ => Err(ballot.error()),
    };
    if ballot.was_committed() { Verdict::Kept(reply) } else { Verdict::Failed(reply) }
}

impl Verdict {
    fn reply(&self, claim: &Claim) -> Result<AcquireReply> {
        match self {
            Self::Granted(token) => Ok(AcquireReply::Granted { token: *token, ttl: claim.ttl }),
            Self::Failed(reply) | Self::Kept(reply) => reply.clone(),
        }
    }
}

/// Executes step 5.
async fn handle_late_votes(
    nodes: Arc<Nodes>,
    claims: Arc<[Claim]>,
    verdicts: Vec<Verdict>,
    late: Vec<LateVotes>,
) {
    for (which, mut replies) in late {
        while let Some((server, votes)) = replies.next_late().await {
            let (mut granted, mut failed) = (Vec::new(), Vec::new());
            for (i, vote) in which.iter().zip(votes) {
                match (&verdicts[*i], vote) {
                    (Verdict::Granted(token), Vote::Taken { .. }) => {
                        granted.push((claims[*i].clone(), *token))
                    }
                    (Verdict::Failed(_), Vote::Taken { .. } | Vote::Unknown(_)) => {
                        failed.push(claims[*i].clone());
                    }
                    _ => {}
                }
            }
            let node = &nodes.all[server];
            // A renewal retries what fails here.
            if !granted.is_empty() {
                let _ = node.commit(&granted).await;
            }
            if !failed.is_empty() {
                let _ = Arc::clone(node).release(&failed, ReleaseMode::Withdraw).await;
            }
        }
    }
}
