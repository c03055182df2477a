//! Leasehold beside its rivals, on one Redis that is started for it, in interleaved rounds.
//!
//! In each round everybody is measured once at everything, and the order changes from round to round: what the machine
//! does meanwhile hits all alike. Ratios are of the figures of one round.

mod table;
mod versions;

use std::time::Duration;

use clap::{Args, ValueEnum};
use leasehold_testbed::Redis;
use serde_json::Value;

use self::table::Table;
use crate::Result;
use crate::contestant::Contestant::{self, Leasehold, LeaseholdTask, Raw, Rslock};
use crate::scenario::{contend, crowd, cycles, handover};
use crate::server::Server;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everybody is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How the server keeps what it is told; each is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Persistence::None, Persistence::Always])]
    persistence: Vec<Persistence>,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Cycles, Part::Handover, Part::Crowd, Part::Held])]
    parts: Vec<Part>,
    /// How many workers acquire and release.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256, 1024])]
    workers: Vec<usize>,
    /// How many processes want one lock.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 9])]
    processes: Vec<usize>,
    /// How many clients wait for one lock.
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// How many locks are held.
    #[arg(long, default_value_t = 100_000)]
    locks: usize,
    /// Measures Leasehold over another storage than the server of its rivals: what it costs by itself.
    #[arg(long)]
    leasehold_store: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Persistence {
    /// Nothing is kept.
    None,
    /// Every write is on disk before it is answered (`appendfsync always`).
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cycles,
    Handover,
    Crowd,
    Held,
}

/// Locks are held until each was renewed several times.
const HELD_AT_LEAST: Duration = Duration::from_secs(45);

pub(crate) async fn compare(options: &Options, span: Duration) -> Result {
    let mut tables = Vec::new();
    for &persistence in &options.persistence {
        let redis = tokio::task::spawn_blocking(move || start(persistence));
        let redis = redis.await??;
        let mut run = Run { options, span, url: redis.url(), table: Table::default() };
        for round in 0..options.rounds {
            run.round(round).await?;
        }
        run.alone().await?;
        tables.push(format!(
            "{}\n\n{}",
            versions::describe(&redis, persistence == Persistence::Always)?,
            run.table
        ));
        tokio::task::spawn_blocking(move || drop(redis)).await?;
    }
    for table in tables {
        println!("\n{table}");
    }
    Ok(())
}

fn start(persistence: Persistence) -> Result<Redis> {
    let options = Redis::options();
    Ok(match persistence {
        Persistence::None => options.volatile().start()?,
        Persistence::Always => options.start()?,
    })
}

struct Run<'a> {
    options: &'a Options,
    span: Duration,
    url: String,
    table: Table,
}

impl Run<'_> {
    /// Everybody at everything, once.
    async fn round(&mut self, round: usize) -> Result {
        let in_turn = |mut all: Vec<Contestant>| {
            let first = round % all.len();
            all.rotate_left(first);
            all
        };
        if self.measures(Part::Cycles) {
            for workers in self.options.workers.clone() {
                for contestant in in_turn(vec![Leasehold, LeaseholdTask, Rslock, Raw]) {
                    self.cycles(contestant, workers).await?;
                }
            }
        }
        if self.measures(Part::Handover) {
            for processes in self.options.processes.clone() {
                for contestant in in_turn(vec![Leasehold, Rslock]) {
                    self.handover(contestant, processes).await?;
                }
            }
        }
        if self.measures(Part::Crowd) {
            self.crowd().await?;
        }
        Ok(())
    }

    /// What no rival does, once.
    async fn alone(&mut self) -> Result {
        if self.measures(Part::Held) {
            self.held().await?;
        }
        Ok(())
    }

    fn measures(&self, part: Part) -> bool {
        self.options.parts.contains(&part)
    }

    fn store(&self, contestant: Contestant) -> &str {
        match (contestant, &self.options.leasehold_store) {
            (Leasehold | LeaseholdTask, Some(other)) => other,
            _ => &self.url,
        }
    }

    async fn cycles(&mut self, contestant: Contestant, workers: usize) -> Result {
        let store = self.store(contestant);
        let (client, mut server) = (contestant.connect(store).await?, Server::of(&self.url).await?);
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
        table.add(of("CPU of the server", "µs per cycle"), contestant, cycles.server_cpu_us.unwrap_or(0.0));
        Ok(())
    }

    async fn handover(&mut self, contestant: Contestant, processes: usize) -> Result {
        // One at a time, and a rival takes up to a fifth of a second for each.
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
            // A rival's is not comparable: whoever releases has it again before anybody else asks.
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
        for (when, phase) in [("once each", &crowd.drained), ("all come back", &crowd.steady)] {
            let of = |what: &str| format!("{clients} waiting clients, {when}, {what}");
            self.table.add(of("acquire calls per handover"), Leasehold, phase.acquire_calls);
            self.table.add(of("handovers per second"), Leasehold, phase.per_second);
            self.table.add(of("handover p50 µs"), Leasehold, phase.handover.us(50));
            self.table.add(of("handover p99 µs"), Leasehold, phase.handover.us(99));
        }
        Ok(())
    }

    /// In a process of its own, so that its memory is its own.
    async fn held(&mut self) -> Result {
        let locks = self.options.locks;
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
        let held: Value = serde_json::from_slice(&output.stdout)?;
        say(&held);
        let rows = [
            ("renewals per second, mean", "/renewals_per_s/mean"),
            ("busiest second ÷ mean", "/renewals_per_s/max_to_mean"),
            ("the same, last 10 s", "/renewals_per_s/max_to_mean_at_the_end"),
            ("CPU of the client, % of one", "/client_cpu_percent"),
            ("CPU of the server, % of one", "/server_cpu_percent"),
            ("memory of the client, bytes each", "/client_bytes_per_lock"),
            ("memory of the server, bytes each", "/server_bytes_per_lock"),
            ("lost", "/lost"),
        ];
        for (what, path) in rows {
            let value = held.pointer(path).and_then(Value::as_f64);
            self.table.add(format!("{locks} held locks, {what}"), Leasehold, value.unwrap_or(0.0));
        }
        Ok(())
    }
}

fn say(result: &Value) {
    println!("{result}");
}
