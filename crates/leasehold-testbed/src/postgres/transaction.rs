//! A transaction that stays open, as that of somebody who shares the database.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use super::Postgres;
use crate::error::Context as _;
use crate::{Error, Result};

/// Is a transaction of another client. Dropping it ends the connection, and with it the transaction.
#[derive(Debug)]
pub struct Transaction(Child);

impl Postgres {
    /// Begins a transaction, runs these statements in it, and leaves it open. They wait for locks for ten seconds.
    ///
    /// # Errors
    ///
    /// If one fails.
    pub fn transaction(&self, sql: &str) -> Result<Transaction> {
        let mut psql = self.address.psql("leasehold")?;
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut open = Transaction(psql.spawn().context("cannot start psql")?);
        open.say(&format!("begin; set local lock_timeout = '10s'; {sql};\n\\echo {DONE}\n"))?;
        let said = BufReader::new(open.0.stdout.as_mut().ok_or_else(|| Error::new("it says nothing"))?);
        if said.lines().map_while(|line| line.ok()).any(|line| line == DONE) {
            return Ok(open);
        }
        let mut complaint = String::new();
        if let Some(mut stderr) = open.0.stderr.take() {
            stderr.read_to_string(&mut complaint).context("cannot read what psql says")?;
        }
        Err(Error::new(complaint.trim()))
    }
}

impl Transaction {
    /// Commits it.
    ///
    /// # Errors
    ///
    /// If it has ended before, or cannot be committed.
    pub fn commit(mut self) -> Result<()> {
        self.say("commit;\n")?;
        drop(self.0.stdin.take());
        match self.0.wait().context("cannot wait for psql")? {
            status if status.success() => Ok(()),
            status => Err(Error::new(format!("not committed: {status}"))),
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let stdin = self.0.stdin.as_mut().ok_or_else(|| Error::new("it has ended"))?;
        stdin.write_all(text.as_bytes()).context("cannot tell psql")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Its server notices that nobody is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const DONE: &str = "leasehold-testbed-done";
