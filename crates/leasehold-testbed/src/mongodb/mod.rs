//! MongoDB: a replica set of one member, or of three; or a standalone server.

mod faults;
mod pins;
mod scram;
mod setups;
mod transaction;
mod wire;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// The crate of [`bson::Document`], for commands.
pub use bson;
use bson::{Document, doc};
use rustix::process::Signal;

pub(crate) use self::setups::SETUPS;
pub use self::transaction::Transaction;
use self::wire::Connection;
use crate::clock::Clock;
use crate::error::Context as _;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result};

/// The name of the replica set.
const SET: &str = "leasehold";
const USER: &str = "leasehold";

/// A replica set of one or three members, which elects a new primary after two seconds. Test commands are
/// enabled, so `configureFailPoint` can fail, delay or cut chosen commands.
#[derive(Debug)]
pub struct MongoDb {
    members: Vec<MongoDbMember>,
    access: Access,
    standalone: bool,
    direct: bool,
    arbiter: bool,
}

/// One member. Dereferences to its [`Server`].
#[derive(Debug)]
pub struct MongoDbMember {
    server: Server,
    port: Arc<Port>,
    access: Access,
    clock: Option<Clock>,
}

/// The options of a [`MongoDb`]. By default it needs no password.
#[derive(Clone, Debug, Default)]
pub struct MongoDbOptions {
    password: Option<String>,
    tls: bool,
    own_clock: bool,
    direct: bool,
    arbiter: bool,
    args: Vec<String>,
}

impl MongoDb {
    /// Starts one member with the default options.
    ///
    /// # Errors
    ///
    /// If MongoDB is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Returns the default options.
    #[must_use]
    pub fn options() -> MongoDbOptions {
        MongoDbOptions::default()
    }

    /// Returns its URL, with every member: `mongodb://`. With TLS the client has to trust [`Tls::ca`].
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("leasehold")
    }

    /// Returns the URL of another database, which need not be created.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        let (credentials, source) = match &self.access.password {
            Some(password) => (format!("{USER}:{password}@"), "&authSource=admin"),
            None => (String::new(), ""),
        };
        self.url_with(&credentials, database, source)
    }

    /// Returns the URL of the database `leasehold` for another user, of the database `admin`, with more options.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str, options: &str) -> String {
        self.url_with(&format!("{user}:{password}@"), "leasehold", &format!("&authSource=admin&{options}"))
    }

    fn url_with(&self, credentials: &str, database: &str, options: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| member.host()).collect();
        let set = match (self.standalone, self.direct) {
            (true, _) => "directConnection=true".to_owned(),
            (false, true) => format!("replicaSet={SET}&directConnection=true"),
            (false, false) => format!("replicaSet={SET}"),
        };
        let tls = if self.access.tls.is_some() { "&tls=true" } else { "" };
        format!("mongodb://{credentials}{}/{database}?{set}{options}{tls}", hosts.join(","))
    }

    /// Returns the certificates, if it uses TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.access.tls.as_ref()
    }

    /// Returns the members.
    #[must_use]
    pub fn members(&self) -> &[MongoDbMember] {
        &self.members
    }

    /// Returns the port of the first member.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.members[0].port()
    }

    /// Sends one command to the primary.
    ///
    /// # Errors
    ///
    /// If it is refused, or not answered within ten seconds.
    pub fn command(&self, database: &str, command: Document) -> Result<Document> {
        self.primary()?.command(database, command)
    }

    /// Sends one command to a server on this machine that asks for no password, over a connection of its own.
    ///
    /// # Errors
    ///
    /// If it is refused, or not answered within ten seconds.
    pub fn command_at(port: u16, database: &str, command: Document) -> Result<Document> {
        Connection::open(port, None)?.command(database, command)
    }

    /// Counts the connections to all members, except those of this function and those between members.
    ///
    /// # Errors
    ///
    /// If a member does not answer.
    pub fn connections(&self) -> Result<u64> {
        self.members.iter().map(MongoDbMember::connections).sum()
    }

    /// Counts the commands of all members since they started, except those of the replica set, of this
    /// function, of authentication, and of drivers that look for the primary.
    ///
    /// # Errors
    ///
    /// If a member does not answer.
    pub fn commands(&self) -> Result<u64> {
        self.members.iter().map(MongoDbMember::commands).sum()
    }

    /// Waits until there is a primary, and returns it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn primary(&self) -> Result<&MongoDbMember> {
        until("a primary", || {
            let primary = self.members.iter().find(|member| member.is_primary());
            primary.ok_or_else(|| Error::new("no member is primary"))
        })
    }

    /// Makes the primary step down, and returns the next one.
    ///
    /// # Errors
    ///
    /// If no other member is elected.
    pub fn failover(&self) -> Result<&MongoDbMember> {
        let old = self.primary()?;
        until("the primary to step down", || {
            let step_down = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 10 };
            old.command("admin", step_down)
                .map(drop)
                .or_else(|error| if old.is_primary() { Err(error) } else { Ok(()) })
        })?;
        let new = self.await_primary_other_than(old)?;
        // From now on it may be elected again.
        until("the old primary to be eligible", || old.command("admin", doc! { "replSetFreeze": 0 }))?;
        Ok(new)
    }

    /// Waits until another member is primary, for example after the primary was killed.
    ///
    /// # Errors
    ///
    /// If no other member is elected.
    pub fn await_primary_other_than(&self, old: &MongoDbMember) -> Result<&MongoDbMember> {
        until("another primary", || {
            let new = self.members.iter().find(|member| member.port() != old.port() && member.is_primary());
            new.ok_or_else(|| Error::new("no other member is primary"))
        })
    }
}

/// A replica set of one member can be used as that member's server.
impl Deref for MongoDb {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.members[0].server
    }
}

impl MongoDbMember {
    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns its wall clock, if it has one of its own.
    #[must_use]
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Sends one command to this member, over a connection of its own.
    ///
    /// # Errors
    ///
    /// If it is refused, or the member does not answer for ten seconds.
    pub fn command(&self, database: &str, command: Document) -> Result<Document> {
        self.access.connect(self.port())?.command(database, command)
    }

    /// Counts the connections, except the one of this function and those of members.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn connections(&self) -> Result<u64> {
        let internal = doc! { "$regex": "^(NetworkInterfaceTL|MongoDB Internal Client)" };
        let of_clients =
            doc! { "client": { "$exists": true }, "clientMetadata.driver.name": { "$not": internal } };
        let clients = self.operations("idleConnections", of_clients)?;
        Ok(u64::try_from(clients.len()).unwrap_or(0).saturating_sub(1))
    }

    /// Returns the operations that match, and what is idle of this kind, as `$currentOp` describes them.
    fn operations(&self, idle: &str, wanted: Document) -> Result<Vec<Document>> {
        let command = doc! {
            "aggregate": 1,
            "pipeline": [{ "$currentOp": { "allUsers": true, idle: true } }, { "$match": wanted }],
            "cursor": { "batchSize": 100_000 },
            "$readPreference": { "mode": "primaryPreferred" },
        };
        let found = self.command("admin", command)?;
        let batch = found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        Ok(batch.context("no list")?.iter().filter_map(|found| found.as_document().cloned()).collect())
    }

    /// Kills the cursors of all change streams, and returns how many there were.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn kill_streams(&self) -> Result<usize> {
        let streams = doc! { "cursor.originatingCommand.pipeline.0.$changeStream": { "$exists": true } };
        let streams = self.operations("idleCursors", streams)?;
        for stream in &streams {
            let (database, collection) = stream
                .get_str("ns")
                .ok()
                .and_then(|place| place.split_once('.'))
                .ok_or_else(|| Error::new("a cursor without a collection"))?;
            let cursor = stream.get_document("cursor").and_then(|cursor| cursor.get_i64("cursorId"));
            let kill = doc! { "killCursors": collection, "cursors": [cursor.context("no cursor")?] };
            self.command(database, kill)?;
        }
        Ok(streams.len())
    }

    /// Makes commands of clients that call themselves `leasehold` fail; see `failCommand` of MongoDB. `mode` is
    /// `"off"`, `"alwaysOn"`, or a document.
    ///
    /// # Errors
    ///
    /// If the member does not answer.
    pub fn fail_commands(
        &self,
        mode: impl Into<bson::Bson>,
        commands: &[&str],
        data: Document,
    ) -> Result<()> {
        let mut all = doc! { "failCommands": commands, "appName": "leasehold" };
        all.extend(data);
        let command = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": all };
        self.command("admin", command).map(drop)
    }

    /// Counts the commands since its start; see [`MongoDb::commands`].
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn commands(&self) -> Result<u64> {
        Ok(self.command_counts()?.values().sum())
    }

    /// Counts the commands since its start by name; see [`MongoDb::commands`].
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn command_counts(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.status()?;
        let commands = status.get_document("metrics").and_then(|metrics| metrics.get_document("commands"));
        let mut counts = BTreeMap::new();
        for (name, stats) in commands.context("no counts")? {
            let total = stats.as_document().and_then(|stats| stats.get_i64("total").ok());
            if let Some(total @ 1..) = total
                && !is_overhead(name)
            {
                counts.insert(name.clone(), total.unsigned_abs());
            }
        }
        Ok(counts)
    }

    /// Returns `true` if the member considers itself the primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        // A member that is down or stopped is not the primary.
        self.is_running()
            && self.access.hello(self.port()).is_ok_and(|hello| is_true(&hello, "isWritablePrimary"))
    }

    fn status(&self) -> Result<Document> {
        self.command("admin", doc! { "serverStatus": 1 })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }
}

impl Deref for MongoDbMember {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl MongoDbOptions {
    /// Sets the password of the user `leasehold`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Requires TLS.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Gives each member a wall clock of its own, which can be set while it runs: [`MongoDbMember::clock`]. Needs a C
    /// compiler.
    #[must_use]
    pub fn own_clock(mut self) -> Self {
        self.own_clock = true;
        self
    }

    /// Makes the URL that of one member, whose address clients do not replace by the one that the set announces. So
    /// they can be connected through a proxy.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// Makes the last of three members an arbiter: it votes and keeps no data. Needs a set without a password.
    #[must_use]
    pub fn arbiter(mut self) -> Self {
        self.arbiter = true;
        self
    }

    /// Adds an argument, such as `--setParameter=ttlMonitorSleepSecs=1`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Starts one member.
    ///
    /// # Errors
    ///
    /// If MongoDB is not installed, or does not start.
    pub fn start(&self) -> Result<MongoDb> {
        retry_ports(|| self.try_start(1, false))
    }

    /// Starts one server that is no member of a set.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start_standalone(&self) -> Result<MongoDb> {
        retry_ports(|| self.try_start(1, true))
    }

    /// Starts three members.
    ///
    /// # Errors
    ///
    /// If a member does not start.
    pub fn start_three(&self) -> Result<MongoDb> {
        retry_ports(|| self.try_start(3, false))
    }

    fn try_start(&self, n: usize, standalone: bool) -> Result<MongoDb> {
        let scratch = Scratch::new()?;
        if self.tls {
            install::program("openssl")?;
        }
        let tls = if self.tls { Some(Tls::in_scratch(&scratch)?) } else { None };
        let access = Access { password: self.password.clone(), tls };
        // The members authenticate each other with this key.
        scratch.file("keyfile", "bGVhc2Vob2xkbGVhc2Vob2xk", &User::Own)?;
        let members = (0..n).map(|i| {
            let directory = scratch.directory(&format!("member-{i}"), &User::Own)?;
            std::fs::create_dir(directory.join("data")).context("cannot make a directory")?;
            let port = Arc::new(Port::free()?);
            let name = format!("member-{i}");
            let clock = if self.own_clock { Some(Clock::in_scratch(&scratch, &name)?) } else { None };
            let program = Program {
                name: "mongod",
                args: self.args(&scratch, &port, &access, standalone).into_iter().map(Into::into).collect(),
                user: User::Own,
                env: clock.as_ref().map(Clock::env).unwrap_or_default(),
                stale: Vec::new(),
                terminate: Signal::TERM,
                directory,
            };
            let (asked, number) = (access.clone(), port.number());
            let server = Server::prepare(&scratch, program, move || is_ready(&asked.hello(number)?, n));
            server.launch()?;
            Ok(MongoDbMember { server, port, access: access.clone(), clock })
        });
        let set = MongoDb {
            members: members.collect::<Result<_>>()?,
            access,
            standalone,
            direct: self.direct,
            arbiter: self.arbiter,
        };
        match standalone {
            true => {
                set.members.iter().try_for_each(|member| member.await_ready())?;
                set.create_user(&set.members[0])?;
            }
            false => set.initiate()?,
        }
        Ok(set)
    }

    fn args(&self, scratch: &Scratch, port: &Port, access: &Access, standalone: bool) -> Vec<String> {
        let mut args = vec![
            format!("--port={}", port.number()),
            "--bind_ip=127.0.0.1".to_owned(),
            "--nounixsocket".to_owned(),
            "--dbpath=data".to_owned(),
            "--wiredTigerCacheSizeGB=0.25".to_owned(),
            "--oplogSize=64".to_owned(),
            "--setParameter=enableTestCommands=1".to_owned(),
            "--setParameter=diagnosticDataCollectionEnabled=false".to_owned(),
        ];
        if !standalone {
            args.push(format!("--replSet={SET}"));
        }
        if access.password.is_some() {
            args.push(format!("--keyFile={}", scratch.path().join("keyfile").display()));
        }
        if let Some(tls) = &access.tls {
            args.push("--tlsMode=requireTLS".to_owned());
            args.push("--tlsAllowConnectionsWithoutCertificates".to_owned());
            args.push(format!("--tlsCertificateKeyFile={}", tls.server_pem().display()));
            args.push(format!("--tlsCAFile={}", tls.ca().display()));
        }
        args.extend(self.args.iter().cloned());
        args
    }
}

impl MongoDb {
    /// Makes the members a replica set, and creates the first user.
    fn initiate(&self) -> Result<()> {
        for member in &self.members {
            member.await_ready()?;
        }
        let is_arbiter = |id: usize| self.arbiter && id + 1 == self.members.len();
        let members = self.members.iter().enumerate().zip(0..).map(|((i, member), id)| {
            doc! { "_id": id, "host": member.host(), "arbiterOnly": is_arbiter(i) }
        });
        let config = doc! {
            "_id": SET,
            "members": members.collect::<Vec<_>>(),
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 },
        };
        let mut connection = self.connect_without_login(&self.members[0])?;
        connection.command("admin", doc! { "replSetInitiate": config })?;
        self.create_user(self.primary()?)?;
        for member in &self.members {
            until("the member to be primary or secondary", || {
                is_settled(&self.access.hello(member.port())?)?;
                member.status().map(drop)
            })?;
        }
        Ok(())
    }

    /// Creates the first user, if there is a password.
    fn create_user(&self, member: &MongoDbMember) -> Result<()> {
        let Some(password) = &self.access.password else { return Ok(()) };
        let user = doc! {
            "createUser": USER,
            "pwd": password,
            "roles": ["root"],
            "mechanisms": ["SCRAM-SHA-256"],
            "writeConcern": { "w": "majority" },
        };
        self.connect_without_login(member)?.command("admin", user).map(drop)
    }

    /// Connects to a member that has no users yet. Until then MongoDB trusts connections from this machine.
    fn connect_without_login(&self, member: &MongoDbMember) -> Result<Connection> {
        Access { password: None, tls: self.access.tls.clone() }.connect(member.port())
    }
}

/// How clients authenticate.
#[derive(Clone, Debug)]
struct Access {
    password: Option<String>,
    tls: Option<Tls>,
}

impl Access {
    fn connect(&self, port: u16) -> Result<Connection> {
        let mut connection = Connection::open(port, self.tls.as_ref())?;
        if let Some(password) = &self.password {
            connection.authenticate(USER, password)?;
        }
        Ok(connection)
    }

    /// Returns the member's answer to `hello`, which needs no authentication.
    fn hello(&self, port: u16) -> Result<Document> {
        Connection::open(port, self.tls.as_ref())?.command("admin", doc! { "hello": 1 })
    }
}

/// Succeeds if the member is ready: as the primary of a set of one, as a part of a set of three, or, before
/// there is a set, by any answer.
fn is_ready(hello: &Document, members: usize) -> Result<()> {
    if !hello.contains_key("setName") {
        return Ok(());
    }
    match members {
        1 if !is_true(hello, "isWritablePrimary") => Err(Error::new("it is not yet primary")),
        _ => is_settled(hello),
    }
}

fn is_settled(hello: &Document) -> Result<()> {
    if ["isWritablePrimary", "secondary", "arbiterOnly"].iter().any(|state| is_true(hello, state)) {
        return Ok(());
    }
    Err(Error::new("it is neither primary nor secondary nor an arbiter"))
}

fn is_true(hello: &Document, name: &str) -> bool {
    hello.get_bool(name).unwrap_or(false)
}

/// Returns `true` for a command that no lock needs.
fn is_overhead(name: &str) -> bool {
    let names = ["serverStatus", "hello", "isMaster", "ismaster", "saslStart", "saslContinue", "<UNKNOWN>"];
    names.contains(&name) || name.starts_with("replSet")
}
