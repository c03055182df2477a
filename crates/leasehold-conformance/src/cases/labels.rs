//! Labels: data that is returned exactly as it was given.

use super::cases;
use super::names::HOSTILE;
use crate::context::Context;

cases!("labels":
    [] => [
        hostile_labels_come_back_byte_by_byte,
        the_longest_label_comes_back,
        no_label_stays_none,
        a_label_ends_with_its_lease,
    ],
);

async fn hostile_labels_come_back_byte_by_byte(case: Context) {
    for (i, label) in HOSTILE.iter().enumerate() {
        comes_back(&case, &format!("{i}"), Some(label)).await;
    }
}

async fn the_longest_label_comes_back(case: Context) {
    for (i, unit) in ["x", "'", "\\", "é", "😀", "\n"].iter().enumerate() {
        let longest = unit.repeat(4096 / unit.len());
        comes_back(&case, &format!("{i}"), Some(&longest)).await;
    }
}

async fn no_label_stays_none(case: Context) {
    comes_back(&case, "a", None).await;
}

async fn a_label_ends_with_its_lease(case: Context) {
    comes_back(&case, "a", Some("the first")).await;
    comes_back(&case, "a", Some("the second")).await;
    comes_back(&case, "a", None).await;
}

async fn comes_back(case: &Context, rest: &str, label: Option<&str>) {
    let (client, claim) = (case.client().await, case.claim(rest));
    let claim = match label {
        Some(label) => claim.label(label),
        None => claim,
    };
    client.take(&claim, "the lock is free").await;
    let holder = client.inspect(&claim.name).await;
    let holder = holder.expect("the lock is held but inspect shows no holder");
    assert_eq!(holder.label.as_deref(), label, "the label");
    client.give(&claim, "it was granted").await;
}
