//! The options of locks, as JavaScript has checked and converted them.

use std::time::Duration;

use leasehold::{Lock, Options, Renewal, Wait};
use napi_derive::napi;

use crate::outcome::duration;

/// The pause between two tries, unless it is set.
const INTERVAL: Duration = Duration::from_millis(50);

/// The options of a lock. Times are in milliseconds. What is absent keeps its value.
#[napi(object, object_to_js = false)]
pub struct NativeOptions {
    pub ttl: Option<f64>,
    /// The wait in the queue; infinity is a wait without a limit.
    pub wait: Option<f64>,
    /// The number of tries after the first, without a place in the queue.
    pub retries: Option<u32>,
    pub interval: Option<f64>,
    /// The renewal interval; 0 is every third of the TTL, and infinity is never.
    pub renew: Option<f64>,
    pub max_hold: Option<f64>,
    pub label: Option<String>,
}

impl NativeOptions {
    /// Changes the options of a lock.
    pub(crate) fn apply(self, lock: Lock) -> Lock {
        let lock = if let Some(ttl) = self.ttl { lock.ttl(duration(ttl)) } else { lock };
        let lock = match (self.wait(), self.retries) {
            (Some(wait), _) => lock.wait(wait),
            (None, Some(retries)) => lock.retries(retries),
            (None, None) => lock,
        };
        let lock = if let Some(interval) = self.interval { lock.interval(duration(interval)) } else { lock };
        let lock = if let Some(renewal) = self.renewal() { lock.renewal(renewal) } else { lock };
        let lock = if let Some(most) = self.max_hold { lock.max_hold(duration(most)) } else { lock };
        if let Some(label) = self.label { lock.label(label) } else { lock }
    }

    /// Changes default options, except for the TTL and the label, whose defaults depend on the client.
    pub(crate) fn change(&self, options: &mut Options) {
        let retries = self.retries.or(self.interval.map(|_| 1)).map(|retries| Wait::Attempts {
            attempts: retries.saturating_add(1),
            interval: self.interval.map_or(INTERVAL, duration),
        });
        options.wait = self.wait().or(retries).unwrap_or(options.wait);
        options.renewal = self.renewal().unwrap_or(options.renewal);
        options.max_hold = self.max_hold.map(duration).or(options.max_hold);
    }

    fn wait(&self) -> Option<Wait> {
        self.wait.map(|wait| if wait.is_infinite() { Wait::Forever } else { Wait::For(duration(wait)) })
    }

    fn renewal(&self) -> Option<Renewal> {
        self.renew.map(|every| match every {
            0.0 => Renewal::Automatic,
            every if every.is_infinite() => Renewal::Never,
            every => Renewal::Every(duration(every)),
        })
    }
}
