//! Names: data of any content, each naming one lock.

use std::collections::HashSet;

use leasehold::Owner;
use leasehold::storage::{Claim, Name};

use super::cases;
use crate::context::{Client, Context, named};

cases!("names":
    [] => [
        hostile_names_are_locks_of_their_own,
        hostile_names_come_back_byte_by_byte,
        hostile_names_may_stand_first,
        the_longest_name_is_a_lock,
        names_that_look_alike_do_not_exclude,
    ],
);

/// Names that have broken quoting, patterns, paths, terminals or keys in some program. All are distinct.
pub(super) const HOSTILE: &[&str] = &[
    "'",
    "''",
    "\"",
    "`",
    "\\",
    "\\\\",
    "\\'",
    "\\n",
    "';DROP TABLE leases;--",
    "' OR '1'='1",
    "$1",
    ":name",
    "?",
    "@p",
    "$$",
    "$where",
    "$set",
    "{}",
    "{$gt:\"\"}",
    "{tag}",
    "a{b}c",
    "[a-z]",
    "[[:alpha:]]",
    "]]",
    "*",
    "%",
    "_",
    "%s%n",
    "%25",
    "%2F",
    "%00",
    "../../etc/passwd",
    "..",
    ".",
    "./",
    "/",
    "//",
    "a//b",
    "/a",
    "a/",
    "a ",
    " a",
    "\t",
    "\n",
    "a\r\nSET x y",
    "\u{1b}[31mred",
    "\u{7f}",
    "\u{1}",
    "\u{feff}",
    "\u{200b}",
    "\u{202e}gnp",
    "a\u{301}",
    "\u{e1}",
    "ﬁ",
    "fi",
    "ß",
    "ss",
    "ı",
    "i",
    "İ",
    "I",
    "日本語",
    "😀",
    "\u{10ffff}",
    "null",
    "NULL",
    "true",
    "0",
    "00",
    "-1",
    "1e3",
    "NaN",
    ":token",
    ":queue",
    "a:b",
    "KEYS[1]",
    "return redis.call('FLUSHALL')",
    "<script>",
    "&amp;",
    "#",
    "a#b",
    "a?b=c",
    "=",
    "+",
    ",",
    ";",
    "|",
    "~",
];

async fn hostile_names_are_locks_of_their_own(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let claims: Vec<_> = HOSTILE.iter().map(|rest| case.claim(rest)).collect();
    each_is_a_lock(&a, &b, &claims).await;
}

async fn hostile_names_come_back_byte_by_byte(case: Context) {
    let client = case.client().await;
    let mut held = HashSet::new();
    for rest in HOSTILE {
        let claim = case.claim(rest);
        client.take(&claim, "the lock is free").await;
        let holder = client.inspect(&claim.name).await;
        let holder = holder.unwrap_or_else(|| panic!("{:?} is held but inspect shows no holder", claim.name));
        assert_eq!(holder.name, claim.name, "inspected");
        held.insert(claim.name);
    }
    let listed = client.list(case.prefix(), None, HOSTILE.len() + 10).await;
    let listed: HashSet<Name> = listed.into_iter().map(|holder| holder.name).collect();
    let (missing, surplus): (Vec<_>, Vec<_>) =
        (held.difference(&listed).collect(), listed.difference(&held).collect());
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "held and not listed: {missing:?}; listed and not held: {surplus:?}"
    );
}

/// Uses the names without the prefix of the case, which would hide their first characters.
async fn hostile_names_may_stand_first(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let name = |rest: &&str| named(&format!("{rest} {}", case.prefix()));
    let claims: Vec<_> = HOSTILE.iter().map(|rest| case.claim_for(name(rest))).collect();
    each_is_a_lock(&a, &b, &claims).await;
}

async fn the_longest_name_is_a_lock(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let room = Name::MAX_LEN - case.prefix().len();
    let wide = "日".repeat(room / 3);
    let claims: Vec<_> =
        [&"x".repeat(room), &"x".repeat(room - 1), &"'".repeat(room), &wide, &"/".repeat(room)]
            .iter()
            .map(|rest| case.claim(rest))
            .collect();
    each_is_a_lock(&a, &b, &claims).await;
}

async fn names_that_look_alike_do_not_exclude(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let alike = [
        ("case", "CASE"),
        ("\u{e1}", "a\u{301}"),
        ("ß", "ss"),
        ("tail", "tail "),
        ("tail", "tail/"),
        ("tail", "tail\n"),
        ("K", "\u{212a}"),
        ("a/b", "a//b"),
        ("%41", "A"),
        ("0", "00"),
    ];
    for (i, (one, other)) in alike.iter().enumerate() {
        a.take(&case.claim(&format!("{i} {one}")), "the lock is free").await;
        let why = format!("{other:?} is not {one:?}");
        b.take(&case.claim(&format!("{i} {other}")), &why).await;
    }
}

/// Acquires all, then checks that each is refused to another client and held until its own release.
async fn each_is_a_lock(a: &Client, b: &Client, claims: &[Claim]) {
    for claim in claims {
        a.take(claim, &format!("{:?} is free", claim.name)).await;
    }
    for claim in claims {
        let mut other = claim.clone();
        other.owner = Owner::random();
        b.refused(&other, &format!("{:?} is held", claim.name)).await;
    }
    for claim in claims {
        a.keep(claim, &format!("{:?} is held", claim.name)).await;
        a.give(claim, &format!("{:?} was held", claim.name)).await;
    }
}
