//! The engine of a client: one task that owns every acquisition from its first claim to its end. If a caller is
//! dropped or blocked, nothing of it stays held, queued or running.
//!
//! The stages of an acquisition are `attempt`, `resume`, `lease` and `cleanup`. Each is a pure state machine: it gets
//! the time and an input, and returns the next action. `actor` passes commands, replies, hints and timers to them, and
//! executes their actions. It knows no storage by name.
//!
//! ```text
//!  acquire ──▶ attempt ── granted ──▶ lease ── released, lost, detached ──▶ cleanup ──▶ gone
//!                 └── ended, and something may be left at the storage ─────────▲
//!  resume ───▶ resume ─── renewed ──▶ lease
//! ```

mod actor;
mod alarm;
mod attempt;
mod busy_poll;
mod call;
mod cleanup;
mod handle;
mod lane;
mod lease;
mod lease_status;
mod observers;
mod owner_map;
pub(crate) mod planted;
mod queue;
mod resume;
#[cfg(test)]
mod sim;
mod start;
mod timers;
mod timing;
mod work;

pub(crate) use self::actor::Home;
pub(crate) use self::handle::{Handle, Mode, Wanted, WeakHandle};
pub(crate) use self::lease_status::LeaseStatus;
pub(crate) use self::start::{connect, failed, start};
pub(crate) use self::timing::CLOSE_LIMIT;
