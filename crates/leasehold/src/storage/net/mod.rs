//! What storages over a network share. A new storage over a network begins here.
//!
//! | Module | What it offers | A new storage provides |
//! |---|---|---|
//! | [`server`] | `Server`: one connection to one server, shared by all calls and opened again when it breaks; errors at once, for a while, after a failed attempt | [`server::Connect`]: opens a connection; [`server::Link`]: an open connection, and the identity of its server |
//! | [`dial`] | the addresses of a host, and the first of several that answers | one attempt per address, up to an answer of the server |
//! | [`tls`] | TLS by `rustls`: the files of a URL's options, the authorities to trust, the client's certificate | nothing |
//! | [`clock`] | `ServerClock`: bounds of the server's clock, for patience | the server's time in each answer |
//! | [`pulse`] | `Pulse`: whether a connection still answers | a call of `ask` before each request, and of `answered` after it |
//! | [`hints`] | `Hinter`: the hints of a storage, the observed names, the pauses between attempts to listen | the task that listens to the server |
//!
//! The engine limits the time of each call by dropping it, repeats it, and renews. Nothing here does. A task of `Server`
//! that opens a connection goes on when its callers give up, so that the next call finds it open.
//!
//! # One call
//!
//! 1. [`server::Server::link`] returns the connection, or opens one together with the calls that wait for it already.
//! 2. [`server::Server::now`] is the moment of sending.
//! 3. [`clock::ServerClock::not_after`] returns the latest moment of execution of each claim, for the request.
//! 4. [`pulse::Pulse::ask`] begins the request. The storage sends it and awaits the answer.
//! 5. [`pulse::Asking::answered`] ends it. If the engine drops the call before, and nothing was received since, the
//!    connection is taken out of use: the next call opens another.
//! 6. [`clock::ServerClock::learn`] takes the server's time out of the answer.
//! 7. If the connection breaks, the storage calls [`pulse::Pulse::give_up`] and returns
//!    [`Unavailable`](crate::ErrorKind::Unavailable): the outcome is unknown, and the engine asks again.
//!
//! # How patience is implemented
//!
//! The contract says: a claim that the storage executes later than its patience after it was *sent* grants nothing and
//! leaves nothing. Only the server can decide that, and only by its own clock. So each request contains the latest
//! moment of the server's clock at which it may be executed. The clocks are not synchronized; the client measures:
//!
//! 1. Each answer contains the server's time. The storage passes it to [`clock::ServerClock::learn`], with the moments of
//!    our clock at which the request was sent and the answer received. The server read its clock between those two
//!    moments, which bounds the difference of the clocks from below and from above.
//! 2. Bounds of several answers narrow each other. Old bounds widen by the drift that two clocks may have, 500 millionths.
//!    Bounds that contradict each other show that a clock was set, and only the new ones count.
//! 3. Before a claim is sent, [`clock::ServerClock::not_after`] adds its patience to the *lower* bound of the server's
//!    clock at the moment of sending. This moment is never later than allowed, whatever the clock really shows. It may be
//!    too early by the time that an answer took; then a claim in time is refused, and asked again.
//! 4. The server compares the moment with its clock when it executes the claim: in a script (`acquire.lua` of
//!    `redis/`) or in the statement itself (`acquire.sql` of `postgres/`), atomically with the grant. It refuses a late
//!    claim, and its answer contains the time, too.
//! 5. Before the first answer nothing is known, and `not_after` returns `None`. The storage then sends 0, so that the
//!    server refuses the claim. To avoid that, connecting already asks for the server's time.
//!
//! If another server answers, or the same one after a restart, the bounds are forgotten: they are of another clock.
//! [`server::Server::saw`] does that.
#![cfg_attr(
    not(all(feature = "redis", feature = "postgres")),
    expect(dead_code, reason = "each storage uses only a part of it")
)]

pub(in crate::storage) mod clock;
pub(in crate::storage) mod dial;
pub(in crate::storage) mod hints;
pub(in crate::storage) mod pulse;
pub(in crate::storage) mod server;
pub(in crate::storage) mod tls;
pub(in crate::storage) mod waiters;

use super::Claim;
use crate::error::Result;

/// Returns the reply to each claim: the same error for all, if the whole call failed.
pub(in crate::storage) fn for_each_claim<T>(
    claims: &[Claim],
    replies: Result<Vec<Result<T>>>,
) -> Vec<Result<T>> {
    replies.unwrap_or_else(|error| claims.iter().map(|_| Err(error.clone())).collect())
}
