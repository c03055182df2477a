//! Waits until replicas have confirmed a grant or a renewal, before it counts.
//!
//! If some replicas confirm, a failover is less likely to lose a lease, but may still do so: another replica may become
//! the primary. If all replicas confirm that could become the primary, the one that is promoted still followed this
//! primary when it executed the claim. So the claim was sent before the promotion, and the lease ends at most one TTL
//! after it (see `failover.rs`).

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value, cmd, from_redis_value};

use super::errors::explain;
use super::link::{Link, Server};
use super::operation::Operation;
use super::request::Batch;
use crate::clock::millis;
use crate::error::{Error, ErrorKind, Result};

/// The longest that replicas may take. The connection is blocked meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// Executes an operation on a connection of its own. A reply counts only if enough replicas have confirmed it.
pub(super) async fn call<O: Operation>(
    operation: &O,
    server: &Arc<Server>,
    items: &[&O::Item],
) -> Result<Vec<Result<O::Reply>>> {
    let link = server.link().await?;
    let request = operation.request(&link, items);
    let needed = operation.confirmations(link.confirmations);
    let mut after = vec![wait(needed, operation.patience(items))];
    if link.confirmations > 0 {
        after.push(cmd("INFO").arg("replication").take());
    }
    let sent = server.now();
    let batch = Batch { requests: std::slice::from_ref(&request), asking: false, after: &after };
    let (mut values, after) = batch.send(&link).await.map_err(|e| explain(&e, &link.place))?;
    let value = values.pop().unwrap_or_default();
    if let Value::ServerError(error) = value {
        let error = error.into();
        link.retire_on(&error);
        return Err(explain(&error, &link.place));
    }
    let replies = operation.read(request.reply(server, &link, sent, value)?, items)?;
    let confirmation = Confirmation::read(after, needed, &link);
    Ok(replies.into_iter().map(|reply| confirmation.apply(operation, reply?)).collect())
}

/// Returns the command that waits until `needed` replicas have everything that was written on its connection.
pub(super) fn wait(needed: u32, patience: Duration) -> Cmd {
    // Zero would mean without a limit.
    let limit = std::cmp::max(millis(std::cmp::min(patience / 2, LIMIT)), 1);
    let mut command = cmd("WAIT");
    command.arg(needed).arg(limit);
    command
}

/// Whether enough replicas have confirmed what was written.
pub(super) struct Confirmation(Result<()>);

impl Confirmation {
    /// Reads the replies to `WAIT`, and to `INFO` if it was sent.
    pub(super) fn read(after: Vec<Value>, needed: u32, link: &Link) -> Self {
        let place = &link.place;
        let mut after = after.into_iter();
        let acks: u32 = match after.next() {
            Some(Value::ServerError(error)) => return Self(Err(explain(&error.into(), place))),
            Some(acks) => from_redis_value(acks).unwrap_or(0),
            None => return Self(Ok(())),
        };
        if acks < needed {
            let text = "too few replicas have confirmed; check them, or lower the URL option `wait_replicas`, and retry";
            let text = format!("{text} server=`{place}` wait_replicas=`{needed}` answered=`{acks}`");
            return Self(Err(Error::new(ErrorKind::Unavailable, text)));
        }
        let replicas = after.next().and_then(|info| from_redis_value::<String>(info).ok());
        let replicas = replicas.map_or(0, |info| replicas_in(&info));
        if replicas > u64::from(needed) {
            // A new replica may have confirmed in place of one that has not. The next connection checks what can be
            // promised.
            link.retire();
            let text = "the primary has more replicas than when it was connected to; retry";
            return Self(Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))));
        }
        Self(Ok(()))
    }

    /// Replaces a reply that too few replicas have confirmed by the error. The lease still exists at the primary, where a
    /// retry or a release finds it.
    pub(super) fn apply<O: Operation>(&self, operation: &O, reply: O::Reply) -> Result<O::Reply> {
        match &self.0 {
            Err(error) if operation.must_be_confirmed(&reply) => Err(error.clone()),
            _ => Ok(reply),
        }
    }
}

fn replicas_in(info: &str) -> u64 {
    let count = info.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(u64::MAX)
}
