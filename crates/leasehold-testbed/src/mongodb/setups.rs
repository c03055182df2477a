//! The setups of MongoDB.

use super::{MongoDb, MongoDbOptions};
use crate::Wanted;
use crate::registry::Entry;
use crate::setup::members;

/// All setups of MongoDB.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("mongodb", "a MongoDB replica set of one", |wanted| Ok(Box::new(options(wanted).start()?))),
    Entry::new("mongodb-three", "a MongoDB replica set of three", |wanted| {
        Ok(Box::new(options(wanted).start_three()?))
    })
    .fails_over(),
];

members!(MongoDb, primary);

fn options(wanted: &Wanted) -> MongoDbOptions {
    wanted.apply(MongoDb::options(), MongoDbOptions::tls, MongoDbOptions::password)
}
