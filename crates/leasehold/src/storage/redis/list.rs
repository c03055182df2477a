//! Finds holders by their records: `SCAN` goes over every key of the database.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{cmd, from_redis_value};

use super::answers::explain;
use super::inspect::{inspect_request, inspected};
use super::keys::Keys;
use super::link::{Link, Server};
use super::request::senseless;
use crate::error::Result;
use crate::storage::progress::Progress;
use crate::storage::{Holder, Name};

/// How many keys the server looks at, at a time: less than half a millisecond.
const SCAN_STEP: usize = 1000;
/// How many names it is asked for, at a time: about two milliseconds.
pub(in crate::storage) const STEP: usize = 128;

/// The names that lists going page by page have still to look at. The whole database is gone through once for all pages
/// of a list, and not once for each.
#[derive(Default)]
pub(in crate::storage) struct Pages(Mutex<Vec<Rest>>);

/// What is left of one list.
struct Rest {
    /// Which list it is. Another one that began later may have more to show.
    list: u64,
    prefix: String,
    /// Where the page before ended.
    after: Name,
    names: BTreeSet<Name>,
}

/// So many lists are remembered at a time, and so many names, but always one: a caller that does not come back for the
/// rest must not keep it for ever.
const MANY: usize = 16;
const MANY_NAMES: usize = 1_000_000;

impl Pages {
    /// Takes the names that were left for this page, if the page before was asked for here.
    pub(in crate::storage) fn take(
        &self,
        progress: &Progress,
        prefix: &str,
        after: Option<&Name>,
    ) -> Option<BTreeSet<Name>> {
        let mut rests = self.rests();
        let same =
            |rest: &Rest| rest.list == progress.list() && rest.prefix == prefix && Some(&rest.after) == after;
        let i = rests.iter().position(same)?;
        Some(rests.remove(i).names)
    }

    /// Keeps what is left after a page.
    fn keep(&self, rest: Rest) {
        let mut rests = self.rests();
        let names = |rests: &[Rest]| rests.iter().map(|rest| rest.names.len()).sum::<usize>();
        while rests.len() >= MANY || !rests.is_empty() && names(&rests) + rest.names.len() > MANY_NAMES {
            rests.remove(0);
        }
        rests.push(rest);
    }

    fn rests(&self) -> MutexGuard<'_, Vec<Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page that is being filled. One that is given up leaves its names to the next try, unless it is the first page: a
/// list that begins shows what is held then.
pub(in crate::storage) struct Page<'p> {
    pages: &'p Pages,
    list: u64,
    prefix: &'p str,
    after: Option<&'p Name>,
    /// Those to look at; they stay until their holders are known.
    names: BTreeSet<Name>,
    looked: Vec<Name>,
    limit: usize,
    holders: Vec<Holder>,
}

impl<'p> Page<'p> {
    /// Begins a page of at most `limit` holders of some of these names.
    pub(in crate::storage) fn of(
        pages: &'p Pages,
        progress: &Progress,
        prefix: &'p str,
        after: Option<&'p Name>,
        names: BTreeSet<Name>,
        limit: usize,
    ) -> Self {
        let list = progress.list();
        Self { pages, list, prefix, after, names, looked: Vec::new(), limit, holders: Vec::new() }
    }

    /// Takes the names to look at next, in order; `None` when the page is full, or there are no more.
    pub(in crate::storage) fn next(&mut self) -> Option<Vec<Name>> {
        let room = self.limit.saturating_sub(self.holders.len());
        let names: Vec<_> = (0..std::cmp::min(room, STEP)).map_while(|_| self.names.pop_first()).collect();
        self.looked.extend_from_slice(&names);
        Some(names).filter(|names| !names.is_empty())
    }

    /// Takes in the holders among those names, in any order.
    pub(in crate::storage) fn add(&mut self, mut holders: Vec<Holder>) {
        holders.sort_by(|a, b| a.name.cmp(&b.name));
        self.holders.extend(holders);
    }

    /// Ends the page, and keeps the names that are left for the next one.
    pub(in crate::storage) fn end(mut self) -> Vec<Holder> {
        let holders = std::mem::take(&mut self.holders);
        self.looked.clear();
        // Also if no name is left: a caller that asks for more must not have the database gone through again to learn that.
        if let Some(last) = holders.last().filter(|_| holders.len() >= self.limit) {
            self.keep(last.name.clone());
        }
        self.after = None;
        holders
    }

    fn keep(&mut self, after: Name) {
        let names = std::mem::take(&mut self.names);
        self.pages.keep(Rest { list: self.list, prefix: self.prefix.to_owned(), after, names });
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if let Some(after) = self.after.cloned() {
            self.names.extend(std::mem::take(&mut self.looked));
            self.keep(after);
        }
    }
}

/// Returns at most `limit` holders at one server whose names begin with `prefix` and come after `after`, in order.
pub(in crate::storage) async fn on(
    server: &Arc<Server>,
    keys: &Keys,
    pages: &Pages,
    prefix: &str,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Holder>> {
    let link = server.link().await?;
    let progress = Progress::current();
    let names = match pages.take(&progress, prefix, after) {
        Some(names) => names,
        None => names(&link, keys, &progress, prefix, after).await?,
    };
    let mut page = Page::of(pages, &progress, prefix, after, names, limit);
    while let Some(names) = page.next() {
        let names: Vec<_> = names.iter().collect();
        let answer = inspect_request(keys, &names).on(server, &link).await?;
        page.add(inspected(answer, &names)?.into_iter().filter_map(|seen| seen.ok().flatten()).collect());
        progress.step();
    }
    Ok(page.end())
}

/// Returns the names of which one server has a record.
pub(in crate::storage) async fn names(
    link: &Link,
    keys: &Keys,
    progress: &Progress,
    prefix: &str,
    after: Option<&Name>,
) -> Result<BTreeSet<Name>> {
    let (pattern, mut cursor, mut names) = (keys.pattern(prefix), "0".to_owned(), BTreeSet::new());
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_STEP).arg("TYPE").arg("string");
        let answer = link.call(&scan).await.map_err(|e| explain(&e, &link.place))?;
        let (next, found): (String, Vec<Vec<u8>>) =
            from_redis_value(answer).map_err(|_| senseless(&link.place))?;
        progress.step();
        let found = found.iter().filter_map(|record| keys.name_of(record));
        names.extend(
            found.filter(|name| name.as_str().starts_with(prefix) && after.is_none_or(|after| name > after)),
        );
        if next == "0" {
            return Ok(names);
        }
        cursor = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Owner, Token};

    #[test]
    fn a_list_is_gone_through_once_and_no_more_is_looked_at_than_a_page_takes() {
        let all: Vec<_> = (0..1_000).map(|n| Name::new(format!("{n:04}")).expect("valid")).collect();
        let (pages, mut looked, mut after, mut listed) = (Pages::default(), Vec::new(), None, Vec::new());
        let (progress, other) = (Progress::begin(), Progress::begin());
        let mut names: BTreeSet<_> = all.iter().cloned().collect();
        loop {
            let given_up = after.clone();
            let mut page = Page::of(&pages, &progress, "", given_up.as_ref(), names, 200);
            if given_up.is_some() {
                // A page that is given up while it looks costs no second scan.
                assert!(page.next().is_some());
                drop(page);
                let names = pages.take(&progress, "", given_up.as_ref()).expect("the rest is kept");
                page = Page::of(&pages, &progress, "", given_up.as_ref(), names, 200);
            }
            while let Some(names) = page.next() {
                looked.push(names.len());
                // Every other name is held.
                let held =
                    names.into_iter().filter(|name| name.as_str().ends_with(['0', '2', '4', '6', '8']));
                let holder =
                    |name: Name| Holder::new(name, Owner::random(), Token::new(1), std::time::Duration::ZERO);
                page.add(held.map(holder).collect());
            }
            let page = page.end();
            let more = page.len() == 200;
            after = page.last().map(|holder| holder.name.clone()).or(after);
            listed.extend(page.into_iter().map(|holder| holder.name));
            if !more {
                break;
            }
            assert!(pages.take(&progress, "other", after.as_ref()).is_none());
            assert!(pages.take(&other, "", after.as_ref()).is_none());
            names = pages.take(&progress, "", after.as_ref()).expect("the rest is kept");
        }
        assert_eq!(listed, all.iter().step_by(2).cloned().collect::<Vec<_>>());
        assert!(looked.iter().all(|count| *count <= STEP));
        let sum: usize = looked.iter().sum();
        assert_eq!(sum, 1_000);
    }
}
