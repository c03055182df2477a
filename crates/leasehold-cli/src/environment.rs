//! The environment of the command of `run`.

use std::env;

use leasehold::{Guard, Guards, Owner, Ticket};

use crate::exit::{Failure, Result};
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
    /// Fails if no URL would lead the command to this storage from any working directory, or if there are too many names
    /// for a variable.
    pub(crate) fn new(hide_store: bool, store: &Store, names: &[String]) -> Result<Self> {
        check_lengths(names)?;
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

/// Refuses names for which a variable would be longer than the kernel passes to a program.
fn check_lengths(names: &[String]) -> Result<()> {
    /// MAX_ARG_STRLEN of Linux on most processors: a variable with its name, the `=` and the NUL.
    const LONGEST: usize = 128 << 10;
    /// An owner and a blank.
    const OWNER: usize = 32 + 1;
    /// The longest of what is around the name in a ticket: `lh1.`, the owner, a token, a TTL and its mark, and a blank.
    const TICKET_FRAME: usize = 4 + 32 + 1 + 20 + 1 + 8 + 1 + 1 + 1;
    let encoded = |c: u8| if c.is_ascii_alphanumeric() || b"-_~".contains(&c) { 1 } else { 3 };
    let ticket = |name: &String| TICKET_FRAME + name.bytes().map(encoded).sum::<usize>();
    for (variable, length) in [
        (NAME, names.iter().map(|name| name.len() + 1).sum()),
        (TICKET, names.iter().map(ticket).sum()),
        (HELD, (held().len() + names.len()) * OWNER),
    ] {
        let length = variable.len() + "=".len() + length;
        // The last entry has the NUL instead of a blank.
        if length > LONGEST {
            let names = names.len();
            return Err(Failure::usage(format!(
                "the command cannot be told of so many locks; name fewer of them, or shorter names names=`{names}` variable=`{variable}` bytes=`{length}` at_most=`{LONGEST}`"
            )));
        }
    }
    Ok(())
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
