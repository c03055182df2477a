//! The tables: how they are made and named, tables of others, and hostile names in them.

use futures_util::future::join_all;
use leasehold::storage::postgres::Config;
use leasehold::storage::{ReleaseReply, Storage};
use leasehold::{Change, ErrorKind, Lost};

use crate::tools::*;

#[test]
fn twenty_clients_at_once_make_the_tables_once() {
    run(async {
        let schema = table();
        // Neither the schema nor a table exists.
        let url = with(&common().url(), &format!("schema={schema}"));
        let connecting = (0..20).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { bare(&url).await })
        });
        let storages = within(LONG, join_all(connecting)).await;
        for storage in storages {
            take(&storage.expect("no panic"), &claim(&table())).await;
        }
        let relations = format!(
            "select count(*) filter (where relkind = 'r'), count(*) filter (where relkind = 'i') \
             from pg_class where relnamespace = '{schema}'::regnamespace"
        );
        assert_eq!(sql(common(), &relations), "2|4");
    });
}

#[test]
fn a_user_that_may_not_make_the_tables_learns_how_to_get_them() {
    run(async {
        let role = table();
        let url = own(&common().user(&role, "pw").expect("made"));
        for url in [url.clone(), with(&common().url_as(&role, "pw"), &format!("schema={role}"))] {
            let error = refusal(&url).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("leasehold doctor --sql"), "{error}");
        }
        assert_eq!(sql(common(), &format!("select to_regclass('{}') is null", table_of(&url))), "t");
    });
}

#[test]
fn tables_that_an_administrator_made_serve_a_role_that_may_only_write_rows() {
    run(async {
        let (role, schema) = (table(), table());
        let url = with(&common().user(&role, "pw").expect("made"), &format!("schema={schema}"));
        let ddl = leasehold::storage::schema(&url).expect("a valid URL").expect("it has tables");
        let (rights, tables): (Vec<_>, Vec<_>) = ddl.lines().partition(|line| line.starts_with("grant "));
        sql(common(), &tables.join("\n"));
        // Running it twice does no harm.
        sql(common(), &tables.join("\n"));
        let error = acquire(&bare_or(&url).await, &claim("job")).await;
        assert_eq!(error.expect_err("no right yet").kind(), ErrorKind::Unsupported);
        assert_eq!(rights.len(), 2, "{ddl}");
        sql(common(), &rights.join("\n"));
        let (locks, other) = (client(&url).await, client(&url).await);
        let mut changes = other.observe("job").expect("a name");
        assert_eq!(within(soon(), changes.next()).await, Some(Change::Unlocked));
        let guard = locks.lock("job").label("label").acquire().await.expect("granted");
        assert!(matches!(within(soon(), changes.next()).await, Some(Change::Locked { .. })));
        guard.extend(LONG * 2).await.expect("extended");
        let waiting = waiting(other.lock("job"));
        waiters(&locks, "job", 1).await;
        assert_eq!(locks.list("").await.expect("answered").len(), 1);
        guard.release().await.expect("released");
        let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
        assert!(!locks.break_lock("job").await.expect("answered").is_empty());
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
    });
}

/// Connects, also as a role that may not make the tables.
async fn bare_or(url: &str) -> Bare {
    match try_bare(url).await {
        Ok(storage) => storage,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let schema = url.split_once("schema=").expect("an own one").1;
            sql(common(), &format!("grant usage on schema {schema} to public"));
            bare(url).await
        }
    }
}

#[test]
fn a_table_of_another_program_is_refused_and_left_alone() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        sql(
            common(),
            &format!("create table {table} (name text, precious int); insert into {table} values ('job', 1)"),
        );
        let before = sql(common(), &format!("select ctid, xmin, * from {table}"));
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(table), "{error}");
        assert_eq!(sql(common(), &format!("select ctid, xmin, * from {table}")), before);
        assert_eq!(sql(common(), &format!("select obj_description('{table}'::regclass) is null")), "t");

        // Both tables exist, and neither is one of Leasehold.
        sql(common(), &format!("create table if not exists {table}_waiters (x int)"));
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(sql(common(), &format!("select ctid, xmin, * from {table}")), before);

        // A table of a later version of Leasehold.
        let url = own(&common().url());
        bare(&url).await;
        sql(common(), &format!("comment on table {} is 'leasehold schema 7'", table_of(&url)));
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("found=`leasehold schema 7`"), "{error}");
    });
}

#[test]
fn hostile_names_of_schemas_and_tables_are_refused_before_anything_is_sent() {
    let long = "x".repeat(64);
    for name in [
        "x\"; drop table y; --",
        "x'; drop table y; --",
        "x\\",
        "x y",
        "x.y",
        "",
        "1x",
        "x-y",
        "x--y",
        "x\ny",
        "é",
        "x\0y",
        "\"x\"",
        long.as_str(),
    ] {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for option in ["schema", "table"] {
            // No server listens there.
            let error = Config::new(&format!("postgres://127.0.0.1:1/d?{option}={encoded}"));
            assert_eq!(error.expect_err(name).kind(), ErrorKind::Invalid, "{option} {name}");
        }
    }
    run(async {
        // The longest names, with capitals and a dollar. The names that are derived from them are not cut.
        let (schema, table) = (format!("S${}", "x".repeat(61)), format!("T${}", "x".repeat(43)));
        let url = with(&common().url(), &format!("schema={schema}&table={table}"));
        let storage = bare(&url).await;
        take(&storage, &claim("job")).await;
        is_held(&storage, &claim("job").wait(true)).await;
        let made = format!(
            "select string_agg(relname, ' ' order by relname collate \"C\") from pg_class \
             where relnamespace = '\"{schema}\"'::regnamespace and relkind = 'r'"
        );
        assert_eq!(sql(common(), &made), format!("{table} {table}_waiters"));
        // Key words are names as well.
        take(&bare(&with(&common().url(), "table=select")).await, &claim("job")).await;
        sql(common(), "drop table \"select\", select_waiters");
    });
}

#[test]
fn hostile_names_and_labels_are_only_text() {
    run(async {
        let url = own(&with(&common().url(), "prefix=%27%3B%20drop"));
        let table = table_of(&url);
        let (locks, other) = (client(&url).await, bare(&url).await);
        let names = [
            "'",
            "''",
            "\"",
            "\\",
            "\\'",
            "'; drop table leasehold; --",
            "$1",
            "$$",
            "{}",
            "{a,b}",
            "NULL",
            "null",
            "%",
            "_",
            "a%",
            "(1,2)",
            "\r\n",
            "\u{1}",
            "\u{7f}",
            "é",
            "e\u{301}",
            "日本",
            "🔒",
            "a b",
            " a",
            "a ",
            "A",
            "a",
            "Z",
        ];
        let mut guards = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let label = names[names.len() - 1 - i];
            let guard = within(LONG, locks.lock(name).label(label).acquire()).await.expect("granted");
            let holder = locks.inspect(name).await.expect("answered").pop().expect("held");
            assert_eq!((holder.name.as_str(), holder.label.as_deref()), (*name, Some(label)));
            // The same for a waiter, which is notified.
            is_held(&other, &claim(name).wait(true)).await;
            guards.push(guard);
        }
        let listed = locks.list("").await.expect("answered");
        assert_eq!(listed.len(), names.len());
        for prefix in ["a", "%", "'", "_"] {
            let expected = names.iter().filter(|name| name.starts_with(prefix)).count();
            assert_eq!(locks.list(prefix).await.expect("answered").len(), expected, "{prefix}");
        }
        assert_eq!(sql(common(), &format!("select count(*) from {table}")), names.len().to_string());
        for guard in guards {
            guard.release().await.expect("released");
        }
        assert_eq!(
            sql(common(), &format!("select count(*), count(owner) from {table}")),
            format!("{}|0", names.len())
        );
    });
}

#[test]
fn prefix_and_name_are_not_confused() {
    run(async {
        let url = own(&common().url());
        let [a, ab, none] = ["a:", "a:b:", ""].map(|prefix| with(&url, &format!("prefix={prefix}")));
        let (outer, inner, none) = (bare(&a).await, bare(&ab).await, bare(&none).await);
        // Three different locks: the prefix has a column of its own.
        let claims = [claim("b:c"), claim("c"), claim("a:b:c")];
        take(&outer, &claims[0]).await;
        take(&inner, &claims[1]).await;
        take(&none, &claims[2]).await;
        for (storage, claim) in [&outer, &inner, &none].into_iter().zip(&claims) {
            let seen = storage.list("", None, 10).await.expect("answered");
            assert_eq!(seen.iter().map(|holder| &holder.name).collect::<Vec<_>>(), [&claim.name]);
        }
        assert_eq!(release(&inner, &claims[0]).await.expect("answered"), ReleaseReply::NotHeld);
    });
}
