//! The token in a transaction of the caller's own.

use leasehold::storage::etcd::Fence;
use leasehold::storage::{Claim, Owner, ReleaseReply};
use leasehold::{Guard, Token};

use crate::tools::*;

/// Writes a value if the guard still holds its lock. Returns whether it did.
fn write(url: &str, guard: &Guard, token: Token, owner: Owner, value: &str) -> bool {
    let fence = Fence::new(&Config::new(url).expect("valid"));
    let compare = fence.compare(guard.name(), owner, token);
    let key = String::from_utf8(compare.key).expect("a text");
    let revision = compare.create_revision;
    let setting = format!("{}setting", prefix_of(url));
    let transaction = format!("create(\"{key}\") = \"{revision}\"\n\nput {setting} {value}\n\n\n");
    common().transaction(&transaction).expect("answered")
}

#[test]
fn a_transaction_of_a_stale_holder_changes_nothing() {
    run(async {
        let (url, elsewhere) = (own(&common().url()), own(&common().url()));
        let locks = client(&url).await;
        let guard = hold(&locks, "invoice/42", LONG).await;
        let (token, owner) = (guard.token(), guard.owner());
        assert!(write(&url, &guard, token, owner, "first"));
        // It is moved to another lease, and is as old as before.
        guard.extend(2 * LONG).await.expect("held");
        assert!(write(&url, &guard, token, owner, "second"));
        let earlier = Token::new(token.get() - 1);
        assert!(!write(&url, &guard, earlier, owner, "stale"));
        assert!(!write(&url, &guard, token, Owner::random(), "stale"));
        assert!(!write(&elsewhere, &guard, token, owner, "stale"));
        let theirs = Claim::new(name("invoice/42"), owner, LONG);
        assert_eq!(release(&bare(&url).await, &theirs).await.expect("answered"), ReleaseReply::Released);
        let next = hold(&locks, "invoice/42", LONG).await;
        assert!(!write(&url, &guard, token, owner, "stale"));
        assert!(write(&url, &next, next.token(), next.owner(), "third"));
        let setting = tell(common(), &["get", "--print-value-only", &format!("{}setting", prefix_of(&url))]);
        assert_eq!(setting.trim(), "third");
    });
}
