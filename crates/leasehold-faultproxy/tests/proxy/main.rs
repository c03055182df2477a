//! The proxy between real sockets. The tests hold both ends of each connection.

mod bench;
mod ends;
mod flows;
mod load;
mod new_connections;
mod traps;
