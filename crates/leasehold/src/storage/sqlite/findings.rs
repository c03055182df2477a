//! The lines of `leasehold doctor` about a lock file.

use std::path::Path;

use crate::storage::Finding;

/// Reports where the file is, and what its permissions allow.
#[cfg(unix)]
pub(super) fn file(path: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt as _;
    let shown = path.display();
    let file = match path.metadata() {
        Ok(file) => file,
        Err(error) => {
            return Finding::fault("file", format!("cannot be examined path=`{shown}` error=`{error}`"));
        }
    };
    let (mode, uid) = (file.mode() & 0o777, file.uid());
    if mode & 0o002 != 0 {
        let text = "every user may change the file; run `chmod o-w` on it";
        Finding::warning("file", format!("{text} path=`{shown}` mode=`{mode:03o}`"))
    } else if is_writable(path) {
        Finding::good("file", format!("path=`{shown}` mode=`{mode:03o}` uid=`{uid}`"))
    } else {
        let text = "the file or its directory cannot be written to; change the owner or the permissions";
        Finding::fault("file", format!("{text} path=`{shown}` mode=`{mode:03o}` uid=`{uid}`"))
    }
}

/// Reports where the file is.
#[cfg(not(unix))]
pub(super) fn file(path: &Path) -> Finding {
    Finding::good("file", format!("path=`{}`", path.display()))
}

/// Returns `true` if this process may write to the file and make others beside it, as SQLite does.
#[cfg(unix)]
fn is_writable(file: &Path) -> bool {
    use rustix::fs::{Access, access};
    let may = Access::READ_OK | Access::WRITE_OK;
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    access(file, may).is_ok() && access(directory, may | Access::EXEC_OK).is_ok()
}
