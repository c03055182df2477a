//! Data at its bounds: names, labels, batches, and queues.

use std::collections::HashSet;

use futures_util::StreamExt;
use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, Cursor, Hint, ReleaseReply, RenewReply, Storage};

use crate::tools::*;

/// Names and labels that mean something to the server elsewhere.
const HOSTILE: [&str; 28] = [
    "$where",
    "$NOW",
    "$$NOW",
    "$$ROOT",
    "$_id",
    "$owner",
    "a.b",
    ".",
    "..",
    "$",
    "$a.$b",
    "{\"$gt\": \"\"}",
    "^.*$",
    "*",
    "%00",
    "\u{1}",
    "\u{7f}",
    "\u{feff}a",
    "\u{202e}a",
    "e\u{301}",
    "\u{e9}",
    "E\u{301}",
    "日本",
    "🔒",
    "\u{10ffff}",
    "a b",
    "__proto__",
    "refused: x",
];

#[test]
fn names_and_labels_are_data_and_nothing_else() {
    run(async {
        for prefix in ["", "prefix=%24where.$:"] {
            let url = with(&own(&common().url()), prefix);
            let ((storage, mut hints), other) = (listening(&url).await, bare(&url).await);
            let held: Vec<_> = HOSTILE.iter().map(|name| claim(name).label(HOSTILE[3])).collect();
            // In a batch and alone.
            for answer in other.acquire(&held[..14]).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
            for held in &held[14..] {
                take(&other, held).await;
            }
            for (i, held) in held.iter().enumerate() {
                let label = HOSTILE[HOSTILE.len() - 1 - i];
                let mine = claim(held.name.as_str()).wait(true).label(label);
                is_held(&storage, &mine).await;
                let holder = storage.inspect(&held.name).await.expect("answered").pop().expect("held");
                assert_eq!((holder.owner, holder.label.as_deref()), (held.owner, Some(HOSTILE[3])));
                assert_eq!(release(&other, held).await.expect("answered"), ReleaseReply::Released);
                assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(mine.owner)));
                take(&storage, &mine).await;
                let holder = storage.inspect(&held.name).await.expect("answered").pop().expect("held");
                assert_eq!((holder.owner, holder.label.as_deref()), (mine.owner, Some(label)));
                assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
            }
            let listed = storage.list("", None, 100).await.expect("answered");
            let mut names: Vec<_> = HOSTILE.to_vec();
            names.sort_unstable();
            assert_eq!(listed.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>(), names);
            for name in HOSTILE {
                let found = storage.list(name, None, 100).await.expect("answered");
                let wanted = HOSTILE.iter().filter(|other| other.starts_with(name)).count();
                assert_eq!(found.len(), wanted, "{name}");
            }
        }
    });
}

/// Texts that mean something elsewhere: in a document, a path, a URL or a shell. And texts that are easily taken for others.
const HOSTILE_ELSEWHERE: [&str; 76] = [
    "{\"$gt\":\"\"}",
    "{$gt:''}",
    "[]",
    "null",
    "undefined",
    "true",
    "NaN",
    "-0",
    "0",
    "1e308",
    "ObjectId('0')",
    "ISODate()",
    "a.b",
    "a..b",
    ".a",
    "a.",
    "owner",
    "_id",
    "queue.0.owner",
    "queue.$[].owner",
    "a.$",
    "a.$[]",
    "leasehold",
    "handover",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "%00",
    "%24where",
    "a%2Eb",
    "a&b=c",
    "?x=1",
    "#",
    "';drop table",
    "\r\nSET a b\r\n",
    "$(id)",
    "`id`",
    "${IFS}",
    "\u{1b}[2J",
    "__proto__",
    "constructor",
    "Infinity",
    "0x1F",
    "1n",
    "-1",
    "/a/i",
    "/.*/",
    "<script>",
    "\\u0000",
    "\\x00",
    "_%",
    "a,b",
    "a:b",
    "a;b",
    "a b",
    " a",
    "a ",
    "a",
    "A",
    "aa",
    "e\u{301}",
    "\u{e9}",
    "ﬁ",
    "fi",
    "ß",
    "ss",
    "İ",
    "i",
    "\u{feff}",
    "\u{200b}",
    "\u{202e}a",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "🔒",
    "日本",
];

/// Returns the marks of ASCII, words of the server's languages, and these texts.
fn corpus() -> Vec<String> {
    let marks = (1..=127_u8).map(char::from).filter(|c| !c.is_ascii_alphanumeric()).map(String::from);
    let operators = "where expr literal regex in nin gt gte ne not nor exists type size all elemMatch mod jsonSchema text comment \
        set unset inc push pull rename setOnInsert currentDate addToSet pop each slice sort project match function accumulator \
        lookup out merge let cond switch map filter reduce concat toString convert getField setField rand ref id db";
    let operators = operators.split_whitespace().map(|word| format!("${word}"));
    let variables = ["NOW", "ROOT", "CURRENT", "REMOVE", "this", "value", "CLUSTER_TIME", "PRUNE"];
    let variables = variables.into_iter().map(|word| format!("$${word}"));
    let mut all: Vec<_> = marks.chain(operators).chain(variables).collect();
    all.extend(HOSTILE_ELSEWHERE.map(str::to_owned));
    // The longest name, and the same without its last byte.
    all.extend(["$".repeat(512), "$".repeat(511)]);
    all.sort();
    all.dedup();
    all
}

#[test]
fn hostile_names_are_locks_of_their_own_and_make_no_documents_but_their_own() {
    let corpus = corpus();
    assert!(corpus.len() >= 200, "{}", corpus.len());
    run(async {
        for prefix in ["", "$where:", "a.b\\", "^.*$"] {
            let encoded: String = prefix.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let url = with(&own(&common().url()), &format!("prefix={encoded}"));
            let (storage, other) = (bare(&url).await, bare(&url).await);
            let held: Vec<_> = corpus.iter().map(|name| claim(name).label(name.as_str())).collect();
            for batch in held.chunks(50) {
                for (answer, held) in storage.acquire(batch).await.into_iter().zip(batch) {
                    assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{}: {answer:?}", held.name);
                }
            }
            // Only these documents are there, and no collection beside theirs.
            let id =
                |name: &String| if prefix.is_empty() { name.clone() } else { format!("{prefix}\0{name}") };
            let locks = locks_of(common(), database_of(&url));
            let found = locks.iter().map(|lock| lock.get_str("_id").expect("a text").to_owned());
            let (mut found, mut wanted): (Vec<_>, Vec<_>) =
                (found.collect(), corpus.iter().map(id).collect());
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted);
            let collections =
                tell(common(), database_of(&url), doc! { "listCollections": 1, "nameOnly": true });
            let collections =
                collections.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
            assert_eq!(collections.map(Vec::len).ok(), Some(1));
            // Every second one is released, and no other.
            let leaving: Vec<_> = held.iter().step_by(2).cloned().collect();
            for batch in leaving.chunks(50) {
                for answer in storage.release(batch).await {
                    assert_eq!(answer.expect("answered"), ReleaseReply::Released);
                }
            }
            for (i, held) in held.iter().enumerate() {
                match (i % 2, acquire(&other, &claim(held.name.as_str())).await.expect("answered")) {
                    (0, AcquireReply::Granted { .. }) => {}
                    (1, AcquireReply::Held { holder: Some(holder), .. }) => {
                        assert_eq!(
                            (holder.owner, holder.label.as_deref()),
                            (held.owner, Some(held.name.as_str()))
                        );
                    }
                    (_, answer) => panic!("{}: {answer:?}", held.name),
                }
            }
        }
    });
}

/// Up to a hundred observed names are in the filter of the change stream.
#[test]
fn hostile_names_are_observed_as_they_are() {
    let corpus = corpus();
    run(async {
        for (some, prefix) in
            [(&corpus[..100], "prefix=%24"), (&corpus[100..200], ""), (&corpus[..], "prefix=%5E.*")]
        {
            let url = with(&own(&common().url()), prefix);
            let ((observer, mut hints), other) = (listening(&url).await, bare(&url).await);
            let observed: Vec<_> = some.iter().map(|text| name(text)).collect();
            observer.watch(&observed, &[]);
            let mut open: HashSet<_> = observed.iter().cloned().collect();
            while !open.is_empty() {
                match within(soon(), hints.next()).await {
                    Some(Hint::Name(name)) => drop(open.remove(&name)),
                    other => panic!("{other:?}"),
                }
            }
            for name in &observed {
                take(&other, &claim(name.as_str())).await;
                assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name.clone())));
            }
        }
    });
}

/// A name and a label of the largest size, and different from others.
fn largest(i: usize) -> Claim {
    let name = format!("{i:0>512}");
    claim(&name).label(format!("{i:$>4096}"))
}

#[test]
fn the_largest_batch_of_the_largest_claims_is_one_command() {
    run(async {
        let prefix = format!("prefix={}", "p".repeat(256));
        let url = with(&own(&common().url()), &prefix);
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let most = storage.limits().batch_max;
        let held: Vec<_> = (0..most).map(largest).collect();
        for answer in storage.acquire(&held).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        let theirs: Vec<_> = (0..most).map(|i| largest(i).wait(true)).collect();
        for (answer, held) in other.acquire(&theirs).await.into_iter().zip(&held) {
            match answer.expect("answered") {
                AcquireReply::Held { holder: Some(holder), .. } => {
                    assert_eq!((holder.owner, &holder.label), (held.owner, &held.label));
                }
                answer => panic!("{answer:?}"),
            }
        }
        for answer in storage.renew(&held).await {
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
        assert_eq!(storage.list("", None, most).await.expect("answered").len(), most);
        for answer in storage.release(&held).await {
            assert!(matches!(answer, Ok(ReleaseReply::Released)), "{answer:?}");
        }
        for answer in other.acquire(&theirs).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
    });
}

/// A document has at most 16 MiB. This is about four thousand waiters with the longest labels, or a hundred thousand with none.
#[test]
fn a_queue_that_is_full_refuses_waiters_and_the_holder_goes_on() {
    run(async {
        let url = own(&common().url());
        let (storage, (waiter, mut hints)) = (bare(&url).await, listening(&url).await);
        let held = claim("job");
        take(&storage, &held).await;
        let first = claim("job").wait(true);
        is_held(&waiter, &first).await;
        // Entries live for six seconds. On a slow machine they may have expired before the claim, which then finds room.
        let late = |lock: &str| claim(lock).wait(true).label("x".repeat(4_096));
        let mut errors = Vec::new();
        for _ in 0..20 {
            fill(database_of(&url));
            errors.extend(acquire(&waiter, &late("job")).await.err());
            fill(database_of(&url));
            // In a batch, others are granted theirs.
            let mut answers = waiter.acquire(&[late("job"), claim("other")]).await;
            assert!(!matches!(answers.pop(), Some(Err(_))));
            errors.extend(answers.remove(0).err());
            if errors.len() > 1 {
                break;
            }
        }
        assert!(errors.len() > 1, "{errors:?}");
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("too many waiters"), "{error}");
        }
        fill(database_of(&url));
        is_held(&waiter, &claim("job")).await;
        assert!(matches!(renew(&storage, &held).await, Ok(RenewReply::Renewed { .. })));
        let holder = storage.inspect(&held.name).await.expect("answered").pop().expect("held");
        assert_eq!(holder.owner, held.owner);
        is_held(&waiter, &first).await;
        assert_eq!(release(&storage, &held).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(first.owner)));
        take(&waiter, &first).await;
    });
}

/// Adds copies of the only entry of a queue, until there is hardly any room.
fn fill(database: &str) {
    let add = |copies: i32| {
        let copy = doc! { "$mergeObjects": [{ "$first": "$queue" }, {
            "owner": { "$concat": ["copy", { "$toString": "$$this" }] }, "label": "x".repeat(3_000), "asked": { "$add": ["$$NOW", 900] },
        }] };
        let copies = doc! { "$map": { "input": { "$range": [0, copies] }, "in": copy } };
        let first = doc! { "$slice": ["$queue", 1] };
        change(
            common(),
            database,
            doc! {},
            vec![doc! { "$set": { "queue": { "$concatArrays": [first, copies] } } }],
        );
        let size = [doc! { "$project": { "size": { "$bsonSize": "$$ROOT" } } }];
        rows(common(), database, "leasehold", &size)[0].get_i32("size").expect("bytes")
    };
    let (small, large) = (add(1_000), add(2_000));
    let one = (large - small) / 1_000;
    add(1_000 + ((16 << 20) - 200 - small) / one);
}

#[test]
fn a_thousand_locks_and_more_are_listed_in_pages() {
    run(async {
        let url = own(&common().url());
        let storage = bare(&url).await;
        let others = [bare(&with(&url, "prefix=lock")).await, bare(&with(&url, "prefix=z")).await];
        for batch in (0..1_500).collect::<Vec<_>>().chunks(250) {
            let claims: Vec<_> = batch.iter().map(|i| claim(&format!("lock{i:04}"))).collect();
            for storage in [&storage, &others[0], &others[1]] {
                storage.acquire(&claims).await;
            }
        }
        // A released lock, one whose lease has ended, and a document of another program are no holders.
        let gone = claim("lock0500x");
        take(&storage, &gone).await;
        release(&storage, &gone).await.expect("released");
        take(&storage, &claim("lock0600x")).await;
        let past = doc! { "$set": { "until": bson::DateTime::from_millis(1) } };
        change(common(), database_of(&url), doc! { "_id": "lock0600x" }, past);
        let foreign = doc! { "_id": "lock0700x", "owner": "x" };
        tell(common(), database_of(&url), doc! { "insert": "leasehold", "documents": [foreign] });
        for storage in [&storage, &others[0], &others[1]] {
            for limit in [1_500, 1_499, 1_000, 101, 333] {
                let names = all(storage, "", limit).await;
                let wanted: Vec<_> = (0..1_500).map(|i| format!("lock{i:04}")).collect();
                assert_eq!(names, wanted, "{limit}");
            }
            assert_eq!(all(storage, "lock01", 7).await.len(), 100);
            assert_eq!(all(storage, "lock1499", 7).await, ["lock1499"]);
            assert_eq!(all(storage, "lock15", 7).await.len(), 0);
            assert_eq!(storage.list("", None, 0).await.expect("answered").len(), 0);
        }
    });
}

/// Lists all names with a prefix, in pages of `limit`.
async fn all(storage: &Bare, prefix: &str, limit: usize) -> Vec<String> {
    let (mut names, mut after): (Vec<String>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = storage.list(prefix, after.as_ref(), limit).await.expect("answered");
        names.extend(page.iter().map(|holder| holder.name.to_string()));
        match page.last() {
            Some(last) if page.len() == limit => after = Some(last.cursor()),
            _ => return names,
        }
    }
}

/// A list reads the locks of its page, whatever else is in the collection.
#[test]
fn a_list_reads_no_more_than_the_locks_that_it_is_about() {
    run(async {
        let server = leasehold_testbed::MongoDb::start().expect("a server");
        let (mine, other) = (with(&server.url(), "prefix=mine"), with(&server.url(), "prefix=other"));
        let (storage, other) = (bare(&mine).await, bare(&other).await);
        for batch in 0..20 {
            let claims: Vec<_> = (0..250).map(|i| claim(&format!("job{batch}-{i}"))).collect();
            other.acquire(&claims).await;
        }
        let claims: Vec<_> = (0..200).map(|i| claim(&format!("job{i:03}"))).collect();
        storage.acquire(&claims).await;
        tell(&server, "leasehold", doc! { "profile": 2 });
        for (prefix, limit) in [("", 1_000), ("job1", 1_000), ("", 10), ("none", 10)] {
            storage.list(prefix, None, limit).await.expect("answered");
        }
        tell(&server, "leasehold", doc! { "profile": 0 });
        let seen = [doc! { "$match": { "command.find": "leasehold" } }, doc! { "$sort": { "ts": 1 } }];
        let read: Vec<_> = rows(&server, "leasehold", "system.profile", &seen)
            .iter()
            .map(|entry| entry.get_i32("docsExamined").expect("a number"))
            .collect();
        assert_eq!(read, [200, 100, 10, 0]);
    });
}

#[test]
fn a_document_of_another_program_is_left_alone() {
    run(async {
        let url = own(&common().url());
        let (storage, mut hints) = listening(&url).await;
        let theirs = doc! { "_id": "job", "owner": "x", "until": bson::DateTime::MAX, "queue": 7 };
        tell(common(), database_of(&url), doc! { "insert": "leasehold", "documents": [theirs.clone()] });
        let refused = |error: leasehold::Error| {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("another program"), "{error}");
        };
        refused(acquire(&storage, &claim("job")).await.expect_err("not ours"));
        refused(acquire(&storage, &claim("job").wait(true)).await.expect_err("not ours"));
        let mut answers = storage.acquire(&[claim("job"), claim("other")]).await;
        assert!(matches!(answers.pop(), Some(Ok(AcquireReply::Granted { .. }))));
        refused(answers.remove(0).expect_err("not ours"));
        assert_eq!(renew(&storage, &claim("job")).await.expect("answered"), RenewReply::NotHeld);
        assert_eq!(release(&storage, &claim("job")).await.expect("answered"), ReleaseReply::NotHeld);
        assert!(storage.inspect(&name("job")).await.expect("answered").is_empty());
        assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 1);
        let found = rows(common(), database_of(&url), "leasehold", &[doc! { "$match": { "_id": "job" } }]);
        assert_eq!(found, [theirs]);
        assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None);
    });
}
