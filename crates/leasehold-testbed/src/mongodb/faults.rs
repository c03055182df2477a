//! What a torture can do to a MongoDB.

use bson::{Bson, doc};

use super::pins::{COLLECTION, Pins, pin};
use super::{MongoDb, MongoDbMember};
use crate::error::Context as _;
use crate::faults::{Damage, Ending, Links, Pick, no_such_fault, no_such_servers};
use crate::{Error, Faults, Result, Server, Setup, until};

/// How to recognize a client's requests. The driver reads a change stream over any of its connections.
const LINKS: Links = Links::new("wtimeout", None);
/// The faults of servers, of a set of one and of a larger one.
const OF_ONE: [&str; 3] = ["server kill", "server stop", "server restart"];
const OF_MANY: [&str; 7] = [
    "failover",
    "primary kill",
    "secondaries stop",
    "primary stop",
    "primary alone",
    "secondary kill",
    "every server kill",
];
/// The faults inside of the primary.
const INSIDE: [&str; 4] = ["streams killed", "commands cut", "writes unconfirmed", LOCKED];
/// No client can write. A command that began before is executed afterward.
const LOCKED: &str = "writes locked";
/// What transactions of other programs do: one that pins the lock's document; and many of all lengths, each of which pins
/// one document or several. While they last, commands that began before wait, and the storage may grant nothing.
const PINS: [&str; 2] = ["document pinned", "documents pinned"];
/// The commands of a lock.
const COMMANDS: [&str; 3] = ["update", "findAndModify", "find"];

impl Faults for MongoDb {
    fn names(&self) -> Vec<&'static str> {
        let of_servers = if self.members().len() == 1 { &OF_ONE[..] } else { &OF_MANY };
        // A standalone server has no transactions.
        let of_transactions = if self.standalone { &[][..] } else { &PINS };
        [of_servers, &INSIDE, of_transactions].concat()
    }

    fn links(&self) -> Option<Links> {
        (self.direct || self.standalone).then_some(LINKS)
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        prefix.map_or_else(|| lock.to_owned(), |prefix| format!("{prefix}\0{lock}"))
    }

    fn hit(&self, which: &str, _: &str, pick: Pick<'_>) -> Result<Vec<&Server>> {
        let secondaries = || -> Result<Vec<&Server>> {
            let primary = self.primary()?.port();
            let others = self.members().iter().filter(|member| member.port() != primary);
            Ok(others.map(|member| &**member).collect())
        };
        match which {
            "server" | "primary" => Ok(vec![self.primary()?]),
            "secondary" => secondaries().map(|all| vec![all[pick(all.len())]]),
            "secondaries" => secondaries(),
            "every server" => Ok(Setup::servers(self)),
            _ => Err(no_such_servers(which)),
        }
    }

    /// Waits with the restart of a killed primary until another member has taken over.
    fn after_kill(&self, which: &str) -> Result<()> {
        if which == "primary" { self.primary().map(drop) } else { Ok(()) }
    }

    fn inject(&self, fault: &str, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        let primary = self.primary()?;
        let half = doc! { "activationProbability": 0.5 };
        match fault {
            "failover" => Setup::failover(self).map(|()| None),
            "primary alone" => self.isolate_primary(primary).map(Some),
            "streams killed" => {
                primary.kill_streams()?;
                // Those that were just opened again.
                Ok(Some(Box::new(|| self.primary()?.kill_streams().map(drop))))
            }
            "commands cut" => {
                primary.fail_commands(half, &COMMANDS, doc! { "closeConnection": true })?;
                Ok(Some(Box::new(|| primary.fail_commands("off", &COMMANDS, doc! {}))))
            }
            "writes unconfirmed" => {
                let error = doc! { "writeConcernError": { "code": 64, "errmsg": "waiting timed out" } };
                primary.fail_commands(half, &COMMANDS[..2], error)?;
                Ok(Some(Box::new(|| primary.fail_commands("off", &COMMANDS, doc! {}))))
            }
            "writes locked" => {
                primary.command("admin", doc! { "fsync": 1, "lock": true })?;
                Ok(Some(Box::new(|| primary.command("admin", doc! { "fsyncUnlock": 1 }).map(drop))))
            }
            "document pinned" => {
                let transaction = self.transaction(COLLECTION, &[pin(doc! { "_id": key })])?;
                let commits = pick(2) == 0;
                Ok(Some(Box::new(move || if commits { transaction.commit() } else { transaction.abort() })))
            }
            "documents pinned" => {
                let pins = Pins::start(self.access.clone(), primary.port(), pick);
                Ok(Some(Box::new(|| pins.end())))
            }
            _ => Err(no_such_fault(fault)),
        }
    }

    fn refuses(&self, fault: &str) -> bool {
        fault == LOCKED || PINS.contains(&fault)
    }

    /// Waits until a majority confirms a write, too.
    fn await_whole(&self) -> Result<()> {
        Setup::await_ready(self)?;
        if self.standalone {
            return Ok(());
        }
        until("a majority to confirm a write", || {
            let concern = doc! { "w": "majority", "j": true, "wtimeout": 5_000 };
            let note = doc! { "appendOplogNote": 1, "data": {}, "writeConcern": concern };
            let reply = self.command("admin", note)?;
            match reply.get("writeConcernError") {
                None => Ok(()),
                Some(error) => Err(Error::new(error.to_string())),
            }
        })
    }

    fn damage(&self, fault: &str) -> Damage {
        match fault {
            // Another member may be elected meanwhile.
            "primary stop" | "primary kill" | "primary alone" | "secondaries stop" | "failover" => {
                Damage::Failover
            }
            _ if fault.ends_with(" kill") || fault.ends_with(" restart") => Damage::Restart,
            _ => Damage::None,
        }
    }

    /// Lists what is left when no client is connected. Documents stay for their tokens.
    fn left(&self) -> Result<Vec<String>> {
        let live = doc! { "$filter": {
            "input": { "$ifNull": ["$queue", []] },
            "cond": { "$gt": [{ "$add": ["$$this.asked", 6_000] }, "$$NOW"] },
        } };
        let held = doc! { "$and": [{ "$gt": ["$owner", Bson::Null] }, { "$gt": ["$until", "$$NOW"] }] };
        let find = doc! {
            "find": "leasehold",
            "projection": { "held": held, "waiters": { "$size": live } },
            "batchSize": 1_000,
        };
        let found = self.command("leasehold", find)?;
        let locks = found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let mut left = Vec::new();
        for lock in locks.context("no list")?.iter().filter_map(Bson::as_document) {
            let id = lock.get("_id").map(ToString::to_string).unwrap_or_default();
            if lock.get_bool("held").unwrap_or(false) {
                left.push(format!("the lease of {id}"));
            }
            if lock.get_i32("waiters").unwrap_or(0) > 0 {
                left.push(format!("a place in line for {id}"));
            }
        }
        Ok(left)
    }
}

impl MongoDb {
    /// Kills the other members, so that the primary writes what no majority has. Returns the function that kills it, too,
    /// and lets the others elect another one; what only the old one has is rolled back. A member that was only stopped
    /// would find the writes in its sockets.
    fn isolate_primary<'a>(&'a self, primary: &'a MongoDbMember) -> Result<Ending<'a>> {
        let others: Vec<_> = self.members().iter().filter(|member| member.port() != primary.port()).collect();
        others.iter().for_each(|member| member.kill9());
        Ok(Box::new(move || {
            primary.kill9();
            others.iter().try_for_each(|member| member.launch())?;
            self.await_primary_other_than(primary)?;
            primary.launch()
        }))
    }
}
