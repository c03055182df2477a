//! Acquires.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::connect::LIMIT;
use super::errors::explain_script_error;
use super::link::{Link, Server};
use super::operation::{Context, Operation, put_limit, shortest};
use super::primary::Primary;
use super::replies::{Entry, Reply, too_late, wrong_type};
use super::request::Request;
use super::script::{Script, script};
use crate::clock::{Moment, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Name, Token, WAITER_TTL};

static SCRIPT: LazyLock<Script> = script!("acquire.lua");

pub(super) struct Acquire<'a> {
    pub(super) context: Context<'a>,
    pub(super) sent: Moment,
}

impl Operation for Acquire<'_> {
    type Item = Claim;
    type Reply = AcquireReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, link: &Link, claims: &[&Claim]) -> Request {
        let Context { config, client, .. } = self.context;
        let grace = config.failover_grace;
        let epoch = usize::from(grace.is_some());
        let keys = self.context.key_count(claims) + epoch;
        let mut request = Request::new(&SCRIPT, keys, claims.len() + 10);
        self.context.put_keys(&mut request, claims);
        if grace.is_some() {
            request.text(&config.keys.epoch());
        }
        let run_id = if grace.is_some() { link.facts.identity.run_id.as_str() } else { "" };
        request.args().put(claims.len()).text(run_id).put(grace.map_or(0, millis)).put(millis(WAITER_TTL));
        for claim in claims {
            request.put(claim.owner);
        }
        // Without a subscription a waiter is not notified: it learns of its turn when it retries.
        let waits = if self.context.listening { 'w' } else { 's' };
        let mut last = 0;
        for group in claims.chunk_by(|a, b| in_common(a) == in_common(b)) {
            let (claim, ttl) = (group[0], millis(group[0].ttl));
            last += group.len();
            request.put(last).put(ttl);
            put_limit(&mut request, link, claim, self.sent);
            request.put(format_args!("{client}{ttl:08}"));
            let wait = if claim.wait { waits } else { '-' };
            request.with(|text| {
                text.push(wait);
                text.push_str(claim.label.as_deref().unwrap_or_default());
            });
        }
        request
    }

    fn read(&self, mut reply: Reply<'_>, claims: &[&Claim]) -> Result<Vec<Result<AcquireReply>>> {
        let mut all = Vec::with_capacity(claims.len());
        for claim in claims {
            let entry = reply.entry()?;
            all.push(match entry {
                Entry::Number(token) => {
                    let token = match u64::try_from(token) {
                        Ok(1) => reply.time,
                        Ok(token) if token > 1 => token,
                        _ => return Err(reply.malformed()),
                    };
                    Ok(AcquireReply::Granted { token: Token::new(token), ttl: claim.ttl })
                }
                Entry::List(entry) => refusal(entry, claim)?,
            });
        }
        Ok(all)
    }

    fn confirming<'p>(&self, primary: &'p Primary) -> Option<&'p Arc<Server>> {
        let needed = self.context.config.wait_replicas > 0;
        primary.acquires.as_ref().filter(|server| needed || server.connector().promises_failovers())
    }

    fn confirmations(&self, least: u32) -> u32 {
        std::cmp::max(self.context.config.wait_replicas, least)
    }

    fn patience(&self, claims: &[&Claim]) -> Duration {
        claims.iter().map(|claim| claim.patience).min().unwrap_or(LIMIT)
    }

    fn must_be_confirmed(&self, reply: &AcquireReply) -> bool {
        matches!(reply, AcquireReply::Granted { .. })
    }
}

/// Returns what adjacent claims must have in common to be sent as one group.
fn in_common(claim: &Claim) -> (Duration, Duration, bool, Option<&str>) {
    (claim.ttl, claim.patience, claim.wait, claim.label.as_deref())
}

/// Reads the entry of a claim that was not granted. The outer error concerns all claims.
fn refusal(mut entry: Reply<'_>, claim: &Claim) -> Result<Result<AcquireReply>> {
    Ok(match entry.integer()? {
        2 => {
            let holder = entry.holder(&claim.name)?;
            let retry_after = u64::try_from(entry.integer()?).ok().map(Duration::from_millis);
            Ok(AcquireReply::Held { holder, retry_after })
        }
        3 => Err(too_late(&claim.name)),
        4 => Err(wrong_type(&entry.text()?, &claim.name)),
        5 => Err(explain_script_error(&entry.text()?, entry.place)),
        6 => Err(explain_script_error(&entry.text()?, entry.place).definite()),
        7 => return Err(explain_script_error(&entry.text()?, entry.place)),
        8 => {
            let others = Duration::from_millis(entry.number()?);
            let text = "other clients of this prefix use another `failover_grace`; all must use the same";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} theirs=`{others:?}`")));
        }
        _ => return Err(entry.malformed()),
    })
}
