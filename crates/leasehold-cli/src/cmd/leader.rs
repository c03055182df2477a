//! `leasehold leader NAME`

use leasehold::{Leader, Name};
use serde::Serialize;

use crate::args;
use crate::exit::{Exit, Result};
use crate::output::{Reader, safe, short};
use crate::session::Context;
use crate::stdout::while_read;

pub(crate) async fn run(args: &args::Leader, cx: &Context) -> Result<Exit> {
    let name = Name::new(&args.name)?;
    cx.with_locks(async |locks| {
        let election = locks.election(&name);
        if !args.watch {
            print(&name, election.leader().await?.as_ref(), cx)?;
            return Ok(Exit::Success);
        }
        let mut leaders = election.leaders()?;
        while let Some(leader) = while_read(leaders.next()).await {
            if print(&name, leader.as_ref(), cx)? == Reader::Gone {
                break;
            }
        }
        Ok(Exit::Success)
    })
    .await
}

fn print(name: &Name, leader: Option<&Leader>, cx: &Context) -> Result<Reader> {
    let json = Json {
        name: name.as_str(),
        has_leader: leader.is_some(),
        value: leader.map(|leader| leader.value.as_str()),
        term: leader.map(|leader| leader.term.to_string()),
        leads_for_ms: leader
            .and_then(|leader| leader.leads_for)
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    };
    cx.output.result(&json, || match leader {
        Some(leader) => describe(name, leader),
        None => format!("{name} has no leader"),
    })
}

/// Describes the leader on one line: `NAME is led by VALUE for 3s, term 17`.
fn describe(name: &Name, leader: &Leader) -> String {
    let value = if leader.value.is_empty() { "(no value)".to_owned() } else { safe(&leader.value) };
    let time = leader.leads_for.map(|time| format!(" for {}", short(time))).unwrap_or_default();
    format!("{name} is led by {value}{time}, term {}", leader.term)
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    has_leader: bool,
    value: Option<&'a str>,
    term: Option<String>,
    leads_for_ms: Option<u64>,
}
