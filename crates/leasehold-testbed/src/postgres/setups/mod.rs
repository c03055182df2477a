//! The setups of PostgreSQL, and the faults of each.

mod pair;
mod pooled;

use self::pooled::Pooled;
use super::{Postgres, PostgresOptions, PostgresPair};
use crate::faults::{Ending, Pick, no_such_fault};
use crate::registry::{Entry, Torture};
use crate::setup::{WithUrl, alone};
use crate::{Error, Faults, Links, Result, Setup, Wanted};

/// All setups of PostgreSQL.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("postgres", "one PostgreSQL", one)
        .scheme("postgres")
        .plain()
        .suite()
        .tortures(&[Torture::new(10)]),
    Entry::new("postgres-standby", "a PostgreSQL primary and its streaming standby", |wanted| {
        Ok(Box::new(PostgresPair::start_with(options(wanted))?))
    })
    .scheme("postgres")
    .fails_over()
    .tortures(&[Torture::new(12).args(&["--faults", "failover,primary kill,kill"])]),
    Entry::new("postgres-sync", "the same, and the primary confirms nothing without the standby", |wanted| {
        Ok(Box::new(PostgresPair::start_synchronous(options(wanted))?))
    })
    .scheme("postgres")
    .fails_over()
    .tortures(&[Torture::new(13).args(&["--faults", "failover,failover behind,primary kill,standby stop"])]),
    Entry::new("pgbouncer", "PgBouncer in transaction mode before a PostgreSQL", |wanted| {
        Ok(Box::new(Pooled::start(options(wanted))?))
    })
    .scheme("postgres")
    // A pooler does not support LISTEN.
    .suite_without_push()
    .tortures(&[Torture::new(11)]),
];

/// How to recognize a client's requests: `Execute` of the unnamed portal, whether the statement is prepared or
/// not.
const CALL: &str = "E\0\0\0\x09\0\0\0\0\0";
const DIRECT: Links = Links::new(CALL, Some("listen leasehold_"));

/// The faults inside of one server.
const INSIDE: [&str; 5] = ["backends terminated", "backend crash", LOCKS[0], LOCKS[1], LOCKS[2]];
/// The locks that another transaction can take. While it lasts, the storage grants nothing.
const LOCKS: [&str; 3] = ["row pinned", "row locked", "table locked"];

fn options(wanted: &Wanted) -> PostgresOptions {
    wanted.apply(Postgres::options(), PostgresOptions::tls, PostgresOptions::password)
}

fn one(wanted: &Wanted) -> Result<Box<dyn Setup>> {
    let Some(schema) = wanted.least_rights else { return Ok(Box::new(options(wanted).start()?)) };
    let (role, password, query) = ("locks_role", "password", "schema=locks&prefix=shop:");
    // Passwords are only checked if the superuser has one, too.
    let superuser = wanted.password.as_deref().unwrap_or("superuser");
    let setup = options(wanted).password(superuser).start()?;
    setup.user(role, password)?;
    setup.sql(&schema(&format!("postgres://{role}@h/d?{query}"))?)?;
    let url = format!("{}?{query}", setup.url_as(role, password));
    Ok(Box::new(WithUrl { setup, url }))
}

alone!(Postgres, faults);

impl Faults for Postgres {
    fn names(&self) -> Vec<&'static str> {
        [&["server kill", "server stop", "server restart"][..], &INSIDE].concat()
    }

    fn links(&self) -> Option<Links> {
        Some(DIRECT)
    }

    fn inject(&self, fault: &str, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        inside(self, fault, key, pick)
    }

    /// Makes the table of leases unlogged, so that a crash of the server empties it.
    fn plant(&self, defect: &str) -> Result<()> {
        match defect {
            "leases-unlogged" => self.sql("alter table leasehold set unlogged").map(drop),
            _ => Err(Error::new(format!("this setup has no such defect: {defect}"))),
        }
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(self)
    }
}

/// Injects a fault inside of one server.
fn inside<'a>(postgres: &'a Postgres, fault: &str, lock: &str, pick: Pick<'_>) -> Result<Option<Ending<'a>>> {
    let lock = lock.replace('\'', "''");
    let open = |sql: &str| -> Result<Option<Ending<'a>>> {
        let transaction = postgres.transaction(sql)?;
        Ok(Some(Box::new(move || {
            drop(transaction);
            Ok(())
        })))
    };
    match fault {
        "backends terminated" => {
            postgres.terminate_backends("")?;
            // The connections that were just opened again.
            Ok(Some(Box::new(|| postgres.terminate_backends("").map(drop))))
        }
        "backend crash" => {
            let backends = postgres.backends("")?;
            if !backends.is_empty() {
                postgres.kill9_backend(backends[pick(backends.len())])?;
            }
            Ok(None)
        }
        "row pinned" => open(&format!("select from leasehold where name = '{lock}' for key share")),
        "row locked" => open(&format!("select from leasehold where name = '{lock}' for update")),
        "table locked" => open("lock table leasehold in access exclusive mode"),
        _ => Err(no_such_fault(fault)),
    }
}

/// Lists what is left when no client is connected. Rows stay for their tokens, but without an owner.
fn left(postgres: &Postgres) -> Result<Vec<String>> {
    let left = postgres.sql(
        "select 'the lease of ' || name from leasehold where owner is not null \
         union all select 'a place in line for ' || name from leasehold_waiters where until > clock_timestamp() \
         union all select 'a lock of the schema' from pg_locks where locktype = 'advisory'",
    )?;
    Ok(left.lines().map(str::to_owned).collect())
}
