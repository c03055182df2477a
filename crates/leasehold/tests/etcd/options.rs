//! The options of a URL, and the page that lists them.

use leasehold::ErrorKind;
use leasehold::storage::Storage;

use crate::tools::*;

/// The page of the storage.
const PAGE: &str = include_str!("../../src/storage/etcd/README.md");

#[test]
fn the_page_lists_the_options_that_are_accepted() {
    let error = Config::new("etcds://h?unknown=1").expect_err("unknown").to_string();
    let (_, valid) = error.split_once("valid=`").expect("a list");
    let mut valid: Vec<_> = valid.trim_end_matches('`').split(", ").collect();
    let (_, table) = PAGE.split_once("| Option |").expect("a table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let rows = table.lines().skip(2).filter_map(|row| row.split('|').nth(1));
    let mut listed: Vec<_> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    valid.sort_unstable();
    listed.sort_unstable();
    assert_eq!(valid, listed);
}

#[test]
fn prefixes_keep_locks_apart_and_are_part_of_the_key() {
    run(async {
        let unique = unique();
        let url = |prefix: &str| with(&common().url(), &format!("prefix={unique}{prefix}"));
        let (a, b) = (bare(&url("a:")).await, bare(&url("b:")).await);
        let mine = claim("job");
        take(&a, &mine).await;
        take(&b, &claim("job")).await;
        is_held(&a, &claim("job")).await;
        assert_eq!(keys(common(), &url("a:")), [format!("{unique}a:job/{}", mine.owner)]);
        assert_eq!(a.list("", None, 10).await.expect("answered").len(), 1);
    });
}

#[test]
fn a_url_that_leads_nowhere_is_unavailable() {
    run(async {
        // No server listens at the first port.
        let port = common().port();
        for url in ["etcd://127.0.0.1:1", "etcd://no-such-host.invalid"] {
            assert_eq!(refusal(url).await.kind(), ErrorKind::Unavailable, "{url}");
        }
        works(&own(&format!("etcd://127.0.0.1:1,127.0.0.1:{port}"))).await;
        works(&own(&format!("etcd://no-such-host.invalid,127.0.0.1:{port}"))).await;
    });
}
