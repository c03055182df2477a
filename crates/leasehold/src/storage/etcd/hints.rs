//! The hints of this storage: one stream of watches.
//!
//! A waiter watches the key before its own, so a release wakes one waiter. A holder watches its own key. A watch begins with
//! the next change: the server handles watches that begin earlier only every 100 ms. So when it stands, the key is read once
//! more, by the same member, which has all changes until then.
//!
//! The server reads its revision, and then adds the watch that begins with the next one. If a change is made between these, the
//! watch begins too early after all, and is handled like one. The revision is in its answer. So where the read shows a later
//! one, the watch of a waiter is begun anew. That is tried a few times, since other changes may be made all the time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::errors::Fault;
use super::grpc::Exchange;
use super::holds::Id;
use super::interests::Interest;
use super::link::{Link, RANGE};
use super::ops::one;
use super::proto::{
    DELETED, Event, KeyValue, NO_PUT, RangeRequest, RangeResponse, WatchCancelRequest, WatchChange,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use super::session::Session;
use crate::clock::Moment;
use crate::storage::net::hints::{Change, Hinter, Pauses, stream};
use crate::storage::net::server::Link as _;
use crate::storage::{Hint, Name};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) session: Arc<Session>,
    pub(super) hinter: Arc<Hinter>,
}

/// What a watch is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Owner(Id),
    Name(Name),
}

/// The watches of one stream.
struct Watches {
    link: Arc<Link>,
    exchange: Exchange,
    ids: HashMap<Subject, Watch>,
    subjects: HashMap<i64, Subject>,
    last: i64,
    /// The keys that are read because their watches stand now.
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// The holders that get a watch if they still hold then. Most locks are held for less.
    later: VecDeque<(Moment, Id)>,
}

/// A watch of one key or range.
struct Watch {
    id: i64,
    key: Vec<u8>,
    /// How often it was begun for this subject and key.
    tries: u32,
}

/// A key that was read because its watch stands.
struct Read {
    watch: i64,
    /// The revision after which the watch begins.
    stood: i64,
    answer: Result<RangeResponse, Fault>,
}

/// How often a watch is begun until it is certain that the server did not add it too late.
const TRIES: u32 = 3;
/// How long a lock is held before its key is watched.
const HELD_SHORT: Duration = Duration::from_millis(50);

impl Listener {
    pub(super) fn stream(
        self,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        stream(received, move || self.listen())
    }

    async fn listen(self) {
        let mut pauses = Pauses::new();
        loop {
            // A failure is not reported here: waiters ask again by themselves, and their calls return the error.
            let stood = self.listen_once().await.unwrap_or(true);
            pauses.pause(&self.hinter, stood).await;
        }
    }

    /// Returns when the stream has ended; `Some(false)` if it never stood.
    async fn listen_once(&self) -> Option<bool> {
        let Ok(link) = self.session.api.link().await else { return Some(false) };
        let Ok(exchange) = link.watch().await else { return Some(false) };
        let restarted = self.session.api.server.saw(link.identity());
        let mut watches = Watches::new(link, exchange);
        // All that stands at the time is told first, and then each change.
        let (mut owners, mut names) = (self.session.interests.listen(), self.hinter.watched());
        self.hinter.subscribed(restarted);
        loop {
            let now = self.session.api.now();
            let due = watches.later.front().map_or(Moment::FAR, |(due, _)| *due).since(now);
            let fault = tokio::select! {
                biased;
                answer = watches.exchange.next::<WatchResponse>() => match answer {
                    Ok(Some(answer)) => self.on_answer(&mut watches, answer),
                    Ok(None) | Err(_) => return None,
                },
                Some(read) = watches.reads.next() => self.on_read(&mut watches, read),
                id = owners.recv() => self.on_interest(&mut watches, id?),
                change = names.recv() => self.on_names(&mut watches, change?),
                () = sleep(due) => self.on_held(&mut watches),
                () = watches.link.given_up() => return None,
            };
            if fault.is_err() {
                return None;
            }
        }
    }

    /// Begins, changes or ends the watch of an owner.
    fn on_interest(&self, watches: &mut Watches, id: Id) -> Result<(), Fault> {
        watches.end(&Subject::Owner(id.clone()))?;
        match self.session.interests.get(&id) {
            Some(Interest::Turn { before }) => {
                watches.begin(Subject::Owner(id), before, Vec::new(), vec![NO_PUT])
            }
            Some(Interest::Hold { .. }) => {
                watches.later.push_back((self.session.api.now().after(HELD_SHORT), id));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Begins to watch the keys of holders that have held for a while.
    fn on_held(&self, watches: &mut Watches) -> Result<(), Fault> {
        let now = self.session.api.now();
        while watches.later.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = watches.later.pop_front() else { break };
            let subject = Subject::Owner(id.clone());
            let is_held = matches!(self.session.interests.get(&id), Some(Interest::Hold { .. }));
            if is_held && !watches.ids.contains_key(&subject) {
                let key = self.session.keys.key(&id.name, id.owner);
                watches.begin(subject, key, Vec::new(), Vec::new())?;
            }
        }
        Ok(())
    }

    fn on_names(&self, watches: &mut Watches, change: Change) -> Result<(), Fault> {
        for name in change.removed {
            watches.end(&Subject::Name(name))?;
        }
        for name in change.added {
            let (key, end) = self.session.keys.range(&name);
            watches.begin(Subject::Name(name), key, end, Vec::new())?;
        }
        Ok(())
    }

    fn on_answer(&self, watches: &mut Watches, answer: WatchResponse) -> Result<(), Fault> {
        if answer.canceled {
            // By this client, or by the server: it has compacted too far, lost its leader, or the token has expired.
            return if watches.subjects.contains_key(&answer.watch_id) { Err(Fault::Broken) } else { Ok(()) };
        }
        let Some(subject) = watches.subjects.get(&answer.watch_id).cloned() else { return Ok(()) };
        if answer.created {
            self.on_created(
                watches,
                answer.watch_id,
                &subject,
                answer.header.map_or(0, |header| header.revision),
            );
        }
        for event in answer.events {
            self.on_event(&subject, event);
        }
        Ok(())
    }

    /// Reads the key whose watch stands now.
    fn on_created(&self, watches: &mut Watches, watch: i64, subject: &Subject, stood: i64) {
        let key = match subject {
            Subject::Name(name) => {
                // It may have changed before.
                return self.hinter.send(Hint::Name(name.clone()));
            }
            Subject::Owner(id) => match self.session.interests.get(id) {
                Some(Interest::Turn { before }) => before,
                Some(Interest::Hold { .. }) => self.session.keys.key(&id.name, id.owner),
                None => return,
            },
        };
        let link = Arc::clone(&watches.link);
        let read = async move {
            let request = RangeRequest { serializable: true, ..one(key) };
            Read { watch, stood, answer: link.call(RANGE, &request).await }
        };
        watches.reads.push(Box::pin(read));
    }

    fn on_read(&self, watches: &mut Watches, read: Read) -> Result<(), Fault> {
        let Some(subject) = watches.subjects.get(&read.watch).cloned() else { return Ok(()) };
        let Subject::Owner(id) = &subject else { return Ok(()) };
        let answer = read.answer.unwrap_or_default();
        if self.has_changed(id, answer.kvs.first()) {
            self.hinter.send(Hint::Owner(id.owner));
            return Ok(());
        }
        let is_certain = answer.header.is_some_and(|header| header.revision == read.stood);
        let waits = matches!(self.session.interests.get(id), Some(Interest::Turn { .. }));
        if waits && !is_certain { watches.begin_again(&subject) } else { Ok(()) }
    }

    fn on_event(&self, subject: &Subject, event: Event) {
        let Some(kv) = event.kv else { return };
        match subject {
            Subject::Name(name) if self.session.keys.is_of(name, &kv.key) => {
                // A key that another one precedes changes nothing for those that observe. But it may be the first.
                if event.kind == DELETED || kv.create_revision == kv.mod_revision {
                    self.hinter.send(Hint::Name(name.clone()));
                }
            }
            Subject::Name(_) => {}
            Subject::Owner(id) => {
                let now = (event.kind != DELETED).then_some(&kv);
                if self.has_changed(id, now) {
                    self.hinter.send(Hint::Owner(id.owner));
                }
            }
        }
    }

    /// Returns `true` if the key that an owner watches is not as the owner knows it.
    fn has_changed(&self, id: &Id, kv: Option<&KeyValue>) -> bool {
        match (self.session.interests.get(id), kv) {
            (Some(Interest::Hold { lease }), Some(kv)) => kv.lease != lease,
            (Some(Interest::Turn { .. }), Some(_)) | (None, _) => false,
            (Some(_), None) => true,
        }
    }
}

impl Watches {
    fn new(link: Arc<Link>, exchange: Exchange) -> Self {
        Self {
            link,
            exchange,
            ids: HashMap::new(),
            subjects: HashMap::new(),
            last: 0,
            reads: FuturesUnordered::new(),
            later: VecDeque::new(),
        }
    }

    fn begin(
        &mut self,
        subject: Subject,
        key: Vec<u8>,
        range_end: Vec<u8>,
        filters: Vec<i32>,
    ) -> Result<(), Fault> {
        let watch_id = self.add(subject, key.clone(), 1);
        let create = WatchCreateRequest { key, range_end, filters, watch_id };
        self.exchange.send(&WatchRequest { change: Some(WatchChange::Create(create)) }, false)
    }

    /// Begins the watch of a waiter anew, unless that was done often enough.
    fn begin_again(&mut self, subject: &Subject) -> Result<(), Fault> {
        let Some(Watch { key, tries, .. }) = self.ids.get(subject).filter(|watch| watch.tries < TRIES) else {
            return Ok(());
        };
        let (key, tries) = (key.clone(), tries + 1);
        self.end(subject)?;
        let watch_id = self.add(subject.clone(), key.clone(), tries);
        let create = WatchCreateRequest { key, range_end: Vec::new(), filters: vec![NO_PUT], watch_id };
        self.exchange.send(&WatchRequest { change: Some(WatchChange::Create(create)) }, false)
    }

    fn add(&mut self, subject: Subject, key: Vec<u8>, tries: u32) -> i64 {
        self.last += 1;
        self.ids.insert(subject.clone(), Watch { id: self.last, key, tries });
        self.subjects.insert(self.last, subject);
        self.last
    }

    fn end(&mut self, subject: &Subject) -> Result<(), Fault> {
        let Some(Watch { id: watch_id, .. }) = self.ids.remove(subject) else { return Ok(()) };
        self.subjects.remove(&watch_id);
        let cancel = WatchCancelRequest { watch_id };
        self.exchange.send(&WatchRequest { change: Some(WatchChange::Cancel(cancel)) }, false)
    }
}
