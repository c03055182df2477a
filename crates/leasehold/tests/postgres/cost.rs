//! What a lock costs the server: statements, log, locks of its own, deadlocks.

use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage};

use crate::tools::*;

#[test]
fn a_cycle_is_one_statement_to_acquire_one_to_renew_and_two_to_release() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let all = || {
            sql(
                common(),
                &format!(
                    "select coalesce(sum(calls), 0)::bigint from pg_stat_statements \
                 where strpos(query, '\"{table}') > 0 and strpos(query, 'pg_stat_statements') = 0"
                ),
            )
        };
        // A lock that was never held before has no row yet: inserting it takes one more statement.
        let claims: Vec<_> = (0..50).map(|i| claim(&format!("job{i}"))).collect();
        take(&storage, &claim("job")).await;
        storage.acquire(&claims).await;
        sql(common(), &format!("update {table} set owner = null"));
        let counts = || [ACQUIRE, RENEW, RELEASE, PASS].map(|part| done(common(), table, part)[0]);
        let (before, made): (u64, _) = (all().parse().expect("a number"), counts());
        for _ in 0..10 {
            let mine = claim("job");
            take(&storage, &mine).await;
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        }
        let calls: Vec<_> = counts().iter().zip(made).map(|(now, before)| now - before).collect();
        assert_eq!(calls, [10, 10, 10, 10]);
        assert_eq!(all().parse::<u64>().expect("a number") - before, 40);

        // A batch takes as many as one claim.
        let claims: Vec<_> = (0..50).map(|i| claim(&format!("job{i}"))).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        for answer in storage.renew(&claims).await {
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
        for answer in storage.release(&claims).await {
            assert!(matches!(answer, Ok(ReleaseReply::Released)), "{answer:?}");
        }
        assert_eq!(all().parse::<u64>().expect("a number") - before, 44);
        assert_eq!(done(common(), table, LOOK)[0], 0, "no client waited");
    });
}

// `ON CONFLICT DO UPDATE … WHERE` would lock the row even where the condition is false.
#[test]
fn refused_tries_write_nothing() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let (storage, other) = (bare(&url).await, bare(&url).await);
        take(&storage, &claim("job")).await;
        is_held(&other, &claim("job")).await;
        let row = || sql(common(), &format!("select ctid, xmin, xmax, * from {table}"));
        let (before, [calls, _, wal]) = (row(), done(common(), table, ACQUIRE));
        for _ in 0..100 {
            is_held(&other, &claim("job")).await;
        }
        assert_eq!(row(), before, "not even a lock of the row");
        // The small statement, and the larger one.
        let [_, rows, _] = done(common(), table, ACQUIRE);
        assert_eq!(done(common(), table, ACQUIRE), [calls + 200, rows, wal]);

        // An entry in the queue is written to a table without a log. Asking again only moves its end.
        let waiting = claim("job").wait(true);
        for _ in 0..50 {
            is_held(&other, &waiting).await;
        }
        assert_eq!(row(), before);
        assert_eq!(done(common(), table, ACQUIRE)[2], wal);
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "1");
        drop((storage, other));
        let updates = format!("select n_tup_upd from pg_stat_user_tables where relid = '{table}'::regclass");
        until_sql(common(), &updates, "0");
    });
}

#[test]
fn a_cycle_updates_the_row_where_it_is() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let cycles = 200;
        for _ in 0..cycles {
            let mine = claim("job");
            take(&storage, &mine).await;
            renew(&storage, &mine).await.expect("answered");
            release(&storage, &mine).await.expect("answered");
        }
        drop(storage);
        // The first grant is an insert. None of the updates touches an index, unless the transaction of another test, which
        // may see the old versions, has kept them in the page until it was full.
        let count = |columns: &str| {
            format!("select {columns} from pg_stat_user_tables where relid = '{table}'::regclass")
        };
        until_sql(common(), &count("n_tup_ins, n_tup_upd"), &format!("1|{}", 3 * cycles - 1));
        let moved = sql(common(), &count("n_tup_upd - n_tup_hot_upd"));
        assert!(moved.parse::<u64>().expect("a number") <= cycles / 20, "{moved} of {cycles} cycles");
        let size: u64 = sql(common(), &format!("select pg_relation_size('{table}')")).parse().expect("bytes");
        assert!(size <= 4 * 8192, "{size} bytes for one lock");
        let [_, _, granted] = done(common(), table, ACQUIRE);
        let [_, _, renewed] = done(common(), table, RENEW);
        let [_, _, released] = done(common(), table, RELEASE);
        let per_cycle = (granted + renewed + released) / cycles;
        assert!(per_cycle < 1_500, "{per_cycle} bytes of log");
    });
}

/// A plan is made once, perhaps while the table is empty, and with whatever statistics it has then.
#[test]
fn a_batch_reads_its_own_rows_however_many_there_are() {
    run(async {
        for (rows, known) in [(200, false), (200, true), (20_000, false), (20_000, true)] {
            let url = own(&common().url());
            let table = table_of(&url);
            let early = bare(&url).await;
            let claims = || (0..50).map(|i| claim(&format!("job{i}"))).collect::<Vec<_>>();
            let cycle = async |storage: &Bare| {
                let claims = claims();
                for answer in storage.acquire(&claims).await {
                    assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
                }
                for answer in storage.release(&claims).await {
                    assert_eq!(answer.expect("answered"), ReleaseReply::Released);
                }
            };
            cycle(&early).await;
            let many = format!(
                "insert into {table} select '', 'job' || i, 'mutex', null, null, 1, 1, now(), now(), null \
                 from generate_series(50, {rows}) i"
            );
            sql(common(), &many);
            if known {
                sql(common(), &format!("analyze {table}"));
            }
            let late = bare(&url).await;
            for storage in [&early, &late] {
                cycle(storage).await;
            }
            drop((early, late));
            let of = format!("where relid = '{table}'::regclass");
            let updates = format!("select n_tup_upd from pg_stat_user_tables {of}");
            let reads = format!(
                "select (select seq_tup_read from pg_stat_user_tables {of}) \
                 + (select idx_tup_read from pg_stat_user_indexes {of})"
            );
            // Each cycle has updated the rows twice, except the first, which inserted them.
            until_sql(common(), &updates, "250");
            let read: u64 = sql(common(), &reads).parse().expect("a number");
            assert!(read < 2_000, "{read} of {rows} rows, statistics {known}");
        }
    });
}

#[test]
fn two_clients_that_take_locks_in_opposite_orders_never_deadlock() {
    run(async {
        let url = own(&common().url());
        let deadlocks = || sql(common(), "select sum(deadlocks) from pg_stat_database");
        let before = deadlocks();
        let workers = [false, true].map(|backwards| {
            let url = url.clone();
            tokio::spawn(async move {
                let storage = bare(&url).await;
                for _ in 0..1_000 {
                    let mut claims: Vec<_> = (0..20).map(|i| claim(&format!("job{i}"))).collect();
                    if backwards {
                        claims.reverse();
                    }
                    let answers = within(soon(), storage.acquire(&claims)).await;
                    let won: Vec<_> = claims
                        .into_iter()
                        .zip(answers)
                        .filter_map(|(claim, answer)| {
                            matches!(answer.expect("granted or held"), AcquireReply::Granted { .. })
                                .then_some(claim)
                        })
                        .collect();
                    for (claim, answer) in won.iter().zip(within(soon(), storage.release(&won)).await) {
                        // The other client has locked the row at this moment: both saw it free.
                        if answer.is_err() {
                            while release(&storage, claim).await.is_err() {}
                        }
                    }
                }
            })
        });
        for worker in within(LONG, join_all(workers)).await {
            worker.expect("no panic");
        }
        assert_eq!(deadlocks(), before);
    });
}

// With default settings, about 12,800 advisory locks exhaust the shared memory of the whole server.
#[test]
fn ten_thousand_holds_take_no_lock_of_the_server() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let storage = bare(&url).await;
        let claims: Vec<Claim> = (0..10_000).map(|i| claim(&format!("job{i}"))).collect();
        for batch in claims.chunks(500) {
            for answer in storage.acquire(batch).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
        }
        let locks = format!(
            "select count(*) from pg_locks l join pg_stat_activity a using (pid) where a.application_name = '{application}'"
        );
        assert_eq!(sql(common(), &locks), "0");
        for batch in claims.chunks(500) {
            for answer in storage.release(batch).await {
                assert!(matches!(answer, Ok(ReleaseReply::Released)), "{answer:?}");
            }
        }
        assert_eq!(sql(common(), &locks), "0");
    });
}

#[test]
fn batches_with_the_same_names_in_other_orders_never_deadlock() {
    run(async {
        let url = own(&common().url());
        let deadlocks = || sql(common(), "select sum(deadlocks) from pg_stat_database");
        let before = deadlocks();
        let workers = (0..5_u64).map(|worker| {
            let url = url.clone();
            tokio::spawn(async move {
                let storage = bare(&url).await;
                let mut random = Random(worker + 1);
                for _ in 0..60 {
                    let mut claims: Vec<_> =
                        (0..20).map(|i| claim(&format!("job{i}")).wait(i % 2 == 0)).collect();
                    for i in (1..claims.len()).rev() {
                        let j = random.below(u64::try_from(i).expect("few") + 1);
                        claims.swap(i, usize::try_from(j).expect("few"));
                    }
                    for answer in storage.acquire(&claims).await {
                        answer.expect("granted or held");
                    }
                    claims.reverse();
                    for answer in storage.renew(&claims).await {
                        // Another batch has locked the row at this moment: the claim is repeated.
                        drop(answer);
                    }
                    for claim in &claims {
                        while release(&storage, claim).await.is_err() {}
                    }
                }
            })
        });
        for worker in within(LONG, join_all(workers)).await {
            worker.expect("no panic");
        }
        assert_eq!(deadlocks(), before);
    });
}
