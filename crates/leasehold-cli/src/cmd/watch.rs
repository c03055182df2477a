//! `leasehold watch NAME`

use leasehold::{Change, Name};
use serde::Serialize;

use crate::args::OfName;
use crate::exit::{Exit, Result};
use crate::output::{HolderJson, Reader, describe};
use crate::session::Context;
use crate::stdout::while_read;

pub(crate) async fn run(args: &OfName, cx: &Context) -> Result<Exit> {
    let name = Name::new(&args.name)?;
    cx.with_locks(async |locks| {
        let mut changes = locks.observe(&name)?;
        while let Some(change) = while_read(changes.next()).await {
            let holder = match &change {
                Change::Locked { holder } => Some(holder),
                _ => None,
            };
            let json = Json {
                event: if holder.is_some() { "locked" } else { "unlocked" },
                name: name.as_str(),
                holder: holder.map(Into::into),
            };
            let reader = cx.output.result(&json, || match holder {
                Some(holder) => format!("locked    {name}: {}", describe(holder)),
                None => format!("unlocked  {name}"),
            })?;
            if reader == Reader::Gone {
                break;
            }
        }
        Ok(Exit::Success)
    })
    .await
}

#[derive(Serialize)]
struct Json<'a> {
    event: &'static str,
    name: &'a str,
    #[serde(flatten)]
    holder: Option<HolderJson<'a>>,
}
