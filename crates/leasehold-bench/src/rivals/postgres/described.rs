//! The description of the server: its version, its settings, and the location of its data.

use leasehold_testbed::Postgres;

use super::super::versions;
use crate::Result;
use crate::contestant::advisory;

/// Returns the description on one line.
pub(super) fn line(postgres: &Postgres) -> Result<String> {
    let show = |name: &str| postgres.sql(&format!("show {name}"));
    let settings = ["fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"];
    let settings =
        settings.iter().map(|name| Ok(format!("{name}={}", show(name)?))).collect::<Result<Vec<_>>>()?;
    let advisory = advisory::driver().map(|driver| format!("{}, ", driver.versions())).unwrap_or_default();
    Ok(format!(
        "PostgreSQL {} on loopback, {}, data on {}; {advisory}tokio-postgres {}, {}",
        show("server_version")?,
        settings.join(" "),
        filesystem(postgres)?,
        versions::locked("tokio-postgres"),
        versions::ours()?,
    ))
}

/// Fails if the data is in memory, where durable commits cost nothing.
pub(super) fn on_a_disk(postgres: &Postgres) -> Result {
    match filesystem(postgres)?.as_str() {
        kind @ ("tmpfs" | "ramfs") => {
            Err(format!("the data is not on a disk; set TMPDIR to a directory on one filesystem=`{kind}`")
                .into())
        }
        _ => Ok(()),
    }
}

/// Returns the file system of the longest mount point above the data.
fn filesystem(postgres: &Postgres) -> Result<String> {
    let data = postgres.sql("show data_directory")?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        std::path::Path::new(&data).starts_with(point).then_some((point.len(), kind))
    });
    Ok(above.max_by_key(|(length, _)| *length).map_or("?", |(_, kind)| kind).to_owned())
}
