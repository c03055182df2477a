//! Every MongoDB setup starts, answers, survives the faults of tests, and elects another primary.

use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::{Document, doc};
use leasehold_testbed::{Faults, MongoDb, Result, shared, until};

fn write(mongodb: &MongoDb) -> Result<Document> {
    let concern = doc! { "w": "majority", "j": true };
    let insert =
        doc! { "insert": "things", "documents": [{ "_id": "key", "n": 42 }], "writeConcern": concern };
    mongodb.command("leasehold", insert)
}

fn read(member: &MongoDbMember) -> Result<i32> {
    let find = doc! { "find": "things", "filter": { "_id": "key" }, "$readPreference": { "mode": "primaryPreferred" } };
    let found = member.command("leasehold", find)?;
    let batch =
        found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("a cursor");
    let first = batch.first().and_then(|first| first.as_document()).expect("it is there");
    Ok(first.get_i32("n").expect("it has its field"))
}

#[test]
fn keeps_its_data_through_kill_9_and_counts() -> Result<()> {
    let mongodb = MongoDb::start()?;
    let member = &mongodb.members()[0];
    let before = member.command_counts()?;
    write(&mongodb)?;
    let after = member.command_counts()?;
    assert!(after["insert"] > before.get("insert").copied().unwrap_or(0));
    assert!(mongodb.commands()? >= after.values().sum());

    // Those of the commands before may still be about to end.
    let are = |wanted: u64| {
        until("the connections", || match mongodb.connections()? {
            n if n == wanted => Ok(()),
            n => Err(leasehold_testbed::Error::new(format!("{n}"))),
        })
    };
    are(0)?;
    let connection = std::net::TcpStream::connect(("127.0.0.1", member.port()))?;
    are(1)?;
    drop(connection);

    mongodb.kill9();
    assert!(!mongodb.is_running());
    read(member).expect_err("no server listens");
    mongodb.restart()?;
    assert_eq!(read(member)?, 42);
    mongodb.stop();
    read(member).expect_err("no server answers");
    mongodb.cont();
    assert_eq!(read(mongodb.primary()?)?, 42);
    mongodb.terminate()?;
    mongodb.restart()?;
    assert_eq!(read(member)?, 42);
    Ok(())
}

#[test]
fn failpoints_make_outcomes_unknown() -> Result<()> {
    let mongodb = MongoDb::start()?;
    let data = doc! { "failCommands": ["insert"], "closeConnection": true };
    mongodb.command(
        "admin",
        doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data },
    )?;
    write(&mongodb).expect_err("the connection is closed");
    write(&mongodb)?;
    Ok(())
}

#[test]
fn three_members_elect_another_primary() -> Result<()> {
    let mongodb = MongoDb::options().password("s3cret").start_three()?;
    write(&mongodb)?;
    let first = mongodb.primary()?;
    first.kill9();
    let second = mongodb.await_primary_other_than(first)?;
    assert_eq!(read(second)?, 42);
    first.restart()?;
    let third = mongodb.failover()?;
    assert_ne!(third.port(), second.port());
    assert_eq!(read(third)?, 42);
    Ok(())
}

#[test]
fn password_and_tls() -> Result<()> {
    let mongodb = MongoDb::options().password("s3cret").tls().start()?;
    assert!(mongodb.url().contains("tls=true"), "{}", mongodb.url());
    write(&mongodb)?;
    mongodb.restart()?;
    assert_eq!(read(&mongodb.members()[0])?, 42);
    Ok(())
}

#[test]
fn the_shared_one_is_one() -> Result<()> {
    assert_eq!(shared::mongodb()?.url(), shared::mongodb()?.url());
    Ok(())
}

#[test]
fn a_transaction_that_stays_open_holds_up_writes() -> Result<()> {
    let mongodb = MongoDb::start()?;
    write(&mongodb)?;
    let change = |n: i32| doc! { "q": { "_id": "key" }, "u": { "$set": { "n": n } } };
    let blocked = || {
        let update = doc! { "update": "things", "updates": [change(44)], "maxTimeMS": 100 };
        mongodb.command("leasehold", update)
    };
    let open = mongodb.transaction("things", &[change(43)])?;
    let error = blocked().expect_err("it waits for the transaction");
    assert!(error.to_string().contains("MaxTimeMSExpired"), "{error}");
    open.abort()?;
    assert_eq!(read(mongodb.primary()?)?, 42);
    mongodb.transaction("things", &[change(43)])?.commit()?;
    assert_eq!(read(mongodb.primary()?)?, 43);
    drop(mongodb.transaction("things", &[change(45)])?);
    blocked()?;
    assert_eq!(read(mongodb.primary()?)?, 44);
    Ok(())
}

/// Injects a fault, runs `meanwhile` and ends the fault.
fn during(mongodb: &MongoDb, fault: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let faults: &dyn Faults = mongodb;
    assert!(faults.names().contains(&fault) && faults.refuses(fault), "{fault}");
    let mut turn = 0;
    let end = faults.inject(fault, "a", &mut |n| {
        turn += 1;
        turn % n
    })?;
    meanwhile()?;
    end.expect("it lasts until it is ended")()
}

#[test]
fn the_faults_of_a_torture_hold_up_the_writes_of_locks() -> Result<()> {
    let mongodb = MongoDb::start()?;
    let locks = ["a", "b", "c"].map(|id| doc! { "_id": id, "pins": 0_i64 });
    mongodb.command("leasehold", doc! { "insert": "leasehold", "documents": locks.to_vec() })?;
    let update = |id: &str| {
        let update = doc! { "q": { "_id": id }, "u": { "$inc": { "n": 1 } } };
        mongodb.command("leasehold", doc! { "update": "leasehold", "updates": [update], "maxTimeMS": 100 })
    };
    during(&mongodb, "document pinned", || {
        update("a").expect_err("a transaction pins it");
        update("b").map(drop)
    })?;
    during(&mongodb, "writes locked", || {
        update("b").expect_err("the server is locked");
        Ok(())
    })?;
    // Some of the transactions are committed.
    during(&mongodb, "documents pinned", || {
        for id in ["a", "b", "c"] {
            until("each document to be pinned", || {
                let pinned = doc! { "count": "leasehold", "query": { "_id": id, "pins": { "$gt": 1 } } };
                match mongodb.command("leasehold", pinned)?.get_i32("n") {
                    Ok(1) => Ok(()),
                    n => Err(leasehold_testbed::Error::new(format!("{n:?}"))),
                }
            })?;
        }
        Ok(())
    })?;
    for id in ["a", "b", "c"] {
        update(id)?;
    }
    Ok(())
}
