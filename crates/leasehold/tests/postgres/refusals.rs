//! What the server refuses of one claim: texts that the database cannot hold, and rules of others. It fails no other claim.

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage as _};

use crate::tools::*;

/// Checks that the bad claims are refused, and that the others are granted, renewed and released.
async fn only_the_bad_are_refused(storage: &Bare, claims: &[Claim], is_bad: impl Fn(&Claim) -> bool) {
    for (claim, answer) in claims.iter().zip(within(soon(), storage.acquire(claims)).await) {
        match (is_bad(claim), answer) {
            (false, Ok(AcquireReply::Granted { .. })) | (true, Ok(AcquireReply::Held { .. })) => {}
            (true, Err(error)) => {
                let passes = ["54000", "55000", "XX000"].iter().any(|code| error.to_string().contains(code));
                assert_eq!(error.kind() == ErrorKind::Unavailable, passes, "{error}");
            }
            (_, other) => panic!("{:?}: {other:?}", claim.name),
        }
    }
    for (claim, answer) in claims.iter().zip(within(soon(), storage.renew(claims)).await) {
        let wanted = if is_bad(claim) { RenewReply::NotHeld } else { RenewReply::Renewed { ttl: claim.ttl } };
        assert_eq!(answer.expect("answered"), wanted, "{:?}", claim.name);
    }
    for (claim, answer) in claims.iter().zip(within(soon(), storage.release(claims)).await) {
        let wanted = if is_bad(claim) { ReleaseReply::NotHeld } else { ReleaseReply::Released };
        assert_eq!(answer.expect("answered"), wanted, "{:?}", claim.name);
    }
}

#[test]
fn a_name_or_label_that_the_database_cannot_hold_fails_its_own_claim_only() {
    run(async {
        for (encoding, fine, bad) in
            [("LATIN1", "\u{ff}", "日本"), ("EUC_JP", "日本", "🔒"), ("UTF8", "🔒", "a\0b")]
        {
            let database = table();
            let make = format!(
                "create database {database} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
            );
            sql(common(), &make);
            let url = common().url_of(&database);
            let storage = bare(&url).await;
            // A name cannot contain a NUL; a label can.
            let names = [bad, "bad"].map(|lock| if lock.contains('\0') { "nul" } else { lock });
            let claims: Vec<_> = (0..78)
                .map(|i| claim(&format!("{fine}{i}")).label(fine))
                .chain(names.map(|lock| claim(lock).label(bad)))
                .collect();
            // First the rows are inserted, then they are updated.
            for _ in 0..2 {
                only_the_bad_are_refused(&storage, &claims, |claim| claim.label.as_deref() == Some(bad))
                    .await;
            }
            let held = claim(&format!("{fine}1"));
            take(&storage, &held).await;
            // Other locks can be observed and listed.
            if let Ok(bad) = leasehold::storage::Name::new(bad) {
                assert_eq!(storage.inspect(&bad).await.expect("answered"), []);
                assert!(storage.list(bad.as_str(), None, 10).await.expect("answered").is_empty());
            }
            assert_eq!(storage.list(fine, None, 10).await.expect("answered").len(), 1, "{encoding}");
            assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 1);
            let locks = client(&url).await;
            let mut changes = locks.observe(format!("{fine}1")).expect("a name");
            let mut never = locks.observe("日本🔒").expect("a name");
            within(soon(), changes.next()).await.expect("it is there");
            let unheard = tokio::spawn(async move { never.next().await });
            assert_eq!(release(&storage, &held).await.expect("answered"), ReleaseReply::Released);
            while !matches!(within(soon(), changes.next()).await, Some(leasehold::Change::Unlocked)) {}
            unheard.abort();
            // After a definite refusal there is nothing to release.
            let acquired = locks.lock("fine").label(bad).acquire().await;
            if let Ok(guard) = acquired {
                panic!("a label that cannot be kept: {:?}", guard.name());
            }
            let closing = tokio::time::Instant::now();
            locks.close().await.expect("closed");
            assert!(closing.elapsed() < time(1_500), "closed after {:?}", closing.elapsed());
        }
        let error = refusal(&with(&common().url_of(&latin1()), "prefix=%E6%97%A5")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
}

fn latin1() -> String {
    let database = table();
    let make = format!(
        "create database {database} encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
    );
    sql(common(), &make);
    database
}

#[test]
fn rows_that_are_no_text_do_not_fail_a_list() {
    run(async {
        let database = table();
        let make = format!(
            "create database {database} encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"
        );
        sql(common(), &make);
        let storage = bare(&common().url_of(&database)).await;
        let claims: Vec<_> = (0..10).map(|i| claim(&format!("job{i}")).label("é")).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        // Two names among them, and a label.
        let others = "insert into leasehold select '', name || E'\\xff', kind, owner, client, token, ttl_us, granted_at, \
             expires_at, label from leasehold where name in ('job3', 'job4'); \
             update leasehold set label = E'\\xff' where name = 'job7'";
        common().sql_in(&database, others).expect("done");
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = storage.list("", after.as_ref(), 3).await.expect("answered");
            assert!(page.len() <= 3);
            let Some(last) = page.last() else { break };
            after = Some(last.cursor());
            listed.extend(page.into_iter().map(|holder| holder.name));
        }
        assert_eq!(listed, claims.iter().map(|claim| claim.name.clone()).collect::<Vec<_>>());
        is_held(&storage, &claim("job7")).await;
    });
}

#[test]
fn a_claim_that_a_rule_of_others_refuses_fails_no_other_claim() {
    run(async {
        // A trigger may raise codes that usually mean that the server refuses everything.
        for kind in ["check", "P0001", "42501", "42883", "XX000", "0A000", "55000", "54000", "policy"] {
            let (role, url) = role(common(), &[]);
            let url = with(&url, "table=locks");
            let storage = bare(&url).await;
            let table = format!("{role}.locks");
            let rule = match kind {
                "check" => format!("alter table {table} add check (label <> 'bad')"),
                "policy" => format!(
                    "alter table {table} enable row level security; alter table {table} force row level security; \
                     create policy fine on {table} using (true) with check (label is distinct from 'bad')"
                ),
                code => trigger(
                    &table,
                    &format!("before insert or update on {table} for each row when (new.label = 'bad')"),
                    &format!("raise 'not that' using errcode = '{code}';"),
                ),
            };
            sql(common(), &rule);
            let claims: Vec<_> = (0..40)
                .map(|i| claim(&format!("job{i}")).label(if i % 20 == 7 { "bad" } else { "fine" }))
                .collect();
            for _ in 0..2 {
                only_the_bad_are_refused(&storage, &claims, |claim| claim.label.as_deref() == Some("bad"))
                    .await;
            }
            // A release does not fail because of the next waiter.
            let other = bare(&url).await;
            let _hints = listening(&url).await;
            let (mine, next) = (claim("job"), claim("job").wait(true).label("bad"));
            take(&storage, &mine).await;
            is_held(&other, &next).await;
            sql(
                common(),
                &format!(
                    "update {table}_waiters set client = '0000000000000000', until = until - interval '1 ms'"
                ),
            );
            is_held(&storage, &claim("job").wait(true)).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{kind}");
        }
    });
}
