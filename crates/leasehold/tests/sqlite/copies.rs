//! Two copies of this library in one process, as two dependencies bring them that need different versions of it.

use leasehold::storage::ReleaseReply;
use leasehold_twin::storage as twin;
use twin::Storage as _;

use crate::tools::{Dir, LONG, claim, is_held, open, release, run, take};
use crate::worker::Worker;

async fn twin_open(dir: &Dir) -> twin::sqlite::Sqlite {
    twin::sqlite::Sqlite::open(twin::sqlite::Config::new(dir.file())).await.expect("opened")
}

async fn twin_acquire(storage: &twin::sqlite::Sqlite) -> (twin::Claim, twin::AcquireReply) {
    let claim = twin::Claim::new(twin::Name::new("job").expect("a name"), twin::Owner::random(), LONG);
    let answer = storage.acquire(std::slice::from_ref(&claim)).await.pop().expect("one answer");
    (claim, answer.expect("answered"))
}

#[test]
fn two_copies_in_one_process_exclude_each_other() {
    let dir = Dir::new();
    run(async {
        let (one, other) = (open(&dir.file()).await, twin_open(&dir).await);
        let mine = claim("job");
        take(&one, &mine).await;
        assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Held { .. }));
        assert_eq!(release(&one, &mine).await, ReleaseReply::Released);

        let (theirs, granted) = twin_acquire(&other).await;
        assert!(matches!(granted, twin::AcquireReply::Granted { .. }));
        is_held(&one, &claim("job")).await;
        drop(one);
        // A storage that opens the file examines which others have it open.
        let one = open(&dir.file()).await;
        is_held(&one, &claim("job")).await;
        other.release(&[theirs]).await;
        take(&one, &claim("job")).await;
    });
}

#[test]
fn a_copy_that_opens_the_file_does_not_make_the_other_seem_dead() {
    let dir = Dir::new();
    run(async {
        let one = open(&dir.file()).await;
        take(&one, &claim("job")).await;
        for _ in 0..3 {
            let other = twin_open(&dir).await;
            assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Held { .. }));
        }
        let mut elsewhere = Worker::start(&dir.file());
        assert!(elsewhere.remaining("job") > LONG / 2);
    });
}

#[test]
fn a_copy_that_is_closed_frees_what_it_held() {
    let dir = Dir::new();
    run(async {
        let (one, other) = (open(&dir.file()).await, twin_open(&dir).await);
        assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Granted { .. }));
        drop(other);
        take(&one, &claim("job")).await;
    });
}
