use std::pin::pin;

use futures_util::future::{Either, select};

use crate::clock::Moment;
use crate::engine::{Handle, Mode, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::guards::{Guards, first_lost};
use crate::lock::Lock;
use crate::options::Wait;

/// Several locks that are acquired together: all of them, or none. Holds nothing, and may be used any number of times.
///
/// # How it works
///
/// One batch of requests tries every lock, in the order of the bytes of their names. If all are free, that is one
/// round trip. Otherwise, those before the first refused one are kept, and the others are given back. The caller waits
/// in line for the refused one, and then tries the rest in the same way.
///
/// So a caller that waits for a lock holds only locks with smaller names. Callers of `all` never wait for each other in
/// a circle, whatever order they name the locks in, and each round acquires at least one lock more. A caller that holds
/// a lock and acquires *another one by itself* is outside of that order, and can cause a deadlock.
///
/// If a lock is lost while the caller waits for a later one, it is acquired again. [`Lock::max_hold`] and
/// [`Renewal::Never`](crate::Renewal::Never) count from the grant of each lock, so a long wait for another one uses
/// that time up.
#[must_use = "All holds nothing until `acquire` is awaited"]
#[derive(Clone, Debug)]
pub struct All {
    engine: Handle,
    locks: Vec<Lock>,
    /// `true` if the locks are acquired in the given order: a planted defect.
    #[cfg(test)]
    any_order: bool,
}

/// A lock to acquire, and its place in the list of the caller.
struct Member {
    place: usize,
    wanted: Wanted,
}

impl All {
    pub(crate) fn new(engine: Handle, locks: Vec<Lock>) -> Self {
        Self {
            engine,
            locks,
            #[cfg(test)]
            any_order: false,
        }
    }

    /// Plants a defect: the locks are acquired in the given order.
    #[cfg(test)]
    pub(crate) fn in_any_order(mut self) -> Self {
        self.any_order = true;
        self
    }

    /// Sets [`Lock::wait`] for every lock. The time counts from the call of [`All::acquire`].
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        let wait = wait.into();
        self.locks = self.locks.into_iter().map(|lock| lock.wait(wait)).collect();
        self
    }

    /// Acquires all locks. Each is waited for as long as its [`Lock::wait`] allows, from the call on.
    ///
    /// # Errors
    ///
    /// The errors of [`Lock::acquire`], for the first lock that has one. [`Invalid`](ErrorKind::Invalid) also if a name
    /// occurs twice, or a lock belongs to another client. After an error, what was acquired is given back in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future gives back what was acquired. Nothing stays held.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let accounts = locks.all([locks.lock("account/7"), locks.lock("account/3")]).acquire().await?;
    /// println!("move the money with tokens {} and {}", accounts[0].token(), accounts[1].token());
    /// accounts.release().await?;
    /// # Ok(()) }
    /// ```
    pub async fn acquire(&self) -> Result<Guards> {
        let (members, started) = (self.checked()?, self.engine.now());
        let mut held = Guards::none(self.engine.clone());
        loop {
            self.try_rest(&members, started, &mut held).await?;
            if let Some(next) = members.get(held.len()) {
                let mode = if members.len() == 1 { Mode::Usual } else { Mode::AfterTry };
                self.wait_for(next, mode, started, &mut held).await?;
            } else if let Some(lost) = held.iter().position(|guard| !guard.is_held()) {
                held.truncate(lost);
            } else {
                break;
            }
        }
        held.arrive(&members.iter().map(|member| member.place).collect::<Vec<_>>());
        Ok(held)
    }

    /// Tries once, with one batch of requests. `None` means that another client has at least one of the locks. Then
    /// none is held.
    ///
    /// # Errors
    ///
    /// The errors of [`All::acquire`], but never [`Contended`](ErrorKind::Contended).
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing held.
    pub async fn try_acquire(&self) -> Result<Option<Guards>> {
        let members = self.checked()?;
        let tries = members.iter().map(|member| Wanted { mode: Mode::Once, ..member.tries(Wait::Forever) });
        let (mut held, mut failed) = (Guards::none(self.engine.clone()), None);
        let mut refused = false;
        for arriving in self.engine.acquire_together(tries) {
            match arriving.arrive().await {
                Ok(Some(status)) => held.push(Guard::new(status, self.engine.clone())),
                Ok(None) => refused = true,
                Err(error) if error.kind() == ErrorKind::Unavailable => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        match failed {
            // That one is held is certain, whatever the others would have answered.
            _ if refused => Ok(None),
            Some(error) => Err(error),
            None => {
                held.arrive(&members.iter().map(|member| member.place).collect::<Vec<_>>());
                Ok(Some(held))
            }
        }
    }

    /// Acquires the locks, runs `work`, and releases them. Drops the work at the moment at which one is lost.
    ///
    /// # Errors
    ///
    /// The errors of [`All::acquire`], and [`Lost`](ErrorKind::Lost) if a lock was lost before the work ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the work and releases the locks.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let tables = locks.all(["orders", "stock"].map(|table| locks.lock(table)));
    /// let tokens = tables.run(async |guards| guards.iter().map(|guard| guard.token()).max()).await?;
    /// assert!(tokens.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Guards) -> T) -> Result<T> {
        self.acquire().await?.run(work).await
    }

    /// Tries once to acquire the locks. If all are granted, runs `work` and releases them, as [`All::run`] does. `None`
    /// means that another client has at least one of the locks, so the work was skipped.
    ///
    /// # Errors
    ///
    /// The errors of [`All::try_acquire`], and [`Lost`](ErrorKind::Lost) if a lock was lost before the work ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops the work and releases the locks.
    pub async fn try_run<T>(&self, work: impl AsyncFnOnce(&Guards) -> T) -> Result<Option<T>> {
        match self.try_acquire().await? {
            Some(guards) => guards.run(work).await.map(Some),
            None => Ok(None),
        }
    }

    /// Tries every lock that is not held yet, in one batch. Keeps those before the first refused one, and gives the
    /// others back. The last lock is not tried, because waiting for it begins with a try.
    async fn try_rest(&self, members: &[Member], started: Moment, held: &mut Guards) -> Result<()> {
        let rest = &members[held.len()..];
        if rest.len() < 2 {
            return Ok(());
        }
        let tries = rest.iter().map(|member| member.tries(self.left(&member.wanted, started)));
        let (mut spare, mut refused) = (Guards::none(self.engine.clone()), false);
        for (member, arriving) in rest.iter().zip(self.engine.acquire_together(tries)) {
            match arriving.arrive().await {
                Ok(Some(status)) => {
                    let guard = Guard::new(status, self.engine.clone());
                    if refused { spare.push(guard) } else { held.push(guard) }
                }
                Ok(None) => refused = true,
                Err(error) if is_retried(&error) && (refused || member.waits()) => refused = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits in line for a lock. If one that is held is lost meanwhile, gives back that one and the later ones instead.
    async fn wait_for(&self, member: &Member, mode: Mode, started: Moment, held: &mut Guards) -> Result<()> {
        let Wanted { name, mut options, .. } = member.wanted.clone();
        options.wait = self.left(&member.wanted, started);
        let wanted = Wanted { name, options, mode };
        let arrived = match select(pin!(first_lost(held.iter())), pin!(self.engine.acquire(wanted))).await {
            Either::Left(((place, _), _)) => Err(place),
            Either::Right((arrived, _)) => Ok(arrived?),
        };
        match arrived {
            Ok(status) => {
                let status = status
                    .ok_or_else(|| Error::new(ErrorKind::Internal, "a wait ended without an answer"))?;
                held.push(Guard::new(status, self.engine.clone()));
            }
            Err(place) => held.truncate(place),
        }
        Ok(())
    }

    /// Returns how long a lock may still be waited for.
    fn left(&self, wanted: &Wanted, started: Moment) -> Wait {
        match wanted.options.wait {
            Wait::For(limit) => Wait::For(limit.saturating_sub(self.engine.now().since(started))),
            wait => wait,
        }
    }

    /// Checks names and options. Returns the locks in the order in which they are acquired.
    fn checked(&self) -> Result<Vec<Member>> {
        let members = self.locks.iter().enumerate().map(|(place, lock)| {
            if !lock.engine().is_same(&self.engine) {
                let text = "a lock belongs to another client; take all of them from the same `Locks`";
                return Err(Error::invalid(format!("{text} name=`{}`", lock.name().escape_debug())));
            }
            Ok(Member { place, wanted: lock.wanted(Mode::Usual)? })
        });
        let mut members = members.collect::<Result<Vec<_>>>()?;
        members.sort_unstable_by(|a, b| a.wanted.name.cmp(&b.wanted.name));
        if let Some([first, ..]) = members.windows(2).find(|pair| pair[0].wanted.name == pair[1].wanted.name)
        {
            let text = "a lock is listed twice, so it would wait for itself";
            return Err(Error::invalid(format!("{text} name=`{}`", first.wanted.name)));
        }
        #[cfg(test)]
        if self.any_order {
            members.sort_unstable_by_key(|member| member.place);
        }
        Ok(members)
    }
}

/// Returns `true` if a wait for the lock may still succeed.
fn is_retried(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Contended | ErrorKind::Unavailable)
}

impl Member {
    /// Returns the lock as it is tried, within this limit if it is one.
    fn tries(&self, wait: Wait) -> Wanted {
        let mut wanted = Wanted { mode: Mode::FirstTry, ..self.wanted.clone() };
        wanted.options.wait = wait;
        wanted
    }

    /// Returns `true` if a refused try is not the last one.
    fn waits(&self) -> bool {
        !matches!(self.wanted.options.wait, Wait::Attempts { attempts: 1, .. })
    }
}
