//! Connections to the members of a set: how many a client has, before and after an election.

use futures_util::future::join_all;
use leasehold::Guard;
use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::doc;
use leasehold_testbed::{Error, MongoDb, until};

use crate::tools::*;

/// To the primary: for commands, for the change stream, and the one by which the driver watches it. To others: the latter.
const TO_PRIMARY: usize = 3;
const TO_OTHERS: usize = 1;

/// Returns the number of connections that an application has to a member.
fn connections(member: &MongoDbMember, application: &str) -> leasehold_testbed::Result<usize> {
    let stages = vec![
        doc! { "$currentOp": { "allUsers": true, "idleConnections": true } },
        doc! { "$match": { "appName": application } },
        doc! { "$group": { "_id": "$connectionId" } },
    ];
    let count = doc! {
        "aggregate": 1, "pipeline": stages, "cursor": { "batchSize": 10_000 },
        "$readPreference": { "mode": "primaryPreferred" },
    };
    let reply = member.command("admin", count)?;
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    Ok(batch.expect("documents").len())
}

/// Waits until an application has so many connections to the primary, and to each other member.
fn until_connections(set: &MongoDb, application: &str, to_primary: usize, to_others: usize) {
    let primary = set.primary().expect("a primary").port();
    let counted = until("its connections", || {
        for member in set.members() {
            let wanted = if member.port() == primary { to_primary } else { to_others };
            match connections(member, application)? {
                found if found == wanted => {}
                found => return Err(Error::new(format!("{found}, not {wanted}, to {}", member.port()))),
            }
        }
        Ok(())
    });
    counted.expect("its connections");
}

#[test]
fn a_client_has_two_connections_to_the_primary_whichever_it_is_and_however_many_wait() {
    let set = three();
    run(async {
        let (url, application) = own(&set);
        let (holder, locks) =
            (client(&url).await, client(&format!("{url}&appName={application}&maxIdleTimeMS=1000")).await);
        let names: Vec<_> = (0..50).map(|i| format!("job{i}")).collect();
        let guards = join_all(names.iter().map(|name| hold(&holder, name, LONG))).await;
        let turns: Vec<_> = (0..1_000)
            .map(|i| {
                let lock = locks.lock(&names[i % names.len()]).ttl(LONG);
                tokio::spawn(async move { lock.acquire().await?.release().await })
            })
            .collect();
        // Only the first waiter of a client has an entry at the server.
        for name in &names {
            waiters(&holder, name, 1).await;
        }
        until_connections(&set, &application, TO_PRIMARY, TO_OTHERS);
        set.failover().expect("another is elected");
        until_connections(&set, &application, TO_PRIMARY, TO_OTHERS);
        within(LONG, join_all(guards.into_iter().map(Guard::release))).await;
        for turn in within(LONG, join_all(turns)).await {
            turn.expect("no panic").expect("released");
        }
        locks.close().await.expect("closed");
        drop(locks);
        until_connections(&set, &application, 0, 0);
    });
}
