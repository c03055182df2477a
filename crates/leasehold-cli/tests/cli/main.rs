//! Drives the real binary over a real SQLite file, a real Redis and a real PostgreSQL.

mod commands;
mod containers;
mod exclusion;
mod exit_codes;
mod guardian;
mod harness;
mod launch;
mod loss;
mod postgres;
mod processes;
mod redis;
mod secrets;
mod servers;
mod signals;
mod stdout;
mod stores;
mod terminal;
mod tickets;
mod torture;
