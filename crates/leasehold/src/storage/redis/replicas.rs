//! Waits until replicas have a grant or a renewal, before it counts.
//!
//! If some of the replicas confirm, a failover is less likely to forget a lease, and may still do so: the replica that
//! becomes the primary may be another one. If all that could become the primary confirm, then whichever was promoted
//! followed this primary when the claim had been executed; so the claim was sent before the promotion, and the lease is
//! over at most one TTL after it (see `failover.rs`).

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value, cmd, from_redis_value};

use super::answers::explain;
use super::link::{Link, Server};
use super::operation::Verb;
use super::request::call_all;
use crate::clock::millis;
use crate::error::{Error, ErrorKind, Result};

/// The longest that replicas may take. The connection does nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks on a connection that is for nothing else, and believes what enough replicas have.
pub(super) async fn answer<V: Verb>(
    verb: &V,
    server: &Arc<Server>,
    items: &[&V::Item],
) -> Result<Vec<Result<V::Answer>>> {
    let link = server.link().await?;
    let request = verb.request(&link, items);
    let needed = verb.confirmations(link.confirmations);
    let mut after = vec![wait(needed, verb.patience(items))];
    if link.confirmations > 0 {
        after.push(cmd("INFO").arg("replication").take());
    }
    let asked = server.now();
    let called = call_all(&link, std::slice::from_ref(&request), false, &after).await;
    let (mut values, after) = called.map_err(|e| explain(&e, &link.place))?;
    let value = values.pop().unwrap_or_default();
    if let Value::ServerError(error) = value {
        let error = error.into();
        link.heed(&error);
        return Err(explain(&error, &link.place));
    }
    let answers = verb.read(request.answer(server, &link, asked, value)?, items)?;
    let confirmed = Confirmation::read(after, needed, &link);
    Ok(answers.into_iter().map(|answer| confirmed.of(verb, answer?)).collect())
}

/// Asks how many replicas have everything that was written on this connection.
pub(super) fn wait(needed: u32, patience: Duration) -> Cmd {
    // Zero would be for ever.
    let limit = std::cmp::max(millis(std::cmp::min(patience / 2, LIMIT)), 1);
    let mut command = cmd("WAIT");
    command.arg(needed).arg(limit);
    command
}

/// Whether enough replicas have what was written.
pub(super) struct Confirmation(Result<()>);

impl Confirmation {
    /// Reads the answers to `WAIT`, and to `INFO` if it was asked.
    pub(super) fn read(after: Vec<Value>, needed: u32, link: &Link) -> Self {
        let place = &link.place;
        let mut after = after.into_iter();
        let acks: u32 = match after.next() {
            Some(Value::ServerError(error)) => return Self(Err(explain(&error.into(), place))),
            Some(acks) => from_redis_value(acks).unwrap_or(0),
            None => return Self(Ok(())),
        };
        if acks < needed {
            let text = "too few replicas have it; look after them, or ask for less with the URL option \
                `wait_replicas`, and retry";
            let text = format!("{text} server=`{place}` wait_replicas=`{needed}` answered=`{acks}`");
            return Self(Err(Error::new(ErrorKind::Unavailable, text)));
        }
        let replicas = after.next().and_then(|info| from_redis_value::<String>(info).ok());
        let replicas = replicas.map_or(0, |info| replicas_in(&info));
        if replicas > u64::from(needed) {
            // One that has it may have come in place of one that has not. What is promised is found out anew.
            link.give_up();
            let text = "the primary has more replicas than when it was connected to; retry";
            return Self(Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))));
        }
        Self(Ok(()))
    }

    /// Takes back an answer that too few replicas have. It stands at the primary: who asks again, or releases, finds it.
    pub(super) fn of<V: Verb>(&self, verb: &V, answer: V::Answer) -> Result<V::Answer> {
        match &self.0 {
            Err(error) if verb.must_be_confirmed(&answer) => Err(error.clone()),
            _ => Ok(answer),
        }
    }
}

fn replicas_in(info: &str) -> u64 {
    let count = info.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(u64::MAX)
}
