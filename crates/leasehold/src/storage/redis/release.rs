//! Releases: the request, and the replies to it.

use std::time::Duration;

use super::answers::explain_text;
use super::link::Link;
use super::operation::{Around, Verb, keys_of, own_keys, queue_keys, shortest};
use super::request::{Answer, RELEASE, Request};
use crate::error::Result;
use crate::storage::{Claim, Name, ReleaseReply};

pub(super) struct Releasing<'a> {
    pub(super) around: Around<'a>,
}

impl Verb for Releasing<'_> {
    type Item = Claim;
    type Answer = ReleaseReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, _link: &Link, claims: &[&Claim]) -> Request {
        release_request(self.around, claims)
    }

    fn narrow(&self, claims: &[&Claim]) -> Option<Request> {
        Some(narrow_release_request(self.around, claims))
    }

    fn read(&self, answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<ReleaseReply>>> {
        released(answer, claims)
    }
}

fn release_request(around: Around<'_>, claims: &[&Claim]) -> Request {
    let keys = &around.config.keys;
    let mut request = Request::new(&RELEASE, keys_of(around, claims), claims.len() + 4);
    own_keys(&mut request, keys, claims);
    queue_keys(&mut request, around, claims);
    request.args().put(claims.len()).text(around.client).text(&keys.channels());
    request.text(if around.cluster { "cluster" } else { "" });
    for claim in claims {
        request.put(claim.owner);
    }
    request
}

/// The same without the keys of the queue, for a Cluster: they need not be there, and only pass the turn on.
fn narrow_release_request(around: Around<'_>, claims: &[&Claim]) -> Request {
    let keys = &around.config.keys;
    let mut request = Request::new(&RELEASE, claims.len() * 2, claims.len() + 4);
    own_keys(&mut request, keys, claims);
    request.args().put(claims.len()).text(around.client).text(&keys.channels()).text("narrow");
    for claim in claims {
        request.put(claim.owner);
    }
    request
}

fn released(mut answer: Answer<'_>, claims: &[&Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for _ in claims {
        all.push(match answer.integer()? {
            0 => Ok(ReleaseReply::NotHeld),
            1 => Ok(ReleaseReply::Released),
            -1 => Err(explain_text("TRYAGAIN", answer.place())),
            _ => return Err(answer.senseless()),
        });
    }
    Ok(all)
}
