#![doc = include_str!("../README.md")]

mod client;
mod clock;
mod count;
mod disk;
mod error;
pub mod etcd;
mod install;
pub mod interop;
pub mod mongodb;
pub mod pgbouncer;
mod ports;
pub mod postgres;
mod process;
mod random;
pub mod redis;
mod scratch;
pub mod setup;
pub mod shared;
pub mod tls;
mod wait;

pub use clock::Clock;
pub use disk::Disk;
pub use error::{Error, Result};
pub use etcd::Etcd;
pub use interop::Interop;
pub use mongodb::MongoDb;
pub use pgbouncer::PgBouncer;
pub use ports::Port;
pub use postgres::{Postgres, PostgresPair, Transaction};
pub use process::Server;
pub use redis::{Redis, RedisCluster, RedisOptions, RedisProxy, RedisSentinels};
pub use scratch::Scratch;
pub use setup::Setup;
pub use tls::Tls;
pub use wait::{scaled, until};
