//! Tells a process from its forks, which inherit its memory and none of its threads.

/// The process that something was made in.
///
/// A fork has a copy of every client and guard, but not the thread that keeps them, and its copies of mutexes may be
/// locked for ever. So whatever outlives a call checks this before it touches anything that is shared. The check is
/// one system call of about 50 ns: no flag in memory can tell a fork from its parent without `unsafe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// Returns the process that calls this.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Returns `true` in the same process, and `false` in a fork of it.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }
}
