//! Many clients that want the same lock, with notifications and without.

use futures_util::future::join_all;
use leasehold_testbed::Postgres;

use crate::tools::*;

/// The number of clients that want the same lock at the same time, each with its own connections.
const CLIENTS: usize = 250;

#[test]
fn many_clients_at_once_are_all_notified() {
    let postgres = Postgres::options().setting("max_connections", "600").start().expect("a server");
    run(async {
        let url = own(&with(&postgres.url(), "application_name=many"));
        let holder = client(&url).await;
        let guard = hold(&holder, "job", 10 * LONG).await;
        let mut coming = Vec::new();
        while coming.len() < CLIENTS {
            coming.extend(join_all((0..10).map(|_| client(&url))).await);
        }
        // Each opens its second connection, all at once.
        let waiting: Vec<_> = coming
            .into_iter()
            .map(|locks| {
                let lock = locks.lock("job");
                let turn = async move { lock.acquire().await.expect("granted").release().await };
                (locks, tokio::spawn(turn))
            })
            .collect();
        waiters(&holder, "job", u64::try_from(CLIENTS).expect("few")).await;
        let listening = "select count(*) from pg_stat_activity where application_name = 'many' and query like 'listen%' \
             or application_name = 'many' and query like '%pg_listening_channels%'";
        let some = format!("select ({listening}) >= {CLIENTS}");
        until_sql(&postgres, &some, "t");
        // Each client opens two connections, and hardly any attempt fails.
        let sessions: u64 =
            sql(&postgres, "select sessions from pg_stat_database where datname = 'leasehold'")
                .parse()
                .expect("a number");
        assert!(sessions < 3 * u64::try_from(CLIENTS).expect("few"), "{sessions} sessions");
        let table = table_of(&url);
        let before = done(&postgres, table, ACQUIRE)[0];
        guard.release().await.expect("released");
        for (locks, waiting) in waiting {
            within(LONG, waiting).await.expect("no panic").expect("released");
            drop(locks);
        }
        let asked = done(&postgres, table, ACQUIRE)[0] - before;
        assert!(
            asked < 4 * u64::try_from(CLIENTS).expect("few"),
            "{asked} statements for {CLIENTS} handovers"
        );
    });
}

#[test]
fn without_notifications_the_first_waiter_asks_most_often() {
    run(async {
        let url = own(&with(&common().url(), "notify=off"));
        let table = table_of(&url);
        let holder = client(&url).await;
        let guard = hold(&holder, "job", 10 * LONG).await;
        let mut waiting_ones = Vec::new();
        for _ in 0..40 {
            let locks = client(&url).await;
            let lock = locks.lock("job");
            let turn = async move { lock.acquire().await.expect("granted").release().await };
            waiting_ones.push((tokio::spawn(turn), locks));
        }
        waiters(&holder, "job", 40).await;
        let before = done(common(), table, ACQUIRE)[0];
        let since = tokio::time::Instant::now();
        tokio::time::sleep(time(3_000)).await;
        let asked = done(common(), table, ACQUIRE)[0] - before;
        // The first asks four times a second, the two behind it twice, and all of them every two seconds to keep their places.
        let seconds = u64::try_from(since.elapsed().as_millis()).expect("few") / 1_000 + 1;
        assert!(asked < seconds * (4 + 4 + 20) + 40, "{asked} in {seconds} s");
        let before = done(common(), table, ACQUIRE)[0];
        guard.release().await.expect("released");
        for (waiting, locks) in waiting_ones {
            within(LONG, waiting).await.expect("no panic").expect("released");
            drop(locks);
        }
        let asked = done(common(), table, ACQUIRE)[0] - before;
        assert!(asked < 40 * 12, "{asked} statements for 40 handovers");
    });
}
