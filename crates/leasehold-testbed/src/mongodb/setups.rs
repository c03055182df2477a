//! The setups of MongoDB.

use super::{MongoDb, MongoDbOptions};
use crate::Wanted;
use crate::registry::{Entry, Torture};
use crate::setup::members;

/// The scheme with which Leasehold connects.
const SCHEME: &str = "mongodb";

/// All setups of MongoDB.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("mongodb", "a MongoDB replica set of one", |wanted| {
        Ok(Box::new(options(wanted).direct().start()?))
    })
    .scheme(SCHEME)
    .plain()
    .suite()
    .tortures(&[Torture::new(14)]),
    Entry::new("mongodb-three", "a MongoDB replica set of three", |wanted| {
        Ok(Box::new(options(wanted).start_three()?))
    })
    .scheme(SCHEME)
    .fails_over()
    .suite()
    // Without the kill of every server, from which it takes long to recover.
    .tortures(&[Torture::new(15).args(&[
        "--faults",
        "failover,primary kill,primary alone,secondaries stop,primary stop,streams killed,writes unconfirmed,writes locked,\
         documents pinned,kill",
    ])]),
    Entry::new("mongodb-alone", "a MongoDB that is no member of a replica set", |wanted| {
        Ok(Box::new(options(wanted).start_standalone()?))
    })
    .scheme(SCHEME)
    .suite_without_push(),
];

members!(MongoDb, primary, faults);

fn options(wanted: &Wanted) -> MongoDbOptions {
    wanted.apply(MongoDb::options(), MongoDbOptions::tls, MongoDbOptions::password)
}
