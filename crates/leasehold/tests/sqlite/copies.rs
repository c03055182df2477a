//! Two copies of this library in one process, as two packages bring them that want different versions of it.

use leasehold::storage::{AcquireReply, ReleaseReply};
use leasehold_twin::storage as twin;
use twin::Storage as _;

use super::{Dir, Worker, acquire, claim, open, release, run};

async fn twin_open(dir: &Dir) -> twin::sqlite::Sqlite {
    twin::sqlite::Sqlite::open(twin::sqlite::Config::new(dir.file())).await.expect("opened")
}

async fn twin_acquire(storage: &twin::sqlite::Sqlite) -> (twin::Claim, twin::AcquireReply) {
    let claim = twin::Claim::new(twin::Name::new("job").expect("a name"), twin::Owner::random(), super::LONG);
    let answer = storage.acquire(std::slice::from_ref(&claim)).await.pop().expect("one answer");
    (claim, answer.expect("answered"))
}

#[test]
fn two_copies_in_one_process_exclude_each_other() {
    let dir = Dir::new();
    run(async {
        let (one, other) = (open(&dir.file()).await, twin_open(&dir).await);
        let mine = claim("job");
        assert!(matches!(acquire(&one, &mine).await, AcquireReply::Granted { .. }));
        assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Held { .. }));
        assert_eq!(release(&one, &mine).await, ReleaseReply::Released);

        let (theirs, granted) = twin_acquire(&other).await;
        assert!(matches!(granted, twin::AcquireReply::Granted { .. }));
        assert!(matches!(acquire(&one, &claim("job")).await, AcquireReply::Held { .. }));
        drop(one);
        // A process that opens the file looks at which others have it open.
        let one = open(&dir.file()).await;
        assert!(matches!(acquire(&one, &claim("job")).await, AcquireReply::Held { .. }));
        other.release(&[theirs]).await;
        assert!(matches!(acquire(&one, &claim("job")).await, AcquireReply::Granted { .. }));
    });
}

#[test]
fn a_copy_that_looks_does_not_make_the_other_seem_dead() {
    let dir = Dir::new();
    run(async {
        let one = open(&dir.file()).await;
        assert!(matches!(acquire(&one, &claim("job")).await, AcquireReply::Granted { .. }));
        for _ in 0..3 {
            let other = twin_open(&dir).await;
            assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Held { .. }));
        }
        let mut elsewhere = Worker::start(&dir.file());
        assert!(elsewhere.remaining("job") > super::LONG / 2);
    });
}

#[test]
fn a_copy_that_is_closed_frees_what_it_held() {
    let dir = Dir::new();
    run(async {
        let (one, other) = (open(&dir.file()).await, twin_open(&dir).await);
        assert!(matches!(twin_acquire(&other).await.1, twin::AcquireReply::Granted { .. }));
        drop(other);
        assert!(matches!(acquire(&one, &claim("job")).await, AcquireReply::Granted { .. }));
    });
}
