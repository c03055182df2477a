//! Renewals: the request, and the replies to it.

use std::sync::Arc;
use std::time::Duration;

use super::Primary;
use super::connect::LIMIT;
use super::link::{Link, Server};
use super::operation::{Around, Verb, not_after, own_keys, shortest};
use super::replies::late;
use super::request::{Answer, RENEW, Request};
use crate::clock::{Moment, millis};
use crate::error::Result;
use crate::storage::{Claim, Name, RenewReply};

pub(super) struct Renewing<'a> {
    pub(super) around: Around<'a>,
    pub(super) sent: Moment,
}

impl Verb for Renewing<'_> {
    type Item = Claim;
    type Answer = RenewReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        // Whoever renews wants time for several tries within a TTL.
        shortest(claims, |claim| claim.ttl / 6)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        renew_request(self.around, link, claims, self.sent)
    }

    fn confirming<'p>(&self, primary: &'p Primary) -> Option<&'p Arc<Server>> {
        primary.renewals.as_ref().filter(|server| server.connector().promises_failovers())
    }

    fn confirmations(&self, least: u32) -> u32 {
        least
    }

    fn patience(&self, claims: &[&Claim]) -> Duration {
        claims.iter().map(|claim| claim.ttl / 3).min().unwrap_or(LIMIT)
    }

    fn must_be_confirmed(&self, answer: &RenewReply) -> bool {
        matches!(answer, RenewReply::Renewed { .. })
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<RenewReply>>> {
        renewed(answer, claims)
    }
}

fn renew_request(around: Around<'_>, link: &Link, claims: &[&Claim], sent: Moment) -> Request {
    let mut request = Request::new(&RENEW, claims.len() * 2, claims.len() * 3 + 2);
    own_keys(&mut request, &around.config.keys, claims);
    request.args().put(claims.len()).text(&around.config.keys.channels());
    for claim in claims {
        request.put(claim.owner).put(millis(claim.ttl));
        if claim.shorten {
            not_after(&mut request, link, claim, sent);
        } else {
            request.text("");
        }
    }
    request
}

fn renewed(mut answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<RenewReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for claim in claims {
        all.push(match answer.integer()? {
            -1 => Err(late(&claim.name)),
            0 => Ok(RenewReply::NotHeld),
            ms => match u64::try_from(ms) {
                Ok(ms) => Ok(RenewReply::Renewed { ttl: Duration::from_millis(ms) }),
                Err(_) => return Err(answer.senseless()),
            },
        });
    }
    Ok(all)
}
