//! Locks for which no owner waits are served by short statements, which do what the long ones do.

use std::collections::BTreeMap;

use leasehold::storage::{AcquireReply, Claim, Storage as _};

use crate::tools::*;

/// Returns what a lock's document may be like before an acquire, as pipelines for a released one.
fn released() -> Vec<Document> {
    vec![
        doc! { "$set": { "untouched": true } },
        doc! { "$set": { "queue": [], "untouched": true } },
        doc! { "$unset": ["owner", "client", "label", "since", "ttl", "token", "queue", "call", "released"] },
        doc! { "$set": { "token": 1_i64 << 60 } },
        doc! { "$set": { "until": { "$add": ["$$NOW", 60_000] } } },
        doc! { "$set": { "queue": [entry("there", 1_000)] } },
        doc! { "$set": { "queue": [entry("there", 10_000), entry("gone", 10_000)] } },
        doc! { "$set": { "queue": vec![entry("gone", 10_000); 20] } },
        doc! { "$set": { "owner": OTHER, "client": "other", "until": { "$add": ["$$NOW", 60_000] }, "ttl": 60_000_i64 } },
        doc! { "$set": { "owner": OTHER, "client": "other", "until": { "$subtract": ["$$NOW", 1_000] } } },
    ]
}

/// Returns what a lock's document may be like before a release, as pipelines for a held one.
fn held() -> Vec<Document> {
    vec![
        doc! { "$set": { "untouched": true } },
        doc! { "$set": { "queue": [], "untouched": true } },
        doc! { "$set": { "released": ["1", "2", "3", "4"] } },
        doc! { "$set": { "client": "another" } },
        doc! { "$set": { "ended": "a message", "handover": "another message" } },
        doc! { "$set": { "until": { "$subtract": ["$$NOW", 1_000] } } },
        doc! { "$set": { "owner": OTHER } },
        doc! { "$set": { "queue": [entry("there", 1_000)] } },
        doc! { "$set": { "queue": [{ "$mergeObjects": [entry("there", 1_000), { "client": null }] }] } },
        doc! { "$set": { "queue": [entry("gone", 10_000)] } },
        doc! { "$unset": ["queue", "released"] },
    ]
}

/// An owner that is in no claim.
const OTHER: &str = "0123456789abcdef0123456789abcdef";

/// Returns an entry of a waiter that has asked so many milliseconds ago.
fn entry(client: &str, ago: i32) -> Document {
    let asked = doc! { "$subtract": ["$$NOW", ago] };
    let span = 5_000_i64;
    doc! { "owner": OTHER, "client": client, "since": &asked, "asked": asked, "ttl": span, "label": "a label" }
}

#[test]
fn short_statements_do_what_the_long_ones_do() {
    run(async {
        let server = Server::start().expect("a server");
        record(&server, "leasehold");
        let storage = bare(&server.url()).await;
        let mut count = 0;
        for case in cases() {
            let [of_short, of_long] = [true, false].map(|short| claims(&format!("{count}-{short}"), &case));
            count += 1;
            assert_eq!(
                outcome(&server, &storage, &of_short, &case, true).await,
                outcome(&server, &storage, &of_long, &case, false).await,
                "{case:?}"
            );
        }
        assert_eq!(count, 4 * released().len() + 2 * held().len());
    });
}

#[derive(Clone, Debug)]
struct Case {
    /// What becomes of the documents before the call.
    state: Document,
    /// Whether the call is an acquire, or a release.
    acquires: bool,
    waits: bool,
    /// How many claims there are. The first and the last meet the state.
    claims: usize,
}

fn cases() -> Vec<Case> {
    let of_states = |states: Vec<Document>, acquires: bool, waits: bool| {
        let cases = move |state: Document| {
            [1, 3].map(|claims| Case { state: state.clone(), acquires, waits, claims })
        };
        states.into_iter().flat_map(cases)
    };
    let acquires = [false, true].into_iter().flat_map(|waits| of_states(released(), true, waits));
    acquires.chain(of_states(held(), false, false)).collect()
}

fn claims(prefix: &str, case: &Case) -> Vec<Claim> {
    let claim = |i| claim(&format!("{prefix}-{i}")).wait(case.waits).label("a label");
    (0..case.claims).map(claim).collect()
}

/// Sends the call of a case, as one for uncontended locks or not. Returns the replies and the documents, without what differs
/// from one call to the next.
async fn outcome(server: &Server, storage: &Bare, claims: &[Claim], case: &Case, short: bool) -> Vec<String> {
    prepare(storage, claims, case, short).await;
    let ids: Vec<_> = claims.iter().map(|claim| claim.name.as_str()).collect();
    let changed = [ids[0], ids[ids.len() - 1]];
    change(server, "leasehold", doc! { "_id": { "$in": changed.to_vec() } }, vec![case.state.clone()]);
    let before = short_statements(server);
    let mut seen = Vec::new();
    if case.acquires {
        for answer in storage.acquire(claims).await {
            seen.push(match answer.expect("answered") {
                AcquireReply::Granted { ttl, .. } => format!("granted for {ttl:?}"),
                AcquireReply::Held { holder, .. } => format!("held: {}", holder.is_some()),
                other => panic!("{other:?}"),
            });
        }
    } else {
        let answers = storage.release(claims).await;
        seen.extend(answers.into_iter().map(|answer| format!("{:?}", answer.expect("answered"))));
    }
    assert_eq!(short_statements(server) > before, short, "{case:?}");
    let stages = [
        doc! { "$match": { "_id": { "$in": &ids } } },
        doc! { "$sort": { "_id": 1 } },
        doc! { "$set": { "now": "$$NOW" } },
        doc! { "$unset": "_id" },
    ];
    let documents = rows(server, "leasehold", "leasehold", &stages);
    seen.extend(documents.iter().zip(claims).map(|(found, claim)| comparable(found, &marker(claim.owner))));
    seen
}

/// Has the client see these locks with or without an owner that asks in vain, and leaves them as the case wants them.
async fn prepare(storage: &Bare, claims: &[Claim], case: &Case, uncontended: bool) {
    for wanted in claims {
        let first = if case.acquires { claim(wanted.name.as_str()) } else { wanted.clone() };
        take(storage, &first).await;
        if !uncontended {
            is_held(storage, &claim(wanted.name.as_str())).await;
        }
        if case.acquires {
            release(storage, &first).await.expect("answered");
        }
    }
}

/// Returns how many short statements a server has executed.
fn short_statements(server: &Server) -> usize {
    let query = doc! { "$ifNull": ["$command.q", "$command.query", {}] };
    let fields = doc! { "$map": { "input": { "$objectToArray": query }, "in": "$$this.k" } };
    let stages = [
        doc! { "$match": { "appName": "leasehold", "op": { "$in": ["update", "command"] } } },
        doc! { "$match": { "$expr": { "$in": ["queue.0", fields] } } },
    ];
    rows(server, "leasehold", "system.profile", &stages).len()
}

/// Returns a document as a text. The times are relative to its `now`, and rounded. Ids of clients and calls have no digits.
fn comparable(document: &Document, owner: &str) -> String {
    let now = document.get_datetime("now").expect("a time").timestamp_millis();
    let fields: BTreeMap<_, _> = document.iter().filter(|(field, _)| *field != "now").collect();
    let shown = fields.iter().filter_map(|(field, value)| match (field.as_str(), value) {
        ("queue", Bson::Array(entries)) if entries.is_empty() => None,
        ("ttl", Bson::Int64(ttl)) => Some(format!("ttl: {} s", rounded(*ttl))),
        ("token", Bson::Int64(token)) if *token < 1 << 59 => Some("token: the clock".to_owned()),
        _ => Some(format!("{field}: {}", shown(value, now, owner))),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Returns the seconds of so many milliseconds, rounded to a multiple of three.
fn rounded(millis: i64) -> i64 {
    (millis + 1_500).div_euclid(3_000) * 3
}

fn shown(value: &Bson, now: i64, owner: &str) -> String {
    match value {
        Bson::DateTime(time) => {
            format!("{} s", rounded(time.timestamp_millis() - now))
        }
        Bson::Array(values) => {
            values.iter().map(|value| shown(value, now, owner)).collect::<Vec<_>>().join("; ")
        }
        Bson::Document(fields) => {
            let field = |(field, value): (&String, &Bson)| format!("{field}: {}", shown(value, now, owner));
            fields.iter().map(field).collect::<Vec<_>>().join("; ")
        }
        Bson::String(text) if text == owner => "the claim's owner".to_owned(),
        Bson::String(text) if text.len() == 16 => "an id".to_owned(),
        // A message ends with a time, and a turn's has no more than the client before the owner.
        Bson::String(text) => {
            text.replace(owner, "the-claims-owner").split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}
