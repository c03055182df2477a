//! Servers that the tests of one process share. The first test that needs one starts it, and the end of the
//! process ends it.
//!
//! They suit tests that neither break the server nor need it alone. Each test uses names of its own.

use std::sync::OnceLock;

use crate::{Error, Etcd, MongoDb, Postgres, Redis, Result};

/// Returns the shared single Redis.
///
/// # Errors
///
/// If it did not start. Later calls do not retry.
pub fn redis() -> Result<&'static Redis> {
    static SHARED: OnceLock<Result<Redis>> = OnceLock::new();
    get(SHARED.get_or_init(Redis::start))
}

/// Returns the shared etcd of one member.
///
/// # Errors
///
/// If it did not start. Later calls do not retry.
pub fn etcd() -> Result<&'static Etcd> {
    static SHARED: OnceLock<Result<Etcd>> = OnceLock::new();
    get(SHARED.get_or_init(Etcd::start))
}

/// Returns the shared PostgreSQL. A test creates a database of its own: [`Postgres::database`].
///
/// # Errors
///
/// If it did not start. Later calls do not retry.
pub fn postgres() -> Result<&'static Postgres> {
    static SHARED: OnceLock<Result<Postgres>> = OnceLock::new();
    get(SHARED.get_or_init(Postgres::start))
}

/// Returns the shared MongoDB of one member. A test uses a database of its own: [`MongoDb::url_of`].
///
/// # Errors
///
/// If it did not start. Later calls do not retry.
pub fn mongodb() -> Result<&'static MongoDb> {
    static SHARED: OnceLock<Result<MongoDb>> = OnceLock::new();
    get(SHARED.get_or_init(MongoDb::start))
}

fn get<T>(started: &'static Result<T>) -> Result<&'static T> {
    started.as_ref().map_err(|error| Error::new(error.to_string()))
}
