//! The proxy between real sockets: the tests hold both ends of each connection.

mod bench;
mod door;
mod ends;
mod flows;
mod load;
mod program;
mod traps;
