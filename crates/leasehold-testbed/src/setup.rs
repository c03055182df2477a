//! All setups by name, and the operations that they share.

use std::path::PathBuf;

use crate::etcd::EtcdOptions;
use crate::mongodb::MongoDbOptions;
use crate::postgres::PostgresOptions;
use crate::redis::RedisOptions;
use crate::{
    Error, Etcd, MongoDb, PgBouncer, Postgres, PostgresPair, Redis, RedisCluster, RedisSentinels, Result,
    Server, Tls, until,
};

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
}

/// The options of a setup.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Wanted {
    /// Whether clients use TLS.
    pub tls: bool,
    /// The password that clients need, if any.
    pub password: Option<String>,
}

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

    fn apply<O>(&self, options: O, tls: fn(O) -> O, password: fn(O, &str) -> O) -> O {
        let options = if self.tls { tls(options) } else { options };
        match &self.password {
            Some(word) => password(options, word),
            None => options,
        }
    }
}

/// A function that starts a setup.
pub type Start = fn(&Wanted) -> Result<Box<dyn Setup>>;

/// All setups: the name, a description, and the function that starts it. A further one needs one line here.
pub const ALL: &[(&str, &str, Start)] = &[
    ("redis", "one Redis", |wanted| Ok(Box::new(redis(wanted).start()?))),
    ("redis-quorum", "three Redis that know nothing of each other", |wanted| {
        Ok(Box::new(Independent((0..3).map(|_| redis(wanted).start()).collect::<Result<_>>()?)))
    }),
    ("redis-sentinel", "a Redis primary, its replica, three Sentinels", |wanted| {
        Ok(Box::new(RedisSentinels::start_with(redis(wanted))?))
    }),
    ("redis-cluster", "a Redis Cluster of three", |wanted| {
        Ok(Box::new(RedisCluster::start_with(redis(wanted))?))
    }),
    ("redis-cluster-replicas", "a Redis Cluster of three, with a replica each", |wanted| {
        Ok(Box::new(RedisCluster::options().servers(redis(wanted)).replicas(1).start()?))
    }),
    ("valkey", "one Valkey", |wanted| Ok(Box::new(redis(wanted).valkey().start()?))),
    ("postgres", "one PostgreSQL", |wanted| Ok(Box::new(postgres(wanted).start()?))),
    ("postgres-standby", "a PostgreSQL primary and its streaming standby", |wanted| {
        Ok(Box::new(PostgresPair::start_with(postgres(wanted))?))
    }),
    ("postgres-sync", "the same, and the primary confirms nothing without the standby", |wanted| {
        Ok(Box::new(PostgresPair::start_synchronous(postgres(wanted))?))
    }),
    ("pgbouncer", "PgBouncer in transaction mode before a PostgreSQL", |wanted| {
        Ok(Box::new(Pooled::start_with(postgres(wanted))?))
    }),
    ("mongodb", "a MongoDB replica set of one", |wanted| Ok(Box::new(mongodb(wanted).start()?))),
    ("mongodb-three", "a MongoDB replica set of three", |wanted| {
        Ok(Box::new(mongodb(wanted).start_three()?))
    }),
    ("etcd", "one etcd", |wanted| Ok(Box::new(etcd(wanted).start()?))),
    ("etcd-three", "an etcd of three members", |wanted| Ok(Box::new(etcd(wanted).start_three()?))),
];

/// Starts the setup with that name.
///
/// # Errors
///
/// If there is no such setup (the text lists them), or it does not start.
pub fn start(name: &str, wanted: &Wanted) -> Result<Box<dyn Setup>> {
    match ALL.iter().find(|(known, ..)| *known == name) {
        Some((_, _, start)) => start(wanted),
        None => {
            let names: Vec<_> = ALL.iter().map(|(name, ..)| *name).collect();
            Err(Error::new(format!("unknown setup name=`{name}` valid=`{}`", names.join(", "))))
        }
    }
}

/// Several independent Redis servers.
struct Independent(Vec<Redis>);

/// A PgBouncer and its PostgreSQL.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pooled {
    // Dropped first.
    /// The PgBouncer, to which clients connect.
    pub bouncer: PgBouncer,
    /// The PostgreSQL, to which PgBouncer connects.
    pub postgres: Postgres,
}

impl Pooled {
    /// Starts a PostgreSQL with these options, and a PgBouncer in front of it.
    ///
    /// # Errors
    ///
    /// If one of them does not start.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        let postgres = options.start()?;
        let bouncer = PgBouncer::start(&postgres)?;
        Ok(Self { bouncer, postgres })
    }
}

impl Setup for Independent {
    fn url(&self) -> String {
        let first = self.0[0].url();
        let (scheme, first) = first.split_once("://").unwrap_or_default();
        let (first, database) = first.rsplit_once('/').unwrap_or_default();
        let others = self.0[1..].iter().map(|redis| format!(",127.0.0.1:{}", redis.port()));
        format!("{scheme}+quorum://{first}{}/{database}", others.collect::<String>())
    }

    fn servers(&self) -> Vec<&Server> {
        self.0.iter().map(|redis| &**redis).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        self.0[0].tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        self.0.iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        self.0.iter().map(Setup::commands).sum()
    }
}

impl Setup for RedisSentinels {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        let sentinels = self.sentinels().iter().map(|sentinel| &**sentinel);
        RedisSentinels::servers(self).iter().map(|redis| &**redis).chain(sentinels).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        RedisSentinels::servers(self)[0].tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        RedisSentinels::servers(self).iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        RedisSentinels::servers(self).iter().map(Setup::commands).sum()
    }

    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        until("a primary", || match self.primary()?.is_primary()? {
            true => Ok(()),
            false => Err(Error::new("the Sentinels' primary is a replica")),
        })
    }

    fn failover(&self) -> Result<()> {
        self.failover().map(drop)
    }
}

impl Setup for RedisCluster {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        self.nodes().iter().map(|node| &**node).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        self.nodes()[0].tls().map(Tls::ca)
    }

    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        self.await_ready()
    }

    fn connections(&self) -> Result<u64> {
        self.nodes().iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        self.nodes().iter().map(Setup::commands).sum()
    }

    /// Fails one of the three primaries over; [`RedisCluster::failover`] can choose one.
    fn failover(&self) -> Result<()> {
        self.failover("any").map(drop)
    }
}

impl Setup for PostgresPair {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.primary, &self.standby]
    }

    fn ca(&self) -> Option<PathBuf> {
        self.primary.tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        Ok(Setup::connections(&self.primary)? + Setup::connections(&self.standby)?)
    }

    fn commands(&self) -> Result<u64> {
        Ok(Setup::commands(&self.primary)? + Setup::commands(&self.standby)?)
    }

    /// Waits for one primary and one replica, in either role.
    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        until("the standby to follow", || match self.current()?.sql(FOLLOWERS)?.as_str() {
            "1" => Ok(()),
            followers => Err(Error::new(format!("{followers} follow"))),
        })
    }

    fn failover(&self) -> Result<()> {
        self.failover().map(drop)
    }
}

const FOLLOWERS: &str = "select count(*) from pg_stat_replication where state = 'streaming'";

impl Setup for Pooled {
    fn url(&self) -> String {
        self.bouncer.url()
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.bouncer, &self.postgres]
    }

    fn ca(&self) -> Option<PathBuf> {
        self.postgres.tls().map(Tls::ca)
    }

    /// Waits for PostgreSQL first, because PgBouncer forwards to it.
    fn await_ready(&self) -> Result<()> {
        self.postgres.await_ready()?;
        self.bouncer.await_ready()
    }

    fn connections(&self) -> Result<u64> {
        if_up(&self.bouncer, || self.bouncer.connections())
    }

    fn commands(&self) -> Result<u64> {
        if_up(&self.bouncer, || self.bouncer.commands())
    }
}

/// Implements [`Setup`] for a single server.
macro_rules! alone {
    ($($type:ty),*) => {
        $(impl Setup for $type {
            fn url(&self) -> String {
                self.url()
            }

            fn servers(&self) -> Vec<&Server> {
                vec![self]
            }

            fn ca(&self) -> Option<PathBuf> {
                self.tls().map(Tls::ca)
            }

            fn connections(&self) -> Result<u64> {
                if_up(self, || self.connections())
            }

            fn commands(&self) -> Result<u64> {
                if_up(self, || self.commands())
            }
        })*
    };
}

alone!(Redis, Postgres);

/// Implements [`Setup`] for members that elect a leader.
macro_rules! members {
    ($($type:ty, $chosen:ident;)*) => {
        $(impl Setup for $type {
            fn url(&self) -> String {
                self.url()
            }

            fn servers(&self) -> Vec<&Server> {
                self.members().iter().map(|member| &**member).collect()
            }

            fn ca(&self) -> Option<PathBuf> {
                self.tls().map(Tls::ca)
            }

            fn await_ready(&self) -> Result<()> {
                Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
                self.$chosen().map(drop)
            }

            fn connections(&self) -> Result<u64> {
                self.members().iter().map(|member| if_up(member, || member.connections())).sum()
            }

            fn commands(&self) -> Result<u64> {
                self.members().iter().map(|member| if_up(member, || member.commands())).sum()
            }

            fn failover(&self) -> Result<()> {
                if self.members().len() == 1 {
                    return Err(Error::new("this setup has no server to fail over to"));
                }
                self.failover().map(drop)
            }
        })*
    };
}

members! {
    MongoDb, primary;
    Etcd, leader;
}

fn if_up(server: &Server, count: impl Fn() -> Result<u64>) -> Result<u64> {
    if server.is_running() { count() } else { Ok(0) }
}

fn redis(wanted: &Wanted) -> RedisOptions {
    wanted.apply(Redis::options(), RedisOptions::tls, RedisOptions::password)
}

fn postgres(wanted: &Wanted) -> PostgresOptions {
    wanted.apply(Postgres::options(), PostgresOptions::tls, PostgresOptions::password)
}

fn mongodb(wanted: &Wanted) -> MongoDbOptions {
    wanted.apply(MongoDb::options(), MongoDbOptions::tls, MongoDbOptions::password)
}

fn etcd(wanted: &Wanted) -> EtcdOptions {
    wanted.apply(Etcd::options(), EtcdOptions::tls, EtcdOptions::password)
}
