//! Leasehold beside its rivals, on one server that is started for it, in interleaved rounds.
//!
//! In each round every contestant runs every measurement once, in an order that changes from round to
//! round. Other load on the machine therefore affects all alike. Ratios compare figures of the same round.

mod disk;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "mongodb")]
pub(crate) mod mongodb;
pub(crate) mod postgres;
pub(crate) mod redis;
mod table;
mod versions;
mod written;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use self::table::Table;
use crate::Result;
use crate::contestant::Contestant::{self, Leasehold, LeaseholdTask};
use crate::scenario::{contend, crowd, cycles, handover};
use crate::server::Server;
use crate::stats::float;

/// The options that all rivals share.
#[derive(Debug, Args)]
struct Common {
    /// How often every contestant is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many workers acquire and release.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256, 1024])]
    workers: Vec<usize>,
    /// How many processes compete for one lock.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 9])]
    processes: Vec<usize>,
    /// How many clients wait for one lock.
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// How many locks are held [default: 100000 over Redis, 10000 over others].
    #[arg(long)]
    locks: Option<usize>,
    /// The only contestants to measure; all, if none is named.
    #[arg(long, value_enum, value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// Measures Leasehold over another storage than the server of its rivals, to show the cost of its
    /// engine.
    #[arg(long)]
    leasehold_store: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cycles,
    Handover,
    Crowd,
    Held,
}

impl Part {
    const ALL: [Self; 4] = [Self::Cycles, Self::Handover, Self::Crowd, Self::Held];
}

/// Long enough for several renewals of each lock.
const HELD_AT_LEAST: Duration = Duration::from_secs(45);

struct Run<'a> {
    options: &'a Common,
    span: Duration,
    url: String,
    /// The contestants of `cycles`, which are the columns of the table.
    in_cycles: Vec<Contestant>,
    /// The contestants of `handover`.
    in_handover: Vec<Contestant>,
    /// How many locks are held, unless the options say so.
    locks: usize,
    table: Table,
}

impl<'a> Run<'a> {
    fn new(
        options: &'a Common,
        span: Duration,
        url: String,
        in_cycles: Vec<Contestant>,
        in_handover: Vec<Contestant>,
    ) -> Self {
        let wanted = |one: &Contestant| options.contestants.is_empty() || options.contestants.contains(one);
        let of = |all: Vec<Contestant>| all.into_iter().filter(wanted).collect::<Vec<_>>();
        let (in_cycles, in_handover) = (of(in_cycles), of(in_handover));
        let table = Table::new(in_cycles.clone());
        Self { options, span, url, in_cycles, in_handover, locks: 100_000, table }
    }

    /// Measures everything in every round, except the slow parts, which run once.
    async fn rounds(&mut self, parts: &[Part]) -> Result {
        for round in 0..self.options.rounds {
            self.round(round, parts).await?;
        }
        if parts.contains(&Part::Held) {
            self.held().await?;
        }
        Ok(())
    }

    /// Runs every measurement of every contestant once.
    async fn round(&mut self, round: usize, parts: &[Part]) -> Result {
        let in_turn = |mut all: Vec<Contestant>| {
            let first = round % std::cmp::max(all.len(), 1);
            all.rotate_left(first);
            all
        };
        if parts.contains(&Part::Cycles) {
            for workers in self.options.workers.clone() {
                for contestant in in_turn(self.in_cycles.clone()) {
                    self.cycles(contestant, workers).await?;
                }
            }
        }
        if parts.contains(&Part::Handover) {
            for processes in self.options.processes.clone() {
                for contestant in in_turn(self.in_handover.clone()) {
                    self.handover(contestant, processes).await?;
                }
            }
        }
        if parts.contains(&Part::Crowd) {
            self.crowd().await?;
        }
        Ok(())
    }

    fn store(&self, contestant: Contestant) -> &str {
        match (contestant, &self.options.leasehold_store) {
            (Leasehold | LeaseholdTask, Some(other)) => other,
            _ => &self.url,
        }
    }

    async fn cycles(&mut self, contestant: Contestant, workers: usize) -> Result {
        let store = self.store(contestant);
        let (client, mut server) = (contestant.connect(store, workers).await?, Server::of(&self.url).await?);
        let cycles = cycles::measure(&client, &mut server, self.span, workers).await?;
        client.close().await?;
        say(&cycles.json(contestant));
        let workers = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
        let of = |what: &str, unit: &str| format!("{what}, {workers}, {unit}");
        let table = &mut self.table;
        table.add(of("acquire + release", "per second"), contestant, cycles.per_second);
        table.add(of("acquire + release", "p50 µs"), contestant, cycles.cycle.us(50));
        table.add(of("acquire + release", "p99 µs"), contestant, cycles.cycle.us(99));
        table.add(of("acquire", "p50 µs"), contestant, cycles.acquire.us(50));
        table.add(of("CPU of the client", "µs per cycle"), contestant, cycles.client_cpu_us);
        if let Some(cpu) = cycles.server_cpu_us {
            table.add(of("CPU of the server", "µs per cycle"), contestant, cpu);
        }
        if let Some(bytes) = cycles.log_bytes {
            table.add(of("written to the log", "bytes per cycle"), contestant, bytes);
        }
        if let Some(connections) = cycles.connections {
            table.add(of("connections", "in all"), contestant, float(connections));
        }
        Ok(())
    }

    async fn handover(&mut self, contestant: Contestant, processes: usize) -> Result {
        // Each handover runs alone, and takes a rival up to a fifth of a second.
        let span = self.span * 2;
        let handover = handover::measure(contestant, self.store(contestant), span, processes).await?;
        say(&handover.json(contestant, processes));
        for percent in [50, 90, 99] {
            let label = format!("handover, {processes} processes, p{percent} µs");
            self.table.add(label, contestant, handover.times.us(percent));
        }
        let contend = contend::measure(contestant, self.store(contestant), self.span, processes).await?;
        say(&contend.json(contestant, processes));
        let label = format!("all want it all the time, {processes} processes, cycles per second");
        self.table.add(label, contestant, contend.per_second);
        if contestant == Leasehold {
            // The figure of a rival is not comparable: the process that releases acquires again before any
            // other asks.
            for percent in [50, 99] {
                let label =
                    format!("all want it all the time, {processes} processes, handover p{percent} µs");
                self.table.add(label, contestant, contend.handover.us(percent));
            }
        }
        Ok(())
    }

    async fn crowd(&mut self) -> Result {
        let clients = self.options.clients;
        let crowd = crowd::measure(self.store(Leasehold), self.span, clients, 4).await?;
        say(&crowd.json());
        if let Some(connections) = crowd.connections {
            let label = format!("{clients} waiting clients, connections of each");
            self.table.add(label, Leasehold, connections);
        }
        for (when, phase) in [("once each", &crowd.drained), ("all come back", &crowd.steady)] {
            let of = |what: &str| format!("{clients} waiting clients, {when}, {what}");
            self.table.add(of("acquire calls per handover"), Leasehold, phase.acquire_calls);
            self.table.add(of("of those heartbeats"), Leasehold, phase.heartbeats);
            for (what, calls) in [
                ("acquires, as the server counts,", phase.server_acquires),
                ("all calls, as the server counts,", phase.server_calls),
            ] {
                if let Some(calls) = calls {
                    self.table.add(of(&format!("{what} per handover")), Leasehold, calls);
                }
            }
            self.table.add(of("handovers per second"), Leasehold, phase.per_second);
            self.table.add(of("handover p50 µs"), Leasehold, phase.handover.us(50));
            self.table.add(of("handover p99 µs"), Leasehold, phase.handover.us(99));
        }
        Ok(())
    }

    /// Runs in a process of its own, so that its memory is measured alone.
    async fn held(&mut self) -> Result {
        let locks = self.options.locks.unwrap_or(self.locks);
        let seconds = std::cmp::max(self.span, HELD_AT_LEAST).as_secs().to_string();
        let output = tokio::process::Command::new(std::env::current_exe()?)
            .args([
                "--store",
                self.store(Leasehold),
                "--seconds",
                &seconds,
                "held",
                "--locks",
                &locks.to_string(),
            ])
            .stderr(std::process::Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await?;
        if !output.status.success() {
            return Err(format!("the process that holds locks failed status=`{}`", output.status).into());
        }
        let held: Value = serde_json::from_slice(&output.stdout)?;
        say(&held);
        let rows = [
            ("renewals per second, mean", "/renewals_per_s/mean"),
            ("calls to renew per second", "/renew_calls_per_s"),
            ("busiest second ÷ mean", "/renewals_per_s/max_to_mean"),
            ("the same, last 10 s", "/renewals_per_s/max_to_mean_at_the_end"),
            ("CPU of the client, % of one", "/client_cpu_percent"),
            ("CPU of the server, % of one", "/server_cpu_percent"),
            ("memory of the client, bytes each", "/client_bytes_per_lock"),
            ("memory of the server, bytes each", "/server_bytes_per_lock"),
            ("lost", "/lost"),
        ];
        for (what, path) in rows {
            // Not every server tells what it uses.
            if let Some(value) = held.pointer(path).and_then(Value::as_f64) {
                self.table.add(format!("{locks} held locks, {what}"), Leasehold, value);
            }
        }
        Ok(())
    }
}

fn say(result: &Value) {
    println!("{result}");
}
