//! Lists: the holders of all locks, as a majority reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::ballot::{majority, majority_holder, no_majority};
use super::inspect::UNCERTAIN;
use super::nodes::{Nodes, STEP_MAX};
use crate::error::Result;
use crate::storage::progress::Progress;
use crate::storage::redis::list::{Page, Pages};
use crate::storage::{Cursor, Holder, Name, Owner};

/// How long the servers may make no progress with their names.
const LIST_LIMIT: Duration = Duration::from_secs(4);

/// Returns at most `limit` of the holders that a majority reports, in order. While a server is silent, those holders are
/// left out for which its report is needed.
pub(super) async fn list(
    nodes: &Nodes,
    pages: &Pages,
    prefix: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Holder>> {
    let progress = Progress::current();
    let names = match pages.take(&progress, prefix, after) {
        Some(names) => names,
        None => names(nodes, &progress, prefix, after).await?,
    };
    // A server that was silent once is not awaited again.
    let mut silent = BTreeSet::new();
    let mut page = Page::of(pages, &progress, prefix, after, names, limit);
    while let Some(names) = page.next() {
        page.add(holders(nodes, names, &mut silent).await?);
        progress.step();
    }
    Ok(page.end())
}

/// Returns the names for which any server has a record. At least a majority of the servers has answered.
async fn names(
    nodes: &Nodes,
    progress: &Progress,
    prefix: &str,
    after: Option<&Cursor>,
) -> Result<BTreeSet<Name>> {
    let (prefix, after): (Arc<str>, _) = (prefix.into(), after.cloned());
    let mut replies = nodes.call(|node| {
        let (progress, prefix, after) = (progress.clone(), Arc::clone(&prefix), after.clone());
        Some(async move { node.names(&progress, &prefix, after.as_ref()).await })
    });
    let mut until = nodes.clock.now().after(LIST_LIMIT);
    let (mut names, mut answered, mut errors) = (BTreeSet::new(), 0, Vec::new());
    let mut made = progress.made();
    while answered + errors.len() < nodes.len() {
        let Some((_, answer)) = replies.next(until).await else {
            // A lock that a majority holds has a record at one server of every majority.
            if answered >= majority(nodes.len()) || progress.made() == made {
                break;
            }
            (made, until) = (progress.made(), nodes.clock.now().after(LIST_LIMIT));
            continue;
        };
        match answer {
            Ok(more) => {
                answered += 1;
                names.extend(more);
            }
            Err(error) => errors.push(error),
        }
        if answered == majority(nodes.len()) {
            until = nodes.clock.now().after(STEP_MAX);
        }
    }
    if answered < majority(nodes.len()) {
        return Err(no_majority(UNCERTAIN, errors.iter(), answered + errors.len(), nodes.len()));
    }
    Ok(names)
}

/// Returns the holders of these names that a majority reports.
async fn holders(nodes: &Nodes, names: Vec<Name>, silent: &mut BTreeSet<usize>) -> Result<Vec<Holder>> {
    let names: Arc<[Name]> = names.into();
    let mut replies = nodes.call(|node| {
        let names = Arc::clone(&names);
        Some(async move { node.holders(&names).await })
    });
    let until = nodes.clock.now().after(STEP_MAX);
    let (mut seen, mut errors): (BTreeMap<(Name, Owner), Vec<Holder>>, _) = (BTreeMap::new(), Vec::new());
    let (mut open, mut answered): (BTreeSet<_>, _) = ((0..nodes.len()).collect(), 0);
    while answered < majority(nodes.len()) || !open.is_subset(silent) {
        let Some((server, answer)) = replies.next(until).await else { break };
        open.remove(&server);
        match answer {
            Ok(holders) => {
                answered += 1;
                for holder in holders {
                    seen.entry((holder.name.clone(), holder.owner)).or_default().push(holder);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    silent.extend(open);
    if answered < majority(nodes.len()) {
        return Err(no_majority(UNCERTAIN, errors.iter(), answered + errors.len(), nodes.len()));
    }
    Ok(seen.into_values().filter_map(|same| majority_holder(same.iter(), nodes.len())).collect())
}
