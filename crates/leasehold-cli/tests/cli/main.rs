//! Drives the real binary over a real SQLite file and a real Redis.

mod commands;
mod exclusion;
mod exit_codes;
mod harness;
mod loss;
mod redis;
mod secrets;
mod signals;
mod terminal;
