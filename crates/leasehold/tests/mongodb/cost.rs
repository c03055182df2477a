//! What locks cost the server: commands.

use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage};
use leasehold_testbed::MongoDb;

use crate::tools::*;

/// A server that counts the commands of the clients of its database `leasehold`.
struct Counting(MongoDb);

impl Counting {
    fn start() -> Self {
        let server = MongoDb::start().expect("a server");
        record(&server, "leasehold");
        Self(server)
    }

    fn url(&self) -> String {
        self.0.url()
    }

    /// Returns how many single acquires, updates and reads it has executed.
    fn asked(&self) -> [u64; 3] {
        let counts = counts(&self.0);
        let count = |name| counts.get(name).copied().unwrap_or(0);
        [count("findAndModify"), count("update"), reads(&self.0, "leasehold")]
    }

    /// Returns how many there were since.
    fn since(&self, before: [u64; 3]) -> [u64; 3] {
        let now = self.asked();
        [0, 1, 2].map(|i| now[i] - before[i])
    }
}

#[test]
fn a_cycle_is_one_command_each() {
    run(async {
        let server = Counting::start();
        let (storage, other) = (bare(&server.url()).await, bare(&server.url()).await);
        let before = server.asked();
        for round in 0..10 {
            // The first cycle inserts the document.
            let mine = claim("job");
            take(&storage, &mine).await;
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
            is_held(&other, &claim("job")).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            let rounds = round + 1;
            assert_eq!(server.since(before), [2 * rounds, 2 * rounds, 0]);
        }
        // A release of what is not held looks for waiters, and for an entry of its own.
        assert_eq!(release(&storage, &claim("job")).await.expect("answered"), ReleaseReply::NotHeld);
        assert_eq!(server.since(before), [20, 23, 0]);
        assert_eq!(renew(&storage, &claim("job")).await.expect("answered"), RenewReply::NotHeld);
        // A deposed primary cannot answer the read that follows.
        assert_eq!(server.since(before), [20, 24, 1]);
    });
}

#[test]
fn a_batch_is_one_update_and_for_acquires_one_read() {
    run(async {
        let server = Counting::start();
        let (storage, other) = (bare(&server.url()).await, bare(&server.url()).await);
        let claims: Vec<_> = (0..64).map(|i| claim(&format!("job{i}"))).collect();
        // The first lock makes the collection.
        take(&storage, &claim("first")).await;
        for round in 0..2 {
            let before = server.asked();
            for answer in storage.acquire(&claims).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
            // The first round inserts the documents, and asks again.
            let times = if round == 0 { 2 } else { 1 };
            assert_eq!(server.since(before), [0, times, times], "round {round}");
            let before = server.asked();
            for answer in storage.renew(&claims).await {
                assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
            }
            assert_eq!(server.since(before), [0, 1, 0]);
            let theirs: Vec<_> = (0..64).map(|i| claim(&format!("job{i}")).wait(i % 2 == 0)).collect();
            for answer in other.acquire(&theirs).await {
                assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
            }
            assert_eq!(server.since(before), [0, 2, 1]);
            // Half of them wait, and none of them holds.
            for answer in other.release(&theirs).await {
                assert!(matches!(answer, Ok(ReleaseReply::NotHeld)), "{answer:?}");
            }
            assert_eq!(server.since(before), [0, 4, 1]);
            for answer in storage.release(&claims).await {
                assert!(matches!(answer, Ok(ReleaseReply::Released)), "{answer:?}");
            }
            assert_eq!(server.since(before), [0, 5, 1]);
        }
    });
}

#[test]
fn a_batch_in_which_some_do_not_hold_costs_one_read_more() {
    run(async {
        let server = Counting::start();
        let storage = bare(&server.url()).await;
        let claims: Vec<_> = (0..64).map(|i| claim(&format!("job{i}"))).collect();
        let is_held = |i: usize| !i.is_multiple_of(3);
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        let ended: Vec<_> = (0..64).filter(|i| !is_held(*i)).map(|i| claims[i].clone()).collect();
        storage.release(&ended).await;
        let before = server.asked();
        for (i, answer) in storage.renew(&claims).await.into_iter().enumerate() {
            match answer.expect("answered") {
                RenewReply::Renewed { ttl } => assert!(is_held(i) && ttl > claims[i].ttl / 2, "{i} {ttl:?}"),
                RenewReply::NotHeld => assert!(!is_held(i), "{i}"),
                other => panic!("{i}: {other:?}"),
            }
        }
        assert_eq!(server.since(before), [0, 1, 1]);
        for (i, answer) in storage.release(&claims).await.into_iter().enumerate() {
            let wanted = if is_held(i) { ReleaseReply::Released } else { ReleaseReply::NotHeld };
            assert_eq!(answer.expect("answered"), wanted, "{i}");
        }
        // The first update is for locks without waiters, and the last for what may be left of those that do not hold.
        assert_eq!(server.since(before), [0, 4, 2]);
    });
}

#[test]
fn clients_that_insert_the_same_documents_at_once_are_all_answered() {
    run(async {
        let url = own(&common().url());
        let storages = join_all((0..8).map(|_| bare(&url))).await;
        for round in 0..20 {
            let claims = || (0..16).map(|i| claim(&format!("job{round}-{i}"))).collect::<Vec<Claim>>();
            let batches: Vec<_> = storages.iter().map(|storage| (storage, claims())).collect();
            let answers = join_all(batches.iter().map(|(storage, claims)| storage.acquire(claims))).await;
            for i in 0..16 {
                let granted = answers.iter().filter(|answers| match &answers[i] {
                    Ok(AcquireReply::Granted { .. }) => true,
                    Ok(_) => false,
                    Err(error) => panic!("{error}"),
                });
                assert_eq!(granted.count(), 1, "round {round}, lock {i}");
            }
            // The same with single claims.
            let single = format!("single{round}");
            let single: Vec<_> = storages.iter().map(|storage| (storage, claim(&single))).collect();
            let answers = join_all(single.iter().map(|(storage, claim)| acquire(*storage, claim))).await;
            let granted = answers.into_iter().filter(|answer| match answer {
                Ok(reply) => matches!(reply, AcquireReply::Granted { .. }),
                Err(error) => panic!("{error}"),
            });
            assert_eq!(granted.count(), 1, "round {round}");
        }
    });
}

#[test]
fn ten_thousand_holds_are_renewed_in_batches() {
    run(async {
        // Recording each statement would slow the server down.
        let server = Counting(MongoDb::start().expect("a server"));
        let locks = client(&server.url()).await;
        let ttl = time(30_000);
        let mut guards = Vec::new();
        for thousand in 0..10 {
            let taking = (0..1_000).map(|i| {
                let lock = locks.lock(format!("job{thousand}-{i}")).ttl(ttl);
                async move { lock.acquire().await.expect("granted") }
            });
            guards.extend(within(LONG, join_all(taking)).await);
        }
        let (before, begun) = (server.asked(), tokio::time::Instant::now());
        // The commands within this time are counted.
        tokio::time::sleep(ttl).await;
        let [single, updates, _] = server.since(before);
        let rounds = (begun.elapsed().as_secs_f64() / (ttl / 3).as_secs_f64()).ceil();
        let updates = u32::try_from(updates).expect("few");
        assert_eq!(single, 0);
        assert!(guards.iter().all(leasehold::Guard::is_held));
        // 40 batches of 256 are full. On a slow machine most are not, and some are sent in parts.
        assert!(f64::from(updates) <= (rounds + 1.0) * 16.0 * 40.0, "{updates} in {rounds} rounds");
        // Each hold was renewed at least once.
        assert!(updates >= 40, "{updates}");
    });
}

#[test]
fn a_thousand_observers_cost_a_few_hundred_reads_a_second() {
    run(async {
        let server = Counting::start();
        let locks = client(&server.url()).await;
        let mut seen: Vec<_> =
            (0..1_000).map(|i| locks.observe(format!("job{i}")).expect("a name")).collect();
        for changes in &mut seen {
            assert_eq!(within(LONG, changes.next()).await, Some(leasehold::Change::Unlocked));
        }
        let (before, begun) = (server.asked(), tokio::time::Instant::now());
        // The commands within this time are counted.
        tokio::time::sleep(time(4_000)).await;
        let [single, updates, reads] = server.since(before);
        assert_eq!([single, updates], [0, 0]);
        // The engine inspects a name from time to time: 2 ms apart, however many there are. The hints that the names are observed
        // are answered by one more inspection each.
        let reads = f64::from(u32::try_from(reads).expect("few"));
        assert!(reads <= 1_000.0 + begun.elapsed().as_secs_f64() * 550.0, "{reads} in {:?}", begun.elapsed());
        let guard = hold(&locks, "job500", LONG).await;
        let locked = within(soon(), seen[500].next()).await;
        assert!(matches!(locked, Some(leasehold::Change::Locked { .. })), "{locked:?}");
        guard.release().await.expect("released");
        assert_eq!(within(soon(), seen[500].next()).await, Some(leasehold::Change::Unlocked));
    });
}
