//! `leasehold inspect NAME`

use leasehold::{Holder, Name};
use serde::Serialize;

use crate::args::OfName;
use crate::exit::{Exit, Result};
use crate::output::{HolderJson, describe, one_or_none};
use crate::session::Context;

pub(crate) async fn run(args: &OfName, cx: &Context) -> Result<Exit> {
    let name = Name::new(&args.name)?;
    let holders = cx.with_locks(async |locks| Ok(locks.inspect(&name).await?)).await?;
    for holder in one_or_none(&holders) {
        cx.output.result(&Json::new(&name, holder), || match holder {
            Some(holder) => format!("{name} is {}", describe(holder)),
            None => format!("{name} is free"),
        })?;
    }
    Ok(Exit::Success)
}

/// What is known of a lock; `list` prints the same.
#[derive(Serialize)]
pub(crate) struct Json<'a> {
    name: &'a str,
    held: bool,
    #[serde(flatten)]
    holder: Option<HolderJson<'a>>,
}

impl<'a> Json<'a> {
    pub(crate) fn new(name: &'a Name, holder: Option<&'a Holder>) -> Self {
        Self { name: name.as_str(), held: holder.is_some(), holder: holder.map(Into::into) }
    }
}
