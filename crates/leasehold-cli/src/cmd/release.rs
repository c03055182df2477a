//! `leasehold release TICKET`

use leasehold::ErrorKind;
use serde::Serialize;

use crate::args::OfTicket;
use crate::exit::{Exit, Result};
use crate::session::{self, Context, Resumed};

pub(crate) async fn run(args: OfTicket, cx: &Context) -> Result<Exit> {
    let (name, token) = (args.ticket.name().clone(), args.ticket.token());
    let print = |released| {
        let json = Json { name: name.as_str(), released, token: token.to_string() };
        cx.output.status(&json, || format!("{name} is released"))
    };
    cx.with_locks(async |locks| {
        let released = match Resumed::resume(locks, args.ticket).await {
            Ok(lease) => lease.release().await,
            Err(error) => Err(error),
        };
        let Err(error) = released else {
            return Ok(());
        };
        if error.kind() == ErrorKind::Lost && cx.output.json {
            // The exit code says that the lease is over, even if this cannot be printed.
            let _ = print(false);
        }
        Err(session::ticket_failure(error, &name, locks).await)
    })
    .await?;
    print(true).map_err(|unprinted| unprinted.after(&format!("{name} is released")))?;
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    released: bool,
    token: String,
}
