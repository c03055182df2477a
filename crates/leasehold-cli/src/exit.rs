//! The exit codes, and the one line that goes with a failure.

use std::error::Error as _;
use std::fmt::Write as _;
use std::process::ExitCode;

use leasehold::{Error, ErrorKind};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: success.
    Success,
    /// 1: `doctor` found something wrong.
    Unhealthy,
    /// The exit code of the command that `run` ran.
    Child(u8),
    /// 128+n: signal n ended the command, or this program while there was no command.
    Signal(u8),
    /// The same, by dying of signal n. Then a shell stops its script, as it would without `leasehold` between.
    Interrupted(u8),
    /// 64: the call is wrong.
    Usage,
    /// 69: the storage does not answer.
    Unavailable,
    /// 70: a bug, or the system has no resources left.
    Bug,
    /// 75: another client has the lock.
    Contended,
    /// 76: the lock was held and has been lost.
    Lost,
    /// 126: the command cannot be executed.
    NotExecutable,
    /// 127: the command was not found.
    NotFound,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unhealthy => 1,
            Self::Child(code) => code,
            Self::Signal(n) | Self::Interrupted(n) => 128_u8.saturating_add(n),
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::Contended => 75,
            Self::Lost => 76,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Contended => Self::Contended,
            ErrorKind::Lost => Self::Lost,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Invalid | ErrorKind::Unsupported => Self::Usage,
            _ => Self::Bug,
        }
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The reason why the program ends early: an exit code and a text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `None` prints nothing.
    pub(crate) text: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        let text = Some(text.into());
        Self { exit, text }
    }

    pub(crate) fn quiet(exit: Exit) -> Self {
        Self { exit, text: None }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// Says that the command has `done` what it was called for, in spite of this failure.
    pub(crate) fn after(self, done: &str) -> Self {
        let text = self.text.map(|text| format!("{done}, but {text}"));
        Self { text, ..self }
    }

    /// Makes a failure of something that a healthy system does not refuse.
    pub(crate) fn system(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(Exit::Bug, format!("{what}: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), chain(&error))
    }
}

/// Returns the text of an error and of its causes, on one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
