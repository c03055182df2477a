//! Properties of the types: which ones are `Send`, `Sync`, `Clone` and `Copy`, that futures can be spawned, and that an
//! error is one word wide. Doc tests in `src/lib.rs` cover `#[must_use]`.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::time::Duration;

use leasehold::storage::{
    self, AcquireReply, AnyStorage, Claim, Hint, Limits, Memory, ReleaseReply, RenewReply, Share, Storage,
};
use leasehold::{
    All, Builder, Change, Changes, Election, Error, ErrorKind, Event, Events, Guarantees, Guard, Guards,
    Holder, Leader, Leaders, LeaseClock, Lock, Locks, Lost, Name, Options, Owner, Renewal, Result, Ticket,
    Tier, Token, Wait, Watch, WeakLocks, blocking,
};

const fn crosses_threads<T: Send + Sync + Unpin + Debug + 'static>() {}
const fn is_cloned<T: Clone>() {}
const fn is_plain<T: Copy + Eq + Hash>() {}

#[test]
fn every_public_type_crosses_threads_and_has_no_lifetime() {
    crosses_threads::<Locks>();
    crosses_threads::<Builder>();
    crosses_threads::<Lock>();
    crosses_threads::<Guard>();
    crosses_threads::<All>();
    crosses_threads::<Election>();
    crosses_threads::<Leader>();
    crosses_threads::<Leaders>();
    crosses_threads::<Guards>();
    crosses_threads::<Ticket>();
    crosses_threads::<Watch>();
    crosses_threads::<WeakLocks>();
    crosses_threads::<Options>();
    crosses_threads::<Wait>();
    crosses_threads::<Renewal>();
    crosses_threads::<Error>();
    crosses_threads::<ErrorKind>();
    crosses_threads::<Lost>();
    crosses_threads::<Event>();
    crosses_threads::<Events>();
    crosses_threads::<Change>();
    crosses_threads::<Changes>();
    crosses_threads::<Guarantees>();
    crosses_threads::<LeaseClock>();
    crosses_threads::<Tier>();
    crosses_threads::<Holder>();
    crosses_threads::<Name>();
    crosses_threads::<Owner>();
    crosses_threads::<Token>();
    crosses_threads::<AnyStorage>();
    crosses_threads::<Memory>();
    crosses_threads::<Claim>();
    crosses_threads::<Share>();
    crosses_threads::<Limits>();
    crosses_threads::<AcquireReply>();
    crosses_threads::<RenewReply>();
    crosses_threads::<ReleaseReply>();
    crosses_threads::<Hint>();
    crosses_threads::<blocking::Locks>();
    crosses_threads::<blocking::Builder>();
    crosses_threads::<blocking::Lock>();
    crosses_threads::<blocking::Guard>();
    crosses_threads::<blocking::All>();
    crosses_threads::<blocking::Election>();
    crosses_threads::<blocking::Leaders>();
    crosses_threads::<blocking::Guards>();
    crosses_threads::<blocking::Events>();
    crosses_threads::<blocking::Changes>();
    #[cfg(feature = "sqlite")]
    crosses_threads::<storage::sqlite::Sqlite>();
}

#[test]
fn clients_and_errors_are_cloned_and_plain_values_are_copied() {
    is_cloned::<Locks>();
    is_cloned::<Builder>();
    is_cloned::<Lock>();
    is_cloned::<All>();
    is_cloned::<Election>();
    is_cloned::<Error>();
    is_cloned::<Event>();
    is_cloned::<AnyStorage>();
    is_cloned::<blocking::Locks>();
    is_plain::<Owner>();
    is_plain::<Token>();
    is_plain::<ErrorKind>();
    is_plain::<Lost>();
    is_plain::<Share>();
}

#[test]
fn an_error_is_one_word_wide_even_in_a_result() {
    let word = size_of::<usize>();
    assert_eq!(size_of::<Error>(), word);
    assert_eq!(size_of::<Result<()>>(), word);
    const fn is_an_error<T: StdError + Display>() {}
    is_an_error::<Error>();
}

fn is_send<T: Send>(value: T) -> T {
    value
}

/// Compiled, but never called.
#[expect(dead_code, reason = "the compiler is the test")]
fn every_future_is_send(
    locks: &Locks,
    (lock, all, election): (&Lock, &All, &Election),
    guard: &Guard,
    (given, guards): (Guard, Guards),
    ticket: Ticket,
) {
    let second = Duration::from_secs(1);
    drop(is_send(Locks::connect("memory:")));
    drop(is_send(Locks::builder().connect("memory:")));
    drop(is_send(locks.resume(ticket)));
    drop(is_send(locks.inspect("a")));
    drop(is_send(locks.list("")));
    drop(is_send(locks.break_lock("a")));
    drop(is_send(locks.close()));
    drop(is_send(lock.acquire()));
    drop(is_send(lock.try_acquire()));
    drop(is_send(lock.run(async |guard| guard.token())));
    drop(is_send(lock.try_run(async |guard| guard.token())));
    drop(is_send(all.try_run(async |guards| guards.remaining())));
    drop(is_send(election.lead(async |term| term.token())));
    drop(is_send(election.campaign()));
    drop(is_send(election.leader()));
    drop(is_send(all.acquire()));
    drop(is_send(all.try_acquire()));
    drop(is_send(all.run(async |guards| guards.remaining())));
    drop(is_send(guards.lost()));
    drop(is_send(guards.release()));
    drop(is_send(guard.lost()));
    drop(is_send(guard.ensure(second)));
    drop(is_send(guard.verify()));
    drop(is_send(guard.extend(second)));
    drop(is_send(given.release()));
}

/// Compiled, but never called.
#[expect(dead_code, reason = "the compiler is the test")]
fn a_storage_is_used_from_any_thread<S: Storage>(storage: &S, claims: &[Claim], name: &Name) {
    drop(is_send(storage.acquire(claims)));
    drop(is_send(storage.renew(claims)));
    drop(is_send(storage.release(claims)));
    drop(is_send(storage.inspect(name)));
    drop(is_send(storage.list("", None, 1)));
    drop(is_send(storage.hints()));
    let _any: AnyStorage = AnyStorage::new(Memory::new());
}

#[tokio::test]
async fn a_task_that_holds_a_lock_can_be_spawned() {
    let locks = Locks::connect("memory:").await.expect("memory always connects");
    let lock = locks.lock("a");
    let prefix = String::from("token ");
    let task = tokio::spawn(async move {
        lock.run(async |guard: &Guard| {
            // The guard is held across an await, as in real programs.
            tokio::task::yield_now().await;
            format!("{prefix}{}", guard.token())
        })
        .await
    });
    let text = task.await.expect("no panic").expect("no other client wants it");
    assert!(text.starts_with("token "), "{text}");
}

#[test]
fn the_default_options_are_the_documented_ones() {
    let options = Options::default();
    assert_eq!(options.ttl, Duration::from_secs(10));
    assert_eq!(options.wait, Wait::Forever);
    assert_eq!(options.renewal, Renewal::Automatic);
    assert_eq!(options.max_hold, None);
    assert!(options.label.contains('@'), "{}", options.label);
    assert_eq!(storage::WAITER_TTL, 3 * storage::WAITER_HEARTBEAT);
}

#[test]
fn a_tier_is_read_from_its_word() {
    for tier in [Tier::Advisory, Tier::CrashSafe, Tier::RestartSafe, Tier::FailoverSafe] {
        assert_eq!(tier.as_str().parse::<Tier>().expect("its own word"), tier);
        assert_eq!(tier.to_string(), tier.as_str());
    }
    let error = "Advisory".parse::<Tier>().expect_err("no such word");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("crash-safe"), "{error}");
}

#[test]
fn words_of_enums_are_lower_case_with_hyphens() {
    assert_eq!(ErrorKind::Contended.as_str(), "contended");
    assert_eq!(Lost::MaxHold.as_str(), "max-hold");
    assert_eq!(LeaseClock::ServerWall.as_str(), "server-wall");
    assert_eq!(storage::Severity::Good.as_str(), "good");
    assert_eq!(Change::Unlocked.as_str(), "unlocked");
    assert_eq!(Event::Missed { count: 1 }.as_str(), "missed");
}
