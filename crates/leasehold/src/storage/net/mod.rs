//! What the storages over a network have in common: a connection that is opened again, TLS, the server's clock.
#![cfg_attr(
    not(all(feature = "redis", feature = "postgres")),
    expect(dead_code, reason = "some of it only one of them needs")
)]

pub(in crate::storage) mod clock;
pub(in crate::storage) mod dial;
pub(in crate::storage) mod hints;
pub(in crate::storage) mod pulse;
pub(in crate::storage) mod server;
pub(in crate::storage) mod tls;
