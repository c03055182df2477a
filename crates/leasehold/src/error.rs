use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::lost::Lost;
use crate::storage::{Holder, Name};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: what went wrong, with which lock, and how to react.
///
/// One pointer wide and cheap to clone. Programs should look at [`Error::kind`]. The text is for people and
/// may change in any release.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// The kind of an [`Error`], which tells how to react.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Locks::close`](crate::Locks::close) was called. Do nothing; the program is shutting down.
    Closed,
    /// Another client held the lock for the whole wait. Try later, or skip the work. [`Error::holder`] and
    /// [`Error::waited`] give details.
    Contended,
    /// The system has run out of a resource, or a part of it failed; the text names it. Otherwise this is a bug of
    /// this library or of a storage: report it.
    Internal,
    /// A name, a URL, a ticket or an option is wrong, or the storage cannot take it. Fix the call; a retry fails, too.
    Invalid,
    /// The lock was held and has been lost. Stop; treat the work as unfinished.
    Lost,
    /// The storage did not answer, so the state is unknown. Retry, or give up.
    Unavailable,
    /// This storage does not support the call, or lacks what the call needs, such as a permission; the text names it.
    /// Set it up, or choose another storage or another option.
    Unsupported,
}

impl ErrorKind {
    /// Returns the kind as one word: `closed`, `contended`, `internal`, `invalid`, `lost`, `unavailable`, `unsupported`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Contended => "contended",
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::Lost => "lost",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }
}

/// The content of an error. It is copied before a change if it is shared.
#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    text: String,
    holder: Option<Holder>,
    waited: Option<Duration>,
    lost: Option<Lost>,
    definite: bool,
    source: Option<Source>,
}

type Source = Arc<dyn std::error::Error + Send + Sync>;

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

    /// Marks the error as definite: the storage has not executed the request and never will. Storages use this for a
    /// claim that they refuse for good, so that nothing has to be cleaned up.
    #[must_use]
    pub fn definite(self) -> Self {
        self.map(|inner| inner.definite = true)
    }

    /// Returns `true` if the storage has not executed the request and never will.
    pub(crate) fn is_definite(&self) -> bool {
        self.0.definite && self.0.kind != ErrorKind::Unavailable
    }

    /// Adds the error that caused this one. Earlier sources stay, at the end of the new one's chain.
    ///
    /// If there were earlier sources, the new ones keep only their texts, unless they are of this type.
    ///
    /// ```
    /// use std::error::Error as _;
    /// use leasehold::{Error, ErrorKind};
    ///
    /// let text = |text| Error::new(ErrorKind::Unavailable, text);
    /// let error = text("no server").with_source(text("refused")).with_source(text("timed out"));
    /// let chain: Vec<_> = std::iter::successors(error.source(), |&e| e.source()).map(|e| e.to_string()).collect();
    /// assert_eq!(chain, ["timed out", "refused"]);
    /// ```
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.map(|inner| {
            inner.source = Some(match inner.source.take() {
                None => Arc::new(source),
                Some(earlier) => append(&source, earlier),
            });
        })
    }

    /// Returns the kind, which tells how to react.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the holder that was observed, for [`ErrorKind::Contended`], with its times.
    ///
    /// Returns `None` if only waiters were ahead of this one.
    pub fn holder(&self) -> Option<&Holder> {
        self.0.holder.as_ref()
    }

    /// Returns how long the caller had waited, if another client kept the lock or the storage did not answer.
    pub fn waited(&self) -> Option<Duration> {
        self.0.waited
    }

    /// Returns why the lock was lost, for [`ErrorKind::Lost`].
    pub fn lost(&self) -> Option<Lost> {
        self.0.lost
    }

    /// Returns the error of a wait in which another client held the lock.
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

    /// Returns the error of a call that the storage did not answer in time.
    pub(crate) fn unavailable(name: &Name, waited: Duration, source: Option<&Self>) -> Self {
        let text = format!("the storage did not answer in time; retry name=`{name}` waited=`{waited:.1?}`");
        let error = Self::new(ErrorKind::Unavailable, text).map(|inner| inner.waited = Some(waited));
        match source {
            Some(source) => error.with_source(source.clone()),
            None => error,
        }
    }

    /// Returns the error of a lock that is lost.
    pub(crate) fn lost_for(name: &Name, lost: Lost) -> Self {
        Self::new(
            ErrorKind::Lost,
            format!("the lock is lost; stop, the work is unfinished name=`{name}` why=`{lost}`"),
        )
        .map(|inner| inner.lost = Some(lost))
    }

    /// Returns the error of a call of a guard that has released its lock.
    pub(crate) fn released(name: &Name) -> Self {
        Self::invalid(format!("this guard has released the lock; acquire it again name=`{name}`"))
    }

    /// Returns the error of a call that has panicked, with the message of the panic.
    pub(crate) fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Self::new(ErrorKind::Internal, format!("{what} panic=`{}`", text.escape_debug()))
    }

    /// Returns the error of a client that was closed.
    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "this client was closed; connect again")
    }

    /// Returns the error of a call that is wrong.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    /// Changes the error, or a copy of it if it is shared.
    fn map(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

/// One error of a chain of sources that was made of two chains.
#[derive(Debug)]
struct Link {
    text: String,
    next: Source,
}

/// Returns the chain that begins with `first` and ends with `last`.
fn append(first: &(dyn std::error::Error + 'static), last: Source) -> Source {
    if let Some(error) = first.downcast_ref::<Error>() {
        return Arc::new(error.clone().map(|inner| {
            inner.source = Some(match inner.source.take() {
                None => last,
                Some(source) => append(&*source, last),
            });
        }));
    }
    let next = match first.source() {
        None => last,
        Some(source) => append(source, last),
    };
    Arc::new(Link { text: first.to_string(), next })
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Link {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.next)
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

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    fn chain(error: &Error) -> Vec<String> {
        std::iter::successors(error.source(), |&error| error.source()).map(ToString::to_string).collect()
    }

    fn error(text: &str) -> Error {
        Error::new(ErrorKind::Unavailable, text)
    }

    #[test]
    fn every_earlier_source_stays_at_the_end_of_the_chain() {
        let first = error("top").with_source(error("a").with_source(io::Error::other("b")));
        let second = first.with_source(error("c").with_source(io::Error::other("d")));
        assert_eq!(chain(&second), ["c", "d", "a", "b"]);
        let third = second.with_source(io::Error::other(error("e")));
        assert_eq!(chain(&third), ["e", "c", "d", "a", "b"]);
        assert_eq!(third.to_string(), "top");
    }

    #[test]
    fn errors_of_this_library_keep_their_kind_in_a_chain_of_two() {
        let inner = Error::new(ErrorKind::Unsupported, "inner");
        let error = error("top").with_source(io::Error::other("old")).with_source(inner);
        let source = error.source().and_then(|source| source.downcast_ref::<Error>());
        assert_eq!(source.map(Error::kind), Some(ErrorKind::Unsupported));
    }

    #[test]
    fn a_copy_that_is_changed_keeps_its_source_and_leaves_the_original_alone() {
        let original = error("top").with_source(io::Error::other("a"));
        let copy = original.clone().with_source(io::Error::other("b")).definite();
        assert_eq!(
            (chain(&original), chain(&copy)),
            (vec!["a".to_owned()], vec!["b".to_owned(), "a".to_owned()])
        );
        assert_eq!(copy.kind(), original.kind());
    }
}
