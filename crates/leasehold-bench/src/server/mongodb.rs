//! The statistics of a MongoDB: of all members from `serverStatus` and from the system, and its oplog.

use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::{Document, Timestamp, doc};

use super::Calls;
use crate::Result;

pub(crate) struct MongoDbServer {
    /// The ports of the members, which must be on this machine.
    ports: Vec<u16>,
    /// The end of the oplog when it was last measured, and the bytes until then.
    measured: Timestamp,
    log_bytes: u64,
}

impl MongoDbServer {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let hosts = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let ports = hosts.split(',').filter_map(|host| host.rsplit(':').next()?.parse().ok());
        let mut server =
            Self { ports: ports.collect(), measured: Timestamp { time: 0, increment: 0 }, log_bytes: 0 };
        server.measured = server.end_of_log().await?;
        Ok(server)
    }

    /// Returns the CPU time of all members.
    pub(super) async fn cpu_ns(&self) -> Result<u64> {
        let mut ticks = 0;
        for status in self.status().await? {
            let pid = status.get_i64("pid")?;
            ticks += ticks_of(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
                .ok_or("not the status of a process")?;
        }
        Ok(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()))
    }

    /// Returns the number of connections to all members, without those of this function.
    pub(super) async fn connections(&self) -> Result<u64> {
        let mut all = 0;
        for status in self.status().await? {
            all += u64::try_from(status.get_document("connections")?.get_i32("current")?)?.saturating_sub(1);
        }
        Ok(all)
    }

    /// Returns the size of the locks' database.
    pub(super) async fn data_bytes(&self) -> Result<u64> {
        let stats = self.at_primary("leasehold", doc! { "dbStats": 1 }).await?;
        let bytes = |name: &str| stats.get_f64(name).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
        Ok((bytes("dataSize") + bytes("indexSize")) as u64)
    }

    /// Returns the commands of clients. Each call of a storage to acquire is one `findAndModify`, or an `update` and
    /// one `find`.
    pub(super) async fn commands(&self) -> Result<Calls> {
        let mut calls = Calls { all: 0, acquire: Some(0) };
        for status in self.status().await? {
            let commands = status.get_document("metrics")?.get_document("commands")?;
            let count = |name: &str| {
                let total = commands.get_document(name).and_then(|stats| stats.get_i64("total"));
                total.map_or(0, i64::unsigned_abs)
            };
            let acquire = count("findAndModify") + count("find");
            calls.all += acquire + count("update") + count("getMore");
            calls.acquire = calls.acquire.map(|calls| calls + acquire);
        }
        Ok(calls)
    }

    /// Returns the bytes that were written to the oplog since this was connected.
    pub(super) async fn log_bytes(&mut self) -> Result<u64> {
        let end = self.end_of_log().await?;
        let written = doc! { "ts": { "$gt": self.measured, "$lte": end }, "op": { "$ne": "n" } };
        let sum = doc! { "_id": null, "bytes": { "$sum": { "$bsonSize": "$$ROOT" } } };
        let command = doc! {
            "aggregate": "oplog.rs", "cursor": {}, "pipeline": [{ "$match": written }, { "$group": sum }],
        };
        let reply = self.at_primary("local", command).await?;
        let bytes = first(&reply)?.and_then(|sum| sum.get("bytes"));
        let bytes = bytes.and_then(|bytes| bytes.as_i64().or(bytes.as_i32().map(i64::from))).unwrap_or(0);
        self.measured = end;
        self.log_bytes += u64::try_from(bytes)?;
        Ok(self.log_bytes)
    }

    async fn end_of_log(&self) -> Result<Timestamp> {
        let command =
            doc! { "find": "oplog.rs", "sort": { "$natural": -1 }, "limit": 1, "projection": { "ts": 1 } };
        let reply = self.at_primary("local", command).await?;
        Ok(first(&reply)?.ok_or("the oplog is empty")?.get_timestamp("ts")?)
    }

    async fn status(&self) -> Result<Vec<Document>> {
        let mut all = Vec::new();
        for port in &self.ports {
            all.push(send(*port, "admin", doc! { "serverStatus": 1 }).await?);
        }
        Ok(all)
    }

    async fn at_primary(&self, database: &'static str, command: Document) -> Result<Document> {
        for port in &self.ports {
            let hello = send(*port, "admin", doc! { "hello": 1 }).await?;
            if hello.get_bool("isWritablePrimary")? {
                return send(*port, database, command).await;
            }
        }
        Err("no member is primary".into())
    }
}

async fn send(port: u16, database: &'static str, command: Document) -> Result<Document> {
    Ok(tokio::task::spawn_blocking(move || MongoDb::command_at(port, database, command)).await??)
}

/// Returns the first document of a cursor.
fn first(reply: &Document) -> Result<Option<&Document>> {
    let batch = reply.get_document("cursor")?.get_array("firstBatch")?;
    Ok(batch.first().and_then(|document| document.as_document()))
}

/// Reads the CPU time of a process from a line of `/proc/PID/stat`, in ticks.
fn ticks_of(stat: &str) -> Option<u64> {
    // The name is in parentheses and may contain any character.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_that_of_the_process_without_its_children() {
        let stat = "77 (mongod) S 12 77 77 0 -1 4194368 1 2 3 4 100 20 3 4 20 0 1 0 99";
        assert_eq!(ticks_of(stat), Some(120));
    }
}
