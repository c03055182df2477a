//! Elections: one leader at a time, terms that grow, and outages that end no campaign.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::Memory;
use leasehold::{ErrorKind, Event, Guard, Leader, Locks, Lost, Options, Token};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(50);

fn client(memory: &Memory) -> Locks {
    faulty(memory).0
}

fn faulty(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (Locks::builder().ttl(TTL).on_current_runtime().build(chaos).expect("memory promises enough"), controls)
}

/// What candidates have done, and when.
type Log = Arc<Mutex<Vec<(Act, Instant)>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Leads(&'static str, Token),
    Stops(&'static str),
}

/// Notes when the work begins, and when it is dropped.
struct Noted(Log, &'static str);

impl Noted {
    fn new(log: &Log, name: &'static str, term: &Guard) -> Self {
        log.lock().expect("no panic").push((Act::Leads(name, term.token()), Instant::now()));
        Self(Arc::clone(log), name)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").push((Act::Stops(self.1), Instant::now()));
    }
}

/// Starts a candidate that leads until its term is over, again and again.
fn candidate(locks: &Locks, log: &Log, name: &'static str) -> tokio::task::JoinHandle<leasehold::Result<()>> {
    let (election, log) = (locks.election("e").value(name), Arc::clone(log));
    tokio::spawn(async move {
        let leading = election.lead(async |term| {
            let _noted = Noted::new(&log, name, &term);
            std::future::pending::<()>().await;
        });
        leading.await
    })
}

/// Returns the names of the leaders so far. Terms have grown, and each leader has stopped before the next one began. A
/// leader that was deposed has learned of it soon after that.
fn leaders(log: &Log) -> Vec<&'static str> {
    let log = log.lock().expect("no panic");
    let (mut names, mut last, mut leads) = (Vec::new(), None, 0);
    for (place, (act, at)) in log.iter().enumerate() {
        match *act {
            Act::Leads(name, term) => {
                assert!(last < Some(term), "after {last:?} came {term:?}");
                last = Some(term);
                let stop = log[place..].iter().find(|(act, _)| matches!(act, Act::Stops(_)));
                let told = stop.is_some_and(|(_, stop)| *stop <= *at + SOON);
                assert!(leads == 0 || (leads == 1 && told), "two lead: {log:?}");
                leads += 1;
                names.push(name);
            }
            Act::Stops(_) => leads -= 1,
        }
    }
    names
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_next_follows_when_it_resigns_or_is_deposed() {
    let (memory, log) = (Memory::new(), Log::default());
    let clients: [Locks; 3] = std::array::from_fn(|_| client(&memory));
    let mut running = Vec::new();
    for (locks, name) in clients.iter().zip(["a", "b", "c"]) {
        running.push(candidate(locks, &log, name));
        sleep(SOON).await;
    }
    assert_eq!(leaders(&log), ["a"]);
    let leader = clients[2].election("e").leader().await.expect("memory answers").expect("there is one");
    assert_eq!(leader.value, "a");
    assert!(leader.leads_for.is_some_and(|time| time >= SOON * 2));
    // A dropped `lead` resigns.
    running[0].abort();
    sleep(SOON).await;
    assert_eq!(leaders(&log), ["a", "b"]);
    // The deposed leader stands again, behind the other one.
    clients[2].break_lock("e").await.expect("memory answers");
    sleep(SOON).await;
    assert_eq!(leaders(&log), ["a", "b", "c"]);
    clients[0].break_lock("e").await.expect("memory answers");
    sleep(SOON).await;
    assert_eq!(leaders(&log), ["a", "b", "c", "b"]);
    // Closing its client ends a campaign.
    clients[1].close().await.expect("memory answers");
    let ended = running.remove(1).await.expect("no panic").expect_err("closed");
    assert_eq!(ended.kind(), ErrorKind::Closed);
    sleep(SOON).await;
    assert_eq!(leaders(&log).last(), Some(&"c"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_work_and_resigns() {
    let memory = Memory::new();
    let (locks, other) = (client(&memory), client(&memory));
    let terms = Mutex::new(Vec::new());
    let election = locks.election("e");
    let result = election.lead(async |term| {
        let terms_so_far = {
            let mut terms = terms.lock().expect("no panic");
            terms.push(term.token());
            terms.len()
        };
        if terms_so_far < 3 {
            other.break_lock("e").await.expect("memory answers");
            std::future::pending::<()>().await;
        }
        "done"
    });
    assert_eq!(result.await.expect("it ends"), "done");
    let terms = terms.into_inner().expect("no panic");
    assert!(terms.len() == 3 && terms.is_sorted());
    assert_eq!(other.election("e").leader().await.expect("memory answers"), None);
}

/// The work may leave a guard somewhere. The term ends with `lead` all the same.
#[tokio::test(start_paused = true)]
async fn a_guard_that_the_work_left_somewhere_keeps_no_term() {
    let memory = Memory::new();
    let (locks, other) = (client(&memory), client(&memory));
    let left = Mutex::new(Vec::new());
    let election = locks.election("e");
    for ends in [true, false] {
        let leading = election.lead(async |term| {
            left.lock().expect("no panic").push(term);
            if !ends {
                std::future::pending::<()>().await;
            }
        });
        assert_eq!(timeout(SECOND, leading).await.is_ok(), ends);
        sleep(SOON).await;
        assert_eq!(other.election("e").leader().await.expect("memory answers"), None);
    }
    let left = left.into_inner().expect("no panic");
    assert_eq!(left.len(), 2);
    for term in left {
        assert!(!term.is_held());
        assert_eq!(timeout(SECOND, term.lost()).await, Ok(Lost::Released));
        for refused in [term.ensure(SECOND).await, term.verify().await, term.extend(SECOND).await] {
            assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::Invalid));
        }
    }
}

/// A task of the work waits for the loss, as it would for that of its own lock.
#[tokio::test(start_paused = true)]
async fn a_task_that_the_work_has_started_is_told_when_the_term_is_over() {
    let memory = Memory::new();
    let (locks, other) = (client(&memory), client(&memory));
    let (told, mut told_of) = tokio::sync::mpsc::unbounded_channel();
    let leading = tokio::spawn(async move {
        let lead = async |term: Arc<Guard>| {
            let told = told.clone();
            tokio::spawn(async move { told.send(term.lost().await) });
            std::future::pending::<()>().await;
        };
        locks.election("e").lead(lead).await
    });
    sleep(SOON).await;
    other.break_lock("e").await.expect("memory answers");
    assert_eq!(timeout(SECOND, told_of.recv()).await, Ok(Some(Lost::Taken)));
    sleep(SOON).await;
    leading.abort();
    assert_eq!(timeout(SECOND, told_of.recv()).await, Ok(Some(Lost::Released)));
}

#[tokio::test(start_paused = true)]
async fn a_minimum_time_of_the_client_keeps_no_leader_that_resigns() {
    let memory = Memory::new();
    let mut options = Options::default();
    options.at_least = Some(SECOND * 60);
    let locks = Locks::builder()
        .options(options)
        .on_current_runtime()
        .build(memory.clone())
        .expect("memory promises enough");
    let term = locks.election("e").campaign().await.expect("free");
    term.release().await.expect("held");
    sleep(SOON).await;
    assert_eq!(client(&memory).election("e").leader().await.expect("memory answers"), None);
}

#[tokio::test(start_paused = true)]
async fn observers_see_each_leader_and_its_term() {
    let memory = Memory::new();
    let (locks, other) = (client(&memory), client(&memory));
    let mut leaders = other.election("e").leaders().expect("open");
    let next = async |leaders: &mut leasehold::Leaders| {
        let next = timeout(SECOND, leaders.next()).await.expect("told soon");
        next.expect("open").map(|Leader { value, term, .. }| (value, term))
    };
    assert_eq!(next(&mut leaders).await, None);
    for value in ["10.0.0.7:8080", "", "10.0.0.8:8080"] {
        let term = locks.election("e").value(value).campaign().await.expect("free");
        assert_eq!(next(&mut leaders).await, Some((value.to_owned(), term.token())));
        term.release().await.expect("held");
        assert_eq!(next(&mut leaders).await, None);
    }
    other.close().await.expect("memory answers");
    assert!(StreamExt::next(&mut leaders).await.is_none(), "ends with the client");
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_no_campaign_and_is_told_once() {
    for fault in [Fault::Fail, Fault::Hang] {
        let (memory, log) = (Memory::new(), Log::default());
        let (locks, controls) = faulty(&memory);
        let mut events = locks.events();
        controls.always(Verb::Acquire, fault);
        let running = candidate(&locks, &log, "a");
        sleep(SECOND * 25).await;
        let mut told = async || timeout(SECOND, events.next()).await.ok().flatten();
        assert!(
            matches!(told().await, Some(Event::ClaimFailed { name, .. }) if name.as_str() == "e"),
            "{fault:?}"
        );
        assert_eq!(told().await, None, "{fault:?}: once for each outage");
        sleep(SECOND * 300).await;
        assert!(!running.is_finished() && leaders(&log).is_empty());
        assert!(controls.calls(Verb::Acquire) < 1000, "{} calls", controls.calls(Verb::Acquire));
        controls.heal();
        sleep(SECOND * 5).await;
        assert_eq!(leaders(&log), ["a"], "{fault:?}");
        running.abort();
    }
}

/// Neither renewals nor releases of the first one arrive any more.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_starts() {
    let (memory, log) = (Memory::new(), Log::default());
    let ((first, controls), second) = (faulty(&memory), client(&memory));
    let _first = candidate(&first, &log, "a");
    sleep(SOON).await;
    let _second = candidate(&second, &log, "b");
    sleep(SECOND * 20).await;
    for verb in [Verb::Acquire, Verb::Renew, Verb::Release, Verb::Inspect] {
        controls.always(verb, Fault::Fail);
    }
    let cut = Instant::now();
    sleep(TTL + SECOND).await;
    assert_eq!(leaders(&log), ["a", "b"]);
    let log = log.lock().expect("no panic");
    let [.., (Act::Stops("a"), stopped), (Act::Leads("b", _), started)] = log[..] else { panic!("{log:?}") };
    assert!(stopped < started && started <= cut + TTL + SOON, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_term_has_a_limit_where_one_is_set() {
    let memory = Memory::new();
    let (a, b) = (client(&memory), client(&memory));
    let limited = |locks: &Locks| locks.election("e").max_term(SECOND * 5);
    let first = limited(&a).campaign().await.expect("free");
    let second = limited(&b).wait(SECOND * 6).campaign().await.expect("the first term is over");
    assert!(!first.is_held() && second.is_held());
    let third = limited(&a).wait(SECOND).campaign().await.expect_err("the second one leads");
    assert_eq!(third.kind(), ErrorKind::Contended);
}
