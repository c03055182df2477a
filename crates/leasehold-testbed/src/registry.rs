//! Every setup that tests can start, by name. A new storage is a folder with its `SETUPS`, and one line of
//! `STORAGES`; the conformance suite, the torture and the tests of the command line follow from that.

use std::fmt;

use crate::{Error, Result, Setup, Wanted, etcd, mongodb, postgres, redis, sqlite};

/// The setups of each storage.
#[rustfmt::skip]
const STORAGES: &[&[Entry]] = &[
    sqlite::SETUPS,
    redis::SETUPS,
    postgres::SETUPS,
    mongodb::SETUPS,
    etcd::SETUPS,
];

/// Returns all setups.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    STORAGES.iter().copied().flatten()
}

/// Returns the plainest setup of each storage that has a server, for tests that run once per storage.
pub fn plain() -> impl Iterator<Item = &'static Entry> {
    all().filter(|entry| entry.plain)
}

/// Returns the setup with that name.
///
/// # Errors
///
/// If there is no such setup. The text lists them.
pub fn find(name: &str) -> Result<&'static Entry> {
    all().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<_> = all().map(|entry| entry.name).collect();
        Error::new(format!("unknown setup name=`{name}` valid=`{}`", names.join(", ")))
    })
}

/// Starts the setup with that name.
///
/// # Errors
///
/// If there is no such setup, or it does not start.
pub fn start(name: &str, wanted: &Wanted) -> Result<Box<dyn Setup>> {
    find(name)?.start(wanted)
}

/// A function that starts a setup.
pub type Start = fn(&Wanted) -> Result<Box<dyn Setup>>;

/// A setup, and the tests that run over it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Entry {
    /// The name.
    pub name: &'static str,
    /// A description, for a list.
    pub about: &'static str,
    /// The scheme of the URLs with which Leasehold connects, or `None` while it has no such storage.
    pub scheme: Option<&'static str>,
    /// Whether this is the plainest setup of a storage that has a server.
    pub plain: bool,
    /// Whether another server can take over.
    pub fails_over: bool,
    /// What the conformance suite expects, or `None` if it runs over a similar setup instead.
    pub suite: Option<Expected>,
    /// The short tortures that every run of the tests contains.
    pub tortures: &'static [Torture],
    start: Start,
}

/// The optional promises that a storage must make in the conformance suite.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Expected {
    /// Whether waiters are served in order.
    pub fair: bool,
    /// Whether waiters are woken up.
    pub push: bool,
}

/// A short torture.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Torture {
    /// The seed, which makes the name of the test unique, too.
    pub seed: u64,
    /// The options of the storage's URL, or an empty text.
    pub options: &'static str,
    /// The further arguments of the torture program.
    pub args: &'static [&'static str],
}

impl Torture {
    /// Makes a torture with every fault.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, options: "", args: &[] }
    }

    /// Sets the options of the storage's URL.
    pub(crate) const fn options(mut self, options: &'static str) -> Self {
        self.options = options;
        self
    }

    /// Sets further arguments of the torture program.
    pub(crate) const fn args(mut self, args: &'static [&'static str]) -> Self {
        self.args = args;
        self
    }
}

impl Entry {
    /// Makes an entry that only the tests of this crate use.
    pub(crate) const fn new(name: &'static str, about: &'static str, start: Start) -> Self {
        let (scheme, suite, tortures) = (None, None, &[] as &[Torture]);
        Self { name, about, scheme, plain: false, fails_over: false, suite, tortures, start }
    }

    /// Adds the scheme with which Leasehold connects.
    pub(crate) const fn scheme(mut self, scheme: &'static str) -> Self {
        self.scheme = Some(scheme);
        self
    }

    /// Marks the plainest setup of a storage that has a server.
    pub(crate) const fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Declares that another server can take over.
    pub(crate) const fn fails_over(mut self) -> Self {
        self.fails_over = true;
        self
    }

    /// Adds the setup to the conformance suite, for a storage that is fair and wakes waiters up.
    pub(crate) const fn suite(mut self) -> Self {
        self.suite = Some(Expected { fair: true, push: true });
        self
    }

    /// Adds the setup to the conformance suite, for a storage without an order of waiters.
    pub(crate) const fn suite_without_order(mut self) -> Self {
        self.suite = Some(Expected { fair: false, push: true });
        self
    }

    /// Adds the setup to the conformance suite, for a storage that does not wake waiters up.
    pub(crate) const fn suite_without_push(mut self) -> Self {
        self.suite = Some(Expected { fair: true, push: false });
        self
    }

    /// Adds short tortures.
    pub(crate) const fn tortures(mut self, tortures: &'static [Torture]) -> Self {
        self.tortures = tortures;
        self
    }

    /// Starts the setup.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(&self, wanted: &Wanted) -> Result<Box<dyn Setup>> {
        (self.start)(wanted)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_seeds_are_unique() {
        let mut names = HashSet::new();
        assert!(all().all(|entry| names.insert(entry.name)));
        let mut seeds = HashSet::new();
        assert!(all().flat_map(|entry| entry.tortures).all(|torture| seeds.insert(torture.seed)));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let text = find("mysql").expect_err("there is none").to_string();
        assert!(text.contains("redis-sentinel"), "{text}");
    }

    #[test]
    fn only_storages_of_leasehold_are_in_its_tests() {
        for entry in all().filter(|entry| entry.scheme.is_none()) {
            assert!(entry.suite.is_none() && entry.tortures.is_empty() && !entry.plain, "{entry:?}");
        }
    }
}
