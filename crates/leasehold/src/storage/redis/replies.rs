//! What the replies of the scripts have in common.

use std::time::Duration;

use super::request::Answer;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Holder, Name, Owner, Token};

/// Reads owner, token, left, held for, waiters, label; nobody holds if there is no owner.
pub(in crate::storage) fn holder(answer: &mut Answer<'_>, name: &Name) -> Result<Option<Holder>> {
    let owner = answer.text()?;
    let token = answer.text()?;
    let left = answer.integer()?;
    let held_for = answer.integer()?;
    let waiters = u64::try_from(answer.integer()?).ok();
    let label = answer.text()?;
    if owner.is_empty() {
        return Ok(None);
    }
    let senseless = |_| answer.senseless();
    let (owner, token): (Owner, Token) =
        (owner.parse().map_err(senseless)?, token.parse().map_err(senseless)?);
    // A lock of another library may have no end.
    let remaining = u64::try_from(left).map_or(Duration::MAX, Duration::from_millis);
    Ok(Some(Holder {
        label: Some(label).filter(|label| !label.is_empty()).map(Into::into),
        held_for: u64::try_from(held_for).ok().map(Duration::from_millis),
        waiters,
        ..Holder::new(name.clone(), owner, token, remaining)
    }))
}

pub(in crate::storage) fn late(name: &Name) -> Error {
    let text = "the claim came too late and was refused; ask again";
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}

pub(in crate::storage) fn foreign(kind: &str, name: &Name) -> Error {
    let text = "the key of this lock is used for something else; choose another name, or another URL option `prefix`";
    Error::new(ErrorKind::Unsupported, format!("{text} name=`{name}` type=`{}`", kind.escape_debug()))
}
