//! `leasehold break NAME`

use leasehold::Name;
use serde::Serialize;

use crate::args::OfName;
use crate::exit::{Exit, Result};
use crate::output::{HolderJson, describe, one_or_none};
use crate::session::Context;

pub(crate) async fn run(args: &OfName, cx: &Context) -> Result<Exit> {
    let name = Name::new(&args.name)?;
    let holders = cx.with_locks(async |locks| Ok(locks.break_lock(&name).await?)).await?;
    let done = if holders.is_empty() { "was free" } else { "is broken" };
    for holder in one_or_none(&holders) {
        let json = Json { name: name.as_str(), broken: holder.is_some(), holder: holder.map(Into::into) };
        let printed = cx.output.result(&json, || match holder {
            Some(holder) => format!("{name} is broken; it was {}", describe(holder)),
            None => format!("{name} was free; nothing to break"),
        });
        printed.map_err(|unprinted| unprinted.after(&format!("{name} {done}")))?;
    }
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    broken: bool,
    #[serde(flatten)]
    holder: Option<HolderJson<'a>>,
}
