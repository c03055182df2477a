//! The commands over a real PostgreSQL that asks for a password.

use leasehold_testbed::{PgBouncer, Postgres};
use serde_json::{Value, json};

use crate::harness::{Running, World, code, text};
use crate::servers::{self, CANARY, doctor, of, said};

fn server() -> (Postgres, World) {
    let postgres = Postgres::options().password(CANARY).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", postgres.url()));
    (postgres, world)
}

#[test]
fn every_command_works_over_postgres_and_shows_no_password() {
    let (postgres, world) = server();
    servers::every_command_works(&world);
    let tokens = postgres.sql("select count(*) from leasehold where space = 'cli:' and token > 0");
    assert_eq!(tokens.expect("answered"), "1");
}

#[test]
fn a_postgres_that_dies_ends_the_command_with_the_lease() {
    let (postgres, world) = server();
    servers::death_ends_the_command_with_the_lease(&world, || postgres.kill9());
}

#[test]
fn a_postgres_that_stops_answering_ends_the_command_with_the_lease() {
    let (postgres, world) = server();
    servers::silence_ends_the_command_with_the_lease(&world, || postgres.stop(), || postgres.cont());
}

#[test]
fn a_password_of_postgres_in_a_store_file_is_on_no_command_line() {
    let (_postgres, world) = server();
    servers::a_password_in_a_store_file_is_on_no_command_line(&world);
}

#[test]
fn a_wrong_password_of_postgres_is_a_bad_url() {
    let (_postgres, world) = server();
    servers::a_wrong_password_is_a_bad_url(&world);
}

#[test]
fn many_commands_over_postgres_never_overlap_and_their_tokens_grow() {
    const RUNS: usize = 8;
    let (_postgres, world) = server();
    let script = "mkdir inside || exit 9; echo $LEASEHOLD_TOKEN >> tokens; rmdir inside";
    let runs: Vec<_> = (0..RUNS).map(|_| Running::start(&mut world.run(&[], script))).collect();
    for run in runs {
        let run = run.finish();
        assert_eq!(code(&run), 0, "{run:?}");
        said(&run);
    }
    let tokens = std::fs::read_to_string(world.path("tokens")).expect("written");
    let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(tokens.len(), RUNS);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn doctor_says_what_a_postgres_is_and_what_to_change() {
    let (postgres, world) = server();
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    let (status, detail) = of(&checks, "server");
    assert!(status == "ok" && detail.contains("version=`"), "{detail}");
    for about in ["table", "disk", "failover", "connection"] {
        assert_eq!(of(&checks, about).0, "ok", "{checks:#?}");
    }

    postgres.sql("alter table leasehold set unlogged").expect("altered");
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = of(&checks, "table");
    assert!(status == "warn" && detail.contains("set logged"), "{detail}");

    let pooler = PgBouncer::start(&postgres).expect("a pooler");
    let (exit, _, checks) = doctor(&World::at(pooler.url()));
    let (status, detail) = of(&checks, "connection");
    assert!(exit == 0 && status == "warn" && detail.contains("a pooler"), "{detail}");
    assert!(of(&checks, "waiters").1.contains("woken by polling"), "{checks:#?}");

    let careless = Postgres::options().setting("fsync", "off").start().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(careless.url()));
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = of(&checks, "disk");
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
        let (status, detail) = of(&checks, "connect");
        assert!(exit == 1 && status == "fail" && detail.contains("leasehold doctor --sql"), "{checks:#?}");

        let sql = world.output(&["doctor", "--sql"]);
        assert_eq!(code(&sql), 0, "{sql:?}");
        // Twice, as people do.
        for _ in 0..2 {
            postgres.sql(&said(&sql)).expect("it is SQL");
        }
        servers::every_command_works(&world);
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

    for url in ["sqlite:locks.db", "redis://127.0.0.1:1/0"] {
        let refused = World::at(url).output(&["doctor", "--sql"]);
        assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()));
        assert!(text(&refused.stderr).contains("--sql is for storages with tables"), "{refused:?}");
    }
    let wrong = World::at("postgres://127.0.0.1/shop?table=a-b").output(&["doctor", "--sql"]);
    assert_eq!((code(&wrong), text(&wrong.stdout)), (64, String::new()));
}
