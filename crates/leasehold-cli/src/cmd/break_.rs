//! `leasehold break NAME`

use leasehold::Name;
use serde::Serialize;

use crate::args::OfName;
use crate::exit::{Exit, Result};
use crate::output::{HolderJson, describe};
use crate::session::Context;

pub(crate) async fn run(args: &OfName, cx: &Context) -> Result<Exit> {
    let name = Name::new(&args.name)?;
    let holder = cx.with_locks(async |locks| Ok(locks.break_lock(&name).await?)).await?;
    let json =
        Json { name: name.as_str(), broken: holder.is_some(), holder: holder.as_ref().map(Into::into) };
    let printed = cx.output.result(&json, || match &holder {
        Some(holder) => format!("{name} is broken; it was {}", describe(holder)),
        None => format!("{name} was free; nothing to break"),
    });
    let done = if holder.is_some() { "is broken" } else { "was free" };
    printed.map_err(|unprinted| unprinted.after(&format!("{name} {done}")))?;
    Ok(Exit::Success)
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    broken: bool,
    #[serde(flatten)]
    holder: Option<HolderJson<'a>>,
}
