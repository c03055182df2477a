//! The environment of the command of `run`.

use std::env;

use leasehold::{Guard, Owner, Ticket};

use crate::exit::Result;
use crate::store::{self, Store};

const NAME: &str = "LEASEHOLD_NAME";
const TOKEN: &str = "LEASEHOLD_TOKEN";
const TICKET: &str = "LEASEHOLD_TICKET";
/// The owners of all leases under which the command runs, the outermost first. The ticket names only the innermost.
const HELD: &str = "LEASEHOLD_HELD";

/// The part of the environment that is known before the lock is taken.
pub(crate) struct Environment {
    store: String,
}

impl Environment {
    /// Fails if no URL would lead the command to this storage from any working directory.
    pub(crate) fn new(hide_store: bool, store: &Store) -> Result<Self> {
        let store = if hide_store { store::HIDDEN.to_owned() } else { store.portable()? };
        Ok(Self { store })
    }

    /// Returns the variables of a command that runs under this guard.
    pub(crate) fn variables(&self, guard: &Guard) -> [(&'static str, String); 5] {
        let held = held().into_iter().chain([guard.owner()]).map(|owner| owner.to_string());
        [
            (NAME, guard.name().as_str().to_owned()),
            (TOKEN, guard.token().to_string()),
            (TICKET, guard.ticket().to_string()),
            (HELD, held.collect::<Vec<_>>().join(" ")),
            (store::VARIABLE, self.store.clone()),
        ]
    }
}

/// Returns the owners of the leases that this process runs under.
pub(crate) fn held() -> Vec<Owner> {
    let outer = env::var(HELD).unwrap_or_default();
    let mut held: Vec<Owner> = outer.split(' ').filter_map(|owner| owner.parse().ok()).collect();
    let ticket = env::var(TICKET).ok().and_then(|ticket| ticket.parse::<Ticket>().ok());
    held.extend(ticket.map(|ticket| ticket.owner()).filter(|owner| !held.contains(owner)));
    held
}
