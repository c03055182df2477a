//! `leasehold renew TICKET`

use crate::args::Renew;
use crate::cmd::acquire;
use crate::exit::{Exit, Result};
use crate::session::{self, Context, Resumed};

pub(crate) async fn run(args: Renew, cx: &Context) -> Result<Exit> {
    let ticket = cx
        .with_locks(async |locks| {
            if let Some(ttl) = args.ttl {
                session::check_ttl("--ttl", ttl, locks)?;
            }
            let name = args.ticket.name().clone();
            let renewed = async {
                let lease = Resumed::resume(locks, args.ticket).await?;
                if let Some(ttl) = args.ttl {
                    lease.extend(ttl).await?;
                }
                Ok::<_, leasehold::Error>(lease.into_ticket())
            };
            match renewed.await {
                Err(error) => Err(session::ticket_failure(error, &name, locks).await),
                Ok(ticket) => Ok(ticket),
            }
        })
        .await?;
    let done = "the lease is renewed, and its ticket as good as before";
    acquire::print(&ticket, cx).map_err(|unprinted| unprinted.after(done))?;
    Ok(Exit::Success)
}
