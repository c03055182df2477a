//! `leasehold acquire NAME`

use std::time::Duration;

use leasehold::{Locks, Ticket};
use serde::Serialize;

use crate::args::Acquire;
use crate::exit::{Exit, Failure, Result};
use crate::output::{Reader, millis};
use crate::session::{self, Context};
use crate::{stdout, waiting};

pub(crate) async fn run(args: &Acquire, cx: &Context) -> Result<Exit> {
    if let Some(why) = stdout::unusable() {
        return Err(Failure::new(
            Exit::Bug,
            format!(
                "the ticket could not be printed, so the lock was not taken: {why}; if you do not want the ticket, write `>/dev/null`"
            ),
        ));
    }
    let ticket = cx
        .with_locks(async |locks| {
            let lock = session::lock(locks, &args.name, &args.lock);
            let guard = tokio::select! {
                guard = lock.acquire() => guard?,
                never = waiting::show(locks, locks.events(), cx.output) => match never {},
            };
            Ok(guard.into_ticket())
        })
        .await?;
    let (exit, why) = match print(&ticket, cx) {
        Ok(Reader::There) => return Ok(Exit::Success),
        Ok(Reader::Gone) => (Exit::Bug, "the reader of stdout has gone".to_owned()),
        Err(undelivered) => (undelivered.exit, undelivered.text.unwrap_or_default()),
    };
    Err(Failure { exit, ..give_back(ticket, &why, cx).await })
}

/// Releases a lease whose ticket got lost, because no other process can release it. No signal interrupts this: the signal
/// that led here may arrive only now.
async fn give_back(ticket: Ticket, why: &str, cx: &Context) -> Failure {
    // A storage may take that long for the two requests.
    const LONGEST: Duration = Duration::from_secs(5);
    let name = ticket.name().clone();
    let release = async {
        let locks = Locks::connect(cx.store.url()).await?;
        locks.resume(ticket).await?.release().await
    };
    let then = match tokio::time::timeout(LONGEST, release).await {
        Ok(Ok(())) => "so the lock was released again",
        _ => "and the lock could not be released; it ends with its ttl",
    };
    Failure::new(Exit::Bug, format!("the ticket could not be printed, {then} name=`{name}` error=`{why}`"))
}

/// Prints a ticket.
pub(crate) fn print(ticket: &Ticket, cx: &Context) -> Result<Reader> {
    #[derive(Serialize)]
    struct Json<'a> {
        name: &'a str,
        ticket: String,
        token: String,
        ttl_ms: u64,
    }
    let json = Json {
        name: ticket.name().as_str(),
        ticket: ticket.to_string(),
        token: ticket.token().to_string(),
        ttl_ms: millis(ticket.ttl()),
    };
    cx.output.result(&json, || ticket.to_string())
}
