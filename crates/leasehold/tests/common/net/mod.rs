//! What the tests of the storages over a network share. Whoever includes this has a module `tools` that says which
//! storage it is: `Bare`, `Config`, `Server`, a server that is `common`, `own` for a place that nobody else has, and
//! what goes by on the wire: the `marker` of an owner, and the words that `SUBSCRIBE`. A module here bears the name of
//! the tests that it is for.

pub(crate) mod clocks;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod tools;
pub(crate) mod unknown;
pub(crate) mod waking;
