//! Counts from outside, for servers that do not count themselves.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Context as _;
use crate::{Error, Result};

/// Counts the kernel's connections at a port of the loopback interface, at the server's end.
pub(crate) fn connections(port: u16) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").context("cannot count connections")?;
    // Columns: number, local address, remote address, state; in hexadecimal, 01 is established.
    let here = format!("0100007F:{port:04X}");
    let connections = table.lines().skip(1).filter(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(&here) && columns.nth(1) == Some("01")
    });
    Ok(u64::try_from(connections.count()).unwrap_or(u64::MAX))
}

/// Fetches a page of metrics over plain HTTP.
pub(crate) fn metrics(port: u16) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let limit = Some(Duration::from_secs(10));
    let mut stream = TcpStream::connect(address).context("no server gives metrics")?;
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).context("no metrics")?;
    // HTTP/1.0, because its answers are not chunked and end with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("cannot ask for metrics")?;
    let mut page = String::new();
    stream.read_to_string(&mut page).context("cannot read metrics")?;
    match page.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(Error::new("the server gives no metrics")),
    }
}
