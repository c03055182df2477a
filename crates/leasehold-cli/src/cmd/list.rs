//! `leasehold list [PREFIX]`

use std::time::Duration;

use leasehold::Holder;

use crate::args::List;
use crate::cmd::inspect::Json;
use crate::exit::{Exit, Result};
use crate::output::{self, Reader, label, short};
use crate::session::Context;

pub(crate) async fn run(args: &List, cx: &Context) -> Result<Exit> {
    let holders = cx.with_locks(async |locks| Ok(locks.list(&args.prefix).await?)).await?;
    if cx.output.json {
        for holder in &holders {
            if cx.output.result(&Json::new(&holder.name, Some(holder)), String::new)? == Reader::Gone {
                break;
            }
        }
    } else {
        for line in table(&holders) {
            if output::line(&line)? == Reader::Gone {
                break;
            }
        }
    }
    Ok(Exit::Success)
}

/// Returns the holders in columns below a head, or no line if there are none.
fn table(holders: &[Holder]) -> Vec<String> {
    if holders.is_empty() {
        return Vec::new();
    }
    let head = ["NAME", "HOLDER", "HELD FOR", "LEFT", "WAITING", "TOKEN"].map(str::to_owned);
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = holders.iter().map(|holder| {
        [
            holder.name.to_string(),
            label(holder),
            known(holder.held_for.map(short)),
            match holder.remaining {
                Duration::MAX => "no end".to_owned(),
                remaining => short(remaining),
            },
            known(holder.waiters.map(|n| n.to_string())),
            holder.token.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
