//! Tests and helpers that the storages over a network share.
//!
//! A test crate that includes this has a module `tools`, which re-exports the `tools` here and adds what its storage
//! needs:
//!
//! | Name | What it is |
//! |---|---|
//! | `Bare` | the storage without an engine |
//! | `Config` | its configuration |
//! | `Server` | a server of the testbed |
//! | `common()` | the server that most tests share |
//! | `own(url)` | the same URL with a prefix that no other test uses |
//! | `marker(owner)` | the bytes of an owner in a request |
//! | `SUBSCRIBE` | the words of a request that subscribes to notifications |
//!
//! `calls` needs none of that. Each other module here has the name of the module of tests that uses it.

pub(crate) mod calls;
pub(crate) mod clocks;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod tools;
pub(crate) mod unknown;
pub(crate) mod waking;
