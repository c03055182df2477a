//! The statistics of a PostgreSQL from its views, and of its processes from the system.

use tokio_postgres::{Client, NoTls};

use super::Calls;
use crate::Result;

pub(crate) struct Postgres {
    client: Client,
    /// The parent process of all others. It must be on this machine.
    postmaster: u64,
}

impl Postgres {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // The task ends with the client. Errors show in the client's calls.
        tokio::spawn(connection);
        let row = client.query_one("select pg_backend_pid()", &[]).await?;
        let postmaster = Process::read(&row.get::<_, i32>(0).to_string())?.parent;
        Ok(Self { client, postmaster })
    }

    /// Returns the CPU time of all processes, including those that have ended.
    pub(super) fn cpu_ns(&self) -> Result<u64> {
        let mut nanos = 0;
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
                continue;
            };
            // The process may have ended meanwhile.
            let Ok(process) = Process::read(pid) else { continue };
            let first = pid == self.postmaster.to_string();
            if first {
                nanos += process.of_children * (1_000_000_000 / rustix::param::clock_ticks_per_second());
            }
            if first || process.parent == self.postmaster {
                nanos += on_cpu_ns(pid).unwrap_or(0);
            }
        }
        Ok(nanos)
    }

    pub(super) async fn connections(&self) -> Result<u64> {
        self.number(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
        .await
    }

    pub(super) async fn wal_bytes(&self) -> Result<u64> {
        self.number("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").await
    }

    pub(super) async fn table_bytes(&self) -> Result<u64> {
        self.number(
            "select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c
            where relkind = 'r' and relname like 'leasehold%'",
        )
        .await
    }

    /// Returns the counts of `pg_stat_statements`, which the comparison switches on only while it counts.
    pub(super) async fn statements(&self) -> Result<Calls> {
        let count = |which: &str| {
            format!(
                "select coalesce(sum(calls), 0)::bigint from pg_stat_statements
                where query not ilike '%pg_stat_%' and query ilike '{which}'"
            )
        };
        let all = self.number(&count("%")).await?;
        // Only the statement that acquires gets these parameters.
        let acquire = self.number(&count("%kind, owner, ttl_us, not_after%")).await?;
        Ok(Calls { all, acquire: Some(acquire) })
    }

    async fn number(&self, sql: &str) -> Result<u64> {
        let row = self.client.query_one(sql, &[]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }
}

/// A line of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    parent: u64,
    /// The CPU time of the children that have ended, in ticks.
    of_children: u64,
}

impl Process {
    fn read(pid: &str) -> Result<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
            .ok_or_else(|| "not a process".into())
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name is in parentheses and may contain any character.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { parent: number(1)?, of_children: number(13)? + number(14)? })
    }
}

/// Returns the CPU time in nanoseconds, because many connections use less than one tick.
fn on_cpu_ns(pid: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_whatever_the_process_calls_itself() {
        let stat = "77 (postgres: a) b) S 12 77 77 0 -1 4194368 1 2 3 4 100 20 3 4 20 0 1 0 99";
        assert_eq!(Process::parse(stat), Some(Process { parent: 12, of_children: 7 }));
    }
}
