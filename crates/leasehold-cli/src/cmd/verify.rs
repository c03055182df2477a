//! `leasehold verify TICKET`

use serde::Serialize;

use crate::args::OfTicket;
use crate::exit::{Exit, Failure, Result};
use crate::output::{left, remaining_ms, state};
use crate::session::{self, Context};

pub(crate) async fn run(args: &OfTicket, cx: &Context) -> Result<Exit> {
    let (name, owner) = (args.ticket.name(), args.ticket.owner());
    let holders = cx
        .with_locks(async |locks| {
            session::check_ttl("the ttl of a ticket", args.ticket.ttl(), locks)?;
            Ok(locks.inspect(name.as_str()).await?)
        })
        .await?;
    let ours = holders.iter().find(|holder| holder.owner == owner);
    if ours.is_some_and(|holder| holder.token != args.ticket.token()) {
        // As `renew` and `release` say it.
        return Err(Failure::usage(format!(
            "the token in this ticket is not the lease's; the ticket was changed name=`{name}`"
        )));
    }
    let json = Json {
        name: name.as_str(),
        held: ours.is_some(),
        token: args.ticket.token().to_string(),
        remaining_ms: ours.and_then(remaining_ms),
    };
    if let Some(ours) = ours {
        cx.output.status(&json, || format!("{name} is held, {}", left(ours)))?;
        return Ok(Exit::Success);
    }
    if cx.output.json {
        // That the lease is over is the news, also if this cannot be printed.
        let _ = cx.output.result(&json, String::new);
    }
    let now = state(&holders);
    Err(Failure::new(Exit::Lost, format!("the lease of this ticket has ended name=`{name}` now=`{now}`")))
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    held: bool,
    token: String,
    remaining_ms: Option<u64>,
}
