use std::path::PathBuf;

use super::{CALL, INSIDE, LOCKS, inside, left};
use crate::faults::{Ending, Links, Pick, no_such_servers};
use crate::postgres::{Postgres, PostgresOptions};
use crate::setup::if_up;
use crate::{Faults, PgBouncer, Result, Server, Setup, Tls};

/// A pooler does not support LISTEN.
const LINKS: Links = Links::new(CALL, None);

/// A PgBouncer and its PostgreSQL.
pub(super) struct Pooled {
    // Dropped first.
    bouncer: PgBouncer,
    postgres: Postgres,
}

impl Pooled {
    pub(super) fn start(options: PostgresOptions) -> Result<Self> {
        let postgres = options.start()?;
        let bouncer = PgBouncer::start(&postgres)?;
        Ok(Self { bouncer, postgres })
    }
}

impl Setup for Pooled {
    fn url(&self) -> String {
        self.bouncer.url()
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.bouncer, &self.postgres]
    }

    fn ca(&self) -> Option<PathBuf> {
        self.postgres.tls().map(Tls::ca)
    }

    /// Waits for PostgreSQL first, because PgBouncer forwards to it.
    fn await_ready(&self) -> Result<()> {
        self.postgres.await_ready()?;
        self.bouncer.await_ready()
    }

    fn connections(&self) -> Result<u64> {
        if_up(&self.bouncer, || self.bouncer.connections())
    }

    fn commands(&self) -> Result<u64> {
        if_up(&self.bouncer, || self.bouncer.commands())
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

impl Faults for Pooled {
    fn names(&self) -> Vec<&'static str> {
        let names = ["server kill", "pooler stop", "server stop", "pooler kill", "server restart"];
        [&names[..], &INSIDE].concat()
    }

    fn links(&self) -> Option<Links> {
        Some(LINKS)
    }

    fn hit(&self, which: &str, _: &str, _: Pick<'_>) -> Result<Vec<&Server>> {
        match which {
            "server" => Ok(vec![&self.postgres]),
            "pooler" => Ok(vec![&self.bouncer]),
            _ => Err(no_such_servers(which)),
        }
    }

    fn inject(&self, fault: &str, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        inside(&self.postgres, fault, key, pick)
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(&self.postgres)
    }
}
