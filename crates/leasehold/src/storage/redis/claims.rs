//! Claims as a script wants them, and its answers as the engine wants them.

use std::time::Duration;

use super::answers::explain_text;
use super::config::Config;
use super::keys::{Companion, Keys};
use super::link::Link;
use super::request::{ACQUIRE, Answer, INSPECT, Part, RELEASE, RENEW, Request};
use crate::clock::{Moment, millis};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{AcquireReply, Claim, Holder, Name, Owner, ReleaseReply, RenewReply, Token, WAITER_TTL};

/// What a batch's scripts need besides the claims.
#[derive(Clone, Copy)]
pub(in crate::storage) struct Around<'a> {
    pub(in crate::storage) config: &'a Config,
    /// This client's id.
    pub(in crate::storage) client: &'a str,
    /// Whether this client's channel is listened to.
    pub(in crate::storage) listening: bool,
    pub(in crate::storage) cluster: bool,
}

pub(in crate::storage) fn acquire_request(
    around: Around<'_>,
    link: &Link,
    claims: &[&Claim],
    sent: Moment,
) -> Request {
    let (keys, grace) = (&around.config.keys, around.config.failover_grace);
    let epoch = usize::from(grace.is_some());
    let mut request = Request::new(&ACQUIRE, keys_of(around, claims) + epoch, claims.len() + 10);
    own_keys(&mut request, keys, claims);
    queue_keys(&mut request, around, claims);
    if grace.is_some() {
        request.text(&keys.epoch());
    }
    let run_id = if grace.is_some() { link.facts.identity.run_id.as_str() } else { "" };
    request.args().put(claims.len()).text(run_id).put(grace.map_or(0, millis)).put(millis(WAITER_TTL));
    for claim in claims {
        request.put(claim.owner);
    }
    // Nobody is told on a channel that is not listened to; so its waiters are only found by asking.
    let waits = if around.listening { 'w' } else { 's' };
    let mut last = 0;
    for alike in
        claims.chunk_by(|a, b| (a.ttl, a.patience, a.wait, &a.label) == (b.ttl, b.patience, b.wait, &b.label))
    {
        let (claim, ttl) = (alike[0], millis(alike[0].ttl));
        last += alike.len();
        request.put(last).put(ttl);
        not_after(&mut request, link, claim, sent);
        request.put(format_args!("{}{ttl:08}", around.client));
        let wait = if claim.wait { waits } else { '-' };
        request.with(|text| {
            text.push(wait);
            text.push_str(claim.label.as_deref().unwrap_or_default());
        });
    }
    request
}

/// Puts the last moment at which a claim may be executed, by the server's clock, as wide as the scripts want it.
fn not_after(request: &mut Request, link: &Link, claim: &Claim, sent: Moment) {
    let limit = link.time.not_after(sent, claim.patience).unwrap_or(0);
    request.put(format_args!("{limit:016}"));
}

/// How many keys there are, without the epoch.
fn keys_of(around: Around<'_>, claims: &[&Claim]) -> usize {
    claims.len() * if around.cluster { 4 } else { 2 }
}

fn own_keys(request: &mut Request, keys: &Keys, claims: &[&Claim]) {
    for claim in claims {
        request.with(|key| keys.lock(&claim.name, key));
        request.with(|key| keys.companion(&claim.name, Companion::Record, key));
    }
}

/// On one server the scripts put these together when they are needed.
fn queue_keys(request: &mut Request, around: Around<'_>, claims: &[&Claim]) {
    let keys = &around.config.keys;
    for claim in claims.iter().filter(|_| around.cluster) {
        request.with(|key| keys.companion(&claim.name, Companion::Queue, key));
        request.with(|key| keys.companion(&claim.name, Companion::Waiters, key));
    }
}

pub(in crate::storage) fn acquired(
    mut answer: Answer<'_>,
    claims: &[&Claim],
) -> Result<Vec<Result<AcquireReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for claim in claims {
        let mut answer = match answer.part()? {
            Part::List(list) => list,
            Part::Number(token) => {
                let token = match u64::try_from(token) {
                    Ok(1) => answer.time,
                    Ok(token) if token > 1 => token,
                    _ => return Err(answer.senseless()),
                };
                all.push(Ok(AcquireReply::Granted { token: Token::new(token), ttl: claim.ttl }));
                continue;
            }
        };
        all.push(match answer.integer()? {
            2 => {
                let holder = holder(&mut answer, &claim.name)?;
                let retry_after = u64::try_from(answer.integer()?).ok().map(Duration::from_millis);
                Ok(AcquireReply::Held { holder, retry_after })
            }
            3 => Err(late(&claim.name)),
            4 => Err(foreign(&answer.text()?, &claim.name)),
            5 => Err(explain_text(&answer.text()?, answer.place())),
            6 => Err(explain_text(&answer.text()?, answer.place()).definite()),
            7 => return Err(explain_text(&answer.text()?, answer.place())),
            8 => {
                let others = Duration::from_millis(answer.number()?);
                let text = "other clients of this prefix use another `failover_grace`; all must use the same";
                return Err(Error::new(ErrorKind::Unsupported, format!("{text} theirs=`{others:?}`")));
            }
            _ => return Err(answer.senseless()),
        });
    }
    Ok(all)
}

pub(in crate::storage) fn renew_request(
    around: Around<'_>,
    link: &Link,
    claims: &[&Claim],
    sent: Moment,
) -> Request {
    let mut request = Request::new(&RENEW, claims.len() * 2, claims.len() * 3 + 2);
    own_keys(&mut request, &around.config.keys, claims);
    request.args().put(claims.len()).text(&around.config.keys.channels());
    for claim in claims {
        request.put(claim.owner).put(millis(claim.ttl));
        if claim.shorten {
            not_after(&mut request, link, claim, sent);
        } else {
            request.text("");
        }
    }
    request
}

pub(in crate::storage) fn renewed(
    mut answer: Answer<'_>,
    claims: &[&Claim],
) -> Result<Vec<Result<RenewReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for claim in claims {
        all.push(match answer.integer()? {
            -1 => Err(late(&claim.name)),
            0 => Ok(RenewReply::NotHeld),
            ms => match u64::try_from(ms) {
                Ok(ms) => Ok(RenewReply::Renewed { ttl: Duration::from_millis(ms) }),
                Err(_) => return Err(answer.senseless()),
            },
        });
    }
    Ok(all)
}

pub(in crate::storage) fn release_request(around: Around<'_>, claims: &[&Claim]) -> Request {
    let keys = &around.config.keys;
    let mut request = Request::new(&RELEASE, keys_of(around, claims), claims.len() + 4);
    own_keys(&mut request, keys, claims);
    queue_keys(&mut request, around, claims);
    request.args().put(claims.len()).text(around.client).text(&keys.channels());
    request.text(if around.cluster { "cluster" } else { "" });
    for claim in claims {
        request.put(claim.owner);
    }
    request
}

/// The same without the keys of the queue, for a Cluster: they need not be there, and only pass the turn on.
pub(in crate::storage) fn narrow_release_request(around: Around<'_>, claims: &[&Claim]) -> Request {
    let keys = &around.config.keys;
    let mut request = Request::new(&RELEASE, claims.len() * 2, claims.len() + 4);
    own_keys(&mut request, keys, claims);
    request.args().put(claims.len()).text(around.client).text(&keys.channels()).text("narrow");
    for claim in claims {
        request.put(claim.owner);
    }
    request
}

pub(in crate::storage) fn released(
    mut answer: Answer<'_>,
    claims: &[&Claim],
) -> Result<Vec<Result<ReleaseReply>>> {
    let mut all = Vec::with_capacity(claims.len());
    for _ in claims {
        all.push(match answer.integer()? {
            0 => Ok(ReleaseReply::NotHeld),
            1 => Ok(ReleaseReply::Released),
            -1 => Err(explain_text("TRYAGAIN", answer.place())),
            _ => return Err(answer.senseless()),
        });
    }
    Ok(all)
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
pub(in crate::storage) fn narrow_inspect_request(keys: &Keys, names: &[&Name]) -> Request {
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
