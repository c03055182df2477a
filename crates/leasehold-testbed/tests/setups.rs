//! Every named setup starts with TLS and a password, counts, survives a kill of each of its servers, and
//! fails over if it can.
//! over where it can.

use leasehold_testbed::setup::{self, Wanted};
use leasehold_testbed::{Result, until};

/// One test per setup, so that they run in parallel.
macro_rules! setups {
    ($($test:ident: $name:literal $fails_over:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            survives($name, $fails_over)
        })*

        #[test]
        fn none_is_forgotten() {
            let known: Vec<_> = setup::ALL.iter().map(|(name, ..)| *name).collect();
            assert_eq!(known, [$($name),*]);
        }
    };
}

setups! {
    redis: "redis" false,
    redis_quorum: "redis-quorum" false,
    redis_sentinel: "redis-sentinel" true,
    redis_cluster: "redis-cluster" false,
    redis_cluster_replicas: "redis-cluster-replicas" true,
    valkey: "valkey" false,
    postgres: "postgres" false,
    postgres_standby: "postgres-standby" true,
    postgres_sync: "postgres-sync" true,
    pgbouncer: "pgbouncer" false,
    mongodb: "mongodb" false,
    mongodb_three: "mongodb-three" true,
    etcd: "etcd" false,
    etcd_three: "etcd-three" true,
}

fn survives(name: &str, fails_over: bool) -> Result<()> {
    let setup = setup::start(name, &Wanted::default().tls(true).password(Some("s3cret")))?;
    assert!(setup.url().contains("s3cret@"), "{}", setup.url());
    assert!(setup.ca().is_some_and(|ca| ca.exists()));
    for server in setup.servers() {
        server.stop();
        server.cont();
        server.kill9();
        assert!(!server.is_running());
        server.restart()?;
    }
    setup.await_ready()?;
    // A pooler may return an error of its own until it has noticed that its server is back.
    until("the counts", || setup.connections().and_then(|_| setup.commands()))?;
    let failed_over = setup.failover();
    assert_eq!(failed_over.is_ok(), fails_over, "{failed_over:?}");
    Ok(())
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let Err(error) = setup::start("mysql", &Wanted::default()) else { panic!("there is none") };
    assert!(error.to_string().contains("redis-sentinel"), "{error}");
}
