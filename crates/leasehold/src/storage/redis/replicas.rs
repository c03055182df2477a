//! Waits until replicas have a grant, before anybody is told of it.
//!
//! That makes it less likely that a failover forgets a lease, and does not rule it out: the replica that becomes the
//! primary may be one that did not have the grant.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd, from_redis_value};

use super::answers::{Remedy, explain, remedy};
use super::claims::{Around, acquire_request, acquired};
use super::link::{Link, Server};
use crate::clock::{Moment, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Acquire, Claim};

/// The longest that replicas may take. The connection does nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// Acquires on a connection that is for nothing else, and grants what enough replicas have.
pub(super) async fn acquire(
    around: Around<'_>,
    server: &Server,
    link: &Link,
    claims: &[&Claim],
    sent: Moment,
) -> Result<Vec<Result<Acquire>>> {
    let request = acquire_request(around, server, link, claims, sent);
    let needed = around.config.wait_replicas;
    let asked = server.now();
    let call = async |command: Cmd| {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command).add_command(wait(needed, claims.iter().copied()));
        let mut values = link.call_all(&pipeline).await.map_err(|e| explain(&e, &link.place))?.into_iter();
        Ok::<_, Error>((values.next().unwrap_or_default(), values.next().unwrap_or_default()))
    };
    let (mut value, mut acks) = call(request.by_hash().clone()).await?;
    if let Value::ServerError(error) = &value
        && remedy(&error.clone().into()) == Remedy::SendScript
    {
        (value, acks) = call(request.by_text()).await?;
    }
    if let Value::ServerError(error) = value {
        let error = error.into();
        link.heed(&error);
        return Err(explain(&error, &link.place));
    }
    let answers = acquired(request.answer(server, link, asked, value)?, claims)?;
    Ok(answers.into_iter().map(|answer| confirmed(answer?, &acks, needed, &link.place)).collect())
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
