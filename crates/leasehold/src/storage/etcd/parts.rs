//! Calls that are too large for the server, in parts.

use std::future::Future;

use super::errors::Fault;
use crate::storage::Claim;

/// Completes the replies to a call: repeats it for those claims whose request was too large for the server, for half as many at a
/// time until it takes them.
pub(super) async fn in_parts<T, F>(
    claims: &[Claim],
    first: Vec<Result<T, Fault>>,
    call: impl Fn(Vec<Claim>) -> F,
) -> Vec<Result<T, Fault>>
where
    F: Future<Output = Vec<Result<T, Fault>>>,
{
    let mut replies = first;
    let mut size = claims.len();
    while size > 1 {
        let is_too_large = |i: &usize| matches!(&replies[*i], Err(fault) if fault.is_too_large());
        let refused: Vec<_> = (0..claims.len()).filter(is_too_large).collect();
        if refused.is_empty() {
            break;
        }
        size = size.div_ceil(2);
        for part in refused.chunks(size) {
            let again = part.iter().map(|i| claims[*i].clone()).collect();
            for (i, reply) in part.iter().zip(call(again).await) {
                replies[*i] = reply;
            }
        }
    }
    replies
}
