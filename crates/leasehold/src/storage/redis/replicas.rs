//! Waits until replicas have a grant, before anybody is told of it.
//!
//! That makes it less likely that a failover forgets a lease, and does not rule it out: the replica that becomes the
//! primary may be one that did not have the grant.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value, cmd, from_redis_value};

use super::answers::explain;
use super::link::Server;
use super::request::call_all;
use super::verbs::Verb;
use crate::clock::millis;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Acquire, Claim};

/// The longest that replicas may take. The connection does nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks on a connection that is for nothing else, and believes what enough replicas have.
pub(super) async fn answer<V: Verb>(
    verb: &V,
    server: &Arc<Server>,
    items: &[&V::Item],
    wait: &Cmd,
) -> Result<Vec<Result<V::Answer>>> {
    let link = server.link().await?;
    let request = verb.request(server, &link, items);
    let asked = server.now();
    let called = call_all(&link, std::slice::from_ref(&request), false, Some(wait)).await;
    let (mut values, acks) = called.map_err(|e| explain(&e, &link.place))?;
    let value = values.pop().unwrap_or_default();
    if let Value::ServerError(error) = value {
        let error = error.into();
        link.heed(&error);
        return Err(explain(&error, &link.place));
    }
    let answers = verb.read(request.answer(server, &link, asked, value)?, items)?;
    Ok(answers.into_iter().map(|answer| verb.confirmed(answer?, &acks, &link.place)).collect())
}

/// Asks how many replicas have everything that was written on this connection.
pub(super) fn wait<'a>(needed: u32, claims: impl Iterator<Item = &'a Claim>) -> Cmd {
    let shortest = claims.map(|claim| claim.patience).min().unwrap_or(LIMIT);
    // Zero would be for ever.
    let limit = std::cmp::max(millis(std::cmp::min(shortest / 2, LIMIT)), 1);
    let mut command = cmd("WAIT");
    command.arg(needed).arg(limit);
    command
}

/// Takes back a grant that too few replicas have. It stands at the primary: whoever asks again, or releases, finds it.
pub(super) fn confirmed(answer: Acquire, acks: &Value, needed: u32, place: &str) -> Result<Acquire> {
    let Acquire::Granted { .. } = answer else { return Ok(answer) };
    let acks: u32 = from_redis_value(acks.clone()).unwrap_or(0);
    if acks >= needed {
        return Ok(answer);
    }
    let text = "too few replicas have the grant; look after them, or ask for less with the URL option \
        `wait_replicas`, and retry";
    let text = format!("{text} server=`{place}` wait_replicas=`{needed}` answered=`{acks}`");
    Err(Error::new(ErrorKind::Unavailable, text))
}
