//! The setups of etcd.

use super::{Etcd, EtcdOptions};
use crate::Wanted;
use crate::registry::Entry;
use crate::setup::members;

/// All setups of etcd.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("etcd", "one etcd", |wanted| Ok(Box::new(options(wanted).start()?))),
    Entry::new("etcd-three", "an etcd of three members", |wanted| {
        Ok(Box::new(options(wanted).start_three()?))
    })
    .fails_over(),
];

members!(Etcd, leader);

fn options(wanted: &Wanted) -> EtcdOptions {
    wanted.apply(Etcd::options(), EtcdOptions::tls, EtcdOptions::password)
}
