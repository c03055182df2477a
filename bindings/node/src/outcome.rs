//! What calls return to JavaScript.

use std::error::Error as _;
use std::time::Duration;

use leasehold::{Change, Error, Event};
use napi::bindgen_prelude::{BigInt, Either7};
use napi_derive::napi;

use crate::guard::NativeGuard;
use crate::locks::NativeLocks;

/// The outcome of a call. `true` stands for nothing, and `false` for nothing to return: a lock that is held, a stream
/// that has ended.
pub(crate) type Outcome = Either7<bool, NativeGuard, Failure, Record, Vec<Holder>, Vec<Finding>, NativeLocks>;

/// A call that has ended.
#[napi(object, object_from_js = false)]
pub struct Settled {
    /// The number of the call.
    pub id: i64,
    /// Its outcome.
    pub value: Outcome,
}

/// What JavaScript throws as an object of one of its classes. It is returned, because an error of N-API has no fields.
#[napi(object, object_from_js = false)]
pub struct Failure {
    /// Always `true`. No other outcome has such a field.
    pub failed: bool,
    /// The kind, as one word.
    pub kind: &'static str,
    /// The text for people.
    pub message: String,
    /// The texts of the errors that caused this one, the nearest first.
    pub causes: Vec<String>,
    /// Why the lock was lost.
    pub why: Option<&'static str>,
    /// How long the caller had waited, in milliseconds.
    pub waited: Option<f64>,
    /// The holder that was observed.
    pub holder: Option<Holder>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        Self {
            failed: true,
            kind: error.kind().as_str(),
            message: error.to_string(),
            causes: causes.map(ToString::to_string).collect(),
            why: error.lost().map(leasehold::Lost::as_str),
            waited: error.waited().map(millis),
            holder: error.holder().map(Holder::from),
        }
    }
}

/// The holder of a lock. Times are in milliseconds.
#[napi(object, object_from_js = false)]
pub struct Holder {
    pub name: String,
    pub owner: String,
    pub token: BigInt,
    pub label: Option<String>,
    pub remaining: f64,
    pub held_for: Option<f64>,
    pub waiters: Option<f64>,
}

impl From<&leasehold::Holder> for Holder {
    fn from(holder: &leasehold::Holder) -> Self {
        Self {
            name: holder.name.to_string(),
            owner: holder.owner.to_string(),
            token: holder.token.get().into(),
            label: holder.label.as_deref().map(str::to_owned),
            remaining: if holder.remaining == Duration::MAX {
                f64::INFINITY
            } else {
                millis(holder.remaining)
            },
            held_for: holder.held_for.map(millis),
            waiters: holder.waiters.map(count),
        }
    }
}

/// A change of a lock, or an event of a client. Times are in milliseconds.
#[napi(object, object_from_js = false)]
#[derive(Default)]
pub struct Record {
    pub r#type: &'static str,
    pub name: Option<String>,
    pub token: Option<BigInt>,
    pub owner: Option<String>,
    pub holder: Option<Holder>,
    pub why: Option<&'static str>,
    pub waited: Option<f64>,
    pub held: Option<f64>,
    pub remaining: Option<f64>,
    pub count: Option<f64>,
}

impl From<Change> for Record {
    fn from(change: Change) -> Self {
        let record = Self { r#type: change.as_str(), ..Self::default() };
        match change {
            Change::Locked { holder } => Self { holder: Some(Holder::from(&holder)), ..record },
            _ => record,
        }
    }
}

impl From<Event> for Record {
    fn from(event: Event) -> Self {
        let kind = event.as_str();
        let of = |name: leasehold::Name, token: Option<leasehold::Token>| Self {
            r#type: kind,
            name: Some(name.to_string()),
            token: token.map(|token| token.get().into()),
            ..Self::default()
        };
        match event {
            Event::Acquired { name, token, waited } => {
                Self { waited: Some(millis(waited)), ..of(name, Some(token)) }
            }
            Event::Broken { name, owner, token } => {
                Self { owner: Some(owner.to_string()), ..of(name, Some(token)) }
            }
            Event::ClaimFailed { name, waited } => Self { waited: Some(millis(waited)), ..of(name, None) },
            Event::Lost { name, token, lost } => Self { why: Some(lost.as_str()), ..of(name, Some(token)) },
            Event::Missed { count: missed } => {
                Self { r#type: kind, count: Some(count(missed)), ..Self::default() }
            }
            Event::Released { name, token, held } => {
                Self { held: Some(millis(held)), ..of(name, Some(token)) }
            }
            Event::RenewFailed { name, token, remaining } => {
                Self { remaining: Some(millis(remaining)), ..of(name, Some(token)) }
            }
            Event::Renewed { name, token } => of(name, Some(token)),
            Event::Waiting { name, holder } => {
                Self { holder: holder.as_ref().map(Holder::from), ..of(name, None) }
            }
            _ => Self { r#type: kind, ..Self::default() },
        }
    }
}

/// What a storage reports about its servers or files.
#[napi(object, object_from_js = false)]
pub struct Finding {
    pub about: &'static str,
    pub detail: String,
    pub severity: &'static str,
}

impl From<leasehold::storage::Finding> for Finding {
    fn from(finding: leasehold::storage::Finding) -> Self {
        Self { about: finding.about, detail: finding.detail, severity: finding.severity.as_str() }
    }
}

/// Returns the outcome of a call that returns nothing.
pub(crate) fn nothing(result: leasehold::Result<()>) -> Outcome {
    result.map_or_else(|error| failed(&error), |()| Either7::A(true))
}

/// Returns the outcome of a call that failed.
pub(crate) fn failed(error: &Error) -> Outcome {
    Either7::C(Failure::from(error))
}

/// Returns the outcome of a call that returns holders.
pub(crate) fn holders(result: leasehold::Result<Vec<leasehold::Holder>>) -> Outcome {
    match result {
        Ok(holders) => Either7::E(holders.iter().map(Holder::from).collect()),
        Err(error) => failed(&error),
    }
}

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns milliseconds as a duration. JavaScript has checked that they are not negative.
pub(crate) fn duration(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or(Duration::MAX)
}

/// Returns a number as JavaScript counts.
fn count(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
