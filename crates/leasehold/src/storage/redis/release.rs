//! Releases.

use std::sync::LazyLock;
use std::time::Duration;

use super::errors::explain_script_error;
use super::link::Link;
use super::operation::{Context, Operation, shortest};
use super::replies::Reply;
use super::request::Request;
use super::script::{Script, script};
use crate::error::Result;
use crate::storage::{Claim, Name, ReleaseReply};

static SCRIPT: LazyLock<Script> = script!("release.lua");

pub(super) struct Release<'a> {
    pub(super) context: Context<'a>,
}

impl Operation for Release<'_> {
    type Item = Claim;
    type Reply = ReleaseReply;

    fn name<'i>(&self, claim: &'i Claim) -> &'i Name {
        &claim.name
    }

    fn limit(&self, claims: &[Claim]) -> Option<Duration> {
        shortest(claims, |claim| claim.patience)
    }

    fn request(&self, _link: &Link, claims: &[&Claim]) -> Request {
        let keys = self.context.key_count(claims);
        let mut request = Request::new(&SCRIPT, keys, claims.len() + 4);
        self.context.put_keys(&mut request, claims);
        self.put_args(&mut request, claims, if self.context.cluster { "cluster" } else { "" });
        request
    }

    fn narrow(&self, claims: &[&Claim]) -> Option<Request> {
        let mut request = Request::new(&SCRIPT, claims.len() * 2, claims.len() + 4);
        self.context.put_own_keys(&mut request, claims);
        self.put_args(&mut request, claims, "narrow");
        Some(request)
    }

    fn read(&self, mut reply: Reply<'_>, claims: &[&Claim]) -> Result<Vec<Result<ReleaseReply>>> {
        let mut all = Vec::with_capacity(claims.len());
        for _ in claims {
            all.push(match reply.integer()? {
                0 => Ok(ReleaseReply::NotHeld),
                1 => Ok(ReleaseReply::Released),
                -1 => Err(explain_script_error("TRYAGAIN", reply.place)),
                _ => return Err(reply.malformed()),
            });
        }
        Ok(all)
    }
}

impl Release<'_> {
    fn put_args(&self, request: &mut Request, claims: &[&Claim], keys: &str) {
        let Context { config, client, .. } = self.context;
        request.args().put(claims.len()).text(client).text(&config.keys.channels()).text(keys);
        for claim in claims {
            request.put(claim.owner);
        }
    }
}
