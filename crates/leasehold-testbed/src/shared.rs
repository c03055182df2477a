//! Servers that the tests of one process share: started by the first that asks, ended with the process.
//!
//! For tests that neither break the server nor count on being alone: each keeps to names of its own.

use std::sync::OnceLock;

use crate::{Error, Etcd, MongoDb, Postgres, Redis, Result};

/// Returns the shared single Redis.
///
/// # Errors
///
/// If it did not start; it is not tried again.
pub fn redis() -> Result<&'static Redis> {
    static SHARED: OnceLock<Result<Redis>> = OnceLock::new();
    get(SHARED.get_or_init(Redis::start))
}

/// Returns the shared etcd of one member.
///
/// # Errors
///
/// If it did not start; it is not tried again.
pub fn etcd() -> Result<&'static Etcd> {
    static SHARED: OnceLock<Result<Etcd>> = OnceLock::new();
    get(SHARED.get_or_init(Etcd::start))
}

/// Returns the shared PostgreSQL. A test makes a database of its own: [`Postgres::database`].
///
/// # Errors
///
/// If it did not start; it is not tried again.
pub fn postgres() -> Result<&'static Postgres> {
    static SHARED: OnceLock<Result<Postgres>> = OnceLock::new();
    get(SHARED.get_or_init(Postgres::start))
}

/// Returns the shared MongoDB of one member. A test uses a database of its own: [`MongoDb::url_of`].
///
/// # Errors
///
/// If it did not start; it is not tried again.
pub fn mongodb() -> Result<&'static MongoDb> {
    static SHARED: OnceLock<Result<MongoDb>> = OnceLock::new();
    get(SHARED.get_or_init(MongoDb::start))
}

fn get<T>(started: &'static Result<T>) -> Result<&'static T> {
    started.as_ref().map_err(|error| Error::new(error.to_string()))
}
