use std::collections::HashMap;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leasehold::Locks;
use leasehold::storage::Memory;
use leasehold_conformance::{Chaos, Controls, Fault, HintFault, Verb};
use leasehold_defects::{Defective, Place};
use tokio::sync::watch;

use super::{Heal, Injection, Running, Target, Under};
use crate::clock::{millis, nanos};
use crate::event::Log;
use crate::random::Random;
use crate::worker::{Plan, work};

/// Memory: the workers are clients on threads of this process, and the faults hit their calls.
pub struct MemoryTarget {
    under: Under,
    memory: Memory,
    /// The storage with its defect, if it is one of a storage; and the same of a driver, above the faults.
    server: Defective<Memory>,
    driver: Defective<Chaos<Defective<Memory>>>,
    /// The controls of each worker's calls.
    controls: Mutex<HashMap<i64, Controls>>,
}

impl MemoryTarget {
    /// Makes an empty storage.
    pub fn new(under: Under) -> Self {
        let memory = Memory::new();
        let (in_driver, in_server) = match under.defect {
            Some(defect) if defect.place() == Place::Driver => (Some(defect), None),
            defect => (None, defect),
        };
        let server = Defective::new(memory.clone(), in_server);
        let driver = Chaos::new(server.beside(memory.clone()));
        let driver = Defective::new(driver, in_driver);
        Self { under, memory, server, driver, controls: Mutex::default() }
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
        let chaos = Chaos::new(self.server.beside(self.memory.clone()));
        self.controls.lock().unwrap_or_else(PoisonError::into_inner).insert(plan.w, chaos.controls());
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

    fn inject(&self, &Injection { fault, on, span, .. }: &Injection<'_>) -> io::Result<Heal<'_>> {
        let controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        let struck = controls.iter().filter(|(w, _)| on.is_none_or(|on| on == **w));
        let struck: Vec<_> = struck.map(|(_, controls)| controls.clone()).collect();
        for (n, controls) in (0..).zip(&struck) {
            break_calls(controls, fault, span, self.under.ttl, n)?;
        }
        Ok(Box::new(move || {
            struck.iter().for_each(Controls::heal);
            Ok(())
        }))
    }
}

/// Breaks the calls of one worker, the `n`th, until they are healed.
fn break_calls(controls: &Controls, fault: &str, span: Duration, ttl: Duration, n: u64) -> io::Result<()> {
    let (verb, what) = fault.split_once(' ').unwrap_or((fault, ""));
    let late = ttl.mul_f64(0.8);
    let mut random = Random::new(Random::new(nanos(span)).draw().wrapping_add(n));
    let kind = match what {
        "fail" => Fault::Fail,
        "lose reply" => Fault::LoseReply,
        "ghost" => Fault::Ghost(late),
        "delay" => Fault::Delay(late / 2),
        "duplicate" => Fault::Duplicate,
        "hang" => Fault::Hang,
        _ => Fault::Pass,
    };
    match (verb, what) {
        ("hints", "drop") => controls.hints(HintFault::Drop),
        ("hints", "duplicate") => controls.hints(HintFault::Duplicate),
        ("hints", "delay") => controls.hints(HintFault::Delay(late)),
        ("acquire", "slow") => {
            controls.always(
                Verb::Acquire,
                Fault::DelayReply(random.millis(millis(ttl) / 4, millis(ttl) * 9 / 20)),
            );
        }
        ("renew", "slow") => {
            // Answers arrive shortly before their caller gives up, and most of them answer a retry.
            controls.always(Verb::Renew, Fault::DelayReply(random.millis(millis(ttl) / 9, millis(ttl) / 6)));
            controls.sometimes(Verb::Renew, 60, Fault::Fail, random.draw());
        }
        // Rare, so that another holder is not mistaken for such a claim.
        ("acquire", "ghost") => controls.sometimes(Verb::Acquire, 10, kind, random.draw()),
        ("acquire", _) => controls.sometimes(Verb::Acquire, 60, kind, random.draw()),
        ("renew", _) => controls.sometimes(Verb::Renew, 80, kind, random.draw()),
        ("release", _) => controls.sometimes(Verb::Release, 60, kind, random.draw()),
        ("all", _) => {
            for verb in [Verb::Acquire, Verb::Renew, Verb::Release, Verb::Inspect] {
                controls.always(verb, kind);
            }
        }
        _ => return Err(io::Error::other(format!("no such fault: {fault}"))),
    }
    Ok(())
}

/// A worker on a thread.
struct Thread {
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Running for Thread {
    fn finish(&mut self, within: Duration) -> bool {
        // An error means that the worker has ended already.
        let _ended = self.stop.send(true);
        self.ended.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Disconnected)
    }
}
