//! Where a server keeps its data.

use crate::Result;

/// Fails if the data is in memory, where durable writes cost nothing.
pub(super) fn require(data: &str) -> Result {
    match filesystem(data)?.as_str() {
        kind @ ("tmpfs" | "ramfs") => {
            Err(format!("the data is not on a disk; set TMPDIR to a directory on one filesystem=`{kind}`")
                .into())
        }
        _ => Ok(()),
    }
}

/// Returns the file system of the longest mount point above the data.
pub(super) fn filesystem(data: &str) -> Result<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        std::path::Path::new(data).starts_with(point).then_some((point.len(), kind))
    });
    Ok(above.max_by_key(|(length, _)| *length).map_or("?", |(_, kind)| kind).to_owned())
}
