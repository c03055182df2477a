//! The guardian: a second process that ends the command's group when `run` cannot.
//!
//! When `run` dies, the kernel kills only the command itself, and not the command's children. While `run` is stopped,
//! it ends nothing. So the guardian watches the deadline of the lease, too, and it releases the lease after the death of
//! `run`: no other process knows when the command has ended.
//!
//! | File | What it contains |
//! |---|---|
//! | `handle.rs` | the guardian as `run` sees it: it is told, heard, and replaced when it ends |
//! | `process.rs` | one guardian process and the pipes to it |
//! | `message.rs` | the protocol: what `run` tells it, what it reports |
//! | `program.rs` | what the guardian process does, with a table of its states |
//! | `turn.rs` | the right to send the one SIGTERM of a loss |

mod handle;
mod message;
mod process;
mod program;
mod turn;

use std::io;
use std::time::Duration;

pub(super) use self::handle::{Guardian, Report};
pub(super) use self::program::main;
use super::clock::boot_nanos;
use crate::exit::Failure;

pub(super) const VERB: &str = "__guard";

fn broken(error: io::Error) -> Failure {
    Failure::system("cannot start the command's guardian", error)
}

fn after(duration: Duration) -> u64 {
    boot_nanos().saturating_add(nanos(duration))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
