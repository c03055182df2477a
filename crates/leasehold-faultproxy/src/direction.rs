//! One direction of one connection. It takes the time and what was read and written, and returns what may
//! be done. It uses no sockets and no clock.

use std::cmp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::random::Random;
use crate::record::Record;
use crate::rules::{ConnId, End, Flow};
use crate::trap::{Act, Action, Marker, Trap, TrapId};

/// How many bytes are read at once.
pub(crate) const READ: usize = 16 * 1024;
/// How many bytes may be buffered in a direction that delays, and in one that does not.
const ROOM_DELAYED: usize = 256 * 1024;
const ROOM: usize = READ;
/// How many pieces may be buffered, however small they are.
const PIECES: usize = 2 * 1024;
/// The longest delay. A longer one is cut to this.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(crate) struct Direction {
    connection: ConnId,
    flow: Flow,
    held: bool,
    phase: Phase,
    queue: VecDeque<Piece>,
    queued: usize,
    tail: Option<Tail>,
    /// How many bytes were read and written since the connection was opened.
    pub(crate) read: u64,
    pub(crate) sent: u64,
    cut: Option<(u64, End)>,
    stops: VecDeque<Stop>,
    scans: Vec<Scan>,
    /// The time before which nothing is forwarded, because of a trap's delay.
    not_before: Option<Instant>,
    /// The time at which the throttle allows the next byte.
    free_at: Option<Instant>,
    random: Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// A rule closed this direction, and further bytes are discarded.
    Discarding,
    Finished,
    /// The receiver is gone.
    Broken,
}

/// Bytes that were read at once.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    start: usize,
    arrival: Arrival,
}

/// The time of arrival, and the fraction of the jitter to add.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: Instant,
    part: u64,
}

#[derive(Clone, Copy, Debug)]
struct Tail {
    last: Last,
    arrival: Arrival,
}

/// How the sender ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Orderly,
    Reset,
}

/// An action of a trap that waits for the reply.
#[derive(Clone, Copy, Debug)]
struct Stop {
    at: u64,
    trap: TrapId,
    action: Action,
}

/// The progress of a trap in finding its marker.
#[derive(Debug)]
struct Scan {
    trap: TrapId,
    marker: Arc<Marker>,
    act: Act,
    matched: usize,
    /// Whether it has sprung while the last byte of its marker was not yet forwarded.
    sprung: bool,
}

/// The steps that are possible now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// How many bytes may be read.
    pub(crate) read: usize,
    /// How many bytes of the head may be written.
    pub(crate) write: usize,
    /// When to plan again.
    pub(crate) wake: Option<Instant>,
    /// The end of the stream to forward, after all bytes were written.
    pub(crate) finish: Option<Last>,
    /// The end by which a rule ends the connection.
    pub(crate) end: Option<End>,
}

impl Plan {
    fn reading(read: usize) -> Self {
        Self { read, ..Self::default() }
    }

    fn ending(end: End) -> Self {
        Self { end: Some(end), ..Self::default() }
    }
}

impl Direction {
    pub(crate) fn new(connection: ConnId, flow: Flow, random: Random) -> Self {
        Self {
            connection,
            flow,
            held: false,
            phase: Phase::Flowing,
            queue: VecDeque::new(),
            queued: 0,
            tail: None,
            read: 0,
            sent: 0,
            cut: None,
            stops: VecDeque::new(),
            scans: Vec::new(),
            not_before: None,
            free_at: None,
            random,
        }
    }

    pub(crate) fn set_flow(&mut self, flow: Flow) {
        self.flow = flow;
        self.free_at = None;
    }

    /// Resumes what traps hold or delay.
    pub(crate) fn resume(&mut self) {
        self.held = false;
        self.not_before = None;
    }

    pub(crate) fn cut_after(&mut self, bytes: u64, end: End) {
        self.cut = Some((self.sent.saturating_add(bytes), end));
    }

    pub(crate) fn forget_rules(&mut self) {
        self.set_flow(Flow::Pass);
        self.resume();
        self.cut = None;
        self.stops.clear();
        self.scans.clear();
    }

    pub(crate) fn look_for(&mut self, trap: TrapId, what: &Trap) {
        self.scans.push(Scan {
            trap,
            marker: Arc::clone(&what.marker),
            act: what.act,
            matched: 0,
            sprung: false,
        });
    }

    pub(crate) fn look_no_more(&mut self, trap: TrapId) {
        self.scans.retain(|scan| scan.trap != trap);
        self.stops.retain(|stop| stop.trap != trap);
    }

    /// Returns what may be done now. The actions of traps happen here.
    pub(crate) fn plan(&mut self, now: Instant, record: &mut Record) -> Plan {
        match self.phase {
            Phase::Flowing => {}
            Phase::Discarding if self.tail.is_none() => return Plan::reading(READ),
            Phase::Discarding | Phase::Finished | Phase::Broken => return Plan::default(),
        }
        if self.held || self.flow.is_stopped() {
            return Plan::default();
        }
        if let Some((at, end)) = self.cut
            && self.sent >= at
        {
            self.cut = None;
            return Plan::ending(end);
        }
        let mut plan = Plan::reading(self.room());
        let Some(arrival) =
            self.queue.front().map(|piece| piece.arrival).or(self.tail.map(|tail| tail.arrival))
        else {
            return plan;
        };
        let gates = [Some(self.due(arrival)), self.not_before, self.free_at];
        let due = gates.into_iter().flatten().fold(now, cmp::max);
        if due > now {
            plan.wake = Some(due);
            return plan;
        }
        if self.queue.is_empty() {
            plan.finish = self.tail.map(|tail| tail.last);
            return plan;
        }
        if let Some(action) = self.springs(record) {
            return self.carry_out(action, now);
        }
        plan.write = self.may_write(record);
        plan
    }

    /// Returns the next bytes to write.
    pub(crate) fn head(&self, most: usize) -> &[u8] {
        let head = self.queue.front().map(|piece| &piece.bytes[piece.start..]).unwrap_or_default();
        &head[..cmp::min(most, head.len())]
    }

    /// Records that this many bytes of the head were written. Returns the actions of traps that wait for
    /// the reply.
    pub(crate) fn wrote(&mut self, n: usize, now: Instant, record: &mut Record) -> Vec<(TrapId, Action)> {
        let mut waiting = Vec::new();
        let Some(head) = self.queue.front_mut() else { return waiting };
        let bytes = &head.bytes[head.start..head.start + n];
        for scan in &mut self.scans {
            for byte in bytes {
                scan.matched = scan.marker.next(scan.matched, *byte);
            }
            // The plan never writes past a byte that completes a marker, so checking the end is enough.
            if !scan.marker.is_whole(scan.matched) {
                continue;
            }
            if scan.sprung {
                scan.sprung = false;
                record.passed(scan.trap, self.connection);
            } else if record.is_live(scan.trap) {
                record.spend(scan.trap);
                record.passed(scan.trap, self.connection);
                match scan.act {
                    Act::Reply(action) => waiting.push((scan.trap, action)),
                    Act::Watch | Act::Here(_) => record.sprung(scan.trap, self.connection),
                }
            }
        }
        self.scans.retain(|scan| scan.sprung || record.is_live(scan.trap));
        head.start += n;
        if head.start == head.bytes.len() {
            self.queue.pop_front();
        }
        self.queued -= n;
        self.sent += wide(n);
        if let Flow::Throttle { bytes_per_second } = self.flow {
            let nanos = u128::from(wide(n)) * 1_000_000_000 / u128::from(cmp::max(1, bytes_per_second));
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            // Counting from the time when the throttle was free makes up for a late wake-up, but saves no
            // idle time.
            let from = self.free_at.filter(|at| now.duration_since(*at) < pause).unwrap_or(now);
            self.free_at = Some(after(from, pause));
        }
        waiting
    }

    /// Records that a trap of the other direction waits for the reply, which is whatever is read from now
    /// on.
    pub(crate) fn stop_at_reply(&mut self, trap: TrapId, action: Action) {
        self.stops.push_back(Stop { at: self.read, trap, action });
    }

    /// Records bytes that were read. Returns how many of them are discarded.
    pub(crate) fn arrived(&mut self, bytes: &[u8], now: Instant) -> usize {
        self.read += wide(bytes.len());
        if self.phase != Phase::Flowing {
            return bytes.len();
        }
        let arrival = self.stamp(now);
        self.queue.push_back(Piece { bytes: bytes.to_vec(), start: 0, arrival });
        self.queued += bytes.len();
        0
    }

    /// Records that the sender has ended its stream.
    pub(crate) fn ended(&mut self, last: Last, now: Instant) {
        let arrival = self.stamp(now);
        self.tail = Some(Tail { last, arrival });
        if self.phase == Phase::Discarding {
            self.phase = Phase::Finished;
        }
    }

    /// Records that the receiver was told of the end.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Finished;
    }

    /// Records that the receiver is gone. Returns how many bytes it will not get.
    pub(crate) fn breaks(&mut self) -> usize {
        self.phase = Phase::Broken;
        self.drop_queue()
    }

    /// Records that a rule told the receiver of an end. Returns how many bytes it will not get.
    pub(crate) fn half_close(&mut self) -> usize {
        if self.phase == Phase::Flowing {
            self.phase = if self.tail.is_some() { Phase::Finished } else { Phase::Discarding };
        }
        self.drop_queue()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Flowing
    }

    /// Returns `true` if nothing more happens in this direction.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Broken)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.phase == Phase::Broken
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    fn drop_queue(&mut self) -> usize {
        self.queue.clear();
        std::mem::take(&mut self.queued)
    }

    fn room(&self) -> usize {
        if self.tail.is_some() || self.queue.len() >= PIECES {
            return 0;
        }
        let room = if matches!(self.flow, Flow::Delay { .. }) { ROOM_DELAYED } else { ROOM };
        cmp::min(READ, room.saturating_sub(self.queued))
    }

    fn stamp(&mut self, now: Instant) -> Arrival {
        Arrival { at: now, part: self.random.next() }
    }

    fn due(&self, arrival: Arrival) -> Instant {
        let Flow::Delay { by, jitter } = self.flow else { return arrival.at };
        let jitter =
            cmp::min(jitter, LONGEST).as_nanos() * u128::from(arrival.part) / (u128::from(u64::MAX) + 1);
        let jitter = Duration::from_nanos(u64::try_from(jitter).unwrap_or(u64::MAX));
        after(after(arrival.at, by), jitter)
    }

    /// Returns the action of a trap that is due now: before the first byte of a reply, or before the last
    /// byte of a marker.
    fn springs(&mut self, record: &mut Record) -> Option<Action> {
        if let Some(stop) = self.stops.front().copied()
            && stop.at <= self.sent
        {
            self.stops.pop_front();
            record.sprung(stop.trap, self.connection);
            return Some(stop.action);
        }
        let next = *self.head(1).first()?;
        let scan = self.scans.iter_mut().find(|scan| {
            let waiting = matches!(scan.act, Act::Here(_)) && !scan.sprung && record.is_live(scan.trap);
            waiting && scan.marker.find(scan.matched, &[next]).is_some()
        })?;
        let Act::Here(action) = scan.act else { return None };
        scan.sprung = true;
        record.spend(scan.trap);
        record.sprung(scan.trap, self.connection);
        Some(action)
    }

    fn carry_out(&mut self, action: Action, now: Instant) -> Plan {
        match action {
            Action::Cut(end) => Plan::ending(end),
            Action::Hold => {
                self.held = true;
                Plan::default()
            }
            Action::Delay(by) => {
                let until = after(now, by);
                self.not_before = Some(until);
                Plan { wake: Some(until), ..Plan::reading(self.room()) }
            }
        }
    }

    fn may_write(&self, record: &Record) -> usize {
        let head = self.head(usize::MAX);
        let mut n = head.len();
        let up_to = |at: u64, n: usize| cmp::min(n, usize::try_from(at - self.sent).unwrap_or(usize::MAX));
        if let Some((at, _)) = self.cut {
            n = up_to(at, n);
        }
        if let Some(stop) = self.stops.front() {
            n = up_to(stop.at, n);
        }
        if let Flow::Throttle { bytes_per_second } = self.flow {
            n = cmp::min(n, usize::try_from(cmp::max(1, bytes_per_second / 50)).unwrap_or(usize::MAX));
        }
        for scan in self.scans.iter().filter(|scan| scan.sprung || record.is_live(scan.trap)) {
            if let Some(last) = scan.marker.find(scan.matched, &head[..n]) {
                let before = matches!(scan.act, Act::Here(_)) && !scan.sprung;
                n = if before { last } else { last + 1 };
            }
        }
        n
    }
}

fn after(at: Instant, by: Duration) -> Instant {
    at + cmp::min(by, LONGEST)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("BUG: a length fits in 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(connection: u64, flow: Flow) -> Direction {
        Direction::new(ConnId::new(connection), flow, Random::of(connection, 0))
    }

    /// Returns how late each of ten pieces is forwarded that arrive at the same time.
    fn lateness(connection: u64, flow: Flow) -> Vec<Duration> {
        let (mut direction, mut record, start) = (direction(connection, flow), Record::new(), Instant::now());
        let mut now = start;
        for _ in 0..10 {
            direction.arrived(b"abc", start);
        }
        let mut late = Vec::new();
        while late.len() < 10 {
            let plan = direction.plan(now, &mut record);
            match plan.wake {
                Some(at) => now = at,
                None => {
                    assert_eq!(plan.write, 3);
                    direction.wrote(3, now, &mut record);
                    late.push(now - start);
                }
            }
        }
        late
    }

    #[test]
    fn the_number_of_a_connection_decides_its_jitter() {
        let (by, jitter) = (Duration::from_millis(5), Duration::from_millis(100));
        let flow = Flow::Delay { by, jitter };
        assert_eq!(lateness(1, flow), lateness(1, flow));
        assert_ne!(lateness(1, flow), lateness(2, flow));
        let late = lateness(3, flow);
        assert!(late.is_sorted(), "{late:?}");
        assert!(late.iter().all(|late| (by..by + jitter).contains(late)), "{late:?}");
        assert_eq!(lateness(1, Flow::delay(by)), [by; 10]);
    }

    #[test]
    fn the_longest_durations_are_kept_within_bounds() {
        let forever = Flow::Delay { by: Duration::MAX, jitter: Duration::MAX };
        assert!(lateness(1, forever).iter().all(|late| (LONGEST..2 * LONGEST).contains(late)));
    }

    #[test]
    fn a_throttle_spreads_evenly() {
        // Pieces of three bytes are forwarded byte by byte, ten per second.
        let (mut direction, mut record, start) =
            (direction(1, Flow::throttle(10)), Record::new(), Instant::now());
        direction.arrived(b"abc", start);
        for n in 0..3 {
            let now = start + n * Duration::from_millis(100);
            assert_eq!(direction.plan(now, &mut record).write, 1);
            direction.wrote(1, now, &mut record);
            assert_eq!(direction.plan(now, &mut record).write, 0);
        }
        assert_eq!(direction.sent, 3);
    }

    #[test]
    fn the_end_comes_after_the_bytes_and_as_late() {
        let by = Duration::from_secs(1);
        let (mut direction, mut record, start) =
            (direction(1, Flow::delay(by)), Record::new(), Instant::now());
        direction.arrived(b"abc", start);
        direction.ended(Last::Reset, start + by / 2);
        let plan = direction.plan(start, &mut record);
        assert_eq!((plan.read, plan.wake, plan.finish), (0, Some(start + by), None));
        direction.wrote(3, start + by, &mut record);
        let plan = direction.plan(start + by, &mut record);
        assert_eq!((plan.wake, plan.finish), (Some(start + by + by / 2), None));
        assert_eq!(direction.plan(start + 2 * by, &mut record).finish, Some(Last::Reset));
    }

    #[test]
    fn tiny_pieces_do_not_pile_up() {
        let (mut direction, mut record, now) =
            (direction(1, Flow::delay(LONGEST)), Record::new(), Instant::now());
        let mut pieces = 0;
        while direction.plan(now, &mut record).read > 0 {
            direction.arrived(b"a", now);
            pieces += 1;
        }
        assert_eq!(pieces, PIECES);
    }
}
