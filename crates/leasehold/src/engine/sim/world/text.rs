//! The lines of the trace.

use super::super::wire::{Answer, Ask};
use super::World;
use crate::storage::{AcquireReply, Claim, Hint, Owner};

impl World {
    /// Returns the beginning of an owner id.
    pub(in crate::engine::sim) fn short(&self, owner: Owner) -> String {
        owner.to_string()[..6].to_owned()
    }

    pub(super) fn describe(&self, ask: &Ask) -> String {
        let list = |word: &str, claims: &[Claim]| {
            let each = claims.iter().map(|claim| {
                let wait = if claim.wait { " wait" } else { "" };
                let shorten = if claim.shorten { " shorten" } else { "" };
                format!("{} {} {:?}{wait}{shorten}", claim.name, self.short(claim.owner), claim.ttl)
            });
            format!("{word} [{}]", each.collect::<Vec<_>>().join(", "))
        };
        match ask {
            Ask::Acquire(claims) => list("acquire", claims),
            Ask::Inspect(name) => format!("inspect {name}"),
            Ask::Release(claims) => list("release", claims),
            Ask::Renew(claims) => list("renew", claims),
        }
    }

    pub(super) fn hint_text(&self, hint: &Hint) -> String {
        match hint {
            Hint::Owner(owner) => self.short(*owner),
            other => format!("{other:?}"),
        }
    }
}

pub(super) fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Acquire(answers) => {
            let each = answers.iter().map(|answer| match answer {
                Ok(AcquireReply::Granted { token, ttl }) => format!("granted {token} for {ttl:?}"),
                Ok(AcquireReply::Held { holder: Some(holder), .. }) => {
                    format!("held for {:?}", holder.remaining)
                }
                Ok(AcquireReply::Held { holder: None, .. }) => "held by waiters".to_owned(),
                Err(error) => error.to_string(),
            });
            each.collect::<Vec<_>>().join(", ")
        }
        Answer::Inspect(Ok(holder)) => format!("held by {:?}", holder.as_ref().map(|h| h.owner)),
        Answer::Inspect(Err(error)) => error.to_string(),
        Answer::Release(answers) => format!("{answers:?}"),
        Answer::Renew(answers) => format!("{answers:?}"),
    }
}
