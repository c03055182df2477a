//! The operations that all setups share.

use std::path::PathBuf;

use crate::{Error, Faults, Result, Server};

/// The operations of every setup for a test, a nemesis or a person. Dropping it ends its servers.
pub trait Setup: Send + Sync {
    /// Returns the URL of the whole setup, without the certificates that a client trusts.
    fn url(&self) -> String;

    /// Returns all servers of the setup, to be killed, stopped or started again.
    fn servers(&self) -> Vec<&Server>;

    /// Returns the certificate of the authority that the client has to trust, if the setup uses TLS.
    fn ca(&self) -> Option<PathBuf>;

    /// Returns the sum of the connections that the running servers count.
    ///
    /// # Errors
    ///
    /// If a server does not answer.
    fn connections(&self) -> Result<u64>;

    /// Returns the sum of the commands that the running servers count.
    ///
    /// # Errors
    ///
    /// If a server does not answer.
    fn commands(&self) -> Result<u64>;

    /// Waits until the setup accepts writes and every server is up, after one was killed and started again,
    /// or continued.
    ///
    /// # Errors
    ///
    /// If a server has ended, or the setup does not get ready.
    fn await_ready(&self) -> Result<()> {
        self.servers().into_iter().try_for_each(Server::await_ready)
    }

    /// Makes another server the primary, in an orderly way.
    ///
    /// # Errors
    ///
    /// If there is no other server, or it does not become the primary.
    fn failover(&self) -> Result<()> {
        Err(Error::new("this setup has no server to fail over to"))
    }

    /// Returns its faults, or `None` if it is not tortured.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }
}

/// The options that every setup has.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Wanted {
    /// Whether clients use TLS.
    pub tls: bool,
    /// The password that clients need, if any.
    pub password: Option<String>,
    /// Whether the URL is that of a user with only the rights that the storage's page lists, where that page
    /// lists any: see [`Wanted::least_rights`].
    pub least_rights: Option<SchemaOf>,
}

/// A function that returns the statements that create what the storage of a URL needs.
pub type SchemaOf = fn(url: &str) -> Result<String>;

impl Wanted {
    /// Sets whether clients use TLS.
    #[must_use]
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the password.
    #[must_use]
    pub fn password(mut self, password: Option<&str>) -> Self {
        self.password = password.map(str::to_owned);
        self
    }

    /// Requests the URL of a user that has only the rights that the storage's page lists. A user that may not
    /// create tables finds those of `schema`.
    #[must_use]
    pub fn least_rights(mut self, schema: SchemaOf) -> Self {
        self.least_rights = Some(schema);
        self
    }

    pub(crate) fn apply<O>(&self, options: O, tls: fn(O) -> O, password: fn(O, &str) -> O) -> O {
        let options = if self.tls { tls(options) } else { options };
        match &self.password {
            Some(word) => password(options, word),
            None => options,
        }
    }
}

/// A setup with another URL for its clients.
pub(crate) struct WithUrl<S> {
    pub(crate) setup: S,
    pub(crate) url: String,
}

impl<S: Setup> Setup for WithUrl<S> {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn servers(&self) -> Vec<&Server> {
        self.setup.servers()
    }

    fn ca(&self) -> Option<PathBuf> {
        self.setup.ca()
    }

    fn connections(&self) -> Result<u64> {
        self.setup.connections()
    }

    fn commands(&self) -> Result<u64> {
        self.setup.commands()
    }

    fn await_ready(&self) -> Result<()> {
        self.setup.await_ready()
    }

    fn failover(&self) -> Result<()> {
        self.setup.failover()
    }
}

/// Implements [`Setup`] for a single server: `alone!(Type)`, or `alone!(Type, faults)` if it has [`Faults`].
macro_rules! alone {
    ($type:ty $(, $faults:ident)?) => {
        impl $crate::Setup for $type {
            fn url(&self) -> String {
                self.url()
            }

            fn servers(&self) -> Vec<&$crate::Server> {
                vec![self]
            }

            fn ca(&self) -> Option<std::path::PathBuf> {
                self.tls().map($crate::Tls::ca)
            }

            fn connections(&self) -> $crate::Result<u64> {
                $crate::setup::if_up(self, || self.connections())
            }

            fn commands(&self) -> $crate::Result<u64> {
                $crate::setup::if_up(self, || self.commands())
            }

            $(fn $faults(&self) -> Option<&dyn $crate::Faults> {
                Some(self)
            })?
        }
    };
}
pub(crate) use alone;

/// Implements [`Setup`] for members that elect a leader, which the method `$chosen` waits for: `members!(Type, chosen)`,
/// or `members!(Type, chosen, faults)` if they have [`Faults`].
macro_rules! members {
    ($type:ty, $chosen:ident $(, $faults:ident)?) => {
        impl $crate::Setup for $type {
            fn url(&self) -> String {
                self.url()
            }

            fn servers(&self) -> Vec<&$crate::Server> {
                self.members().iter().map(|member| &**member).collect()
            }

            fn ca(&self) -> Option<std::path::PathBuf> {
                self.tls().map($crate::Tls::ca)
            }

            fn await_ready(&self) -> $crate::Result<()> {
                $crate::Setup::servers(self).into_iter().try_for_each($crate::Server::await_ready)?;
                self.$chosen().map(drop)
            }

            fn connections(&self) -> $crate::Result<u64> {
                let members = self.members().iter();
                members.map(|member| $crate::setup::if_up(member, || member.connections())).sum()
            }

            fn commands(&self) -> $crate::Result<u64> {
                let members = self.members().iter();
                members.map(|member| $crate::setup::if_up(member, || member.commands())).sum()
            }

            fn failover(&self) -> $crate::Result<()> {
                if self.members().len() == 1 {
                    return Err($crate::Error::new("this setup has no server to fail over to"));
                }
                self.failover().map(drop)
            }

            $(fn $faults(&self) -> Option<&dyn $crate::Faults> {
                Some(self)
            })?
        }
    };
}
pub(crate) use members;

/// Returns the count, or zero for a server that does not run.
pub(crate) fn if_up(server: &Server, count: impl Fn() -> Result<u64>) -> Result<u64> {
    if server.is_running() { count() } else { Ok(0) }
}
