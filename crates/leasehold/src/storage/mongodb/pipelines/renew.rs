use mongodb::bson::{Bson, Document, doc};

use super::{Params, TTL, ended, extended_ttl, extended_until, is_of_another_client, literal};

/// Lets the lease of a holder end a TTL from now, and leaves the id of the call in the document. Never shortens the lease, unless
/// the claim says so.
///
/// The holder's client is told if another client shortens its lease. `may_shorten` says whether any claim may.
pub(super) fn renew(params: Params<'_>, may_shorten: bool) -> Vec<Document> {
    if !may_shorten {
        return vec![
            doc! { "$set": { "ttl": extended_ttl(), "until": extended_until(), "call": literal(params.call) } },
            doc! { "$unset": "t" },
        ];
    }
    let shortens = |shortened: Bson, otherwise: Document| {
        doc! { "$cond": ["$t.claim.shorten", shortened, otherwise] }
    };
    let is_earlier = doc! { "$lt": [TTL, { "$subtract": ["$until", "$$NOW"] }] };
    let tells = doc! { "$and": ["$t.claim.shorten", is_earlier, is_of_another_client(params)] };
    vec![
        doc! { "$set": {
            "ttl": shortens(TTL.into(), extended_ttl()),
            "call": literal(params.call),
            "until": shortens(doc! { "$add": ["$$NOW", TTL] }.into(), extended_until()),
            "ended": { "$cond": [tells, ended(), "$ended"] },
        } },
        doc! { "$unset": "t" },
    ]
}
