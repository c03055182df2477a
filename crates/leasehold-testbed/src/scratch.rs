//! A temporary directory that is removed with the test, together with every process that works in it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::Result;
use crate::error::Context as _;
use crate::install::User;
use crate::random::random;

/// A temporary directory. When its last clone is dropped or the test process ends in any way, the processes
/// that work in it are killed and it is removed. `LEASEHOLD_TESTBED_KEEP=1` keeps the directory.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// A second process, because a killed test cannot clean up. It reads from a pipe, and the only other
    /// end is in this process, so the kernel reports the end of this process.
    reaper: Child,
}

/// A shell script, because the programs of this crate are not built for the tests of other crates.
const REAPER: &str = include_str!("reaper.sh");

impl Scratch {
    /// Makes the directory and starts its reaper.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> Result<Self> {
        // The path of a Unix socket has at most 107 bytes, so this path must be short.
        let parent = std::env::temp_dir().canonicalize().context("there is no temporary directory")?;
        let path = parent.join(format!("lhtb-{}-{:08x}", std::process::id(), random() >> 32));
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "testbed-reaper"])
            .arg(&path)
            .current_dir("/")
            // A test may have changed the test's PATH.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to the test's process group must not end the reaper.
            .process_group(0)
            .spawn()
            .context("cannot start the reaper")?;
        let inner = Inner { path, reaper };
        // PostgreSQL runs as another user, which has to pass through the directory.
        DirBuilder::new().mode(0o711).create(&inner.path).context("cannot make a temporary directory")?;
        Ok(Self(Arc::new(inner)))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a subdirectory that belongs to `user`.
    pub(crate) fn directory(&self, name: &str, user: &User) -> Result<PathBuf> {
        let path = self.path().join(name);
        DirBuilder::new().mode(0o700).create(&path).context("cannot make a directory")?;
        user.own(&path)?;
        Ok(path)
    }

    /// Writes a file that only `user` may read.
    pub(crate) fn file(&self, name: &str, text: &str, user: &User) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, text).context("cannot write a file")?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).context("cannot protect a file")?;
        user.own(&path)?;
        Ok(path)
    }
}

impl User {
    fn own(&self, path: &Path) -> Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => {
                chown(path, Some(*uid), Some(*gid)).context("cannot give a file away")
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // Waiting for the reaper ensures that the directory is gone when `drop` returns.
        while matches!(self.reaper.wait(), Err(error) if error.kind() == io::ErrorKind::Interrupted) {}
    }
}
