//! Lists: finds the holders by their records. `SCAN` visits every key of the database.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{cmd, from_redis_value};

use super::errors::explain;
use super::inspect::{inspect_request, inspected};
use super::keys::Keys;
use super::link::{Link, Server};
use super::replies::malformed;
use crate::error::Result;
use crate::storage::progress::Progress;
use crate::storage::{Cursor, Holder, Name};

/// The number of keys that the server visits in one step, which takes less than half a millisecond.
const SCAN_STEP: usize = 1000;
/// The number of names that one request inspects, which takes about two milliseconds.
pub(super) const STEP: usize = 128;

/// The names that lists have not yet inspected, between their pages. The database is scanned once for all pages of a
/// list, and not once for each page.
#[derive(Default)]
pub(super) struct Pages(Mutex<Vec<Remainder>>);

/// The names that one list has not yet inspected.
struct Remainder {
    /// The number of the list. Another one that began later may find more.
    list: u64,
    prefix: String,
    /// The end of the page before.
    after: Cursor,
    names: BTreeSet<Name>,
}

/// The most lists that are kept, since a caller may not return for the rest of its list.
const LISTS_MAX: usize = 16;
/// The most names that are kept, unless one list alone has more.
const NAMES_MAX: usize = 1_000_000;

impl Pages {
    /// Takes the names that were left for this page, if this storage listed the page before.
    pub(super) fn take(
        &self,
        progress: &Progress,
        prefix: &str,
        after: Option<&Cursor>,
    ) -> Option<BTreeSet<Name>> {
        let mut rests = self.rests();
        let same = |rest: &Remainder| {
            rest.list == progress.list() && rest.prefix == prefix && Some(&rest.after) == after
        };
        let i = rests.iter().position(same)?;
        Some(rests.remove(i).names)
    }

    /// Keeps the names that are left after a page.
    fn keep(&self, rest: Remainder) {
        let mut rests = self.rests();
        let names = |rests: &[Remainder]| rests.iter().map(|rest| rest.names.len()).sum::<usize>();
        while rests.len() >= LISTS_MAX || !rests.is_empty() && names(&rests) + rest.names.len() > NAMES_MAX {
            rests.remove(0);
        }
        rests.push(rest);
    }

    fn rests(&self) -> MutexGuard<'_, Vec<Remainder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page that is being filled. If it is dropped, its names are kept for the next try, unless it is the first page: a
/// list that begins shows what is held at that time.
pub(super) struct Page<'p> {
    pages: &'p Pages,
    list: u64,
    prefix: &'p str,
    after: Option<&'p Cursor>,
    /// The names that are not inspected yet.
    names: BTreeSet<Name>,
    /// The names that were taken for inspection.
    taken: Vec<Name>,
    limit: usize,
    holders: Vec<Holder>,
}

impl<'p> Page<'p> {
    /// Begins a page of at most `limit` holders of these names.
    pub(super) fn of(
        pages: &'p Pages,
        progress: &Progress,
        prefix: &'p str,
        after: Option<&'p Cursor>,
        names: BTreeSet<Name>,
        limit: usize,
    ) -> Self {
        let list = progress.list();
        Self { pages, list, prefix, after, names, taken: Vec::new(), limit, holders: Vec::new() }
    }

    /// Takes the names to inspect next, in order. `None` if the page is full, or no name is left.
    pub(super) fn next(&mut self) -> Option<Vec<Name>> {
        let room = self.limit.saturating_sub(self.holders.len());
        let names: Vec<_> = (0..std::cmp::min(room, STEP)).map_while(|_| self.names.pop_first()).collect();
        self.taken.extend_from_slice(&names);
        Some(names).filter(|names| !names.is_empty())
    }

    /// Adds the holders of those names, in any order.
    pub(super) fn add(&mut self, mut holders: Vec<Holder>) {
        holders.retain(|holder| self.after.is_none_or(|after| holder.cursor() > *after));
        holders.sort_by_key(Holder::cursor);
        self.holders.extend(holders);
    }

    /// Ends the page, and keeps the names that are left for the next one.
    pub(super) fn end(mut self) -> Vec<Holder> {
        let holders = std::mem::take(&mut self.holders);
        self.taken.clear();
        // Even if no name is left: a caller that requests another page must not cause a scan only to learn that.
        if let Some(last) = holders.last().filter(|_| holders.len() >= self.limit) {
            self.keep(last.cursor());
        }
        self.after = None;
        holders
    }

    fn keep(&mut self, after: Cursor) {
        let names = std::mem::take(&mut self.names);
        self.pages.keep(Remainder { list: self.list, prefix: self.prefix.to_owned(), after, names });
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if let Some(after) = self.after.cloned() {
            self.names.extend(std::mem::take(&mut self.taken));
            self.keep(after);
        }
    }
}

/// Returns at most `limit` holders at one server whose names begin with `prefix` and come after `after`, in order.
pub(super) async fn on(
    server: &Arc<Server>,
    keys: &Keys,
    pages: &Pages,
    prefix: &str,
    after: Option<&Cursor>,
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
        let reply = inspect_request(keys, &names).send(server, &link).await?;
        page.add(inspected(reply, &names)?.into_iter().filter_map(|seen| seen.ok().flatten()).collect());
        progress.step();
    }
    Ok(page.end())
}

/// Returns the names for which one server has a record.
pub(super) async fn names(
    link: &Link,
    keys: &Keys,
    progress: &Progress,
    prefix: &str,
    after: Option<&Cursor>,
) -> Result<BTreeSet<Name>> {
    let (pattern, mut cursor, mut names) = (keys.pattern(prefix), "0".to_owned(), BTreeSet::new());
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_STEP).arg("TYPE").arg("string");
        let answer = link.call(&scan).await.map_err(|e| explain(&e, &link.place))?;
        let (next, found): (String, Vec<Vec<u8>>) =
            from_redis_value(answer).map_err(|_| malformed(&link.place))?;
        progress.step();
        let found = found.iter().filter_map(|record| keys.name_of(record));
        names.extend(found.filter(|name| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| *name >= after.name)
        }));
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
    fn a_list_scans_once_and_inspects_each_name_once() {
        let all: Vec<_> = (0..1_000).map(|n| Name::new(format!("{n:04}")).expect("valid")).collect();
        let (pages, mut inspected, mut after, mut listed) = (Pages::default(), Vec::new(), None, Vec::new());
        let (progress, other) = (Progress::begin(), Progress::begin());
        let mut names: BTreeSet<_> = all.iter().cloned().collect();
        loop {
            let given_up = after.clone();
            let mut page = Page::of(&pages, &progress, "", given_up.as_ref(), names, 200);
            if given_up.is_some() {
                // A page that is dropped halfway costs no second scan.
                assert!(page.next().is_some());
                drop(page);
                let names = pages.take(&progress, "", given_up.as_ref()).expect("the rest is kept");
                page = Page::of(&pages, &progress, "", given_up.as_ref(), names, 200);
            }
            while let Some(names) = page.next() {
                inspected.push(names.len());
                // Every other name is held.
                let held =
                    names.into_iter().filter(|name| name.as_str().ends_with(['0', '2', '4', '6', '8']));
                let holder =
                    |name: Name| Holder::new(name, Owner::random(), Token::new(1), std::time::Duration::ZERO);
                page.add(held.map(holder).collect());
            }
            let page = page.end();
            let more = page.len() == 200;
            after = page.last().map(Holder::cursor).or(after);
            listed.extend(page.into_iter().map(|holder| holder.name));
            if !more {
                break;
            }
            assert!(pages.take(&progress, "other", after.as_ref()).is_none());
            assert!(pages.take(&other, "", after.as_ref()).is_none());
            names = pages.take(&progress, "", after.as_ref()).expect("the rest is kept");
        }
        assert_eq!(listed, all.iter().step_by(2).cloned().collect::<Vec<_>>());
        assert!(inspected.iter().all(|count| *count <= STEP));
        let sum: usize = inspected.iter().sum();
        assert_eq!(sum, 1_000);
    }
}
