//! The environment of the command of `run`.

use std::env;

use leasehold::{Guard, Guards, Owner, Ticket};

use crate::exit::Result;
use crate::store::{self, Store};

const NAME: &str = "LEASEHOLD_NAME";
const TOKEN: &str = "LEASEHOLD_TOKEN";
const TICKET: &str = "LEASEHOLD_TICKET";
/// The owners of all leases under which the command runs, the outermost first. The tickets name only the innermost.
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

    /// Returns the variables of a command that runs under these guards.
    pub(crate) fn variables(&self, guards: &Guards) -> [(&'static str, String); 5] {
        let list =
            |text: fn(&Guard) -> String, between| guards.iter().map(text).collect::<Vec<_>>().join(between);
        let held = held().into_iter().chain(guards.iter().map(Guard::owner)).map(|owner| owner.to_string());
        [
            // A name may contain blanks. Tokens and tickets are words.
            (NAME, list(|guard| guard.name().as_str().to_owned(), "\n")),
            (TOKEN, list(|guard| guard.token().to_string(), " ")),
            (TICKET, list(|guard| guard.ticket().to_string(), " ")),
            (HELD, held.collect::<Vec<_>>().join(" ")),
            (store::VARIABLE, self.store.clone()),
        ]
    }
}

/// Returns the owners of the leases that this process runs under.
pub(crate) fn held() -> Vec<Owner> {
    let outer = env::var(HELD).unwrap_or_default();
    let mut held: Vec<Owner> = outer.split(' ').filter_map(|owner| owner.parse().ok()).collect();
    let tickets = env::var(TICKET).unwrap_or_default();
    for ticket in tickets.split(' ').filter_map(|ticket| ticket.parse::<Ticket>().ok()) {
        if !held.contains(&ticket.owner()) {
            held.push(ticket.owner());
        }
    }
    held
}
