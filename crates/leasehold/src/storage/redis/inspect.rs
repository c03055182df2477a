//! Looks at holders: the request, and the replies to it.

use std::time::Duration;

use super::keys::{Companion, Keys};
use super::link::Link;
use super::operation::Verb;
use super::replies::{foreign, holder};
use super::request::{Answer, INSPECT, Part, Request};
use crate::error::Result;
use crate::storage::{Holder, Name};

pub(super) struct Inspecting<'a> {
    pub(super) keys: &'a Keys,
}

impl Verb for Inspecting<'_> {
    type Item = Name;
    type Answer = Option<Holder>;

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

    fn read(&self, answer: Answer<'_>, names: &[&Name]) -> Result<Vec<Result<Option<Holder>>>> {
        inspected(answer, names)
    }
}

/// Asks who holds each of the names; they are of one slot on a Cluster.
pub(in crate::storage) fn inspect_request(keys: &Keys, names: &[&Name]) -> Request {
    let mut request = Request::new(&INSPECT, names.len() * 3, 0);
    for name in names {
        request.with(|key| keys.lock(name, key));
        request.with(|key| keys.companion(name, Companion::Record, key));
        request.with(|key| keys.companion(name, Companion::Waiters, key));
    }
    request.args();
    request
}

/// The same without who waits, who need not be there.
fn narrow_inspect_request(keys: &Keys, names: &[&Name]) -> Request {
    let mut request = Request::new(&INSPECT, names.len() * 2, 1);
    for name in names {
        request.with(|key| keys.lock(name, key));
        request.with(|key| keys.companion(name, Companion::Record, key));
    }
    request.args().text("narrow");
    request
}

/// One answer per name. A key that is no lock is an error, which `inspect` shows and `list` leaves out.
pub(in crate::storage) fn inspected(
    mut answer: Answer<'_>,
    names: &[&Name],
) -> Result<Vec<Result<Option<Holder>>>> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let mut answer = match answer.part()? {
            Part::List(list) => list,
            Part::Number(_) => {
                all.push(Ok(None));
                continue;
            }
        };
        all.push(match answer.integer()? {
            2 => Ok(holder(&mut answer, name)?),
            4 => Err(foreign(&answer.text()?, name)),
            _ => return Err(answer.senseless()),
        });
    }
    Ok(all)
}
