//! A transaction of another client of the database, which stays open.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use super::Postgres;
use crate::error::Context as _;
use crate::{Error, Result};

/// A transaction of another client. Dropping it ends the connection, and with it the transaction.
#[derive(Debug)]
pub struct Transaction(Child);

impl Postgres {
    /// Begins a transaction, runs these statements in it, and leaves it open. They wait for locks for ten seconds.
    ///
    /// # Errors
    ///
    /// If a statement fails.
    pub fn transaction(&self, sql: &str) -> Result<Transaction> {
        let mut psql = self.address.psql("leasehold")?;
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut open = Transaction(psql.spawn().context("cannot start psql")?);
        open.send(&format!("begin; set local lock_timeout = '10s'; {sql};\n\\echo {DONE}\n"))?;
        let stdout = open.0.stdout.as_mut().ok_or_else(|| Error::new("psql has no output"))?;
        if BufReader::new(stdout).lines().map_while(|line| line.ok()).any(|line| line == DONE) {
            return Ok(open);
        }
        let mut error = String::new();
        if let Some(mut stderr) = open.0.stderr.take() {
            stderr.read_to_string(&mut error).context("cannot read the errors of psql")?;
        }
        Err(Error::new(error.trim()))
    }
}

impl Transaction {
    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// If it has ended already, or cannot be committed.
    pub fn commit(mut self) -> Result<()> {
        self.send("commit;\n")?;
        drop(self.0.stdin.take());
        match self.0.wait().context("cannot wait for psql")? {
            status if status.success() => Ok(()),
            status => Err(Error::new(format!("not committed: {status}"))),
        }
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.0.stdin.as_mut().ok_or_else(|| Error::new("it has ended"))?;
        stdin.write_all(text.as_bytes()).context("cannot write to psql")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // The server notices it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const DONE: &str = "leasehold-testbed-done";
