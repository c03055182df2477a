//! A wall clock for one server, which can be set while the server runs.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::client::work;
use crate::error::Context as _;
use crate::install;
use crate::scratch::Scratch;

/// The wall clock of one server: that of the machine plus or minus a number of seconds. Durations are not
/// affected.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    ahead: PathBuf,
}

impl Clock {
    /// Makes a clock for the server `name`.
    ///
    /// # Errors
    ///
    /// If there is no C compiler.
    pub fn in_scratch(scratch: &Scratch, name: &str) -> Result<Self> {
        let (source, library) = (scratch.path().join("clock.c"), scratch.path().join("clock.so"));
        let ahead = scratch.path().join(format!("{name}.clock"));
        if !library.exists() {
            std::fs::write(&source, include_str!("clock.c")).context("cannot write a file")?;
            let mut compile = Command::new(install::program("cc")?);
            work(compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl"))?;
        }
        let clock = Self { library, ahead };
        std::fs::write(&clock.ahead, 0_i64.to_ne_bytes()).context("cannot write a file")?;
        // The server may run as another user.
        for path in [&clock.library, &clock.ahead] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).context("cannot share a file")?;
        }
        Ok(clock)
    }

    /// Returns the environment variables with which the server must be started.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        vec![("LD_PRELOAD", self.library.clone().into()), ("WATCH", self.ahead.clone().into())]
    }

    /// Sets the clock this many seconds ahead of the machine's, or behind it for a negative number. It is
    /// set when this returns.
    ///
    /// # Errors
    ///
    /// If the file of the clock is gone.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Written in place, because the server has mapped the file.
        let file =
            std::fs::OpenOptions::new().write(true).open(&self.ahead).context("cannot set the clock")?;
        file.write_all_at(&seconds.to_ne_bytes(), 0).context("cannot set the clock")
    }
}
