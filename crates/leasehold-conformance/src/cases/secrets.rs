//! Secrets: `Debug`, `Display` and errors identify the storage without showing a secret.

use std::time::Duration;

use leasehold::storage::Storage as _;

use super::cases;
use crate::context::Context;

cases!("secrets":
    [] => [
        a_storage_says_its_name,
        a_storage_shows_no_secret,
        errors_show_no_secret,
        findings_show_no_secret,
    ],
);

async fn a_storage_says_its_name(case: Context) {
    let storage = case.client().await.0;
    let (display, debug) = (format!("{storage}"), format!("{storage:?}"));
    assert!(!display.trim().is_empty() && !debug.trim().is_empty(), "shown as nothing");
    assert!(!display.contains('\n'), "`Display` has more than one line: {display:?}");
}

async fn a_storage_shows_no_secret(case: Context) {
    let client = case.client().await;
    client.take(&case.claim("a"), "the lock is free").await;
    let storage = &client.0;
    for shown in [format!("{storage}"), format!("{storage:?}"), format!("{storage:#?}")] {
        shows_none(&case, &shown);
    }
}

async fn errors_show_no_secret(case: Context) {
    let (client, late) = (case.client().await, case.claim("a").patience(Duration::ZERO));
    if let Err(error) = client.try_acquire(&late).await {
        shows_none(&case, &format!("{error} {error:?} {error:#?}"));
    }
}

async fn findings_show_no_secret(case: Context) {
    let findings = case.client().await.0.findings().await;
    shows_none(&case, &format!("{findings:#?}"));
}

fn shows_none(case: &Context, shown: &str) {
    let found = case.secrets().iter().any(|secret| shown.contains(secret.as_str()));
    // The message omits the text, because the text contains the secret.
    assert!(!found, "a secret is shown");
}
