//! Promises: what a storage declares is consistent and does not change.

use std::time::Duration;

use leasehold::storage::Storage;

use super::cases;
use crate::context::Context;

cases!("promises":
    [] => [
        limits_are_within_the_bounds_of_the_contract,
        every_client_promises_the_same,
        findings_say_what_is_behind_it,
    ],
);

async fn limits_are_within_the_bounds_of_the_contract(case: Context) {
    let limits = case.limits;
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(24 * 60 * 60));
    assert!(
        least <= limits.ttl_min && limits.ttl_min <= limits.ttl_max && limits.ttl_max <= most,
        "{least:?} ≤ ttl_min ≤ ttl_max ≤ {most:?}: {limits:?}"
    );
    assert!(limits.batch_max >= 1, "at least one claim in a batch: {limits:?}");
    assert!(limits.batches_in_flight >= 1, "at least one batch at a time: {limits:?}");
}

async fn every_client_promises_the_same(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    assert_eq!(a.0.guarantees(), b.0.guarantees(), "the guarantees of two clients");
    assert_eq!(a.0.limits(), b.0.limits(), "the limits of two clients");
}

async fn findings_say_what_is_behind_it(case: Context) {
    let findings = case.client().await.0.findings().await.expect("the findings of a storage that answers");
    assert!(!findings.is_empty(), "`findings` returned nothing");
    for finding in &findings {
        assert!(!finding.about.trim().is_empty() && !finding.detail.trim().is_empty(), "{finding:?}");
        assert!(!finding.detail.contains('\n'), "a finding has more than one line: {finding:?}");
    }
}
