//! PostgreSQL: what `doctor` reports about it, and the SQL that it prints.

use leasehold_testbed::{PgBouncer, Postgres};
use serde_json::{Value, json};

use crate::every_storage::every_command_works;
use crate::harness::{World, code, text};
use crate::servers::{CANARY, check, doctor, said};

#[test]
fn doctor_says_what_a_postgres_is_and_what_to_change() {
    let postgres = Postgres::options().password(CANARY).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", postgres.url()));
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "server");
    assert!(status == "ok" && detail.contains("version=`"), "{detail}");
    for about in ["table", "disk", "failover", "connection"] {
        assert_eq!(check(&checks, about).0, "ok", "{checks:#?}");
    }

    postgres.sql("alter table leasehold set unlogged").expect("altered");
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "table");
    assert!(status == "warn" && detail.contains("set logged"), "{detail}");

    let pooler = PgBouncer::start(&postgres).expect("a pooler");
    let (exit, _, checks) = doctor(&World::at(pooler.url()));
    let (status, detail) = check(&checks, "connection");
    assert!(exit == 0 && status == "warn" && detail.contains("a pooler"), "{detail}");
    assert!(check(&checks, "waiters").1.contains("woken by polling"), "{checks:#?}");

    let careless = Postgres::options().setting("fsync", "off").start().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(careless.url()));
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "disk");
    assert!(status == "warn" && detail.contains("fsync=`off`"), "{detail}");
}

#[test]
fn doctor_sql_makes_what_a_role_needs_that_may_only_write_rows() {
    let postgres = Postgres::options().password(CANARY).start().expect("a server");
    for options in ["", "&schema=locks&table=lease"] {
        let app = format!("app{}", options.len());
        postgres.user(&app, CANARY).expect("a user");
        let world = World::at(format!("{}?prefix=cli:{options}", postgres.url_as(&app, CANARY)));
        let (exit, _, checks) = doctor(&world);
        let (status, detail) = check(&checks, "connect");
        assert!(exit == 1 && status == "fail" && detail.contains("leasehold doctor --sql"), "{checks:#?}");

        let sql = world.output(&["doctor", "--sql"]);
        assert_eq!(code(&sql), 0, "{sql:?}");
        // It can be executed twice.
        for _ in 0..2 {
            postgres.sql(&said(&sql)).expect("it is SQL");
        }
        every_command_works(&world);
        let (exit, tier, checks) = doctor(&world);
        assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");

        for more in
            ["create table mine()", "drop table leasehold", "truncate leasehold", "create schema mine"]
        {
            postgres.sql_as(&app, CANARY, more).expect_err("it may not do that");
        }
    }
}

#[test]
fn doctor_sql_connects_to_nothing() {
    let world = World::at(format!("postgres://app:{CANARY}@127.0.0.1:1/shop?table=lease"));
    let sql = world.output(&["doctor", "--sql"]);
    assert_eq!((code(&sql), text(&sql.stderr)), (0, String::new()));
    assert!(said(&sql).contains("grant select, insert, update, delete on \"public\".\"lease\""), "{sql:?}");
    let Value::String(json) = world.json(&["doctor", "--sql"])["sql"].take() else { panic!("no text") };
    assert_eq!(json.trim_end(), text(&sql.stdout));

    for url in ["sqlite:locks.db", "redis://127.0.0.1:1/0", "mongodb://127.0.0.1:1/d"] {
        let refused = World::at(url).output(&["doctor", "--sql"]);
        assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()));
        assert!(text(&refused.stderr).contains("--sql is for storages with tables"), "{refused:?}");
    }
    let wrong = World::at("postgres://127.0.0.1/shop?table=a-b").output(&["doctor", "--sql"]);
    assert_eq!((code(&wrong), text(&wrong.stdout)), (64, String::new()));
}
