//! The contract over a lock file, within one process.

use std::time::Duration;

use leasehold::ErrorKind;
use leasehold::storage::sqlite::Sqlite;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage};
use tokio::time::Instant;

use crate::tools::{
    Dir, Hints, acquire, claim, execute, is_held, name, open, query, release, renew, run, take, time,
    try_acquire, wait_for,
};

#[test]
fn calls_follow_the_contract() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        let (a, b) = (claim("job").label("a"), claim("job").wait(true));
        let AcquireReply::Granted { token, ttl, .. } = acquire(&storage, &a).await else { panic!("held") };
        assert_eq!(ttl, a.ttl);
        assert_eq!(take(&storage, &a).await, token);
        match acquire(&storage, &b).await {
            AcquireReply::Held { holder: Some(holder), retry_after, .. } => {
                assert_eq!(
                    (holder.owner, holder.label.as_deref(), holder.token),
                    (a.owner, Some("a"), token)
                );
                assert_eq!((holder.waiters, retry_after), (Some(1), Some(holder.remaining)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(renew(&storage, &b).await, RenewReply::NotHeld);
        assert_eq!(release(&storage, &a).await, ReleaseReply::Released);
        assert_eq!(release(&storage, &a).await, ReleaseReply::NotHeld);
        assert_eq!(renew(&storage, &a).await, RenewReply::NotHeld);
        // The first waiter comes before a newcomer, and a late claim gets nothing and leaves nothing.
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { holder: None, .. }));
        let late = try_acquire(&storage, &b.clone().patience(Duration::ZERO)).await;
        assert_eq!(late.expect_err("late").kind(), ErrorKind::Unavailable);
        assert!(take(&storage, &b).await > token);
        assert_eq!(
            storage.inspect(&name("job")).await.expect("looked").pop().expect("held").waiters,
            Some(0)
        );
        assert_eq!(release(&storage, &b).await, ReleaseReply::Released);
        assert_eq!(storage.inspect(&name("job")).await.expect("looked"), []);
    });
}

#[test]
fn a_closed_storage_frees_its_locks_in_its_own_process() {
    let dir = Dir::new();
    run(async {
        let (first, second) = (open(&dir.file()).await, open(&dir.file()).await);
        let mut hints: Hints = Box::pin(second.hints());
        take(&first, &claim("job")).await;
        let mine = claim("job").wait(true);
        is_held(&second, &mine).await;
        drop(first);
        let closed = Instant::now();
        wait_for(&second, &mut hints, &mine, || ()).await;
        assert!(closed.elapsed() < time(200), "{:?}", closed.elapsed());
    });
}

#[test]
fn names_and_labels_are_data() {
    let long = "x".repeat(512);
    let corpus = [
        "a",
        "A",
        "a%",
        "a_",
        "a__",
        "%",
        "_",
        "'",
        "\"",
        "'; DROP TABLE lock; --",
        "a'||'b",
        "\\",
        "a\nb",
        "a\tb",
        " ",
        "ä",
        "a\u{308}",
        "ß",
        "SS",
        "☃",
        "𝔘",
        "../../etc/passwd",
        "?1",
        ":name",
        "a*",
        "a?",
        "[a]",
        "null",
        "0",
        "00",
        &long,
    ];
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        let claims: Vec<_> = corpus.iter().map(|text| claim(text).label(*text)).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer.expect("answered"), AcquireReply::Granted { .. }));
        }
        for text in corpus {
            let seen = storage.inspect(&name(text)).await.expect("looked").pop().expect("held");
            assert_eq!((seen.name.as_str(), seen.label.as_deref()), (text, Some(text)));
            let mut expected: Vec<_> =
                corpus.iter().filter(|other| other.starts_with(text)).copied().collect();
            expected.sort_unstable();
            assert_eq!(list(&storage, text).await, expected, "prefix {text}");
        }
        assert_eq!(list(&storage, "").await.len(), corpus.len());
        for answer in storage.release(&claims).await {
            assert_eq!(answer.expect("answered"), ReleaseReply::Released);
        }
        assert_eq!(list(&storage, "").await, Vec::<String>::new());
    });
}

#[test]
fn forgotten_names_keep_their_tokens_growing() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        for i in 0..300 {
            let mine = claim(&format!("name/{i}"));
            take(&storage, &mine).await;
            release(&storage, &mine).await;
        }
        let far = i64::MAX / 4;
        execute(&dir.file(), &format!("UPDATE lock SET boot = 'another', token = {far}"));
        // Writes prune some records from time to time.
        for _ in 0..500 {
            let mine = claim("name/0");
            take(&storage, &mine).await;
            release(&storage, &mine).await;
        }
        assert_eq!(query::<i64>(&dir.file(), "SELECT count(*) FROM lock"), 1);
        let token = take(&storage, &claim("name/7")).await;
        assert_eq!(i64::try_from(token.get()), Ok(far + 1));
    });
}

/// Lists all names with a prefix, in small pages.
async fn list(storage: &Sqlite, prefix: &str) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list(prefix, after.as_ref(), 3).await.expect("listed");
        let Some(last) = page.last() else { return names };
        after = Some(last.cursor());
        names.extend(page.iter().map(|holder| holder.name.as_str().to_owned()));
    }
}
