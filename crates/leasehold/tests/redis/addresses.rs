//! A host with two addresses. The first one accepts connections and never answers.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use leasehold_testbed::{Redis, RedisCluster, RedisSentinels};

use crate::tools::*;

/// The variables that are set where the host has two addresses: the ports whose connections are cut, and the URL.
const PORTS: &str = "LEASEHOLD_TEST_PORTS";
const URL: &str = "LEASEHOLD_TEST_URL";
const HOST: &str = "two.test";

#[test]
fn a_host_whose_first_address_is_silent_costs_no_lock() {
    if let (Ok(ports), Ok(url)) = (std::env::var(PORTS), std::env::var(URL)) {
        return holds_on(&ports, &url);
    }
    let (one, cluster) = (Redis::start().expect("a server"), RedisCluster::start().expect("a Cluster"));
    let sentinels = RedisSentinels::start().expect("Sentinels");
    let quorum = [(); 3].map(|()| Redis::start().expect("a server"));
    let all: Vec<_> = quorum.iter().map(|redis| format!("{HOST}:{}", redis.port())).collect();
    let ports = |all: &[&Redis]| {
        let ports: Vec<_> = all.iter().map(|redis| redis.port().to_string()).collect();
        ports.join(" ")
    };
    let named = |url: String| url.replace("127.0.0.1", HOST);
    let forms = [
        (named(one.url()), ports(&[&one])),
        (named(cluster.url()), ports(&cluster.nodes().iter().collect::<Vec<_>>())),
        (named(sentinels.url()), ports(&[sentinels.primary().expect("one")])),
        (format!("redis+quorum://{}", all.join(",")), ports(&quorum.iter().collect::<Vec<_>>())),
    ];
    for (url, ports) in forms {
        let asked = url.split([':', ',', '/', '?']).filter_map(|part| part.parse::<u16>().ok());
        let silent: Vec<_> = asked
            .filter(|port| *port > 1_000)
            .map(|port| TcpListener::bind(("::1", port)).expect("free"))
            .collect();
        assert!(!silent.is_empty(), "{url}");
        let hosts = tempfile();
        std::fs::write(&hosts, format!("127.0.0.1 localhost\n::1 {HOST}\n127.0.0.1 {HOST}\n"))
            .expect("written");
        let mut inside = Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--mount", "--fork", "--kill-child", "sh", "-ec"]);
        inside.arg("mount --bind \"$1\" /etc/hosts; shift; exec \"$@\"").arg("sh").arg(&hosts);
        inside.arg(std::env::current_exe().expect("this test"));
        inside.args([
            "--exact",
            "addresses::a_host_whose_first_address_is_silent_costs_no_lock",
            "--nocapture",
        ]);
        let outcome = inside.env(PORTS, ports).env(URL, &url).output().expect("util-linux is there");
        let _ = std::fs::remove_file(hosts);
        assert!(outcome.status.success(), "{url}: {}", String::from_utf8_lossy(&outcome.stderr));
    }
}

fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("leasehold-hosts-{}", std::process::id()))
}

/// Holds a lock, cuts its connections, and checks that it is held for longer than the TTL afterward.
fn holds_on(ports: &str, url: &str) {
    let first = std::net::ToSocketAddrs::to_socket_addrs(&(HOST, 1)).expect("known").next();
    assert!(first.is_some_and(|first| first.is_ipv6()), "the silent address does not come first: {first:?}");
    run(async {
        let locks = client(url).await;
        let guard = hold(&locks, "job", time(2_000)).await;
        for port in ports.split(' ') {
            let mut admin = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connected");
            admin.write_all(b"CLIENT KILL TYPE normal\r\nCLIENT KILL TYPE pubsub\r\n").expect("sent");
            std::io::Read::read(&mut admin, &mut [0; 64]).expect("answered");
        }
        tokio::time::sleep(time(5_000)).await;
        assert!(guard.is_held(), "lost at {url}");
        assert_eq!(locks.list("").await.expect("listed").len(), 1, "{url}");
        guard.release().await.expect("released");
    });
}
