//! What the tests of the storages over a network share. Whoever includes this has a module `tools` that says which
//! storage it is: `Bare`, `Config`, `Server`, and `own`, which makes a place that nobody else has.

pub(crate) mod logs;
pub(crate) mod tools;
