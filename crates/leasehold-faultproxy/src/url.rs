//! URLs that lead through the proxy.

use std::net::SocketAddr;

/// Replaces the host and the port.
pub(crate) fn through(proxy: SocketAddr, url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("//") else { return proxy.to_string() };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let user = authority.rfind('@').map(|at| &authority[..=at]).unwrap_or_default();
    format!("{scheme}//{user}{proxy}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_replaced() {
        let proxy = SocketAddr::from(([127, 0, 0, 1], 4321));
        for (url, wanted) in [
            ("redis://localhost", "redis://127.0.0.1:4321"),
            ("redis://:p%40ss@localhost:6379/0?prefix=a:", "redis://:p%40ss@127.0.0.1:4321/0?prefix=a:"),
            ("postgres://me:pass@[::1]:5432/db#x", "postgres://me:pass@127.0.0.1:4321/db#x"),
            ("mongodb://a:1,b:2,c:3/?replicaSet=rs", "mongodb://127.0.0.1:4321/?replicaSet=rs"),
            ("etcd://localhost?a=b@c//d", "etcd://127.0.0.1:4321?a=b@c//d"),
            ("localhost:6379", "127.0.0.1:4321"),
        ] {
            assert_eq!(through(proxy, url), wanted);
        }
    }
}
