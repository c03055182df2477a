//! A temporary directory that goes away with the test, and takes with it every process that works in it.

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

/// Is a temporary directory. With its last clone, or with the test process, however that ends, the processes
/// that work in it are killed and it is removed; `LEASEHOLD_TESTBED_KEEP=1` keeps the directory.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// A second process, since nobody else is left when this one is killed. It reads from a pipe that has no
    /// other end but ours, so that the kernel tells it.
    reaper: Child,
}

/// A shell script, and not a program of this crate: those are not built for the tests of another one.
const REAPER: &str = include_str!("reaper.sh");

impl Scratch {
    /// Makes the directory and starts its reaper.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn new() -> Result<Self> {
        // Short, since the path of a Unix socket is at most 107 bytes.
        let parent = std::env::temp_dir().canonicalize().context("there is no temporary directory")?;
        let path = parent.join(format!("lhtb-{}-{:08x}", std::process::id(), random() >> 32));
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "testbed-reaper"])
            .arg(&path)
            .current_dir("/")
            // A test may have taken ours away.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the test's group must not end the one who cleans up after it.
            .process_group(0)
            .spawn()
            .context("cannot start the reaper")?;
        let inner = Inner { path, reaper };
        // Others may pass through it: PostgreSQL runs as somebody else.
        DirBuilder::new().mode(0o711).create(&inner.path).context("cannot make a temporary directory")?;
        Ok(Self(Arc::new(inner)))
    }

    /// Is where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes a directory in it that belongs to `user`.
    pub(crate) fn directory(&self, name: &str, user: &User) -> Result<PathBuf> {
        let path = self.path().join(name);
        DirBuilder::new().mode(0o700).create(&path).context("cannot make a directory")?;
        user.own(&path)?;
        Ok(path)
    }

    /// Writes a file in it that only `user` may read.
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
        // Afterwards nothing is left, so a test may look.
        while matches!(self.reaper.wait(), Err(error) if error.kind() == io::ErrorKind::Interrupted) {}
    }
}
