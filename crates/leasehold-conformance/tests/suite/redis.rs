//! Redis in all its forms.

use std::thread;

use leasehold_conformance::Space;
use leasehold_testbed::{Redis, RedisCluster, RedisSentinels};

use crate::wanted::wanted;

/// The cases on one server run as a user that has only the rights listed on the page of the storage.
const USER: &str = "locks";
const PASSWORD: &str = "password";
const PREFIX: &str = "shop:";

/// The servers that the command line asks for.
#[derive(Default)]
pub(crate) struct Servers {
    one: Option<Redis>,
    sentinels: Option<RedisSentinels>,
    cluster: Option<RedisCluster>,
    quorum: Option<Vec<Redis>>,
}

impl Servers {
    /// Starts the servers in parallel.
    pub(crate) fn start() -> Self {
        thread::scope(|scope| {
            let one = scope.spawn(|| wanted("redis").then(one).transpose());
            let sentinels = scope.spawn(|| wanted("redis+sentinel").then(RedisSentinels::start).transpose());
            let cluster = scope.spawn(|| wanted("redis+cluster").then(RedisCluster::start).transpose());
            let quorum = scope.spawn(|| wanted("redis+quorum").then(Redis::three).transpose());
            let started = "needs redis-server; without it: --no-default-features --features sqlite";
            Self {
                one: one.join().expect(started).expect(started),
                sentinels: sentinels.join().expect(started).expect(started),
                cluster: cluster.join().expect(started).expect(started),
                quorum: quorum.join().expect(started).expect(started),
            }
        })
    }

    pub(crate) fn spaces(&self) -> Vec<Space> {
        let urls = [
            self.one.as_ref().map(|one| format!("{}?prefix={PREFIX}", one.url_as(USER, PASSWORD))),
            self.sentinels.as_ref().map(RedisSentinels::url),
            self.cluster.as_ref().map(RedisCluster::url),
        ];
        let quorum = self.quorum.as_ref().map(|servers| {
            let places: Vec<_> = servers.iter().map(|s| format!("127.0.0.1:{}", s.port())).collect();
            Space::url(&format!("redis+quorum://{}", places.join(","))).unfair()
        });
        urls.into_iter().flatten().map(|url| Space::url(&url)).chain(quorum).collect()
    }
}

fn one() -> leasehold_testbed::Result<Redis> {
    let page = include_str!("../../../leasehold/src/storage/redis/README.md");
    let rule = page.split_once("ACL SETUSER locks on >password ").expect("a rule").1;
    let rule = rule.split_once("```").expect("its end").0;
    let rights: Vec<_> = rule.split_whitespace().collect();
    Redis::options().acl(USER, PASSWORD, &rights.join(" ")).start()
}
