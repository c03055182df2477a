//! Crowds: thousands of waiters of one name, of tries, of observers, and of resumes of one ticket, over a storage that
//! is silent or answers late.

use std::collections::VecDeque;
use std::time::Duration;

use super::client::{Client, START, Ticks};
use super::invariants::{Law, Violation, check_work};
use super::schedule::{MS, Random, SECOND};
use super::wire::{Answer, Ask, Call};
use crate::engine::work::{self, Defect};
use crate::error::{Error, ErrorKind};
use crate::options::{Options, Wait};
use crate::storage::{AcquireReply, Holder, Limits, Name, Owner, ReleaseReply, RenewReply, Token};
use crate::ticket::Ticket;

const MANY: usize = 3000;
const TTL: Duration = Duration::from_secs(1);

/// One client, its calls, which the test answers itself, and the time.
struct Crowd {
    client: Client,
    random: Random,
    now: u64,
    calls: VecDeque<Call>,
}

/// Runs all crowds of a seed.
pub(super) fn run(seed: u64, defect: Option<Defect>) -> Result<(), Violation> {
    work::plant(defect);
    let all = [
        waiters_of_a_silent_storage,
        waiters_that_leave,
        tries,
        tries_of_a_silent_storage,
        observers,
        resuming,
        a_ticket_that_is_not_settled,
    ];
    let result = all.iter().try_for_each(|crowd| crowd(&mut Crowd::new(seed)));
    work::plant(None);
    result
}

fn named(i: usize) -> Name {
    Name::new(format!("lock {i}")).expect("valid")
}

fn require(holds: bool, what: &str) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(Law::Honest, what)) }
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let ticks = Ticks { base: SECOND, millionths: 0 };
        let client = Client::new(ticks, Limits::default(), 0, START, seed);
        Self { client, random: Random::new(seed), now: START, calls: VecDeque::new() }
    }

    fn acquire(&mut self, name: usize, wait: Wait, once: bool) -> Owner {
        let (owner, name) = (self.random.owner(), named(name));
        self.client.acquire(owner, name, Options { ttl: TTL, wait, ..Options::default() }, once);
        owner
    }

    /// Lets the engine take in all that has arrived.
    fn turn(&mut self) -> Result<(), Violation> {
        for _ in 0..=MANY / 1024 {
            let _ = work::take();
            let calls = self.client.turn(self.now);
            check_work()?;
            let calls = calls.ok_or_else(|| Violation::new(Law::Rest, "the engine does not come to rest"))?;
            self.calls.extend(calls);
        }
        Ok(())
    }

    /// Lets time pass. Every call ends without an answer, after half a second at the latest.
    fn silence(&mut self, until: u64) -> Result<(), Violation> {
        while self.now < until {
            let next = std::cmp::max(self.client.wake, self.now + MS);
            let limit = if self.calls.is_empty() { until } else { self.now + 500 * MS };
            self.now = std::cmp::min(next, std::cmp::min(limit, until));
            while let Some(call) = self.calls.pop_front() {
                let _ = call.reply.send(unknown(&call.ask));
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Answers a call: a claim is granted if `grants`, and held by another owner otherwise.
    fn answer(&mut self, call: Call, grants: bool) {
        let holder = |name: &Name| Holder::new(name.clone(), Owner::from_bytes([7; 16]), Token::new(1), TTL);
        let answer = match &call.ask {
            Ask::Acquire(claims) if grants => {
                let granted = |ttl| Ok(AcquireReply::Granted { token: Token::new(2), ttl });
                Answer::Acquire(claims.iter().map(|claim| granted(claim.ttl)).collect())
            }
            Ask::Acquire(claims) => {
                let held = |name| Ok(AcquireReply::Held { holder: Some(holder(name)), retry_after: None });
                Answer::Acquire(claims.iter().map(|claim| held(&claim.name)).collect())
            }
            Ask::Inspect(name) => Answer::Inspect(Ok(Some(holder(name)))),
            Ask::Release(claims) => {
                Answer::Release(claims.iter().map(|_| Ok(ReleaseReply::Released)).collect())
            }
            Ask::Renew(claims) => {
                Answer::Renew(claims.iter().map(|claim| Ok(RenewReply::Renewed { ttl: claim.ttl })).collect())
            }
        };
        let _ = call.reply.send(answer);
    }

    /// Answers all calls until none is left.
    fn answer_all(&mut self, grants: bool) -> Result<(), Violation> {
        while let Some(call) = self.calls.pop_front() {
            self.answer(call, grants);
            self.turn()?;
        }
        Ok(())
    }
}

fn unknown(ask: &Ask) -> Answer {
    let silent = || Error::new(ErrorKind::Unavailable, "silence");
    match ask {
        Ask::Acquire(claims) => Answer::Acquire(claims.iter().map(|_| Err(silent())).collect()),
        Ask::Inspect(_) => Answer::Inspect(Err(silent())),
        Ask::Release(claims) => Answer::Release(claims.iter().map(|_| Err(silent())).collect()),
        Ask::Renew(claims) => Answer::Renew(claims.iter().map(|_| Err(silent())).collect()),
    }
}

/// Checks that all waits without a limit end together. Each error has the cause that the first waiter has found, and no other.
fn waiters_of_a_silent_storage(crowd: &mut Crowd) -> Result<(), Violation> {
    for _ in 0..MANY {
        crowd.acquire(0, Wait::Forever, false);
    }
    crowd.acquire(0, Wait::For(Duration::from_secs(60)), false);
    crowd.turn()?;
    crowd.silence(crowd.now + 40 * SECOND)?;
    let refused = std::mem::take(&mut crowd.client.refused);
    require(refused.len() == MANY, &format!("{} of {MANY} have ended", refused.len()))?;
    for error in refused.iter().flatten() {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).count();
        require(causes == 1 && cause.as_deref() == Some("silence"), &format!("{error:?}"))?;
    }
    crowd.silence(crowd.now + 30 * SECOND)?;
    require(crowd.client.refused.len() == 1, "the wait with a limit ends by its limit")?;
    crowd.silence(crowd.now + 30 * SECOND)?;
    require(crowd.client.is_idle(), "nothing is left")
}

/// Lets waiters leave in any order, and the limits of many pass at the same moment.
fn waiters_that_leave(crowd: &mut Crowd) -> Result<(), Violation> {
    for i in 0..MANY {
        let wait = if i % 2 == 0 { Wait::For(Duration::from_secs(5)) } else { Wait::Forever };
        crowd.acquire(0, wait, false);
    }
    crowd.turn()?;
    while crowd.client.acquiring.len() > MANY * 3 / 4 {
        let place = crowd.random.index(crowd.client.acquiring.len());
        crowd.client.leave(place);
        if crowd.random.chance(100) {
            crowd.turn()?;
        }
    }
    crowd.silence(crowd.now + 6 * SECOND)?;
    while !crowd.client.acquiring.is_empty() {
        crowd.client.leave(0);
    }
    crowd.turn()?;
    crowd.silence(crowd.now + 60 * SECOND)?;
    require(crowd.client.is_idle(), "nothing is left")
}

/// Checks that one claim answers all tries that were made before it left.
fn tries(crowd: &mut Crowd) -> Result<(), Violation> {
    for grants in [false, true] {
        crowd.client.refused.clear();
        for _ in 0..MANY {
            crowd.acquire(0, Wait::Forever, true);
        }
        crowd.turn()?;
        let mut claims = 0;
        while let Some(call) = crowd.calls.pop_front() {
            claims += usize::from(matches!(call.ask, Ask::Acquire(_)));
            crowd.answer(call, grants && claims == 1);
            crowd.turn()?;
        }
        require(claims <= 1 + MANY / 1024 + 1, &format!("{claims} claims for {MANY} tries"))?;
        let got = crowd.client.guards.len();
        require(got == usize::from(grants), &format!("{got} hold"))?;
        require(crowd.client.refused.len() + got == MANY, "each try is answered")?;
        require(crowd.client.refused.iter().all(Option::is_none), "a refusal is an answer")?;
    }
    Ok(())
}

/// Checks that tries are answered within their patience, however many there are.
fn tries_of_a_silent_storage(crowd: &mut Crowd) -> Result<(), Violation> {
    for _ in 0..MANY {
        crowd.acquire(0, Wait::Forever, true);
    }
    crowd.turn()?;
    let (calls, until) = (std::mem::take(&mut crowd.calls), crowd.now + 500 * MS);
    crowd.silence(until)?;
    let answered = crowd.client.refused.len();
    require(answered == MANY, &format!("{answered} of {MANY} answered within the patience"))?;
    require(crowd.client.refused.iter().all(Option::is_some), "silence is an error")?;
    drop(calls);
    Ok(())
}

/// Lets observers come and go, and checks that the storage learns only the differences. A lock that is acquired meanwhile costs no more.
fn observers(crowd: &mut Crowd) -> Result<(), Violation> {
    let mut seen: Vec<_> = (0..MANY).map(|i| crowd.client.observe(named(i))).collect();
    crowd.turn()?;
    require(crowd.client.wire.watched() == (MANY, 0), &format!("{:?}", crowd.client.wire.watched()))?;
    require(crowd.calls.len() <= 16, &format!("{} inspections at a time", crowd.calls.len()))?;
    crowd.answer_all(true)?;
    for _ in 0..100 {
        crowd.acquire(MANY, Wait::Forever, false);
        crowd.turn()?;
        crowd.answer_all(true)?;
        crowd.client.give_back(crowd.now, 0, super::client::Ending::Drop);
        crowd.turn()?;
        crowd.answer_all(true)?;
    }
    while seen.len() > 10 {
        let gone = crowd.random.index(seen.len());
        drop(seen.swap_remove(gone));
        if crowd.random.chance(50) {
            crowd.turn()?;
        }
    }
    crowd.turn()?;
    crowd.answer_all(true)?;
    let (added, removed) = crowd.client.wire.watched();
    require(added - removed == 10, &format!("{added} added, {removed} removed"))
}

/// Resumes one ticket and gives it up again and again, while answers arrive late and in any order.
fn resuming(crowd: &mut Crowd) -> Result<(), Violation> {
    let ticket = Ticket {
        name: named(0),
        owner: Owner::from_bytes([7; 16]),
        token: Token::new(1),
        ttl: TTL,
        settled: crowd.random.chance(500),
    };
    for _ in 0..MANY / 3 {
        match crowd.random.between(0, 9) {
            0..4 => crowd.client.resume(ticket.clone()),
            4..6 => drop(crowd.client.leave_resume()),
            6..9 if !crowd.calls.is_empty() => {
                let late = crowd.random.index(crowd.calls.len());
                let call = crowd.calls.remove(late).expect("an index below the length");
                crowd.answer(call, true);
            }
            _ if !crowd.client.guards.is_empty() => {
                let ways = [super::client::Ending::Drop, super::client::Ending::Forget];
                let ending = crowd.random.pick(&ways);
                let place = crowd.random.index(crowd.client.guards.len());
                crowd.client.give_back(crowd.now, place, ending);
            }
            _ => crowd.now += 20 * MS,
        }
        crowd.turn()?;
    }
    while crowd.client.leave_resume().is_some() {}
    while !crowd.client.guards.is_empty() {
        crowd.client.give_back(crowd.now, 0, super::client::Ending::Release);
    }
    crowd.turn()?;
    for _ in 0..100 {
        crowd.answer_all(true)?;
        crowd.now = std::cmp::max(crowd.now + MS, std::cmp::min(crowd.client.wake, crowd.now + SECOND));
        crowd.turn()?;
    }
    require(crowd.client.is_idle(), "nothing is left")
}

/// Resumes a ticket that was made while a claim could still be executed. The client releases it twice, the second time
/// when no claim can be executed any more. Otherwise a late claim would be granted to an owner that has ended.
fn a_ticket_that_is_not_settled(crowd: &mut Crowd) -> Result<(), Violation> {
    for settled in [true, false] {
        let (owner, token) = (Owner::from_bytes([7; 16]), Token::new(1));
        crowd.client.resume(Ticket { name: named(0), owner, token, ttl: TTL, settled });
        crowd.turn()?;
        crowd.answer_all(true)?;
        require(crowd.client.guards.len() == 1, "the ticket is resumed")?;
        let rewritten = crowd.client.guards[0].guard.ticket().settled;
        require(rewritten == settled, "a ticket that is made at once is the same")?;
        crowd.client.give_back(crowd.now, 0, super::client::Ending::Release);
        let (mut releases, until) = (0, crowd.now + 6 * SECOND);
        while crowd.now < until {
            crowd.turn()?;
            let Some(call) = crowd.calls.pop_front() else {
                crowd.now = std::cmp::min(std::cmp::max(crowd.client.wake, crowd.now + MS), until);
                continue;
            };
            releases += usize::from(matches!(call.ask, Ask::Release(_)));
            crowd.answer(call, true);
        }
        require(releases == if settled { 1 } else { 2 }, &format!("{releases} releases"))?;
        require(crowd.client.is_idle(), "nothing is left")?;
    }
    Ok(())
}
