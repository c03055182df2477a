//! The program itself, over real storages.

mod commands;
mod containers;
mod every_storage;
mod exclusion;
mod exit_codes;
mod guardian;
mod harness;
mod launch;
mod loss;
mod mongodb;
mod postgres;
mod processes;
mod redis;
mod secrets;
mod servers;
mod session;
mod several;
mod signals;
mod stdout;
mod stores;
mod terminal;
mod tickets;
mod torture;
