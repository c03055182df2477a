//! Acquires: the request, and the replies to it.

use std::sync::Arc;
use std::time::Duration;

use super::Primary;
use super::answers::explain_text;
use super::connect::LIMIT;
use super::link::{Link, Server};
use super::operation::{Around, Verb, keys_of, not_after, own_keys, queue_keys, shortest};
use super::replies::{foreign, holder, late};
use super::request::{ACQUIRE, Answer, Part, Request};
use crate::clock::{Moment, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Name, Token, WAITER_TTL};

pub(super) struct Acquiring<'a> {
    pub(super) around: Around<'a>,
    pub(super) sent: Moment,
}

impl Verb for Acquiring<'_> {
    type Item = Claim;
    type Answer = AcquireReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        acquire_request(self.around, link, claims, self.sent)
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<AcquireReply>>> {
        acquired(answer, claims)
    }

    fn confirming<'p>(&self, primary: &'p Primary) -> Option<&'p Arc<Server>> {
        let needed = self.around.config.wait_replicas > 0;
        primary.acquires.as_ref().filter(|server| needed || server.connector().promises_failovers())
    }

    fn confirmations(&self, least: u32) -> u32 {
        std::cmp::max(self.around.config.wait_replicas, least)
    }

    fn patience(&self, claims: &[&Claim]) -> Duration {
        claims.iter().map(|claim| claim.patience).min().unwrap_or(LIMIT)
    }

    fn must_be_confirmed(&self, answer: &AcquireReply) -> bool {
        matches!(answer, AcquireReply::Granted { .. })
    }
}

fn acquire_request(around: Around<'_>, link: &Link, claims: &[&Claim], sent: Moment) -> Request {
    let (keys, grace) = (&around.config.keys, around.config.failover_grace);
    let epoch = usize::from(grace.is_some());
    let mut request = Request::new(&ACQUIRE, keys_of(around, claims) + epoch, claims.len() + 10);
    own_keys(&mut request, keys, claims);
    queue_keys(&mut request, around, claims);
    if grace.is_some() {
        request.text(&keys.epoch());
    }
    let run_id = if grace.is_some() { link.facts.identity.run_id.as_str() } else { "" };
    request.args().put(claims.len()).text(run_id).put(grace.map_or(0, millis)).put(millis(WAITER_TTL));
    for claim in claims {
        request.put(claim.owner);
    }
    // Nobody is told on a channel that is not listened to; so its waiters are only found by asking.
    let waits = if around.listening { 'w' } else { 's' };
    let mut last = 0;
    for alike in
        claims.chunk_by(|a, b| (a.ttl, a.patience, a.wait, &a.label) == (b.ttl, b.patience, b.wait, &b.label))
    {
        let (claim, ttl) = (alike[0], millis(alike[0].ttl));
        last += alike.len();
        request.put(last).put(ttl);
        not_after(&mut request, link, claim, sent);
        request.put(format_args!("{}{ttl:08}", around.client));
        let wait = if claim.wait { waits } else { '-' };
        request.with(|text| {
            text.push(wait);
            text.push_str(claim.label.as_deref().unwrap_or_default());
        });
    }
    request
}

fn acquired(mut answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for claim in claims {
        let mut answer = match answer.part()? {
            Part::List(list) => list,
            Part::Number(token) => {
                let token = match u64::try_from(token) {
                    Ok(1) => answer.time,
                    Ok(token) if token > 1 => token,
                    _ => return Err(answer.senseless()),
                };
                all.push(Ok(AcquireReply::Granted { token: Token::new(token), ttl: claim.ttl }));
                continue;
            }
        };
        all.push(match answer.integer()? {
            2 => {
                let holder = holder(&mut answer, &claim.name)?;
                let retry_after = u64::try_from(answer.integer()?).ok().map(Duration::from_millis);
                Ok(AcquireReply::Held { holder, retry_after })
            }
            3 => Err(late(&claim.name)),
            4 => Err(foreign(&answer.text()?, &claim.name)),
            5 => Err(explain_text(&answer.text()?, answer.place())),
            7 => return Err(explain_text(&answer.text()?, answer.place())),
            8 => {
                let others = Duration::from_millis(answer.number()?);
                let text = "other clients of this prefix use another `failover_grace`; all must use the same";
                return Err(Error::new(ErrorKind::Unsupported, format!("{text} theirs=`{others:?}`")));
            }
            _ => return Err(answer.senseless()),
        });
    }
    Ok(all)
}
