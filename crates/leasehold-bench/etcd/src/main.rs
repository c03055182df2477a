//! `leasehold-bench` with the lock service of etcd, called by the crate `etcd-client`.

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use etcd_client::{Client as EtcdClient, Compare, CompareOp, LockOptions, Txn, TxnOp};
use leasehold_bench::outside::{self, Boxed, Client, Held, Lock};
use tokio::task::JoinHandle;

/// As long as the leases of the other contestants, in seconds.
const TTL: i64 = 10;

fn main() -> ExitCode {
    outside::use_driver(Driver);
    leasehold_bench::main()
}

struct Driver;

impl outside::Driver for Driver {
    fn connect<'a>(&'a self, store: &'a str, _: u32) -> Boxed<'a, Box<dyn Client>> {
        Box::pin(async move {
            let hosts = store.split("://").nth(1).unwrap_or(store).split(['?', '/']).next().unwrap_or(store);
            let hosts: Vec<_> = hosts.split(',').collect();
            let client = EtcdClient::connect(hosts, None).await?;
            // One lease for all locks of a process, as a session of the Go client.
            let mut leases = client.lease_client();
            let lease = leases.grant(TTL, None).await?.id();
            let (mut keeper, mut kept) = leases.keep_alive(lease).await?;
            let keep = tokio::spawn(async move {
                while keeper.keep_alive().await.is_ok() && kept.message().await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(TTL.unsigned_abs() / 3)).await;
                }
            });
            Ok(Box::new(Rival { client, lease, keep }) as Box<dyn Client>)
        })
    }

    fn versions(&self) -> String {
        let lock = include_str!("../Cargo.lock");
        let package = lock.split("[[package]]\n").find(|p| p.starts_with("name = \"etcd-client\"\n"));
        let version = package.and_then(|package| package.split('"').nth(3)).unwrap_or("?");
        format!("etcd-client {version}")
    }
}

struct Rival {
    client: EtcdClient,
    lease: i64,
    keep: JoinHandle<()>,
}

impl Client for Rival {
    fn lock(&self, name: &str) -> Box<dyn Lock> {
        Box::new(RivalLock { client: self.client.clone(), name: format!("rival/{name}"), lease: self.lease })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.keep.abort();
        Box::pin(async {
            let _ended = self.client.lease_client().revoke(self.lease).await;
        })
    }
}

struct RivalLock {
    client: EtcdClient,
    name: String,
    lease: i64,
}

impl Lock for RivalLock {
    fn acquire(&self) -> Boxed<'_, Box<dyn Held>> {
        Box::pin(async {
            let options = LockOptions::new().with_lease(self.lease);
            let mut locks = self.client.lock_client();
            let key = locks.lock(self.name.as_str(), Some(options)).await?.key().to_vec();
            Ok(Box::new(RivalHeld { client: self.client.clone(), key }) as Box<dyn Held>)
        })
    }

    /// Creates the key that the service would create, if there is none. The service itself cannot try.
    fn try_acquire(&self) -> Boxed<'_, Option<Box<dyn Held>>> {
        Box::pin(async {
            let key = format!("{}/{:x}", self.name, self.lease).into_bytes();
            let free = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let put =
                TxnOp::put(key.clone(), "", Some(etcd_client::PutOptions::new().with_lease(self.lease)));
            let done = self.client.kv_client().txn(Txn::new().when([free]).and_then([put])).await?;
            let held = RivalHeld { client: self.client.clone(), key };
            Ok(done.succeeded().then(|| Box::new(held) as Box<dyn Held>))
        })
    }
}

struct RivalHeld {
    client: EtcdClient,
    key: Vec<u8>,
}

impl Held for RivalHeld {
    fn release(self: Box<Self>) -> Boxed<'static, ()> {
        Box::pin(async move {
            self.client.lock_client().unlock(self.key).await?;
            Ok(())
        })
    }
}
