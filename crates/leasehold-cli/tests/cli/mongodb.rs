//! MongoDB: what `doctor` reports about it, and the rights that its user needs.

use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::doc;
use serde_json::json;

use crate::every_storage::every_command_works;
use crate::harness::{World, code, text};
use crate::servers::{CANARY, check, doctor, said};

#[test]
fn doctor_says_what_a_mongodb_is_and_what_to_change() {
    let options = MongoDb::options().password(CANARY);
    let one = options.start().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(format!("{}&prefix=cli:", one.url())));
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "server");
    assert!(status == "ok" && detail.contains("a replica set") && detail.contains("version=`"), "{detail}");
    assert!(check(&checks, "failover").1.contains("no other member"), "{checks:#?}");
    for about in ["failover", "disk", "waking"] {
        assert_eq!(check(&checks, about).0, "ok", "{checks:#?}");
    }
    let (exit, _, checks) = doctor(&World::at(format!("{}&notify=off", one.url())));
    assert_eq!((exit, check(&checks, "waking").0), (0, "warn"), "{checks:#?}");
    assert!(check(&checks, "waiters").1.contains("woken by polling"), "{checks:#?}");

    let three = options.start_three().expect("servers");
    let (exit, tier, checks) = doctor(&World::at(three.url()));
    assert_eq!((exit, &tier), (0, &json!("failover-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "failover");
    assert!(status == "ok" && detail.contains("members=`3`"), "{detail}");

    let alone = MongoDb::options().start_standalone().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(alone.url()));
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    assert!(check(&checks, "server").1.contains("a standalone server"), "{checks:#?}");
    let (status, detail) = check(&checks, "waking");
    assert!(status == "warn" && detail.contains("replica set of one"), "{detail}");
}

#[test]
fn user_with_the_rights_on_the_page_of_mongodb_can_do_everything() {
    let server = MongoDb::options().password(CANARY).start().expect("a server");
    let role = doc! { "role": "readWrite", "db": "leasehold" };
    let user = doc! { "createUser": "app", "pwd": CANARY, "roles": [role] };
    server.command("admin", user).expect("a user");
    let world = World::at(server.url_as("app", CANARY, "prefix=cli:"));
    every_command_works(&world);
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "disk");
    assert!(status == "warn" && detail.contains("`clusterMonitor`"), "{detail}");

    let grant = doc! { "grantRolesToUser": "app", "roles": ["clusterMonitor"] };
    server.command("admin", grant).expect("granted");
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    // It has no other rights.
    let other = World::at(server.url_as("app", CANARY, "database=other"));
    let refused = other.output(&["acquire", "lock"]);
    assert_ne!((code(&refused), text(&refused.stdout)), (0, String::new()));
    assert!(said(&refused).contains("role `readWrite`"), "{refused:?}");
}
