//! One process releases while the others wait: the time until one of them holds the lock.
//!
//! The process that has released waits again only after another one holds the lock, so it never hands over
//! to itself. This is the same for all contestants: a rival that polls cannot win by polling at the right
//! moment.

use std::time::Duration;

use serde_json::{Value, json};

use super::{fresh, numbers};
use crate::Result;
use crate::child::{Children, Orders};
use crate::clock::{nanos, now_ns};
use crate::contestant::Contestant;
use crate::stats::Times;

/// How much time the last holder gets to join the queue again, at least and at most. It varies, because a fixed time would
/// be in step with a rival that polls as often.
const SETTLE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];

pub(crate) struct Handover {
    pub(crate) times: Times,
    /// Grants with a token that is not larger than the previous one.
    backwards: usize,
}

impl Handover {
    pub(crate) fn json(&self, contestant: Contestant, processes: usize) -> Value {
        json!({
            "scenario": "handover", "contestant": contestant.argument(), "processes": processes,
            "handovers": self.times.len(), "handover_us": self.times.json(),
            "tokens_not_increasing": self.backwards,
        })
    }
}

pub(crate) async fn measure(
    contestant: Contestant,
    store: &str,
    span: Duration,
    processes: usize,
) -> Result<Handover> {
    let worker = ["handover-worker", "--lock", &fresh("handover")];
    let mut children = Children::spawn(contestant, store, processes, &worker)?;
    children.next_of_all().await?; // connected
    children.tell_all("acquire").await?;
    let (mut holder, mut line) = children.next().await?;
    let (mut times, mut backwards) = (Vec::new(), 0);
    let end = now_ns() + nanos(span);
    while now_ns() < end {
        tokio::time::sleep(settle()).await;
        let [_, token] = numbers(&line)?;
        children.tell(holder, "release").await?;
        // One process reports when it started the release. Another one reports when it held, and its line
        // may arrive first.
        let (mut released, mut granted) = (None, None);
        while released.is_none() || granted.is_none() {
            let (child, heard) = children.next().await?;
            if child == holder {
                released = Some(numbers::<1>(&heard)?[0]);
            } else {
                granted = Some((child, heard));
            }
        }
        let (Some(released), Some((next, heard))) = (released, granted) else { continue };
        let [granted, next_token] = numbers(&heard)?;
        times.push(granted.saturating_sub(released));
        backwards += usize::from(next_token <= token && token != 0);
        children.tell(holder, "acquire").await?;
        (holder, line) = (next, heard);
    }
    children.tell_all("end").await?;
    children.finish().await?;
    Ok(Handover { times: Times::new(times), backwards })
}

/// Returns a time within [`SETTLE`], which the nanoseconds of the clock pick.
fn settle() -> Duration {
    let [least, most] = SETTLE;
    least + Duration::from_nanos(now_ns() % nanos(most - least))
}

/// Runs one of the processes.
pub(crate) async fn worker(contestant: Contestant, store: &str, lock: &str) -> Result {
    let client = contestant.connect(store, 1).await?;
    let lock = client.lock(lock);
    let mut orders = Orders::new();
    println!("connected");
    let mut held = None;
    while let Some(order) = orders.next().await? {
        match (order.as_str(), held.take()) {
            ("acquire", None) => {
                let guard = tokio::select! {
                    guard = lock.acquire() => guard?,
                    _ = orders.next() => break, // it ends while this one waits
                };
                let granted = now_ns();
                println!("{granted} {}", guard.token());
                held = Some(guard);
            }
            ("release", Some(guard)) => {
                let released = now_ns();
                guard.release().await?;
                println!("{released}");
            }
            (_, Some(guard)) => guard.release().await?,
            (_, None) => {}
        }
    }
    client.close().await
}
