//! `leasehold renew TICKET`

use crate::args::Renew;
use crate::cmd::acquire;
use crate::exit::{Exit, Result};
use crate::session::{self, Context};

pub(crate) async fn run(args: Renew, cx: &Context) -> Result<Exit> {
    let ticket = cx
        .with_locks(async |locks| {
            let name = args.ticket.name().clone();
            let renewed = async {
                let guard = locks.resume(args.ticket).await?;
                if let Some(ttl) = args.ttl {
                    guard.extend(ttl).await?;
                }
                Ok::<_, leasehold::Error>(guard.into_ticket())
            };
            match renewed.await {
                Err(error) => Err(session::of_ticket(error, &name, locks).await),
                Ok(ticket) => Ok(ticket),
            }
        })
        .await?;
    acquire::print(&ticket, cx)
}
