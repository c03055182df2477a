//! What the servers report about themselves, and what that proves.

use mongodb::bson::{Bson, Document, doc};

use super::errors::UNAUTHORIZED;
use super::link::Link;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Guarantees, LeaseClock, Tier};

/// What the servers reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) version: String,
    wire_version: i32,
    pub(super) topology: Topology,
    /// The voting members that keep data, and the arbiters.
    pub(super) data: usize,
    pub(super) arbiters: usize,
    /// Whether a majority confirms only what is in its journal. `None` if the user may not query it.
    pub(super) journaled: Option<bool>,
    /// The storage engine, and whether it is persistent. `None` if the user may not query it.
    pub(super) engine: Option<(String, bool)>,
}

/// How the servers are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Topology {
    #[default]
    Standalone,
    ReplicaSet,
    /// Several replica sets behind a router.
    Sharded,
}

/// The wire version of MongoDB 6.0.
const OLDEST: i32 = 17;

impl Facts {
    /// Queries the primary.
    pub(super) async fn ask(link: &Link) -> Result<Self> {
        let hello = link.hello().await?;
        let version = match link.admin(doc! { "buildInfo": 1 }).await {
            Ok(info) => info.get_str("version").unwrap_or("unknown").to_owned(),
            Err(_) => "unknown".to_owned(),
        };
        let count = |name: &str| hello.get_array(name).map_or(0, Vec::len);
        let topology = if hello.get_str("msg").is_ok_and(|text| text == "isdbgrid") {
            Topology::Sharded
        } else if hello.contains_key("setName") {
            Topology::ReplicaSet
        } else {
            Topology::Standalone
        };
        let mut facts = Self {
            version,
            wire_version: hello.get_i32("maxWireVersion").unwrap_or(0),
            topology,
            data: count("hosts") + count("passives"),
            arbiters: count("arbiters"),
            journaled: None,
            engine: None,
        };
        facts.check(&link.place)?;
        if topology == Topology::ReplicaSet
            && let Ok(answer) = link.admin(doc! { "replSetGetConfig": 1 }).await
            && let Ok(config) = answer.get_document("config")
        {
            facts.configured(config);
        }
        let status = doc! { "serverStatus": 1, "repl": 0, "metrics": 0, "wiredTiger": 0, "locks": 0 };
        if topology != Topology::Sharded
            && let Ok(status) = link.admin(status).await
            && let Ok(engine) = status.get_document("storageEngine")
        {
            let persistent = engine.get_bool("persistent").unwrap_or(false);
            facts.engine = Some((engine.get_str("name").unwrap_or("unknown").to_owned(), persistent));
        }
        Ok(facts)
    }

    /// Reads the configuration of the replica set.
    fn configured(&mut self, config: &Document) {
        self.journaled = Some(config.get_bool("writeConcernMajorityJournalDefault").unwrap_or(true));
        let Ok(members) = config.get_array("members") else { return };
        let votes = |member: &&Document| member.get("votes").and_then(number) != Some(0);
        let is_arbiter = |member: &&Document| member.get_bool("arbiterOnly").unwrap_or(false);
        let voting: Vec<_> = members.iter().filter_map(Bson::as_document).filter(votes).collect();
        self.arbiters = voting.iter().filter(|member| is_arbiter(member)).count();
        self.data = voting.len() - self.arbiters;
    }

    /// Refuses a server that is too old.
    fn check(&self, place: &str) -> Result<()> {
        if self.wire_version < OLDEST {
            let text = "the server is too old; use MongoDB 6.0 or later";
            let version = &self.version;
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{text} server=`{place}` version=`{version}`"),
            ));
        }
        Ok(())
    }

    /// Computes the tier that is proved. What the user may not query is not proved.
    pub(super) fn tier(&self) -> Tier {
        if !matches!(self.engine, Some((_, true))) {
            return Tier::CrashSafe;
        }
        match self.topology {
            Topology::Standalone => Tier::RestartSafe,
            Topology::ReplicaSet if self.journaled != Some(true) => Tier::CrashSafe,
            // A set of two has no primary while one of them is down.
            Topology::ReplicaSet if self.data + self.arbiters < 3 || self.data < 2 => Tier::RestartSafe,
            Topology::ReplicaSet => Tier::FailoverSafe,
            // The shards are not queried.
            Topology::Sharded => Tier::CrashSafe,
        }
    }

    /// Returns `true` if the server has change streams.
    pub(super) fn pushes(&self) -> bool {
        self.topology != Topology::Standalone
    }

    pub(super) fn guarantees(&self, push: bool) -> Guarantees {
        Guarantees { fencing: true, fair: true, push, ..Guarantees::new(self.tier(), LeaseClock::ServerWall) }
    }
}

fn number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        _ => None,
    }
}

/// Refuses a collection that cannot keep locks. One that does not exist is made by the first lock.
pub(super) async fn check_collection(link: &Link) -> Result<()> {
    let command =
        doc! { "listCollections": 1, "filter": { "name": &link.collection }, "authorizedCollections": true };
    let reply = match link.send(command).await {
        Ok(reply) => reply,
        Err(failure) if failure.code == Some(UNAUTHORIZED) && !link.logs_in => {
            let text = "the server asks for a user and a password; write them into the URL";
            return Err(Error::new(ErrorKind::Invalid, format!("{text} server=`{}`", link.place)));
        }
        // A user that may not list collections is not refused.
        Err(_) => return Ok(()),
    };
    let found = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let Some(Bson::Document(found)) = found.ok().and_then(|batch| batch.first()) else { return Ok(()) };
    let kind = found.get_str("type").unwrap_or("collection");
    let options = found.get_document("options").cloned().unwrap_or_default();
    let text = if kind != "collection" {
        "locks need a plain collection, and that is a view or a time series"
    } else if options.get_bool("capped").unwrap_or(false) {
        "locks need a collection that is not capped"
    } else if options.contains_key("collation") {
        "locks need a collection without a collation, because names are compared byte by byte"
    } else {
        return Ok(());
    };
    let (place, collection) = (&link.place, &link.collection);
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "{text}; name another one with the URL option `collection` server=`{place}` collection=`{collection}`"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(data: usize, arbiters: usize, journaled: Option<bool>) -> Facts {
        let engine = Some(("wiredTiger".to_owned(), true));
        Facts { topology: Topology::ReplicaSet, data, arbiters, journaled, engine, ..Facts::default() }
    }

    #[test]
    fn the_tier_is_what_is_proved() {
        let yes = Some(true);
        assert_eq!(set(3, 0, yes).tier(), Tier::FailoverSafe);
        assert_eq!(set(2, 1, yes).tier(), Tier::FailoverSafe);
        assert_eq!(set(2, 0, yes).tier(), Tier::RestartSafe, "neither of two may be down");
        assert_eq!(set(1, 2, yes).tier(), Tier::RestartSafe, "arbiters keep nothing");
        assert_eq!(set(1, 0, yes).tier(), Tier::RestartSafe);
        assert_eq!(set(3, 0, Some(false)).tier(), Tier::CrashSafe);
        assert_eq!(set(3, 0, None).tier(), Tier::CrashSafe, "the user may not query it");
        let memory = Facts { engine: Some(("inMemory".to_owned(), false)), ..set(3, 0, yes) };
        assert_eq!(memory.tier(), Tier::CrashSafe);
        assert_eq!(Facts { topology: Topology::Standalone, ..set(0, 0, None) }.tier(), Tier::RestartSafe);
    }

    #[test]
    fn members_without_a_vote_confirm_nothing() {
        let mut facts = set(5, 0, None);
        facts.configured(&doc! { "members": [
            { "votes": 1 }, { "votes": 1, "arbiterOnly": true }, { "votes": 0 }, {},
        ] });
        assert_eq!((facts.data, facts.arbiters, facts.journaled), (2, 1, Some(true)));
    }

    #[test]
    fn an_older_server_is_refused() {
        let old = Facts { wire_version: OLDEST - 1, version: "5.0.9".to_owned(), ..Facts::default() };
        let error = old.check("h").expect_err("too old");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("6.0") && error.to_string().contains("5.0.9"), "{error}");
    }
}
