//! The machine behind a client: one task that owns every acquisition from its first claim to its end, so
//! that a caller may be dropped, blocked or gone without anything staying held, queued or running.
//!
//! `attempt`, `resume`, `lease` and `cleanup` are the stages of an acquisition, pure; `actor` feeds them with
//! commands, answers, hints and time, and does what they say. It knows no storage by name.
//!
//! ```text
//!  acquire ──▶ attempt ── granted ──▶ lease ── released, lost, detached ──▶ cleanup ──▶ gone
//!                 └─────── given up, and something may be at the storage ──────▲
//!  resume ───▶ resume ─── renewed ──▶ lease
//! ```

mod actor;
mod alarm;
mod attempt;
mod call;
mod cleanup;
mod handle;
mod hold;
mod keeper;
mod lane;
mod lease;
mod linger;
mod observers;
mod owners;
pub(crate) mod planted;
mod queue;
mod resume;
#[cfg(test)]
mod sim;
mod start;
mod timing;
mod work;

pub(crate) use self::actor::Home;
pub(crate) use self::handle::Handle;
pub(crate) use self::hold::Hold;
pub(crate) use self::start::{connect, failed, start};
