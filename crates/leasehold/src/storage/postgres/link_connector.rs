//! Opens links: connections to the primary, with the session's settings, the facts of the server, and the tables.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::config::Config;
use super::connect::{Connector, SessionCheck};
use super::errors;
use super::facts::Facts;
use super::link::{Link, TRIES};
use super::link_context::LinkContext;
use super::qualify::qualify;
use super::schema;
use super::session::Session;
use super::statements::TABLE_TIMEOUT;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::server::Connect;

/// The primary, and the connection to it.
pub(super) type Server = net::server::Server<LinkConnector>;

/// Opens links to whichever host of the URL is the primary.
#[derive(Clone)]
pub(super) struct LinkConnector {
    connector: Connector,
    context: LinkContext,
    /// How long opening a link may take.
    limit: Duration,
}

/// How many times as long a link may take that no call waits for.
const BACKGROUND_FACTOR: u32 = 5;

impl LinkConnector {
    pub(super) fn new(config: &Arc<Config>) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(Arc::clone(config))?,
            context: LinkContext::new(config),
            limit: config.limit,
        })
    }

    /// Returns the same for links that no call waits for. To give up such a link while the server is busy with many others
    /// would only make the server do the same again.
    pub(super) fn in_background(self) -> Self {
        Self { limit: self.limit.saturating_mul(BACKGROUND_FACTOR), ..self }
    }

    async fn facts(&self, client: &Client, server: &str) -> Result<Facts> {
        Facts::ask(client, &self.context.statements, &self.context.config.space, server).await
    }

    /// Makes the tables if they are missing. Refuses tables of others.
    async fn set_up(&self, session: &Session, facts: &mut Facts) -> Result<()> {
        let Session { client, server, .. } = session;
        if !facts.made {
            // Another client may have been making them: one half of the reply knows of them, and the other does not.
            *facts = self.facts(client, server).await?;
        }
        if !facts.made {
            // Nothing is added to the tables of others.
            if facts.there {
                facts.check_tables(&self.context.statements)?;
            }
            let made = schema::make(client, &self.context.config, server).await;
            *facts = self.facts(client, server).await?;
            // Another client may have made them meanwhile, which this user may not be allowed to.
            if !facts.made {
                made?;
            }
        }
        facts.check_tables(&self.context.statements)
    }
}

impl SessionCheck for LinkConnector {
    type Found = (Facts, Moment, Moment);

    async fn check(&self, session: &Session) -> Result<Self::Found> {
        let server = &session.server;
        let settings = include_str!("statements/settings.sql");
        let settings = settings.replace("{backend}", &session.backend.to_string());
        let settings = qualify(&settings.replace("{lock_timeout}", TABLE_TIMEOUT));
        // Until the settings hold, the role's `statement_timeout` may cancel them.
        let mut tries = 1;
        while let Err(error) = session.client.batch_execute(&settings).await {
            if tries == TRIES || error.code() != Some(&SqlState::QUERY_CANCELED) {
                return Err(errors::statement(&error, server));
            }
            tries += 1;
        }
        let asked = self.context.clock.now();
        let facts = self.facts(&session.client, server).await?;
        let replied = self.context.clock.now();
        facts.check(server)?;
        Ok((facts, asked, replied))
    }
}

impl Connect for LinkConnector {
    type Link = Link;

    async fn open(&self, time: &ServerClock) -> Result<Link> {
        let (session, (mut facts, asked, replied)) = self.connector.open(self, self.limit).await?;
        time.learn(asked, replied, facts.now_us);
        let pooled = facts.is_pooled(session.backend);
        let setting_up = self.set_up(&session, &mut facts);
        tokio::time::timeout(self.limit, setting_up).await.unwrap_or_else(|_| {
            let text = "the server did not answer in time while its session was set up; retry";
            Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", session.server)))
        })?;
        Ok(Link::new(&self.context, session, facts, pooled, replied))
    }

    fn name(&self) -> String {
        self.connector.name()
    }
}
