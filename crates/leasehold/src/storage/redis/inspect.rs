//! Inspections: the holders of locks, without changing anything.

use std::sync::LazyLock;
use std::time::Duration;

use super::keys::{Companion, Keys};
use super::link::Link;
use super::operation::Operation;
use super::replies::{Entry, Reply, wrong_type};
use super::request::Request;
use super::script::{Script, script};
use crate::error::Result;
use crate::storage::{Holder, Name};

static SCRIPT: LazyLock<Script> = script!("inspect.lua");

pub(super) struct Inspect<'a> {
    pub(super) keys: &'a Keys,
}

impl Operation for Inspect<'_> {
    type Item = Name;
    type Reply = Option<Holder>;

    fn name<'i>(&self, name: &'i Name) -> &'i Name {
        name
    }

    fn limit(&self, _names: &[Name]) -> Option<Duration> {
        None
    }

    fn request(&self, _link: &Link, names: &[&Name]) -> Request {
        inspect_request(self.keys, names)
    }

    fn narrow(&self, names: &[&Name]) -> Option<Request> {
        Some(narrow_inspect_request(self.keys, names))
    }

    fn read(&self, reply: Reply<'_>, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
        inspected(reply, names)
    }
}

/// Returns the request for the holder of each name. On a Cluster all names have the same slot.
pub(super) fn inspect_request(keys: &Keys, names: &[&Name]) -> Request {
    let mut request = Request::new(&SCRIPT, names.len() * 3, 0);
    for name in names {
        request.with(|key| keys.lock(name, key));
        request.with(|key| keys.companion(name, Companion::Record, key));
        request.with(|key| keys.companion(name, Companion::Waiters, key));
    }
    request.args();
    request
}

/// Returns the same request without the waiters, whose key may be missing.
fn narrow_inspect_request(keys: &Keys, names: &[&Name]) -> Request {
    let mut request = Request::new(&SCRIPT, names.len() * 2, 1);
    for name in names {
        request.with(|key| keys.lock(name, key));
        request.with(|key| keys.companion(name, Companion::Record, key));
    }
    request.args().text("narrow");
    request
}

/// Reads one reply per name. A key of another type is an error, which `inspect` returns and `list` leaves out.
pub(super) fn inspected(mut reply: Reply<'_>, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let mut entry = match reply.entry()? {
            Entry::List(list) => list,
            Entry::Number(_) => {
                all.push(Ok(None));
                continue;
            }
        };
        all.push(match entry.integer()? {
            2 => Ok(entry.holder(name)?),
            4 => Err(wrong_type(&entry.text()?, name)),
            _ => return Err(entry.malformed()),
        });
    }
    Ok(all)
}
