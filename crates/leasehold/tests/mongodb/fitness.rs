//! What servers must be, and what is promised because of it.

use leasehold::storage::{Finding, Storage};
use leasehold::{ErrorKind, Locks, Tier};
use leasehold_testbed::MongoDb;

use crate::tools::*;

/// Checks the tier of a server, that `Builder::require` holds clients to it, and the lines of `leasehold doctor` that are
/// no good news: their subjects, and a text of each.
async fn promises(url: &str, tier: Tier, warnings: &[(&str, &str)]) {
    let storage = bare(url).await;
    assert_eq!(storage.guarantees().tier, tier, "{url}");
    assert!(storage.guarantees().fencing && storage.guarantees().fair);
    for wanted in [Tier::Advisory, Tier::CrashSafe, Tier::RestartSafe, Tier::FailoverSafe] {
        let connected = within(LONG, Locks::builder().require(wanted).connect(url)).await;
        match connected {
            Ok(_) => assert!(wanted <= tier, "{wanted} over {tier}"),
            Err(error) => {
                assert!(wanted > tier, "{error}");
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(&tier.to_string()), "{error}");
            }
        }
    }
    let findings = storage.findings().await.expect("answered");
    let subjects: Vec<_> = findings.iter().map(|finding| finding.about).collect();
    assert_eq!(subjects, ["server", "failover", "disk", "waking"]);
    assert!(findings[0].detail.contains("version=`6."), "{}", findings[0].detail);
    let bad: Vec<&Finding> = findings.iter().filter(|finding| !finding.is_good()).collect();
    let bad_subjects: Vec<_> = bad.iter().map(|finding| finding.about).collect();
    assert_eq!(bad_subjects, warnings.iter().map(|(about, _)| *about).collect::<Vec<_>>(), "{bad:?}");
    for (finding, (_, text)) in bad.iter().zip(warnings) {
        assert!(finding.detail.contains(text), "{finding:?}");
    }
}

/// Changes the configuration of a replica set.
fn reconfigure(set: &MongoDb, change: impl Fn(&mut Document)) {
    let reply = tell(set, "admin", doc! { "replSetGetConfig": 1 });
    let mut config = reply.get_document("config").expect("a configuration").clone();
    change(&mut config);
    let version = config.get_i32("version").expect("a version");
    config.insert("version", version + 1);
    tell(set, "admin", doc! { "replSetReconfig": config, "force": true });
    set.primary().expect("it is elected again");
}

#[test]
fn a_standalone_server_is_restart_safe() {
    run(async {
        let server = MongoDb::options().start_standalone().expect("a server");
        promises(&server.url(), Tier::RestartSafe, &[("waking", "replica set of one")]).await;
        works(&server.url()).await;
        assert!(!bare(&server.url()).await.guarantees().push);
    });
}

#[test]
fn a_set_of_one_is_restart_safe_if_its_journal_has_what_it_confirms() {
    run(async {
        let server = MongoDb::start().expect("a server");
        promises(&server.url(), Tier::RestartSafe, &[]).await;
        let off = "notify=off";
        promises(&with(&server.url(), off), Tier::RestartSafe, &[("waking", "by the URL")]).await;
        assert!(bare(&server.url()).await.guarantees().push);
        reconfigure(&server, |config| drop(config.insert("writeConcernMajorityJournalDefault", false)));
        promises(&server.url(), Tier::CrashSafe, &[("disk", "writeConcernMajorityJournalDefault")]).await;
        works(&server.url()).await;
    });
}

#[test]
fn three_members_are_failover_safe_as_long_as_they_vote_and_keep_data() {
    run(async {
        let set = MongoDb::options().start_three().expect("servers");
        promises(&set.url(), Tier::FailoverSafe, &[]).await;
        works(&set.url()).await;
        // One of them has no vote any more: two are left, neither of which may be away.
        let primary = set.primary().expect("one").port();
        reconfigure(&set, |config| {
            let members = config.get_array_mut("members").expect("members");
            let other = members.iter_mut().filter_map(Bson::as_document_mut).find(|member| {
                !member.get_str("host").is_ok_and(|host| host.ends_with(&format!(":{primary}")))
            });
            let other = other.expect("another");
            other.insert("votes", 0);
            other.insert("priority", 0);
        });
        promises(&set.url(), Tier::RestartSafe, &[("failover", "members=`2`")]).await;
        works(&set.url()).await;
    });
}

#[test]
fn an_arbiter_votes_and_keeps_no_data() {
    run(async {
        let set = MongoDb::options().arbiter().start_three().expect("servers");
        promises(&set.url(), Tier::FailoverSafe, &[("failover", "arbiters=`1`")]).await;
        works(&set.url()).await;
        // Without the other member that keeps data there is a primary, and no majority that confirms.
        let primary = set.primary().expect("one").port();
        let secondary = set.members()[..2].iter().find(|member| member.port() != primary).expect("another");
        let storage = bare(&set.url()).await;
        secondary.stop();
        let error = acquire(&storage, &claim("job")).await.expect_err("no majority has it");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        secondary.cont();
        answered(async || acquire(&storage, &claim("other")).await).await;
    });
}

#[test]
fn collections_that_cannot_keep_locks_are_refused() {
    run(async {
        let server = common();
        let database = unique();
        let make = |name: &str, options: Document| {
            let mut command = doc! { "create": name };
            command.extend(options);
            tell(server, &database, command);
        };
        make("plain", doc! {});
        make("capped", doc! { "capped": true, "size": 100_000 });
        make("collated", doc! { "collation": { "locale": "en", "strength": 2 } });
        make("seen", doc! { "viewOn": "plain", "pipeline": [] });
        make("series", doc! { "timeseries": { "timeField": "t" } });
        let url = |name: &str| with(&server.url(), &format!("database={database}&collection={name}"));
        for (name, text) in
            [("capped", "capped"), ("collated", "collation"), ("seen", "a view"), ("series", "a time series")]
        {
            let error = refusal(&url(name)).await;
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.to_string().contains(&format!("collection=`{name}`")), "{error}");
        }
        works(&url("plain")).await;
    });
}

#[test]
fn a_server_that_is_no_mongodb_is_said_to_be_none_or_not_to_answer() {
    run(async {
        let http = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = http.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for stream in http.incoming() {
                let mut stream = stream.expect("a client");
                let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                let _ = std::io::Write::write_all(&mut stream, answer);
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            }
        });
        let error = refusal(&format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=1000")).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        // The name of another set, and a standalone server as a set.
        for wrong in [common().url().replace("replicaSet=leasehold", "replicaSet=other")] {
            let error = refusal(&with(&wrong, "serverSelectionTimeoutMS=1000")).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("URL"), "{error}");
        }
    });
}

#[test]
fn a_secondary_alone_is_no_place_for_locks() {
    run(async {
        let set = MongoDb::options().start_three().expect("servers");
        let primary = set.primary().expect("one").port();
        let other = set.members().iter().find(|member| member.port() != primary).expect("another").port();
        let url = format!("mongodb://127.0.0.1:{other}/leasehold?directConnection=true");
        match try_bare(&url).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            Ok(storage) => {
                let error = acquire(&storage, &claim("job")).await.expect_err("it cannot write");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
        // Any member leads to the primary, unless the connection is direct.
        works(&format!("mongodb://127.0.0.1:{other}/leasehold?replicaSet=leasehold")).await;
    });
}
