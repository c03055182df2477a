//! Drives the real binary over a real SQLite file.

mod commands;
mod exclusion;
mod exit_codes;
mod harness;
mod loss;
mod secrets;
mod signals;
mod terminal;
