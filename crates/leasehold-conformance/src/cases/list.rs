//! List: shows the holders of names with a prefix, in order, page by page.

use leasehold::storage::{Cursor, Holder, Token};
use tokio::time::sleep;

use super::cases;
use crate::context::{Client, Context};

cases!("list":
    [] => [
        only_held_names_are_listed,
        a_listed_holder_is_the_inspected_one,
        names_are_listed_in_order,
        a_limit_is_kept,
        pages_follow_each_other,
        a_page_begins_behind_a_name_and_a_token,
        a_prefix_is_taken_literally,
        an_expired_lease_is_not_listed,
        nothing_is_listed_where_nothing_is,
    ],
);

async fn only_held_names_are_listed(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let released = case.claim("released");
    a.take(&case.claim("held"), "the lock is free").await;
    a.take(&released, "the lock is free").await;
    a.give(&released, "it was granted").await;
    b.refused(&case.claim("held").wait(true), "it is held").await;
    b.inspect(&case.name("free")).await;
    assert_eq!(names(&case, &b.list(case.prefix(), None, 100).await), ["held"]);
}

async fn a_listed_holder_is_the_inspected_one(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a").label("a label"));
    let token = client.take(&claim, "the lock is free").await;
    let listed = client.list(case.prefix(), None, 10).await;
    let [holder] = listed.as_slice() else {
        panic!("one lock is held and listed are {listed:?}");
    };
    assert_eq!(
        (holder.owner, holder.token, holder.label.as_deref()),
        (claim.owner, token, Some("a label")),
        "owner, token, label"
    );
    assert!(
        holder.remaining <= claim.ttl + case.timing.drift(claim.ttl),
        "of {:?}, {:?} are listed as remaining",
        claim.ttl,
        holder.remaining
    );
}

/// The order is that of the bytes of the name, in any locale of the server.
async fn names_are_listed_in_order(case: Context) {
    let client = case.client().await;
    let mut all = [
        "b", "a", "B", "_", "\u{e9}", "Z", "a b", "a-b", "ab", "10", "9", "日本", "😀", "~", "e\u{301}",
        "a/b",
    ];
    for rest in all {
        client.take(&case.claim(rest), "the lock is free").await;
    }
    all.sort_unstable();
    assert_eq!(names(&case, &client.list(case.prefix(), None, 100).await), all);
}

async fn a_limit_is_kept(case: Context) {
    let client = held(&case, &["a", "b", "c", "d"]).await;
    for (limit, expected) in [(1, &["a"][..]), (3, &["a", "b", "c"]), (4, &["a", "b", "c", "d"])] {
        assert_eq!(names(&case, &client.list(case.prefix(), None, limit).await), expected);
    }
}

async fn pages_follow_each_other(case: Context) {
    let all = ["a", "b", "b%", "b/", "bb", "c", "é"];
    let client = held(&case, &all).await;
    let mut seen: Vec<Holder> = Vec::new();
    for _ in 0..=all.len() {
        let last = seen.last().map(Holder::cursor);
        let page = client.list(case.prefix(), last.as_ref(), 2).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(names(&case, &seen), all, "all pages together");
    let absent = Cursor::new(case.name("bz"), Token::new(0));
    let after = client.list(case.prefix(), Some(&absent), 10).await;
    assert_eq!(names(&case, &after), ["c", "é"], "after a name that is not held");
}

async fn a_page_begins_behind_a_name_and_a_token(case: Context) {
    let client = held(&case, &["a", "b"]).await;
    let listed = client.list(case.prefix(), None, 10).await;
    let Cursor { name, token, .. } = listed[0].cursor();
    let (before, behind) = (Token::new(token.get() - 1), Token::new(token.get() + 1));
    for (token, wanted) in [(before, &["a", "b"][..]), (token, &["b"]), (behind, &["b"])] {
        let cursor = Cursor::new(name.clone(), token);
        let page = client.list(case.prefix(), Some(&cursor), 10).await;
        assert_eq!(names(&case, &page), wanted, "behind {cursor:?}");
    }
}

async fn a_prefix_is_taken_literally(case: Context) {
    let client = case.client().await;
    let special = ["%", "_", "*", "?", "[a]", "\\", "^a", ".", "$", "a%b", "A", "é", "{a}", "'", "\""];
    for prefix in special {
        for rest in [prefix.to_owned(), format!("{prefix}!")] {
            client.take(&case.claim(&rest), "the lock is free").await;
        }
    }
    client.take(&case.claim("xyz"), "the lock is free").await;
    client.take(&case.claim("axb"), "the lock is free").await;
    for prefix in special {
        let listed = client.list(case.name(prefix).as_str(), None, 100).await;
        let expected = [prefix.to_owned(), format!("{prefix}!")];
        assert_eq!(names(&case, &listed), expected, "with the prefix {prefix:?}");
    }
}

async fn an_expired_lease_is_not_listed(case: Context) {
    let (client, short) = (case.client().await, case.short_claim("short"));
    client.take(&short, "the lock is free").await;
    client.take(&case.claim("long"), "the lock is free").await;
    sleep(short.ttl * 2 + case.timing.slack()).await;
    assert_eq!(names(&case, &client.list(case.prefix(), None, 10).await), ["long"]);
}

async fn nothing_is_listed_where_nothing_is(case: Context) {
    let client = held(&case, &["a"]).await;
    let nothing: [&str; 0] = [];
    let beside = case.name("a/");
    assert_eq!(names(&case, &client.list(beside.as_str(), None, 10).await), nothing);
    let last = client.inspect(&case.name("a")).await.expect("it is held").cursor();
    assert_eq!(names(&case, &client.list(case.prefix(), Some(&last), 10).await), nothing);
}

async fn held(case: &Context, rests: &[&str]) -> Client {
    let client = case.client().await;
    for rest in rests.iter().rev() {
        client.take(&case.claim(rest), "the lock is free").await;
    }
    client
}

/// Returns the listed names without the prefix of the case.
fn names<'a>(case: &Context, holders: &'a [Holder]) -> Vec<&'a str> {
    let rest = |holder: &'a Holder| {
        let name = holder.name.as_str();
        name.strip_prefix(case.prefix()).unwrap_or_else(|| panic!("listed without its prefix: {name:?}"))
    };
    holders.iter().map(rest).collect()
}
