//! What a Redis server says of itself. Nothing, if the storage is another one or the feature `rivals` is off.

use crate::Result;

/// A connection of its own, or none.
pub(crate) struct Server {
    #[cfg(feature = "rivals")]
    connection: Option<redis::aio::MultiplexedConnection>,
}

impl Server {
    #[cfg(feature = "rivals")]
    pub(crate) async fn of(store: &str) -> Result<Self> {
        if !store.starts_with("redis://") {
            return Ok(Self { connection: None });
        }
        let url = store.split('?').next().unwrap_or(store);
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let client = redis::Client::open(url)?;
        let connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
        Ok(Self { connection: Some(connection) })
    }

    #[cfg(not(feature = "rivals"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    pub(crate) async fn of(_: &str) -> Result<Self> {
        Ok(Self {})
    }

    /// Its CPU time.
    pub(crate) async fn cpu_ns(&mut self) -> Result<Option<u64>> {
        let Some(info) = self.info("cpu").await? else { return Ok(None) };
        let nanos = |name| Some(nanos(value(&info, name)?));
        Ok(nanos("used_cpu_sys").zip(nanos("used_cpu_user")).map(|(system, user)| system + user))
    }

    /// The memory that its data takes.
    pub(crate) async fn memory(&mut self) -> Result<Option<u64>> {
        let info = self.info("memory").await?;
        Ok(info.and_then(|info| value(&info, "used_memory")?.parse().ok()))
    }

    /// How many calls of a script it has executed.
    pub(crate) async fn script_calls(&mut self) -> Result<Option<u64>> {
        let info = self.info("commandstats").await?;
        let calls = |info: &str, name| {
            value(info, name)?.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()
        };
        Ok(info.map(|info| {
            ["cmdstat_evalsha", "cmdstat_eval"].iter().filter_map(|name| calls(&info, name)).sum::<u64>()
        }))
    }

    #[cfg(feature = "rivals")]
    async fn info(&mut self, section: &str) -> Result<Option<String>> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        Ok(Some(redis::cmd("INFO").arg(section).query_async(connection).await?))
    }

    #[cfg(not(feature = "rivals"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn info(&mut self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }
}

/// The value of `name:value`.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Seconds as they are written, with six digits after the point.
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
