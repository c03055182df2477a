//! Lists: the holders at all nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Cluster;
use crate::error::{ErrorKind, Result};
use crate::storage::progress::Progress;
use crate::storage::redis::inspect::Inspect;
use crate::storage::redis::list::{self, Page, Pages};
use crate::storage::{Cursor, Holder, Name};

impl Cluster {
    /// Returns at most `limit` holders at all nodes whose names begin with `prefix` and come after `after`, in order.
    pub(in crate::storage::redis) async fn list(
        self: &Arc<Self>,
        pages: &Pages,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Holder>> {
        let keys = &self.config.keys;
        let progress = Progress::current();
        let names = match pages.take(&progress, prefix, after) {
            Some(names) => names,
            None => self.names(&progress, prefix, after).await?,
        };
        let mut page = Page::of(pages, &progress, prefix, after, names, limit);
        while let Some(names) = page.next() {
            let mut holders = Vec::new();
            for seen in self.each(&Inspect { keys }, &names).await {
                match seen {
                    Ok(seen) => holders.extend(seen),
                    // A list must not silently omit what could not be inspected. A key of another type is no lock.
                    Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                    Err(_) => {}
                }
            }
            page.add(holders);
            progress.step();
        }
        Ok(page.end())
    }

    /// Returns the names for which any node has a record.
    async fn names(
        self: &Arc<Self>,
        progress: &Progress,
        prefix: &str,
        after: Option<&Cursor>,
    ) -> Result<BTreeSet<Name>> {
        let nodes = self.nodes();
        let found = join_all(nodes.iter().map(async |node| {
            let link = node.primary.server.link().await?;
            list::names(&link, &self.config.keys, progress, prefix, after).await
        }))
        .await;
        let mut names = BTreeSet::new();
        for found in found {
            names.extend(found.inspect_err(|_| self.refresh_soon())?);
        }
        Ok(names)
    }
}
