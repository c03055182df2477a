//! The description of the servers: their version, their settings, and the location of their data.

use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::{Document, doc};

use super::super::{disk, versions};
use crate::Result;
use crate::contestant::outside;

/// Returns the description on one line.
pub(super) fn line(mongodb: &MongoDb) -> Result<String> {
    let status = status(mongodb)?;
    let rival = outside::driver().map(|driver| format!("{}, ", driver.versions())).unwrap_or_default();
    Ok(format!(
        "MongoDB {} on loopback, a set of {}, {}, w: majority, j: true, data on {}; {rival}mongodb {}, {}",
        status.get_str("version")?,
        mongodb.members().len(),
        status.get_document("storageEngine")?.get_str("name")?,
        disk::filesystem(&data(mongodb)?)?,
        versions::locked("mongodb"),
        versions::ours()?,
    ))
}

/// Returns a directory on the disk of the data.
pub(super) fn data(mongodb: &MongoDb) -> Result<String> {
    // The data is in a directory below the one in which the server runs.
    let directory = std::fs::read_link(format!("/proc/{}/cwd", status(mongodb)?.get_i64("pid")?))?;
    Ok(directory.to_string_lossy().into_owned())
}

fn status(mongodb: &MongoDb) -> Result<Document> {
    Ok(mongodb.command("admin", doc! { "serverStatus": 1 })?)
}
