//! PostgreSQL, directly and behind a pooler.

use std::thread;

use leasehold::storage::schema;
use leasehold_conformance::Space;
use leasehold_testbed::{PgBouncer, Postgres, Result};

use crate::wanted::wanted;

/// The cases on a direct connection run as a role that has only the documented rights.
const ROLE: &str = "locks_role";
const PASSWORD: &str = "password";
const OPTIONS: &str = "schema=locks&prefix=shop:";

/// The servers that the command line asks for.
#[derive(Default)]
pub(crate) struct Servers {
    one: Option<Postgres>,
    /// The pooler, and the server behind it.
    pooled: Option<(PgBouncer, Postgres)>,
}

impl Servers {
    /// Starts the servers in parallel.
    pub(crate) fn start() -> Self {
        thread::scope(|scope| {
            let one = scope.spawn(|| wanted("postgres").then(one).transpose());
            let pooled = scope.spawn(|| wanted("pgbouncer").then(pooled).transpose());
            let started =
                "needs postgresql and pgbouncer; without them: --no-default-features --features sqlite";
            Self {
                one: one.join().expect(started).expect(started),
                pooled: pooled.join().expect(started).expect(started),
            }
        })
    }

    pub(crate) fn spaces(&self) -> Vec<Space> {
        let one = self.one.as_ref().map(|one| format!("{}?{OPTIONS}", one.url_as(ROLE, PASSWORD)));
        let pooled = self.pooled.as_ref().map(|(bouncer, _)| {
            // A pooler does not support LISTEN.
            Space::url(&bouncer.url()).named("pgbouncer").unprompted()
        });
        one.iter().map(|url| Space::url(url)).chain(pooled).collect()
    }
}

fn one() -> Result<Postgres> {
    let postgres = Postgres::options().password("superuser").start()?;
    postgres.user(ROLE, PASSWORD)?;
    let tables = schema(&format!("postgres://{ROLE}@h/d?{OPTIONS}")).expect("a valid URL");
    postgres.sql(&tables.expect("this storage has tables"))?;
    Ok(postgres)
}

fn pooled() -> Result<(PgBouncer, Postgres)> {
    let postgres = Postgres::start()?;
    Ok((PgBouncer::start(&postgres)?, postgres))
}
