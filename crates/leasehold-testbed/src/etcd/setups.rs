//! The setups of etcd.

use super::{Etcd, EtcdOptions};
use crate::Wanted;
use crate::registry::{Entry, Torture};
use crate::setup::members;

/// The scheme with which Leasehold connects.
const SCHEME: &str = "etcd";

/// All setups of etcd.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("etcd", "one etcd", |wanted| Ok(Box::new(options(wanted).start()?)))
        .scheme(SCHEME)
        .plain()
        .suite()
        // etcd grants no shorter lease.
        .tortures(&[Torture::new(16).args(&["--ttl-ms", "2000"])]),
    Entry::new("etcd-three", "an etcd of three members", |wanted| {
        Ok(Box::new(options(wanted).start_three()?))
    })
    .scheme(SCHEME)
    .fails_over()
    .suite()
    .tortures(&[Torture::new(17).args(&[
        "--ttl-ms",
        "2000",
        "--faults",
        "failover,leader kill,followers stop,leader stop,history compacted,kill",
    ])]),
];

members!(Etcd, leader, faults);

fn options(wanted: &Wanted) -> EtcdOptions {
    wanted.apply(Etcd::options(), EtcdOptions::tls, EtcdOptions::password)
}
