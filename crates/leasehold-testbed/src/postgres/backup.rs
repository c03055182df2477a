//! A slow backup, and an archive of the log.

use std::process::{Child, Stdio};

use super::Postgres;
use crate::error::Context as _;
use crate::install::{self, User};
use crate::wait::until;
use crate::{Error, Result};

/// A running `pg_basebackup`, which reads as slowly as it can, or a `pg_receivewal`. Dropping this ends it.
#[derive(Debug)]
pub struct Backup(Child);

impl Postgres {
    /// Begins a backup, and waits until the server sends it.
    ///
    /// # Errors
    ///
    /// If it does not begin.
    pub fn slow_backup(&self) -> Result<Backup> {
        let user = User::not_root()?;
        let directory = self.scratch().directory("backup", &user)?;
        let mut command = user.command(&install::program("pg_basebackup")?)?;
        command
            .args([
                "--no-sync",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--max-rate=32k",
                "--pgdata=data",
            ])
            .arg(format!("--dbname={}", self.address().replication()))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.address().authenticate(&mut command);
        let backup = Backup(command.spawn().context("cannot start pg_basebackup")?);
        let sent = "select count(*) from pg_stat_replication where application_name = 'pg_basebackup'";
        until("the backup and its log to be sent", || match self.sql(sent)?.as_str() {
            "2" => Ok(()),
            found => Err(Error::new(format!("{found} are sent"))),
        })?;
        Ok(backup)
    }

    /// Starts a `pg_receivewal` of that name, which keeps the server's log and confirms everything that it has written.
    ///
    /// # Errors
    ///
    /// If it does not begin.
    pub fn receive_log(&self, name: &str) -> Result<Backup> {
        let user = User::not_root()?;
        let directory = self.scratch().directory("log", &user)?;
        let mut command = user.command(&install::program("pg_receivewal")?)?;
        command
            .args(["--synchronous", "--no-loop", "--directory=."])
            .arg(format!("--dbname={} application_name={name}", self.address().replication()))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.address().authenticate(&mut command);
        let receiver = Backup(command.spawn().context("cannot start pg_receivewal")?);
        let kept = format!(
            "select count(*) from pg_stat_replication where application_name = '{name}' and flush_lsn is not null"
        );
        until("the log to be kept", || match self.sql(&kept)?.as_str() {
            "1" => Ok(()),
            found => Err(Error::new(format!("{found} keep it"))),
        })?;
        Ok(receiver)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // The server notices it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
