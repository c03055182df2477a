//! The description of the server: its version, its settings, and the location of its data.

use leasehold_testbed::Postgres;

use super::super::{disk, versions};
use crate::Result;
use crate::contestant::outside;

/// Returns the description on one line.
pub(super) fn line(postgres: &Postgres) -> Result<String> {
    let show = |name: &str| postgres.sql(&format!("show {name}"));
    let settings = ["fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"];
    let settings =
        settings.iter().map(|name| Ok(format!("{name}={}", show(name)?))).collect::<Result<Vec<_>>>()?;
    let advisory = outside::driver().map(|driver| format!("{}, ", driver.versions())).unwrap_or_default();
    Ok(format!(
        "PostgreSQL {} on loopback, {}, data on {}; {advisory}tokio-postgres {}, {}",
        show("server_version")?,
        settings.join(" "),
        disk::filesystem(&show("data_directory")?)?,
        versions::locked("tokio-postgres"),
        versions::ours()?,
    ))
}
