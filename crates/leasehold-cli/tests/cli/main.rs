//! Drives the real binary over a real SQLite file, a real Redis and a real PostgreSQL.

mod commands;
mod exclusion;
mod exit_codes;
mod harness;
mod loss;
mod postgres;
mod redis;
mod secrets;
mod servers;
mod signals;
mod stdout;
mod stores;
mod terminal;
mod tickets;
