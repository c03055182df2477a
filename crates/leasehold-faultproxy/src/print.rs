//! The output of the program.

use std::io::Write;

use leasehold_faultproxy::{Connection, Event, Stats};
use serde_json::{Map, Value, json};

/// Prints one line. A reader that is gone is no error.
pub(crate) fn line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

pub(crate) fn stats(stats: &Stats) -> Value {
    stats
        .named()
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect::<Map<_, _>>()
        .into()
}

pub(crate) fn connection(connection: &Connection) -> Value {
    json!({
        "connection": connection.id.number(),
        "client": connection.client.to_string(),
        "from_client": connection.from_client,
        "to_server": connection.to_server,
        "from_server": connection.from_server,
        "to_client": connection.to_client,
    })
}

pub(crate) fn event(event: Event) -> Value {
    match event {
        Event::Accepted(on) => json!({ "event": "accepted", "connection": on.number() }),
        Event::Refused => json!({ "event": "refused" }),
        Event::Reached(on) => json!({ "event": "reached", "connection": on.number() }),
        Event::Unreached(on) => json!({ "event": "unreached", "connection": on.number() }),
        Event::Passed(trap, on) => {
            json!({ "event": "passed", "trap": trap.number(), "connection": on.number() })
        }
        Event::Sprung(trap, on) => {
            json!({ "event": "sprung", "trap": trap.number(), "connection": on.number() })
        }
        Event::Ended(on) => json!({ "event": "ended", "connection": on.number() }),
        Event::Finished(on, to) => {
            json!({ "event": "finished", "connection": on.number(), "direction": to.to_string() })
        }
        Event::Closed(on) => json!({ "event": "closed", "connection": on.number() }),
        Event::Missed(events) => json!({ "event": "missed", "events": events }),
        other => json!({ "event": format!("{other:?}") }),
    }
}
