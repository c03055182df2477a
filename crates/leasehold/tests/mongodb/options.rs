//! The options of a URL: which are accepted, and that none of them weakens a lock.

use leasehold::ErrorKind;
use leasehold::storage::{ReleaseReply, Storage};
use leasehold_testbed::MongoDb;

use crate::tools::*;

/// The page of the storage.
const PAGE: &str = include_str!("../../src/storage/mongodb/README.md");

/// A valid value of each option of the driver that needs no other server and no other login.
const VALUES: [(&str, &str); 25] = [
    ("appName", "app"),
    ("connectTimeoutMS", "5000"),
    ("directConnection", "true"),
    ("heartbeatFrequencyMS", "1000"),
    ("journal", "false"),
    ("loadBalanced", "false"),
    ("localThresholdMS", "1"),
    ("maxConnecting", "3"),
    ("maxIdleTimeMS", "1000"),
    ("maxPoolSize", "1"),
    ("maxStalenessSeconds", "120"),
    ("minPoolSize", "3"),
    ("readConcernLevel", "local"),
    ("readPreference", "secondary"),
    ("readPreferenceTags", "dc:ny"),
    ("replicaSet", "leasehold"),
    ("retryReads", "false"),
    ("retryWrites", "false"),
    ("serverMonitoringMode", "stream"),
    ("serverSelectionTimeoutMS", "9000"),
    ("socketTimeoutMS", "1"),
    ("uuidRepresentation", "javaLegacy"),
    ("w", "0"),
    ("waitQueueTimeoutMS", "1"),
    ("wTimeoutMS", "1"),
];

/// Options that need another server or another login, and a valid value. Other tests connect by those of TLS and of a login.
const OTHERS: [(&str, &str); 11] = [
    ("authMechanism", "SCRAM-SHA-256"),
    ("authMechanismProperties", "SERVICE_NAME:x"),
    ("authSource", "admin"),
    ("srvMaxHosts", "1"),
    ("srvServiceName", "locks"),
    ("ssl", "true"),
    ("tls", "true"),
    ("tlsAllowInvalidCertificates", "true"),
    ("tlsCAFile", "ca.pem"),
    ("tlsCertificateKeyFile", "client.pem"),
    ("tlsInsecure", "true"),
];

/// Returns the options of the driver that the page lists.
fn listed() -> Vec<String> {
    let (_, rest) = PAGE.split_once("Those of the driver").expect("a list");
    let (list, _) = rest.split_once("# Versions").expect("its end");
    let words = list.split('`').skip(1).step_by(2).filter(|word| *word != "poll");
    words.map(str::to_owned).collect()
}

#[test]
fn the_page_lists_the_options_that_are_accepted() {
    let mut tested: Vec<_> = VALUES.iter().chain(&OTHERS).map(|(option, _)| (*option).to_owned()).collect();
    let mut listed = listed();
    tested.sort();
    listed.sort();
    assert_eq!(listed, tested);
}

#[test]
fn every_option_is_accepted_in_any_case() {
    for (option, value) in VALUES.iter().chain(&OTHERS) {
        let scheme = if option.starts_with("srv") {
            "mongodb+srv://user:pw@db.example"
        } else {
            "mongodb://user:pw@h"
        };
        let preference = if option.contains("Tags") || option.contains("Staleness") {
            "&readPreference=nearest"
        } else {
            ""
        };
        for option in [(*option).to_owned(), option.to_lowercase(), option.to_uppercase()] {
            let url = format!("{scheme}/?{option}={value}{preference}");
            if let Err(error) = Config::new(&url) {
                panic!("{url}: {error}");
            }
        }
    }
}

#[test]
fn a_client_works_by_every_option() {
    run(async {
        for (option, value) in VALUES {
            let place = common().url().replace("replicaSet=leasehold", &format!("database={}", unique()));
            // Both are only valid with a preference for secondaries.
            let also = match option {
                "readPreferenceTags" | "maxStalenessSeconds" => "&readPreference=secondary",
                _ => "",
            };
            let url = format!("{place}&{option}={value}{also}");
            let storage = bare(&url).await;
            let mine = claim("job");
            take(&storage, &mine).await;
            is_held(&storage, &claim("job")).await;
            let listed = storage.list("", None, 10).await.expect("answered");
            assert_eq!(listed.len(), 1, "{url}");
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{url}");
        }
    });
}

/// Options that would weaken a lock, if they had an effect.
const HOSTILE: &str = "w=1&journal=false&wTimeoutMS=1&readConcernLevel=local&readPreference=secondary&retryReads=false\
                       &retryWrites=false";

#[test]
fn no_option_weakens_a_lock() {
    run(async {
        let server = MongoDb::start().expect("a server");
        record(&server, "leasehold");
        for hostile in [HOSTILE.to_owned(), HOSTILE.replace("w=1", "w=0"), HOSTILE.replace("w=1", "w=2")] {
            let storage = bare(&with(&server.url(), &hostile)).await;
            let claims: Vec<_> = (0..3).map(|i| claim(&format!("job{i}"))).collect();
            for claims in [&claims[..], &claims[..1]] {
                storage.acquire(claims).await;
                storage.renew(claims).await;
                storage.inspect(&claims[0].name).await.expect("answered").pop().expect("held");
                storage.list("", None, 10).await.expect("answered");
                storage.release(claims).await;
            }
        }
        let ours = doc! { "$match": { "appName": "leasehold" } };
        let seen = rows(&server, "leasehold", "system.profile", &[ours]);
        let mut kinds = std::collections::BTreeMap::new();
        for entry in &seen {
            let command = entry.get_document("command").expect("a command");
            let first = command.keys().next().expect("a name").clone();
            match first.as_str() {
                "findAndModify" => {
                    let concern = command.get_document("writeConcern").expect("a concern");
                    assert_eq!(
                        (concern.get_str("w").ok(), concern.get_bool("j").ok()),
                        (Some("majority"), Some(true))
                    );
                    assert!(concern.get_i64("wtimeout").is_ok_and(|limit| limit >= 1_000), "{concern}");
                }
                "find" => {
                    let concern = command.get_document("readConcern").expect("a concern");
                    assert_eq!(concern.get_str("level").ok(), Some("majority"));
                }
                _ => {}
            }
            let preference = command.get_document("$readPreference").ok();
            let mode = preference.and_then(|preference| preference.get_str("mode").ok());
            assert!(mode.is_none_or(|mode| mode == "primary"), "{command}");
            *kinds.entry(first).or_insert(0) += 1;
        }
        assert!(kinds.get("findAndModify") >= Some(&3) && kinds.get("find") >= Some(&15), "{kinds:?}");
    });
}

#[test]
fn no_option_leads_to_another_member_than_the_primary_or_to_a_grant_without_a_majority() {
    run(async {
        let set = MongoDb::options().start_three().expect("servers");
        let url = with(&set.url(), HOSTILE);
        let (storage, other) = (bare(&url).await, bare(&set.url()).await);
        let primary = set.primary().expect("one").port();
        let secondaries: Vec<_> = set.members().iter().filter(|member| member.port() != primary).collect();
        let mine = claim("job");
        take(&storage, &mine).await;
        let finds = || -> u64 {
            let counts = secondaries.iter().map(|member| member.command_counts().expect("answered"));
            counts.map(|counts| counts.get("find").copied().unwrap_or(0)).sum()
        };
        let before = finds();
        for _ in 0..20 {
            storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 1);
        }
        // The members themselves read now and then.
        let more = finds() - before;
        assert!(more < 20, "{more} reads");
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        for member in &secondaries {
            member.stop();
        }
        let error = acquire(&storage, &claim("other")).await.expect_err("no majority");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        for member in &secondaries {
            member.cont();
        }
        answered(async || acquire(&other, &claim("job")).await).await;
    });
}

#[test]
fn what_is_wrong_in_a_url_is_named() {
    for (option, value) in [
        ("connectTimeoutMS", "soon"),
        ("directConnection", "perhaps"),
        ("heartbeatFrequencyMS", "1s"),
        ("journal", "1"),
        ("localThresholdMS", "-1"),
        ("maxPoolSize", "-1"),
        ("maxStalenessSeconds", "x"),
        ("tls", "1"),
        ("uuidRepresentation", "x"),
        ("w", "-1"),
    ] {
        for login in ["", "user:S3CRET@"] {
            let url = format!("mongodb://{login}h/?{option}={value}");
            let error = Config::new(&url).expect_err(&url);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let shown = error.to_string().to_lowercase();
            assert!(shown.contains(&option.to_lowercase()), "{url}: {error}");
            assert!(!shown.contains("s3cret"), "{url}: {error}");
        }
    }
    for (url, says) in [
        ("mongodb://h/?compressors=zstd", "unknown option"),
        ("mongodb://h/?prefixx=a", "unknown option"),
        ("mongodb://h/?w=1&w=2", "said="),
        ("mongodb://h/?tls=true&ssl=false", "said="),
        ("mongodb://h:port/", "a host or its port"),
        ("mongodb://h/?notify=on", "valid=`auto, off`"),
    ] {
        let error = Config::new(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
}

#[test]
fn names_that_the_server_refuses_are_refused_before_it_is_asked() {
    run(async {
        let server = common();
        for database in ["a/b", "a\\b", "a.b", "a b", "a\"b", "", &"x".repeat(64)] {
            let refused = server.command(database, doc! { "listCollections": 1 }).is_err();
            let encoded: String = database.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let url = with(&server.url(), &format!("database={encoded}"));
            assert!(refused, "{database}");
            assert_eq!(Config::new(&url).expect_err(database).kind(), ErrorKind::Invalid, "{database}");
        }
        for collection in ["a$b", "", "system.locks", &"x".repeat(121)] {
            let encoded: String = collection.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let url = with(&server.url(), &format!("collection={encoded}"));
            assert_eq!(Config::new(&url).expect_err(collection).kind(), ErrorKind::Invalid, "{collection}");
        }
        // Everything else works.
        let long = "x".repeat(120);
        for (database, collection) in
            [("a-b_c", "a.b"), ("Ärger", "日本 locks"), ("d", ".a"), ("e", "a."), ("f", &long)]
        {
            let database = format!("{}{database}", unique());
            let url = with(&server.url(), &format!("database={database}&collection={collection}"));
            let storage = match try_bare(&url).await {
                Ok(storage) => storage,
                Err(error) => panic!("{url}: {error}"),
            };
            match acquire(&storage, &claim("job")).await {
                Ok(_) => {}
                Err(error) => {
                    assert!(collection.starts_with('.') || collection.ends_with('.'), "{url}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{url}: {error}");
                }
            }
        }
        // Where the server decides, its refusal is an error that no retry mends.
        for database in ["admin", "local", "config"] {
            let storage = bare(&with(&server.url(), &format!("database={database}"))).await;
            if let Err(error) = acquire(&storage, &claim("job")).await {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{database}: {error}");
            }
        }
    });
}

#[test]
fn a_name_without_records_is_no_server() {
    run(async {
        let error = refusal("mongodb+srv://db.nowhere.invalid/locks").await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("cannot be resolved"), "{error}");
        let error = refusal("mongodb://db.nowhere.invalid/locks?serverSelectionTimeoutMS=500").await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    });
}

#[test]
fn another_prefix_collection_or_database_is_another_place() {
    run(async {
        let url = own(&common().url());
        let places = [
            url.clone(),
            with(&url, "prefix=a:"),
            with(&url, "prefix=a"),
            with(&url, "collection=other"),
            own(&common().url()),
        ];
        for place in &places {
            let storage = bare(place).await;
            for lock in ["job", ":job", "a:job"] {
                take(&storage, &claim(lock)).await;
            }
            assert_eq!(storage.list("", None, 10).await.expect("answered").len(), 3, "{place}");
        }
    });
}
