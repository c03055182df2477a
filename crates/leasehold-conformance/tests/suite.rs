//! The suite over our own storages: memory always, SQLite and Redis in all its forms if they are compiled in, and
//! every URL in `LEASEHOLD_TEST_URLS`, separated by spaces.

use std::process::ExitCode;

use leasehold::storage::Memory;
use leasehold_conformance::Space;

fn main() -> ExitCode {
    let shared = Memory::new();
    let memory = Space::new("memory", move || {
        let client = shared.clone();
        async { Ok(client) }
    });
    let mut spaces = vec![memory];
    #[cfg(feature = "sqlite")]
    let directory = tempfile::tempdir().expect("a directory for the file");
    #[cfg(feature = "sqlite")]
    spaces.push(Space::url(&format!("sqlite:{}", directory.path().join("locks.db").display())));
    #[cfg(feature = "redis")]
    let servers = redis::Servers::start();
    #[cfg(feature = "redis")]
    spaces.extend(servers.spaces());
    let urls = std::env::var("LEASEHOLD_TEST_URLS").unwrap_or_default();
    spaces.extend(urls.split_whitespace().map(Space::url));
    leasehold_conformance::main(spaces)
}

#[cfg(feature = "redis")]
mod redis {
    use std::thread;

    use leasehold_conformance::Space;
    use leasehold_testbed::{Redis, RedisCluster, RedisSentinels};
    use libtest_mimic::Arguments;

    /// What the storages of this suite are called.
    const STORAGES: [&str; 6] =
        ["memory", "sqlite", "redis", "redis+sentinel", "redis+cluster", "redis+quorum"];

    /// On one server the cases are those of a user who has the rights that the page of the storage lists, and no more.
    const USER: &str = "locks";
    const PASSWORD: &str = "password";
    const PREFIX: &str = "shop:";

    /// Those that the command line asks for.
    #[derive(Default)]
    pub(super) struct Servers {
        one: Option<Redis>,
        sentinels: Option<RedisSentinels>,
        cluster: Option<RedisCluster>,
        quorum: Option<Vec<Redis>>,
    }

    impl Servers {
        /// Starts them at the same time.
        pub(super) fn start() -> Self {
            thread::scope(|scope| {
                let one = scope.spawn(|| wanted("redis").then(one).transpose());
                let sentinels =
                    scope.spawn(|| wanted("redis+sentinel").then(RedisSentinels::start).transpose());
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

        pub(super) fn spaces(&self) -> Vec<Space> {
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
        let page = include_str!("../../leasehold/src/storage/redis/README.md");
        let rule = page.split_once("ACL SETUSER locks on >password ").expect("a rule").1;
        let rule = rule.split_once("```").expect("its end").0;
        let rights: Vec<_> = rule.split_whitespace().collect();
        Redis::options().acl(USER, PASSWORD, &rights.join(" ")).start()
    }

    /// Whether the command line may ask for a case of this storage: `redis::queue` wants one, `fencing` wants all.
    fn wanted(space: &str) -> bool {
        let filter = Arguments::from_args().filter.unwrap_or_default();
        let (storage, whole) =
            filter.split_once("::").map_or((&*filter, false), |(storage, _)| (storage, true));
        let other = STORAGES.contains(&storage) && (whole || !space.contains(storage));
        storage == space || !other
    }
}
