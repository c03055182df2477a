//! The SQL that the storage's page shows.

use leasehold::storage::postgres::{Config, Fence};
use leasehold::storage::{Storage as _, schema};

use crate::tools::*;

const PAGE: &str = include_str!("../../src/storage/postgres/README.md");

/// Returns the block of SQL on the page that contains this.
fn block(part: &str) -> &'static str {
    let blocks = PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().expect("its end"));
    blocks.into_iter().find(|block| block.contains(part)).unwrap_or_else(|| panic!("no SQL with {part}"))
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_shows_the_statement_of_the_fence_and_the_rights_of_the_schema() {
    let config = Config::new("postgres://locks_role@h/d").expect("valid");
    assert!(words(block("for key share")).contains(&words(Fence::new(&config).sql())));
    let printed = schema("postgres://locks_role@h/d").expect("a valid URL").expect("it has tables");
    let printed = printed.replace("\"locks_role\"", "locks_role");
    let rights: Vec<_> = block("grant usage").lines().collect();
    assert!(rights.len() == 2 && rights.iter().all(|right| printed.contains(right)), "{rights:?}\n{printed}");
}

#[test]
fn locks_that_were_not_held_for_a_day_can_be_deleted() {
    run(async {
        let postgres = common();
        let url = own(&postgres.url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let [old, forgotten, fresh, held] = ["old", "forgotten", "fresh", "held"].map(claim);
        let token = take(&storage, &old).await;
        for claim in [&forgotten, &fresh, &held] {
            take(&storage, claim).await;
        }
        for claim in [&old, &fresh] {
            release(&storage, claim).await.expect("held");
        }
        // Two of them are two days older. One of these was never released.
        let aged = "expires_at = expires_at - interval '2 days'";
        sql(postgres, &format!("update {table} set {aged} where name in ('old', 'forgotten')"));
        let delete = block("delete from").replace("leasehold", table);
        sql(postgres, &delete);
        let left = sql(postgres, &format!("select string_agg(name, ' ' order by name) from {table}"));
        assert_eq!(left, "fresh held");
        is_held(&storage, &claim("held")).await;
        assert!(take(&storage, &claim("old")).await > token);
        assert_eq!(storage.inspect(&name("forgotten")).await.expect("answered"), []);
    });
}

#[test]
fn a_column_for_the_token_turns_stale_writes_away() {
    run(async {
        let postgres = common();
        let storage = bare(&own(&postgres.url())).await;
        let (stale, table) = (claim("job"), format!("account_{}", table()));
        let old = take(&storage, &stale).await;
        release(&storage, &stale).await.expect("held");
        let new = take(&storage, &claim("job")).await;
        let make = format!("create table {table} (id bigint, balance bigint, fence bigint)");
        sql(postgres, &format!("{make}; insert into {table} values (1, 100, 0)"));
        let write = |balance: &str, token: u64| {
            let update = block("fence = $2").replace("account", &table).replace("$1", balance);
            sql(postgres, &update.replace("$2", &token.to_string()));
        };
        write("70", new.get());
        write("80", old.get());
        assert_eq!(sql(postgres, &format!("select balance, fence from {table}")), format!("70|{new}"));
    });
}
