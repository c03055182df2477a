use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::lost::Lost;
use crate::storage::{Holder, Name};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with which lock, and what to do next.
///
/// One pointer wide and cheap to clone. Programs should look at [`Error::kind`]. The text is for people and
/// may change in any release.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Locks::close`](crate::Locks::close) was called. Do nothing; the program is shutting down.
    Closed,
    /// Another client held the lock for the whole wait. Try later, or skip the work. [`Error::holder`] and
    /// [`Error::waited`] give details.
    Contended,
    /// The system has run out of something, or a part of it failed: the text says which. Else a bug in this library or in
    /// a storage: report it.
    Internal,
    /// A name, a URL, a ticket or an option is wrong. Fix the call. Nothing was sent.
    Invalid,
    /// The lock was held and has been lost. Stop; treat the work as unfinished.
    Lost,
    /// The storage did not answer, so the state is unknown. Retry, or give up.
    Unavailable,
    /// This storage does not support the call. Choose another storage, or another option.
    Unsupported,
}

struct Inner {
    kind: ErrorKind,
    text: String,
    holder: Option<Holder>,
    waited: Option<Duration>,
    lost: Option<Lost>,
    definite: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error. Storages use this.
    ///
    /// The text is lower case, has no full stop, ends in values as ``name=`x` ``, and never shows a secret.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            text: text.into(),
            holder: None,
            waited: None,
            lost: None,
            definite: false,
            source: None,
        }))
    }

    /// Says that this is an answer: the storage has done nothing, and will not do it later. Storages use this for a
    /// claim that they refuse for good, so that nothing of it has to be undone.
    #[must_use]
    pub fn definite(self) -> Self {
        self.map(|inner| inner.definite = true)
    }

    /// Returns `true` if the storage has said that nothing was done and nothing will be.
    pub(crate) fn is_definite(&self) -> bool {
        self.0.definite && self.0.kind != ErrorKind::Unavailable
    }

    /// Adds the error that caused this one, and replaces an earlier one. Only its own text is part of the
    /// chain of sources.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.map(|inner| inner.source = Some(Box::new(source)))
    }

    /// Returns the kind, which tells what to do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the holder that was observed, for [`ErrorKind::Contended`], with its times.
    ///
    /// Returns `None` if only waiters were ahead of this one.
    pub fn holder(&self) -> Option<&Holder> {
        self.0.holder.as_ref()
    }

    /// Returns how long the caller had waited, for a failed acquisition.
    pub fn waited(&self) -> Option<Duration> {
        self.0.waited
    }

    /// Returns why the lock was lost, for [`ErrorKind::Lost`].
    pub fn lost(&self) -> Option<Lost> {
        self.0.lost
    }

    pub(crate) fn contended(name: &Name, holder: Option<Holder>, waited: Duration) -> Self {
        let seen = holder.as_ref().map_or_else(|| " holder=`other waiters`".to_owned(), describe);
        Self::new(
            ErrorKind::Contended,
            format!("another client has the lock; try later, wait longer, or skip name=`{name}`{seen} waited=`{waited:.1?}`"),
        )
        .map(|inner| {
            inner.holder = holder;
            inner.waited = Some(waited);
        })
    }

    pub(crate) fn unavailable(name: &Name, waited: Duration, source: Option<&Self>) -> Self {
        let text = format!("the storage did not answer in time; retry name=`{name}` waited=`{waited:.1?}`");
        let error = Self::new(ErrorKind::Unavailable, text).map(|inner| inner.waited = Some(waited));
        match source {
            Some(source) => error.with_source(source.clone()),
            None => error,
        }
    }

    pub(crate) fn lost_for(name: &Name, lost: Lost) -> Self {
        Self::new(
            ErrorKind::Lost,
            format!("the lock is lost; stop, the work is unfinished name=`{name}` why=`{lost}`"),
        )
        .map(|inner| inner.lost = Some(lost))
    }

    /// Returns the error of a call that has panicked, with the message of the panic.
    pub(crate) fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Self::new(ErrorKind::Internal, format!("{what} panic=`{}`", text.escape_debug()))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this client was closed; make a new one with `Locks::connect`")
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    fn map(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = match Arc::try_unwrap(self.0) {
            Ok(inner) => inner,
            Err(shared) => Inner {
                kind: shared.kind,
                text: shared.text.clone(),
                holder: shared.holder.clone(),
                waited: shared.waited,
                definite: shared.definite,
                lost: shared.lost,
                source: None,
            },
        };
        change(&mut inner);
        Self(Arc::new(inner))
    }
}

/// Describes a holder on one line: ``holder=`label` held_for=`3.2s` remaining=`8.1s` ``.
fn describe(holder: &Holder) -> String {
    let label = holder.label.as_deref().unwrap_or("unknown").escape_debug().to_string();
    let held = holder.held_for.map(|d| format!(" held_for=`{d:.1?}`")).unwrap_or_default();
    let remaining = match holder.remaining {
        Duration::MAX => "no end".to_owned(),
        remaining => format!("{remaining:.1?}"),
    };
    format!(" holder=`{label}`{held} remaining=`{remaining}`")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("text", &self.0.text);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
