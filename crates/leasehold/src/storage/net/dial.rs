//! Connects to a server with several addresses, or to one of several servers, of which some may be silent.

use std::cmp::{max, min};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::error::{Error, ErrorKind, Result};

/// How long an attempt runs alone before the next one begins beside it (RFC 8305).
pub(in crate::storage) const STAGGER: Duration = Duration::from_millis(250);

/// How long after the first attempt the last one begins, however many there are.
///
/// A name with many addresses takes no longer than another.
const SPREAD: Duration = Duration::from_secs(1);

/// Tries each of `all` in order, and returns the first success.
///
/// The next attempt begins when one has failed, or after [`STAGGER`] (or less, if there are many). The attempts before it
/// go on until one succeeds.
///
/// An attempt must include an answer of the server. An address that accepts connections and does not answer is as silent
/// as one that does not exist.
///
/// # Errors
///
/// Returns the most informative error of all attempts (see [`most_informative`]).
pub(in crate::storage) async fn first_of<A, T, F>(
    all: impl IntoIterator<Item = A>,
    mut attempt: impl FnMut(A) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (mut going, mut errors) = (FuturesUnordered::new(), Vec::new());
    let all: Vec<_> = all.into_iter().collect();
    let stagger = min(STAGGER, SPREAD / u32::try_from(max(all.len(), 1)).unwrap_or(u32::MAX));
    for one in all {
        going.push(attempt(one));
        let mut pause = pin!(tokio::time::sleep(stagger));
        tokio::select! {
            biased;
            Some(done) = going.next() => match done {
                Ok(reached) => return Ok(reached),
                Err(error) => errors.push(error),
            },
            () = &mut pause => {}
        }
    }
    while let Some(done) = going.next().await {
        match done {
            Ok(reached) => return Ok(reached),
            Err(error) => errors.push(error),
        }
    }
    Err(most_informative(errors))
}

/// Returns the addresses of a host, each once, alternating between IPv6 and IPv4.
pub(in crate::storage) async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let all: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    Ok(interleave(all))
}

fn interleave(all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = all.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair.iter().all(Option::is_none) {
            return mixed;
        }
        for address in pair.into_iter().flatten() {
            if !mixed.contains(&address) {
                mixed.push(address);
            }
        }
    }
}

/// Returns the error that says most: a refusal says more than silence.
///
/// It is `Unavailable` if any is, because another attempt may then succeed.
pub(in crate::storage) fn most_informative(errors: Vec<Error>) -> Error {
    let passes = errors.iter().any(|error| error.kind() == ErrorKind::Unavailable);
    let rank = |error: &Error| match error.kind() {
        ErrorKind::Invalid => 0,
        ErrorKind::Unavailable => 2,
        _ => 1,
    };
    let Some(first) = errors.into_iter().min_by_key(rank) else {
        return Error::invalid("the URL leads to no address; check its hosts");
    };
    if passes && first.kind() != ErrorKind::Unavailable {
        let text = format!("{first}; another host did not answer or cannot be used now, so retry");
        return Error::new(ErrorKind::Unavailable, text).with_source(first);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(test)
    }

    /// The behavior of an address: silent forever, or an answer after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Nothing,
        Refuse(u64),
        Answer(u64),
    }

    async fn first(all: &[Does]) -> (Result<usize>, Duration) {
        let begun = tokio::time::Instant::now();
        let pause = async |ms| tokio::time::sleep(Duration::from_millis(ms)).await;
        let reached = first_of(all.iter().enumerate(), async |(i, does)| match does {
            Does::Nothing => std::future::pending().await,
            Does::Refuse(ms) => {
                pause(*ms).await;
                Err(Error::new(ErrorKind::Unavailable, "refused"))
            }
            Does::Answer(ms) => {
                pause(*ms).await;
                Ok(i)
            }
        })
        .await;
        (reached, begun.elapsed())
    }

    #[test]
    fn a_silent_address_costs_a_quarter_of_a_second_and_a_refusal_nothing() {
        use Does::{Answer, Nothing, Refuse};
        run(async {
            for (all, reached, ms) in [
                (&[Answer(10), Answer(0)][..], 0, 10),
                (&[Nothing, Answer(5)], 1, 255),
                (&[Nothing, Nothing, Nothing, Answer(0)], 3, 750),
                (&[Refuse(3), Answer(4)], 1, 7),
                (&[Nothing, Refuse(1), Answer(1)], 2, 252),
                // A slow attempt goes on beside the next.
                (&[Answer(300), Nothing], 0, 300),
            ] {
                let (index, took) = first(all).await;
                assert_eq!(index.expect("reached"), reached);
                assert_eq!(took.as_millis(), ms, "to reach {reached}");
            }
            // The last of many silent ones is reached in the same time.
            for silent in [4, 20, 50] {
                let all: Vec<_> = (0..silent).map(|_| Nothing).chain([Answer(5)]).collect();
                let (reached, took) = first(&all).await;
                assert_eq!(reached.expect("reached"), silent);
                assert!(took < SPREAD + STAGGER, "{silent} silent addresses: {took:?}");
            }
            let (none, took) = first(&[Refuse(1), Refuse(1)]).await;
            assert_eq!((none.expect_err("refused").kind(), took.as_millis()), (ErrorKind::Unavailable, 2));
            assert_eq!(first(&[]).await.0.expect_err("no address").kind(), ErrorKind::Invalid);
        });
    }

    #[test]
    fn both_families_are_tried_in_turn() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let all = ["[::1]:1", "[::2]:1", "127.0.0.1:1", "[::1]:1", "127.0.0.2:1", "127.0.0.3:1"].map(address);
        let wanted = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "127.0.0.3:1"].map(address);
        assert_eq!(interleave(all.into()), wanted);
    }
}
