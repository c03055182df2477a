//! The driver's client, which is replaced where it is of no use any more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongodb::Client;
use mongodb::error::{Error as DriverError, ErrorKind as DriverKind};
use mongodb::options::{ClientOptions, Tls};
use tokio::runtime::{Handle, Id};

use super::errors::UNAUTHORIZED;
use crate::clock::{Clock, Moment};

pub(super) struct Driver {
    options: ClientOptions,
    /// Whether a client reads files of certificates when it is made.
    reads_files: bool,
    clock: Clock,
    made: Mutex<Made>,
}

struct Made {
    client: Client,
    /// The runtime that executes the tasks of the client.
    runtime: Id,
    at: Moment,
}

/// How old a client is at least that an error replaces.
const REPLACED_AFTER: Duration = Duration::from_secs(2);

impl Driver {
    /// Makes a client. It connects when the first command is sent.
    pub(super) fn new(options: ClientOptions) -> Result<Self, DriverError> {
        let clock = Clock::boot();
        let reads_files = match &options.tls {
            Some(Tls::Enabled(tls)) => tls.ca_file_path.is_some() || tls.cert_key_file_path.is_some(),
            _ => false,
        };
        let made = Mutex::new(Made::new(&options, &clock)?);
        Ok(Self { options, reads_files, clock, made })
    }

    /// Returns the client. The runtime that has connected may end or stand still, and with it the tasks of the client. So
    /// another runtime gets another client.
    pub(super) fn client(&self) -> Result<Client, DriverError> {
        let mut made = self.made();
        if made.runtime != Handle::current().id() {
            *made = Made::new(&self.options, &self.clock)?;
        }
        Ok(made.client.clone())
    }

    /// Replaces the client after an error that another one may be spared: it logs in again, and reads its files again.
    ///
    /// A user that is removed and made again is refused over each connection that was open meanwhile. And a client goes on
    /// with the certificates that it has read, also after they have expired.
    pub(super) fn on_error(&self, error: &DriverError) {
        let may_help = match &*error.kind {
            DriverKind::Command(command) => command.code == UNAUTHORIZED && self.options.credential.is_some(),
            DriverKind::Authentication { .. } | DriverKind::ServerSelection { .. } => self.reads_files,
            _ => false,
        };
        let mut made = self.made();
        if may_help
            && self.clock.now().since(made.at) >= REPLACED_AFTER
            // Files may be incomplete at this moment.
            && let Ok(another) = Made::new(&self.options, &self.clock)
        {
            *made = another;
        }
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn new(options: &ClientOptions, clock: &Clock) -> Result<Self, DriverError> {
        let client = Client::with_options(options.clone())?;
        Ok(Self { client, runtime: Handle::current().id(), at: clock.now() })
    }
}
