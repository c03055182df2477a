//! The statistics of a Redis, from `INFO`.

use redis::aio::MultiplexedConnection;

use super::Calls;
use crate::Result;

pub(crate) struct Redis(MultiplexedConnection);

impl Redis {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let client = redis::Client::open(url)?;
        Ok(Self(client.get_multiplexed_async_connection_with_config(&patient).await?))
    }

    pub(super) async fn cpu_ns(&mut self) -> Result<Option<u64>> {
        let info = self.info("cpu").await?;
        let nanos = |name| Some(nanos(value(&info, name)?));
        Ok(nanos("used_cpu_sys").zip(nanos("used_cpu_user")).map(|(system, user)| system + user))
    }

    pub(super) async fn memory(&mut self) -> Result<Option<u64>> {
        let info = self.info("memory").await?;
        Ok(value(&info, "used_memory").and_then(|bytes| bytes.parse().ok()))
    }

    pub(super) async fn connections(&mut self) -> Result<Option<u64>> {
        let info = self.info("clients").await?;
        Ok(value(&info, "connected_clients").and_then(|count| count.parse::<u64>().ok()?.checked_sub(1)))
    }

    pub(super) async fn script_calls(&mut self) -> Result<Option<Calls>> {
        let info = self.info("commandstats").await?;
        let calls = |name| value(&info, name)?.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok();
        let all = ["cmdstat_evalsha", "cmdstat_eval"].into_iter().filter_map(calls).sum();
        Ok(Some(Calls { all, acquire: None }))
    }

    async fn info(&mut self, section: &str) -> Result<String> {
        Ok(redis::cmd("INFO").arg(section).query_async(&mut self.0).await?)
    }
}

/// Returns the value of the line `name:value`.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Parses seconds with six decimal places.
fn nanos(seconds: &str) -> u64 {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let fraction: u64 = format!("{fraction:0<9}").parse().unwrap_or(0);
    whole.parse::<u64>().unwrap_or(0) * 1_000_000_000 + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_info() {
        let info = "# CPU\r\nused_cpu_sys:1.250000\r\nused_cpu_sys_children:0.5\r\n";
        assert_eq!(value(info, "used_cpu_sys"), Some("1.250000"));
        assert_eq!(nanos("1.250000"), 1_250_000_000);
    }
}
