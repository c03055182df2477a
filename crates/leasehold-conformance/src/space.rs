use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use leasehold::Result;
use leasehold::storage::{AnyStorage, Storage};

use crate::timing::Timing;

pub(crate) type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<AnyStorage>> + Send>>;

/// A storage under test: how to connect to it, and what else the cases have to know about it.
///
/// Each connection is one more independent client of the same locks. Each case uses names of its own, so
/// cases do not interfere.
#[derive(Clone)]
pub struct Space {
    name: Arc<str>,
    open: Arc<dyn Fn() -> Connect + Send + Sync>,
    secrets: Vec<String>,
    timing: Timing,
    paused: bool,
    unfair: bool,
    unprompted: bool,
}

impl Space {
    /// Makes a space from a name and a function that connects one more client.
    pub fn new<S, C, F>(name: &str, connect: C) -> Self
    where
        S: Storage,
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let connect = erase(connect);
        Self::over(name, move || Arc::clone(&connect), false)
    }

    /// Makes a space from a storage that reads tokio's clock only. Each case gets a new storage, on one
    /// thread with paused time, so that no case takes real time.
    pub fn simulated<S, C, F>(name: &str, make: impl Fn() -> C + Send + Sync + 'static) -> Self
    where
        S: Storage,
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        Self::over(name, move || erase(make()), true)
    }

    /// Makes a space from the URL of a storage. A password in the URL is treated as a secret.
    pub fn url(url: &str) -> Self {
        let name = url.split_once(':').map_or(url, |(scheme, _)| scheme);
        let owned = url.to_owned();
        let space = Self::new(name, move || {
            let url = owned.clone();
            async move { AnyStorage::connect(&url).await }
        });
        match password(url) {
            Some(secret) => space.secret(secret),
            None => space,
        }
    }

    /// Replaces the name that is shown before the names of the cases.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Adds a secret that the storage must never show, such as a password.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Replaces the timing.
    #[must_use]
    pub fn timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Declares that this storage does not serve waiters in order. Cases about the order are then omitted
    /// instead of ignored. If the storage promises an order after all, they run.
    #[must_use]
    pub fn unfair(self) -> Self {
        Self { unfair: true, ..self }
    }

    /// Declares that this storage does not wake waiters. Cases about hints are then omitted instead of
    /// ignored. If the storage promises to wake waiters after all, they run.
    #[must_use]
    pub fn unprompted(self) -> Self {
        Self { unprompted: true, ..self }
    }

    pub(crate) fn is_unfair(&self) -> bool {
        self.unfair
    }

    pub(crate) fn is_unprompted(&self) -> bool {
        self.unprompted
    }

    /// Returns the function with which one case connects.
    pub(crate) fn open(&self) -> Connect {
        (self.open)()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn secrets(&self) -> &[String] {
        &self.secrets
    }

    pub(crate) fn times(&self) -> Timing {
        self.timing
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    fn over(name: &str, open: impl Fn() -> Connect + Send + Sync + 'static, paused: bool) -> Self {
        Self {
            name: name.into(),
            open: Arc::new(open),
            secrets: Vec::new(),
            timing: Timing::from_env(),
            paused,
            unfair: false,
            unprompted: false,
        }
    }
}

/// Shows the name alone, because the closure may hold a URL with a password.
impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("name", &self.name).finish_non_exhaustive()
    }
}

fn erase<S, C, F>(connect: C) -> Connect
where
    S: Storage,
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<S>> + Send + 'static,
{
    Arc::new(move || {
        let connecting = connect();
        Box::pin(async move { Ok(AnyStorage::new(connecting.await?)) })
    })
}

/// Returns the password in a URL's authority, which follows the user name and ends at the `@`.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (login, _) = authority.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    Some(password).filter(|password| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found() {
        assert_eq!(password("redis://:p%40ss@h:1/0?x=@"), Some("p%40ss"));
        assert_eq!(password("postgres://u:secret@h/db"), Some("secret"));
        for none in ["memory:", "sqlite:/tmp/a:b@c", "redis://h/0", "redis://u@h", "redis://u:@h"] {
            assert_eq!(password(none), None, "{none}");
        }
    }

    #[test]
    fn debug_shows_no_url() {
        let shown = format!("{:?}", Space::url("redis://:S3CRET@h"));
        assert!(!shown.contains("S3CRET"), "{shown}");
    }
}
