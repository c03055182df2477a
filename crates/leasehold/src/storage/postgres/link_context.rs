//! What the links of a storage have in common.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::config::Config;
use super::statements::Statements;
use crate::clock::Clock;

/// What the links of a storage have in common.
#[derive(Clone)]
pub(super) struct LinkContext {
    pub(super) config: Arc<Config>,
    pub(super) statements: Arc<Statements>,
    pub(super) clock: Clock,
    /// Whether any client waited or observed when a statement of this client last looked.
    pub(super) has_waiters: Arc<AtomicBool>,
}

impl LinkContext {
    pub(super) fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
            statements: Arc::new(Statements::new(config)),
            clock: Clock::boot(),
            has_waiters: Arc::default(),
        }
    }
}
