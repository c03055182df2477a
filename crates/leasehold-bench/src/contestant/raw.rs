//! `SET NX PX` and `DEL`: the lower bound over Redis.

use redis::aio::MultiplexedConnection;

use super::{AnyGuard, TTL};
use crate::Result;

/// A value as long as an owner id of Leasehold.
const OWNER: &str = "0123456789abcdef0123456789abcdef";

pub(super) async fn connect(store: &str) -> Result<MultiplexedConnection> {
    // A slow disk must not cause a timeout.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(store)?;
    Ok(client.get_multiplexed_async_connection_with_config(&patient).await?)
}

pub(super) async fn acquire(mut connection: MultiplexedConnection, key: &str) -> Result<AnyGuard> {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(OWNER).arg("NX").arg("PX").arg(u64::try_from(TTL.as_millis())?);
    let granted: Option<String> = set.query_async(&mut connection).await?;
    if granted.is_none() {
        return Err("another client has the lock".into());
    }
    Ok(AnyGuard::Raw(connection, key.to_owned()))
}

pub(super) async fn release(mut connection: MultiplexedConnection, key: &str) -> Result {
    match redis::cmd("DEL").arg(key).query_async(&mut connection).await? {
        1_u32 => Ok(()),
        _ => Err("the lock was gone".into()),
    }
}
