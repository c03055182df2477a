//! What the client sends at login.

use std::path::PathBuf;

use tokio_postgres::config::ChannelBinding;

/// What the client sends at login. It has no `Debug`, because most of it is not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) database: Option<String>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) options: Option<String>,
    pub(super) application: Option<String>,
    pub(super) fallback_application: Option<String>,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            passfile: None,
            database: None,
            channel_binding: ChannelBinding::Prefer,
            options: None,
            application: None,
            fallback_application: None,
        }
    }
}
