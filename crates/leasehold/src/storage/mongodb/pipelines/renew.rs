use mongodb::bson::{DateTime, Document, doc};

use super::{Params, ended, is_of_another_client, only_if};

/// Lets the owner's lease end a TTL from now. Never shortens it, unless the claim says so. Refused if the lease has ended;
/// a claim that shortens also if it comes too late.
///
/// The holder's client is told if another client shortens its lease.
pub(in crate::storage::mongodb) fn renew(params: Params<'_>) -> Vec<Document> {
    let ttl = params.ttl();
    let alive = doc! { "$gt": ["$until", "$$NOW"] };
    let rest = doc! { "$min": [{ "$subtract": ["$until", "$$NOW"] }, "$ttl"] };
    if !params.claim.shorten {
        let ttl = doc! { "$max": ["$t", ttl] };
        return vec![
            only_if(alive, rest),
            doc! { "$set": { "ttl": &ttl, "until": { "$add": ["$$NOW", &ttl] } } },
            doc! { "$unset": "t" },
        ];
    }
    let timely = doc! { "$lte": ["$$NOW", DateTime::from_millis(params.not_after)] };
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
