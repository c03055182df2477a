//! Renewals.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::connect::LIMIT;
use super::link::{Link, Server};
use super::operation::{Context, Operation, put_limit, shortest};
use super::primary::Primary;
use super::replies::{Reply, too_late};
use super::request::Request;
use super::script::{Script, script};
use crate::clock::{Moment, millis};
use crate::error::Result;
use crate::storage::{Claim, Name, RenewReply};

static SCRIPT: LazyLock<Script> = script!("renew.lua");

pub(super) struct Renew<'a> {
    pub(super) context: Context<'a>,
    pub(super) sent: Moment,
}

impl Operation for Renew<'_> {
    type Item = Claim;
    type Reply = RenewReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        // A renewal needs time for several tries within a TTL.
        shortest(claims, |claim| claim.ttl / 6)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        let mut request = Request::new(&SCRIPT, claims.len() * 2, claims.len() * 3 + 2);
        self.context.put_own_keys(&mut request, claims);
        request.args().put(claims.len()).text(&self.context.config.keys.channels());
        for claim in claims {
            request.put(claim.owner).put(millis(claim.ttl));
            if claim.shorten {
                put_limit(&mut request, link, claim, self.sent);
            } else {
                request.text("");
            }
        }
        request
    }

    fn read(&self, mut reply: Reply<'_>, claims: &[&Claim]) -> Result<Vec<Result<RenewReply>>> {
        let mut all = Vec::with_capacity(claims.len());
        for claim in claims {
            all.push(match reply.integer()? {
                -1 => Err(too_late(&claim.name)),
                0 => Ok(RenewReply::NotHeld),
                ms => {
                    let ms = u64::try_from(ms).map_err(|_| reply.malformed())?;
                    Ok(RenewReply::Renewed { ttl: Duration::from_millis(ms) })
                }
            });
        }
        Ok(all)
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

    fn must_be_confirmed(&self, reply: &RenewReply) -> bool {
        matches!(reply, RenewReply::Renewed { .. })
    }
}
