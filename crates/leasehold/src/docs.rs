//! Pages about Leasehold: what it promises, how it is built, and why it is built so.
//!
//! They contain no items, and exist in the documentation only.

// A page links to other files of the repository, by names that it defines at its end. Here a definition before the
// page takes precedence and leads to a page of this documentation.

#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

/// [design]: crate::docs::design
/// [guarantees]: crate::docs::guarantees
#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

/// [waiting]: crate::docs::guarantees#waiting
#[doc = include_str!("../docs/design.md")]
pub mod design {}
