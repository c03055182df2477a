use std::collections::{HashMap, HashSet};
use std::time::Duration;

use leasehold::storage::{Claim, Holder, Name, Owner, Token};

use crate::Defect;

/// What the clients of one defective storage share besides the storage itself.
#[derive(Default)]
pub(crate) struct Shared {
    names: HashMap<Name, Known>,
    /// The waiters of a defective queue, in its order.
    pub(crate) queues: HashMap<Name, Vec<Claim>>,
    /// The owners that have released something.
    pub(crate) left: HashSet<Owner>,
    /// The owners of leases that were shortened. A defective storage sends them no hint.
    pub(crate) shortened: HashSet<Owner>,
}

/// The last grant of a name.
#[derive(Default)]
struct Known {
    owner: Option<Owner>,
    released: bool,
    ttl: Duration,
    /// The token as clients see it.
    token: u64,
}

/// A grant as clients see it.
pub(crate) struct Grant {
    pub(crate) token: Token,
    /// Whether the previous lease expired.
    pub(crate) takes_over: bool,
}

impl Shared {
    /// Records a grant, and counts its token in the way of the defect.
    pub(crate) fn granted(&mut self, claim: &Claim, token: Token, defect: Defect) -> Grant {
        let known = self.names.entry(claim.name.clone()).or_default();
        let again = known.owner == Some(claim.owner) && !known.released;
        let takes_over = known.owner.is_some() && !again && !known.released;
        known.token = match defect {
            Defect::NewTokenForTheSameOwner => known.token + 1,
            Defect::TokensRestart | Defect::TokenReusedAfterExpiry if again => known.token,
            Defect::TokensRestart if known.released => 1,
            Defect::TokensRestart => known.token + 1,
            Defect::TokenReusedAfterExpiry if takes_over => known.token,
            _ => token.get(),
        };
        (known.owner, known.released, known.ttl) = (Some(claim.owner), false, claim.ttl);
        Grant { token: Token::new(known.token), takes_over }
    }

    /// Returns a token that was not granted, but follows the last one.
    pub(crate) fn invented_token(&self, name: &Name) -> Token {
        Token::new(self.names.get(name).map_or(1, |known| known.token + 1))
    }

    /// Records a renewal for a storage that shows the whole TTL as what remains.
    pub(crate) fn renewed(&mut self, claim: &Claim) {
        if let Some(known) = self.names.get_mut(&claim.name) {
            known.ttl = claim.ttl;
        }
    }

    /// Records that an owner has released its lease.
    pub(crate) fn released(&mut self, claim: &Claim) {
        if let Some(known) = self.names.get_mut(&claim.name).filter(|known| known.owner == Some(claim.owner))
        {
            known.released = true;
        }
    }

    /// Returns `true` if the claim is for a shorter time than the last grant.
    pub(crate) fn is_shorter(&self, claim: &Claim) -> bool {
        self.names.get(&claim.name).is_some_and(|known| claim.ttl < known.ttl)
    }

    /// Returns the holder as clients see it.
    pub(crate) fn shown(&self, mut holder: Holder, defect: Defect) -> Holder {
        let Some(known) = self.names.get(&holder.name) else { return holder };
        match defect {
            Defect::NewTokenForTheSameOwner | Defect::TokenReusedAfterExpiry | Defect::TokensRestart => {
                holder.token = Token::new(known.token);
            }
            Defect::RemainderStands => holder.remaining = known.ttl,
            _ => {}
        }
        holder
    }
}
