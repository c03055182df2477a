use std::path::PathBuf;

use super::{LINKS, key, left};
use crate::redis::{Redis, RedisOptions};
use crate::{Faults, Links, Result, Server, Setup, Tls};

/// Three independent servers.
pub(super) struct Quorum(Vec<Redis>);

impl Quorum {
    pub(super) fn start(options: &RedisOptions) -> Result<Self> {
        Ok(Self((0..3).map(|_| options.clone().start()).collect::<Result<_>>()?))
    }
}

impl Setup for Quorum {
    fn url(&self) -> String {
        let first = self.0[0].url();
        let (scheme, first) = first.split_once("://").unwrap_or_default();
        let (first, database) = first.rsplit_once('/').unwrap_or_default();
        let others = self.0[1..].iter().map(|redis| format!(",127.0.0.1:{}", redis.port()));
        format!("{scheme}+quorum://{first}{}/{database}", others.collect::<String>())
    }

    fn servers(&self) -> Vec<&Server> {
        self.0.iter().map(|redis| &**redis).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        self.0[0].tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        self.0.iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        self.0.iter().map(Setup::commands).sum()
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

impl Faults for Quorum {
    fn names(&self) -> Vec<&'static str> {
        vec!["server kill", "server stop", "every server restart", "every server stop"]
    }

    fn links(&self) -> Option<Links> {
        Some(LINKS)
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        key(prefix, lock)
    }

    fn left(&self) -> Result<Vec<String>> {
        Ok(self.0.iter().map(left).collect::<Result<Vec<_>>>()?.concat())
    }
}
