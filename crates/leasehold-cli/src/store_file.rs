//! The file that contains the storage's URL.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use crate::exit::{Failure, Result};

/// The largest file that is read. A URL is shorter, and a file without an end, such as `/dev/zero`, is not read forever.
const LONGEST: u64 = 64 * 1024;
/// The forbidden bits of the mode. The group may read the file, because containers mount secrets that way.
const OTHERS: u32 = 0o037;

/// Reads the URL. Refuses a file that other users of this machine can read or change, unless `any_mode` accepts it.
pub(crate) fn read(path: &Path, any_mode: bool) -> Result<String> {
    let refuse = |text: &str| Failure::usage(format!("{text}{}", shown(path)));
    let unreadable =
        |error| refuse(&format!("cannot read the storage's URL; check --store-file error=`{error}`"));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(refuse("a directory contains no URL; name the file in it with --store-file"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 && has_a_mode(&metadata) && !any_mode {
        return Err(refuse(&format!(
            "other users can read or change this file, which may contain a password; run `chmod g-wx,o-rwx` on it, or accept it with --store-file-any-mode mode=`{mode:03o}`"
        )));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    let url = text.strip_prefix('\u{feff}').unwrap_or(&text).trim();
    if text.len() as u64 > LONGEST || url.is_empty() || url.contains(['\n', '\r']) {
        return Err(refuse("this file does not contain one URL on one line"));
    }
    Ok(url.to_owned())
}

/// Returns `true` if the mode says which users can read the contents. That of a terminal, which `/dev/stdin` may be, does
/// not.
fn has_a_mode(file: &Metadata) -> bool {
    let kind = file.file_type();
    kind.is_file() || kind.is_fifo() || kind.is_block_device()
}

/// Returns the path for a message, or nothing if it looks like a URL.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains([':', '@']) { String::new() } else { format!(" path=`{text}`") }
}
