//! A small disk in memory, which can be filled.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::ask;
use crate::error::Context as _;
use crate::install::{self, User};
use crate::{Error, Result};

/// A file system of its own, which is removed with the directory of the test.
#[derive(Clone, Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts a disk at an existing directory.
    pub(crate) fn mount(at: &Path, megabytes: u32, user: &User) -> Result<Self> {
        let owner = match user {
            User::Own => String::new(),
            User::Other { uid, gid } => format!(",uid={uid},gid={gid}"),
        };
        let mut command = Command::new(install::program("mount")?);
        let options = format!("size={megabytes}m,mode=700{owner}");
        command.args(["-t", "tmpfs", "-o", &options, "leasehold-testbed"]).arg(at);
        ask(&command).map_err(|error| {
            Error::new(format!("cannot mount a small disk, which needs root and CAP_SYS_ADMIN: {error}"))
        })?;
        Ok(Self { at: at.to_owned() })
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    ///
    /// If that fails for another reason than a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.ballast());
        let file = file.as_mut().map_err(|error| Error::new(format!("cannot fill the disk: {error}")))?;
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; size];
            loop {
                match file.write(&zeros) {
                    Ok(n) if n > 0 => {}
                    Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {
                        return Err(Error::from(error));
                    }
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Frees the space that [`Disk::fill`] took.
    ///
    /// # Errors
    ///
    /// If the disk was not filled.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("cannot free the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("leasehold-testbed-ballast")
    }
}
