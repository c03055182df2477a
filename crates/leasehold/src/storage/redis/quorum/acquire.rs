//! An acquire: taken at a majority first, then given its token there.
//!
//! One step is not enough: of two that chose their tokens while they took the lock, both may choose the same. In the
//! second step a token is only written where the lock is still its owner's, so a majority has it before anybody else
//! can read a majority (checked exhaustively in `tests/quorum_model.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::ballot::{Ballot, Outcome, Vote, majority};
use super::nodes::{Answers, Nodes};
use super::script::Ending;
use super::standing;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Token};

/// How long one that has split the votes with others waits for them to withdraw, each time that it asks again. Without
/// that, of several that come together often nobody would be granted what is free.
const INSIST: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8)];
/// When the others ask again.
const RETRY_AFTER: Duration = Duration::from_millis(2);
const RETRY_SPREAD: Duration = Duration::from_millis(25);

/// Claims, what each of the servers has said to them, and what they still will.
struct Round {
    claims: Arc<[Claim]>,
    ballots: Vec<Ballot>,
    answers: Answers<Vec<Vote>>,
}

/// What has become of a claim.
enum Verdict {
    Granted(Token),
    /// Nothing must be left of it.
    Failed(Result<AcquireReply>),
    /// Its owner was seen to hold before: whatever is left is for the owner to end.
    Kept(Result<AcquireReply>),
}

pub(super) async fn acquire(nodes: &Arc<Nodes>, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
    let limit = nodes.limit(claims);
    let mut round = Round::propose(nodes, claims.into(), sent, sent.after(limit));
    round.count(sent.after(limit)).await;
    let (mut insisted, mut withdrawn) = (Vec::new(), Vec::new());
    let insisting = |round: &Round| -> Vec<usize> {
        (0..round.ballots.len()).filter(|i| round.ballots[*i].may_insist()).collect()
    };
    let mut again = insisting(&round);
    if !again.is_empty() {
        // Those that lose go first: somebody may wait for them in turn.
        let lost = |i: &usize| round.ballots[*i].outcome() != Outcome::Won && !again.contains(i);
        withdrawn = (0..claims.len()).filter(lost).collect();
        withdraw(nodes, &round, &withdrawn, limit).await;
    }
    for pause in INSIST {
        if again.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        let claims = again.iter().map(|i| round.claims[*i].clone()).collect();
        let until = nodes.clock.now().after(limit);
        let mut next = Round::propose(nodes, claims, sent, until);
        next.count(until).await;
        for (i, ballot) in again.iter().zip(std::mem::take(&mut next.ballots)) {
            round.ballots[*i] = ballot;
        }
        insisted.push((again, next.answers));
        again = insisting(&round);
    }
    let committed = commit(nodes, &round, limit).await;
    standing::tend_soon(nodes);
    let verdicts: Vec<_> =
        round.ballots.iter().zip(claims).zip(committed).map(|((b, c), token)| verdict(b, c, token)).collect();
    let failed = |i: &usize| matches!(verdicts[*i], Verdict::Failed(_)) && !withdrawn.contains(i);
    let failed: Vec<_> = (0..claims.len()).filter(failed).collect();
    if !failed.is_empty() {
        withdraw(nodes, &round, &failed, limit).await;
    }
    let answers = verdicts.iter().zip(claims).map(|(verdict, claim)| verdict.answer(claim)).collect();
    let all = (0..claims.len()).collect();
    tokio::spawn(late(
        Arc::clone(nodes),
        round.claims,
        verdicts,
        [(all, round.answers)].into_iter().chain(insisted).collect(),
    ));
    answers
}

impl Round {
    fn propose(nodes: &Nodes, claims: Arc<[Claim]>, sent: Moment, until: Moment) -> Self {
        let ballots = claims.iter().map(|_| Ballot::new(nodes.len())).collect();
        let answers = nodes.ask(|node| {
            let claims = Arc::clone(&claims);
            Some(async move { node.propose(&claims, sent, until).await })
        });
        Self { claims, ballots, answers }
    }

    /// Counts votes until every claim's majority is certain or impossible, or the time is over.
    async fn count(&mut self, until: Moment) {
        while self.ballots.iter().any(|ballot| ballot.outcome() == Outcome::Open) {
            let Some((server, votes)) = self.answers.next(until).await else { return };
            for (ballot, vote) in self.ballots.iter_mut().zip(votes) {
                ballot.cast(server, vote);
            }
        }
    }
}

/// Writes the token of each claim that has won where it has. The token of each for which a majority has done so.
async fn commit(nodes: &Nodes, round: &Round, limit: Duration) -> Vec<Option<Token>> {
    let all: Vec<_> = round
        .ballots
        .iter()
        .map(|ballot| (ballot.outcome() == Outcome::Won).then(|| ballot.token()))
        .collect();
    let mut committed: Vec<_> =
        all.iter().map(|won| won.filter(|(_, known)| *known).map(|(token, _)| Token::new(token))).collect();
    let asked = |server: usize| -> Vec<usize> {
        let new = |i: &usize| {
            all[*i].is_some_and(|(_, known)| !known) && round.ballots[*i].ours().any(|s| s == server)
        };
        (0..all.len()).filter(new).collect()
    };
    let mut answers = nodes.ask(|node| {
        let claims: Vec<_> = asked(node.index)
            .into_iter()
            .filter_map(|i| Some((round.claims[i].clone(), Token::new(all[i]?.0))))
            .collect();
        (!claims.is_empty()).then_some(async move { node.commit(&claims, None).await })
    });
    // How many servers that count have written it, and how many have not answered yet.
    let mut tally: Vec<_> = round.ballots.iter().map(|ballot| (0, ballot.counted().count())).collect();
    let (needed, until) = (majority(nodes.len()), nodes.clock.now().after(limit));
    let is_open = |i: usize, committed: &[Option<Token>], tally: &[(usize, usize)]| {
        all[i].is_some() && committed[i].is_none() && tally[i].0 + tally[i].1 >= needed
    };
    while (0..all.len()).any(|i| is_open(i, &committed, &tally)) {
        let Some((server, answer)) = answers.next(until).await else { break };
        let mut written = answer.unwrap_or_default().into_iter();
        for i in asked(server) {
            let written = written.next().is_some_and(|written| written.unwrap_or(false));
            if round.ballots[i].counted().any(|s| s == server) {
                tally[i].1 -= 1;
                tally[i].0 += usize::from(written);
            }
            if tally[i].0 >= needed {
                committed[i] = all[i].map(|(token, _)| Token::new(token));
            }
        }
    }
    committed
}

fn verdict(ballot: &Ballot, claim: &Claim, committed: Option<Token>) -> Verdict {
    static SALT: AtomicU32 = AtomicU32::new(0);
    let answer = match (ballot.outcome(), committed) {
        (Outcome::Won, Some(token)) => return Verdict::Granted(token),
        (Outcome::Won, None) => {
            let text = "no majority of the servers has confirmed the token in time; retry";
            Err(Error::new(ErrorKind::Unavailable, format!("{text} name=`{}`", claim.name)))
        }
        _ if ballot.refused() => {
            let holder = ballot.leader();
            let spread = u64::try_from(RETRY_SPREAD.as_micros()).unwrap_or(u64::MAX);
            let soon = claim.owner.spread(SALT.fetch_add(1, Ordering::Relaxed), spread);
            let soon = RETRY_AFTER + Duration::from_micros(soon);
            let retry_after = if holder.is_some() { ballot.free_after() } else { Some(soon) };
            Ok(AcquireReply::Held { holder, retry_after })
        }
        _ => Err(ballot.error()),
    };
    if ballot.held_before() { Verdict::Kept(answer) } else { Verdict::Failed(answer) }
}

impl Verdict {
    fn answer(&self, claim: &Claim) -> Result<AcquireReply> {
        match self {
            Self::Granted(token) => Ok(AcquireReply::Granted { token: *token, ttl: claim.ttl }),
            Self::Failed(answer) | Self::Kept(answer) => answer.clone(),
        }
    }
}

/// Gives back what claims have, or may have, at some servers. Those that do not answer in time go on being asked.
async fn withdraw(nodes: &Nodes, round: &Round, which: &[usize], limit: Duration) {
    let mut answers = nodes.ask(|node| {
        let has = |i: &&usize| {
            let ballot = &round.ballots[**i];
            !ballot.held_before() && ballot.ours().chain(ballot.unknown()).any(|s| s == node.index)
        };
        let claims: Vec<_> = which.iter().filter(has).map(|i| round.claims[*i].clone()).collect();
        (!claims.is_empty()).then_some(async move { node.release(&claims, Ending::Withdraw).await })
    });
    let until = nodes.clock.now().after(limit);
    while answers.next(until).await.is_some() {}
}

/// Deals with what comes when everything is decided: a server is given the token too, or is to forget the claim.
async fn late(
    nodes: Arc<Nodes>,
    claims: Arc<[Claim]>,
    verdicts: Vec<Verdict>,
    rounds: Vec<(Vec<usize>, Answers<Vec<Vote>>)>,
) {
    for (which, mut answers) in rounds {
        while let Some((server, votes)) = answers.late().await {
            let (mut written, mut undone) = (Vec::new(), Vec::new());
            for (i, vote) in which.iter().zip(votes) {
                match (&verdicts[*i], vote) {
                    (Verdict::Granted(token), Vote::Ours { .. }) => {
                        written.push((claims[*i].clone(), *token))
                    }
                    (Verdict::Failed(_), Vote::Ours { .. } | Vote::Unknown(_)) => {
                        undone.push(claims[*i].clone());
                    }
                    _ => {}
                }
            }
            let node = &nodes.all[server];
            // A renewal tries again what fails here.
            if !written.is_empty() {
                let _ = node.commit(&written, None).await;
            }
            if !undone.is_empty() {
                let _ = Arc::clone(node).release(&undone, Ending::Withdraw).await;
            }
        }
    }
}
