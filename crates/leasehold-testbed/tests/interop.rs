//! Every lock client of another maker acquires, extends and releases a lock at a real Redis, and its key is
//! a plain string.

use std::time::Duration;

use leasehold_testbed::interop::{self, Package};
use leasehold_testbed::{Error, Interop, Redis, Result, scaled, shared, until};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

macro_rules! packages {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            locks(package($name))
        })*

        #[test]
        fn none_is_forgotten() {
            let known: Vec<_> = interop::ALL.iter().map(|package| package.name).collect();
            assert_eq!(known, [$($name),*]);
        }
    };
}

packages! {
    redislock: "redislock",
    redlock: "redlock",
    redis_semaphore: "redis-semaphore",
    distributed_locks: "distributed-locks",
    redis_py: "redis-py",
}

fn locks(package: &Package) -> Result<()> {
    let redis = shared::redis()?;
    let name = format!("interop-{}", package.name);
    let key = format!("{}{name}", package.prefix);
    let (one, two) = (package.start(&redis.url())?, package.start(&redis.url())?);

    assert!(one.acquire(&name, LONG)?);
    assert_eq!(redis.command(&["type", &key])?, "string");
    assert_ne!(redis.command(&["get", &key])?, "");
    assert!((500_000..=600_000).contains(&lease(redis, &key)?), "{}", lease(redis, &key)?);
    assert!(!two.acquire(&name, LONG)?);

    if package.extends {
        assert!(one.extend(2 * LONG)?);
        assert!((1_100_000..=1_200_000).contains(&lease(redis, &key)?), "{}", lease(redis, &key)?);
    }
    assert!(one.release()?);
    assert_eq!(redis.command(&["exists", &key])?, "0");

    // The lease ends, and another client gets the lock.
    assert!(two.acquire(&name, scaled(Duration::from_secs(1)))?);
    until("the lease to end", || match one.acquire(&name, LONG)? {
        true => Ok(()),
        false => Err(Error::new("it is held")),
    })?;
    assert_eq!(two.release()?, !package.tells_release);
    if package.extends {
        // A package that reports failed releases may fail to extend instead of returning `false`.
        assert!(!two.extend(LONG).unwrap_or(false));
    }
    assert_eq!(redis.command(&["exists", &key])?, "1");
    drop((one, two));
    assert_eq!(redis.command(&["del", &key])?, "1");
    Ok(())
}

#[test]
fn those_without_a_prefix_exclude_each_other() -> Result<()> {
    let redis = shared::redis()?;
    let clients = interop::ALL.iter().filter(|package| package.prefix.is_empty());
    let clients: Vec<Interop> = clients.map(|package| package.start(&redis.url())).collect::<Result<_>>()?;
    for holder in &clients {
        assert!(holder.acquire("interop-shared", LONG)?);
        for other in clients.iter().filter(|client| client.pid() != holder.pid()) {
            assert!(!other.acquire("interop-shared", LONG)?);
        }
        assert!(holder.release()?);
    }
    Ok(())
}

#[test]
fn they_say_what_goes_wrong() -> Result<()> {
    let redis = Redis::options().password("s3cret").start()?;
    let started = interop::ALL[4].start(&format!("redis://127.0.0.1:{}/0", redis.port()));
    assert!(started.is_err());
    for package in interop::ALL {
        let client = package.start(&redis.url())?;
        redis.command(&["hset", &format!("{}hash", package.prefix), "field", "value"])?;
        // Some clients read the key regardless of its type, and get an error that it exists.
        assert!(!client.acquire("hash", LONG).unwrap_or(false), "{}", package.name);
        let answer = client.ask("dance")?;
        assert!(answer.starts_with("error "), "{}: {answer}", package.name);
    }
    Ok(())
}

fn package(name: &str) -> &'static Package {
    interop::ALL.iter().find(|package| package.name == name).expect("it is listed")
}

fn lease(redis: &Redis, key: &str) -> Result<u64> {
    let answer = redis.command(&["pttl", key])?;
    answer.parse().map_err(|_| Error::new(format!("no lease text=`{answer}`")))
}
