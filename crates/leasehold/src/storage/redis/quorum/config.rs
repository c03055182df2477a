use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::storage::redis;
use crate::storage::redis::config::{Login, Place, Servers};
use crate::storage::url::{Url, bad_value, duration};

/// The servers of a quorum, and how to use them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    pub(super) redis: Arc<redis::Config>,
    pub(super) places: Vec<Place>,
    /// The longest TTL that a client may use, and for how long a server that has forgotten its locks does not vote.
    pub(super) max_ttl: Option<Duration>,
}

const TTL_BOUNDS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

impl Config {
    /// Reads a URL: `redis+quorum:` or `rediss+quorum:`. Does no I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong, or does not name an odd number of servers from 3 on. The text repeats no secret.
    pub fn new(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some((scheme @ ("redis+quorum" | "rediss+quorum"), rest)) => {
                Self::from_url(scheme, &Url::parse(rest)?)
            }
            _ => Err(Error::invalid("not the URL of a quorum; it begins with `redis+quorum:`")),
        }
    }

    pub(crate) fn from_url(scheme: &str, url: &Url) -> Result<Self> {
        let (mut redis, mut max_ttl) = (redis::Config::blank(scheme), None);
        let set = |option: &str, value: &str| {
            if option != "max_ttl" {
                return redis.set(&mut Login::default(), option, value);
            }
            max_ttl = Some(duration(option, value)?).filter(|ttl| TTL_BOUNDS.contains(ttl));
            max_ttl.map(drop).ok_or_else(|| bad_value(option, "100ms to 24h"))
        };
        url.options(&["prefix", "allow_eviction", "max_ttl", "ca", "cert", "key", "insecure"], set)?;
        redis.servers = redis.place("quorum", url, Login::default())?;
        let Servers::Quorum(places) = &redis.servers else {
            return Err(Error::invalid("the URL names no servers"));
        };
        let places = places.clone();
        if places.len() < 3 || places.len().is_multiple_of(2) {
            let text =
                "a quorum needs an odd number of servers, 3 or more: an even one survives no more failures";
            return Err(Error::invalid(format!("{text} servers=`{}`", places.len())));
        }
        if let Some(twice) = twice(&places) {
            return Err(Error::invalid(format!("the URL names a server twice server=`{twice}`")));
        }
        Ok(Self { redis: Arc::new(redis), places, max_ttl })
    }
}

/// Returns a place that occurs twice.
fn twice(places: &[Place]) -> Option<&Place> {
    let mut seen = HashSet::new();
    places.iter().find(|place| !seen.insert(*place))
}

/// Shows the URL without user, password and options.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_servers_is_odd_and_at_least_three() {
        for hosts in ["a", "a,b", "a,b,c,d"] {
            let error = Config::new(&format!("redis+quorum://{hosts}")).expect_err("refused");
            assert!(error.to_string().contains("odd number of servers"), "{error}");
        }
        let config = Config::new("redis+quorum://u:S3CRET@a,b:1,c/2?max_ttl=5s").expect("right");
        assert_eq!(config.to_string(), "redis+quorum://a:6379,b:1,c:6379/2");
        assert_eq!(config.max_ttl, Some(Duration::from_secs(5)));
        assert!(!format!("{config:?}").contains("S3CRET"));
    }

    #[test]
    fn a_server_that_is_named_twice_is_refused() {
        let error = Config::new("redis+quorum://a,b,a:6379").expect_err("refused");
        assert!(error.to_string().contains("twice") && error.to_string().contains("a:6379"), "{error}");
    }

    #[test]
    fn options_of_other_storages_are_refused() {
        for option in ["failover_grace=1s", "wait_replicas=1", "max_ttl=1", "max_ttl=50ms", "ca=x"] {
            assert!(Config::new(&format!("redis+quorum://a,b,c?{option}")).is_err(), "{option}");
        }
    }
}
