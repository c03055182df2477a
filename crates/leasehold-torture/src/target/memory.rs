use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leasehold::Locks;
use leasehold::storage::Memory;
use leasehold_conformance::{Chaos, Controls, Fault, HintFault, Verb};
use tokio::sync::watch;

use super::slow::{Delays, Slow};
use super::{Running, Target, Under};
use crate::dice::Dice;
use crate::event::Log;
use crate::planted::Defective;
use crate::worker::{Plan, work};

/// Memory: the workers are clients on threads of this process, and their calls are what can be broken.
pub struct MemoryTarget {
    under: Under,
    memory: Memory,
    /// What a defect of the storage remembers, and what one of its driver does.
    server: Defective<Memory>,
    driver: Defective<Chaos<Slow<Defective<Memory>>>>,
    levers: Mutex<HashMap<i64, Levers>>,
}

/// What breaks the calls of one worker.
#[derive(Clone)]
struct Levers {
    controls: Controls,
    delays: Arc<Delays>,
}

impl MemoryTarget {
    /// Makes an empty one.
    pub fn new(under: Under) -> Self {
        let memory = Memory::new();
        let (in_driver, in_server) = match under.defect {
            Some(defect) if defect.is_of_the_driver() => (Some(defect), None),
            defect => (None, defect),
        };
        let server = Defective::new(memory.clone(), in_server);
        let driver = Chaos::new(Slow::new(server.beside(memory.clone()), Arc::default()));
        let driver = Defective::new(driver, in_driver);
        Self { under, memory, server, driver, levers: Mutex::default() }
    }
}

impl std::fmt::Debug for MemoryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTarget").field("under", &self.under).finish_non_exhaustive()
    }
}

impl Target for MemoryTarget {
    fn faults(&self) -> Vec<&'static str> {
        vec![
            "acquire fail",
            "acquire lose reply",
            "acquire ghost",
            "acquire delay",
            "acquire duplicate",
            "acquire hang",
            "acquire slow",
            "renew fail",
            "renew lose reply",
            "renew delay",
            "renew slow",
            "release fail",
            "release lose reply",
            "release ghost",
            "release delay",
            "release duplicate",
            "hints drop",
            "hints duplicate",
            "hints delay",
            "all hang",
            "break",
        ]
    }

    fn reaches_one(&self, _: &str) -> bool {
        true
    }

    fn start(&self, plan: &Plan) -> io::Result<Box<dyn Running>> {
        let delays = Arc::new(Delays::default());
        let server = self.server.beside(self.memory.clone());
        let chaos = Chaos::new(Slow::new(server, Arc::clone(&delays)));
        let levers = Levers { controls: chaos.controls(), delays };
        self.levers.lock().unwrap_or_else(PoisonError::into_inner).insert(plan.w, levers);
        let storage = self.driver.beside(chaos);
        let (plan, log) = (plan.clone(), Arc::new(Log::open(&plan.directory, plan.w)?));
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = mpsc::channel::<()>();
        std::thread::Builder::new().name(format!("worker-{}", plan.w)).spawn(move || {
            let _ending = ending;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(work(plan, Locks::new(storage), log, stopped));
            }
        })?;
        Ok(Box::new(Thread { stop, ended }))
    }

    async fn operator(&self) -> leasehold::Result<Locks> {
        Ok(Locks::new(self.memory.clone()))
    }

    fn strike(&self, fault: &str, on: Option<i64>, span: Duration) -> io::Result<Box<dyn FnOnce()>> {
        let levers = self.levers.lock().unwrap_or_else(PoisonError::into_inner);
        let struck: Vec<_> =
            levers.iter().filter(|(w, _)| on.is_none_or(|on| on == **w)).map(|(_, l)| l.clone()).collect();
        for (n, levers) in (0..).zip(&struck) {
            levers.pull(fault, span, self.under.ttl, n)?;
        }
        Ok(Box::new(move || struck.iter().for_each(Levers::let_go)))
    }
}

impl Levers {
    fn pull(&self, fault: &str, span: Duration, ttl: Duration, n: u64) -> io::Result<()> {
        let (verb, what) = fault.split_once(' ').unwrap_or((fault, ""));
        let late = ttl.mul_f64(0.8);
        let kind = match what {
            "fail" => Fault::Fail,
            "lose reply" => Fault::LoseReply,
            "ghost" => Fault::Ghost(late),
            "delay" => Fault::Delay(late / 2),
            "duplicate" => Fault::Duplicate,
            "hang" => Fault::Hang,
            _ => Fault::Pass,
        };
        let seed = Dice::new(u64::try_from(span.as_nanos()).unwrap_or(0)).throw().wrapping_add(n);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        match (verb, what) {
            ("hints", "drop") => self.controls.hints(HintFault::Drop),
            ("hints", "duplicate") => self.controls.hints(HintFault::Duplicate),
            ("hints", "delay") => self.controls.hints(HintFault::Delay(late)),
            ("acquire", "slow") => self.delays.acquire.store(millis(ttl.mul_f64(0.45)), Ordering::Relaxed),
            ("renew", "slow") => {
                // An answer that comes just before nobody waits for it any more, and most are repeats.
                self.delays.renew.store(millis(ttl / 6), Ordering::Relaxed);
                self.controls.sometimes(Verb::Renew, 60, Fault::Fail, seed);
            }
            // Rare, so that nobody else can be taken for one.
            ("acquire", "ghost") => self.controls.sometimes(Verb::Acquire, 10, kind, seed),
            ("acquire", _) => self.controls.sometimes(Verb::Acquire, 60, kind, seed),
            ("renew", _) => self.controls.sometimes(Verb::Renew, 80, kind, seed),
            ("release", _) => self.controls.sometimes(Verb::Release, 60, kind, seed),
            ("all", _) => {
                for verb in [Verb::Acquire, Verb::Renew, Verb::Release, Verb::Inspect] {
                    self.controls.always(verb, kind);
                }
            }
            _ => return Err(io::Error::other(format!("no such fault: {fault}"))),
        }
        Ok(())
    }

    fn let_go(&self) {
        self.controls.heal();
        self.delays.acquire.store(0, Ordering::Relaxed);
        self.delays.renew.store(0, Ordering::Relaxed);
    }
}

/// A worker on a thread.
struct Thread {
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Running for Thread {
    fn finish(&mut self, within: Duration) -> bool {
        // An error means that it has ended already.
        let _ended = self.stop.send(true);
        self.ended.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Disconnected)
    }
}
