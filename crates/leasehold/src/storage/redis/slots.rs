//! The slot map of a Cluster: which primary serves which slot, as one of the nodes reports it.

use redis::{Pipeline, RedisError, Value, from_redis_value};

use super::config::Place;
use super::errors::explain;
use crate::error::{Error, ErrorKind, Result};

/// The slot map, as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// The epoch of the Cluster, which grows with each failover.
    pub(super) epoch: u64,
    /// The first slot, the last slot, and the primary that serves them.
    pub(super) ranges: Vec<(u16, u16, Place)>,
}

impl SlotMap {
    /// Returns the queries whose replies [`SlotMap::read`] takes.
    pub(super) fn queries() -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("cluster");
        pipeline.cmd("CLUSTER").arg("INFO");
        pipeline.cmd("CLUSTER").arg("SLOTS");
        pipeline
    }

    /// Reads the replies of the node `asked`.
    pub(super) fn read(replies: Vec<Value>, asked: &Place) -> Result<Self> {
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let info: String = from_redis_value(next()).unwrap_or_default();
        if info.lines().any(|line| line.trim() == "cluster_enabled:0") {
            let text = "the server is not a node of a Cluster; write `redis:`";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{asked}`")));
        }
        let refused = |e: RedisError| explain(&e, &asked.to_string());
        let epoch = epoch_of(&text(next()).map_err(refused)?).unwrap_or(0);
        let rows = next().extract_error().map_err(refused)?;
        let malformed = || {
            let text = "the server's report of its Cluster is malformed; check its version, and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{asked}`"))
        };
        let Value::Array(rows) = rows else { return Err(malformed()) };
        let ranges = rows.into_iter().map(|row| range(row, asked).ok_or_else(malformed));
        Ok(Self { epoch, ranges: ranges.collect::<Result<_>>()? })
    }

    /// Returns how many slots have a primary.
    pub(super) fn served(&self) -> usize {
        self.ranges.iter().map(|(first, last, _)| usize::from(last - first) + 1).sum()
    }
}

/// Returns the epoch in a reply to `CLUSTER INFO`.
pub(super) fn epoch_of(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"))?.trim().parse().ok()
}

/// Returns the text of a reply, or the error that it is.
pub(super) fn text(answer: Value) -> std::result::Result<String, RedisError> {
    Ok(from_redis_value(answer.extract_error()?)?)
}

/// Reads the address of a MOVED or ASK. Without a host, it is the host of the node that was asked.
pub(super) fn address(text: &str, asked: &Place) -> Option<Place> {
    let (host, port) = text.rsplit_once(':')?;
    place(host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?, asked)
}

/// Reads a row: the first slot, the last slot, the primary, and its replicas. A node is a list of host, port, id and more.
fn range(row: Value, asked: &Place) -> Option<(u16, u16, Place)> {
    let Value::Array(row) = row else { return None };
    let mut row = row.into_iter();
    let mut number = || from_redis_value::<u16>(row.next()?).ok();
    let (first, last) = (number()?, number()?);
    let Value::Array(primary) = row.next()? else { return None };
    let mut primary = primary.into_iter();
    let host: Option<String> = from_redis_value(primary.next()?).ok()?;
    let port = from_redis_value(primary.next()?).ok()?;
    let valid = first <= last && last < super::keys::SLOTS;
    Some((first, last, place(&host.unwrap_or_default(), port, asked)?)).filter(|_| valid)
}

/// Returns the place of a node. If it knows no host of its own, which it may report as `?`, it is at the host that was
/// asked.
fn place(host: &str, port: u16, asked: &Place) -> Option<Place> {
    match (host, asked) {
        ("" | "?", Place::Tcp(host, _)) => Some(Place::Tcp(host.clone(), port)),
        ("" | "?", Place::Unix(_)) => None,
        (host, _) => Some(Place::Tcp(host.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp(host.to_owned(), port)
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn read(enabled: &str, rows: Vec<Value>) -> Result<SlotMap> {
        let info = bulk("cluster_state:ok\r\ncluster_current_epoch:7\r\ncluster_my_epoch:2\r\n");
        let enabled = bulk(&format!("# Cluster\r\ncluster_enabled:{enabled}\r\n"));
        SlotMap::read(vec![enabled, info, Value::Array(rows)], &tcp("seed", 7000))
    }

    fn row(first: i64, last: i64, host: Value) -> Value {
        let node = Value::Array(vec![host, Value::Int(7001), bulk("id"), Value::Array(Vec::new())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    #[test]
    fn a_node_without_a_host_is_at_the_host_that_was_asked() {
        for (host, place) in
            [(bulk("10.0.0.1"), "10.0.0.1"), (bulk(""), "seed"), (bulk("?"), "seed"), (Value::Nil, "seed")]
        {
            let map = read("1", vec![row(0, 5, host)]).expect("well-formed");
            assert_eq!(map, SlotMap { epoch: 7, ranges: vec![(0, 5, tcp(place, 7001))] });
            assert_eq!(map.served(), 6);
        }
    }

    #[test]
    fn malformed_reports_are_refused() {
        for row in [row(5, 0, bulk("h")), row(0, 16_384, bulk("h")), row(-1, 3, bulk("h")), bulk("x")] {
            read("1", vec![row]).expect_err("no such slots");
        }
        let error = read("0", Vec::new()).expect_err("no Cluster");
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("`redis:`"), "{error}");
    }

    #[test]
    fn addresses_of_redirections_are_read() {
        let asked = tcp("seed", 7000);
        for (text, place) in [
            ("10.0.0.1:7001", tcp("10.0.0.1", 7001)),
            (":7001", tcp("seed", 7001)),
            ("::1:7001", tcp("::1", 7001)),
            ("[::1]:7001", tcp("::1", 7001)),
        ] {
            assert_eq!(address(text, &asked), Some(place), "{text}");
        }
        assert_eq!(address("nonsense", &asked), None);
    }
}
