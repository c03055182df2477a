use mongodb::bson::{DateTime, Document, doc};

use super::{Params, ended, extended_ttl, extended_until, is_of_another_client, only_if};

/// Lets the owner's lease end a TTL from now. Never shortens it, unless the claim says so. Refused if the lease has ended;
/// a claim that shortens also if it comes too late.
///
/// The holder's client is told if another client shortens its lease.
pub(in crate::storage::mongodb) fn renew(params: Params<'_>) -> Vec<Document> {
    let ttl = params.ttl();
    let alive = doc! { "$gt": ["$until", "$$NOW"] };
    if !params.claim.shorten {
        return vec![
            only_if(alive, true),
            doc! { "$set": { "ttl": extended_ttl(ttl), "until": extended_until(ttl) } },
            doc! { "$unset": "t" },
        ];
    }
    let rest = doc! { "$subtract": ["$until", "$$NOW"] };
    let timely = doc! { "$lt": ["$$NOW", DateTime::from_millis(params.not_after)] };
    let shortens = doc! { "$and": [{ "$lt": [ttl, "$t"] }, is_of_another_client(params)] };
    vec![
        only_if(doc! { "$and": [alive, timely] }, rest),
        doc! { "$set": {
            "ttl": ttl,
            "until": { "$add": ["$$NOW", ttl] },
            "ended": { "$cond": [shortens, ended(params), "$ended"] },
        } },
        doc! { "$unset": "t" },
    ]
}
