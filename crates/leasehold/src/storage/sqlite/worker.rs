//! The thread that owns the connection. It receives jobs; jobs that arrive together share a transaction.

use std::path::Path;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, TransactionBehavior};

use super::Config;
use super::boot::Boot;
use super::busy::{NotBegun, begin};
use super::effects::Effects;
use super::errors::{explain, is_busy, replaced_error};
use super::fs::{self, Paths};
use super::hints::Hinter;
use super::job::{Done, Job};
use super::leases::Leases;
use super::live::LivenessFile;
use super::open::OpenFile;
use super::transaction::Tx;
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::storage::Claim;
use crate::storage::Hint;

/// The most jobs in one transaction.
const JOBS_MAX: usize = 64;
/// The number of transactions from one pruning to the next.
const PRUNE_EVERY: u32 = 64;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    config: Config,
    paths: Paths,
    clock: Clock,
    boot: Boot,
    hinter: Hinter,
    open: Option<OpenFile>,
    /// The leases in a file that was replaced, until the new file is open.
    lost: Leases,
}

/// The reason why a transaction was not executed.
enum Failed {
    /// The file is not the one that other processes use.
    Replaced,
    NotBegun(NotBegun),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Worker {
    /// Opens the lock file.
    pub(super) fn new(config: Config, hinter: Hinter) -> Result<Self> {
        let paths = Paths::new(fs::prepare(&config)?);
        let (clock, boot, lost) = (Clock::boot(), Boot::read()?, Leases::default());
        let mut worker = Self { config, paths, clock, boot, hinter, open: None, lost };
        worker.ensure_open()?;
        Ok(worker)
    }

    pub(super) fn path(&self) -> &Path {
        &self.paths.database
    }

    /// Executes jobs until one of them is [`Job::Close`].
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(job) = jobs.recv() {
            batch.push(job);
            batch.extend(jobs.try_iter().take(JOBS_MAX));
            if self.execute(&mut batch) {
                return;
            }
        }
    }

    /// Executes a batch of jobs. Returns `true` if one of them was [`Job::Close`].
    fn execute(&mut self, batch: &mut Vec<Job>) -> bool {
        let (mut writes, mut reads, mut close) = (Vec::new(), Vec::new(), false);
        for job in batch.drain(..) {
            match job {
                // Writes stay in order: a release that was sent after an acquire must undo it.
                Job::Acquire { .. } | Job::Renew { .. } | Job::Release { .. } => writes.push(job),
                Job::Inspect { .. } | Job::List { .. } => reads.push(job),
                Job::Check => self.check(),
                Job::Close => close = true,
            }
        }
        self.write(writes);
        for job in reads {
            self.read(job);
        }
        close
    }

    fn write(&mut self, mut jobs: Vec<Job>) {
        // The caller of such a job has gone. A grant would only be undone by a release.
        jobs.retain(|job| !matches!(job, Job::Acquire { reply, .. } if reply.is_closed()));
        if jobs.is_empty() {
            return;
        }
        if let Err(error) = self.ensure_open() {
            let is_lost = |claim: &Claim| self.lost.holds(claim.owner);
            return jobs.into_iter().for_each(|job| job.fail_closed(&error, is_lost));
        }
        match self.transaction(&jobs) {
            Ok(done) => jobs.into_iter().zip(done).for_each(|(job, done)| job.answer(done)),
            Err(Failed::Replaced) => self.write_to_new_file(jobs),
            Err(Failed::NotBegun(why)) => {
                let error = why.explain(&self.paths.database);
                jobs.into_iter().for_each(|job| job.fail(&error));
            }
            // One job may need more than there is: on a full disk, a release succeeds where a grant does not.
            Err(Failed::Sqlite(error)) if jobs.len() > 1 && !is_busy(&error) => {
                jobs.into_iter().for_each(|job| self.write(vec![job]));
            }
            Err(Failed::Sqlite(error)) => {
                let error = explain(&self.paths.database, error);
                jobs.into_iter().for_each(|job| job.fail(&error));
            }
        }
    }

    /// Closes a file that was replaced, and executes the jobs in the new one.
    ///
    /// Renewals and releases are executed there, because only a part of the old file may have been replaced. The new file
    /// may then contain the leases.
    fn write_to_new_file(&mut self, jobs: Vec<Job>) {
        self.close_replaced();
        let replaced = replaced_error(&self.paths.database);
        let (acquires, rest): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| matches!(job, Job::Acquire { .. }));
        acquires.into_iter().for_each(|job| job.fail(&replaced));
        match self.ensure_open() {
            Ok(()) => self.write(rest),
            Err(_) => rest.into_iter().for_each(|job| job.fail_replaced(&self.paths.database)),
        }
    }

    fn transaction(&mut self, jobs: &[Job]) -> Result<Vec<Done>, Failed> {
        let Some(open) = &mut self.open else {
            return Err(Failed::Replaced);
        };
        let OpenFile { connection, files, parts, live, exclusive, leases, transactions, prune_from } = open;
        // Declared first, so that exclusive access ends last.
        let access = begin(exclusive, &self.clock);
        let started =
            access.is_ok().then(|| connection.transaction_with_behavior(TransactionBehavior::Immediate));
        // This check needs the write lock: from here on, no process that considers this storage dead can take its leases.
        if !(parts.are_at(*files, &self.paths) && live.is_in_place()) {
            return Err(Failed::Replaced);
        }
        let _access = access.map_err(Failed::NotBegun)?;
        let Some(transaction) = started.transpose()? else {
            return Err(Failed::Replaced);
        };
        // Read only now, because waiting for the file took time.
        let now = self.clock.now();
        let mut tx = tx(&transaction, live, &self.paths, &self.boot, &self.hinter, now);
        let done = jobs.iter().map(|job| job.run(&mut tx)).collect::<rusqlite::Result<Vec<_>>>()?;
        *transactions = transactions.wrapping_add(1);
        if transactions.is_multiple_of(PRUNE_EVERY) {
            *prune_from = tx.prune(prune_from)?;
        }
        let mut effects = tx.effects;
        transaction.commit()?;
        // The guard of a lease that was granted here is here, so no other process needs the hint.
        let own = effects.hints_to_all.extract_if(.., |owner| leases.is_granted(*owner));
        effects.hints.extend(own.map(|owner| (live.id().to_owned(), owner)));
        jobs.iter().zip(&done).for_each(|(job, done)| leases.update(job, done, now));
        effects.apply(live.id(), &self.paths.live_dir, &self.hinter, now);
        Ok(done)
    }

    fn read(&mut self, job: Job) {
        match job {
            Job::Inspect { name, reply } => {
                let seen = match self.snapshot(|tx| tx.inspect(&name)) {
                    // Another process may keep the new file from being opened. The old lease has ended in any case.
                    Err(_) if self.lost.has_name(&name) => Ok(None),
                    seen => seen,
                };
                let _caller_gone = reply.send(seen);
            }
            Job::List { prefix, after, limit, reply } => {
                let holders = self.snapshot(|tx| tx.list(&prefix, after.as_ref(), limit));
                let _caller_gone = reply.send(holders);
            }
            _ => {}
        }
    }

    /// Reads within a transaction. Reads again in the new file if the open one was replaced.
    ///
    /// So a holder in the old file learns at once that its lease has ended.
    fn snapshot<T>(&mut self, read: impl Fn(&Tx<'_>) -> rusqlite::Result<T>) -> Result<T> {
        for _ in 0..2 {
            self.ensure_open()?;
            let Some(open) = &mut self.open else { break };
            let paths = &self.paths;
            let access = begin(&open.exclusive, &self.clock).map_err(|e| e.explain(&paths.database));
            let seen = access.and_then(|_access| {
                let now = self.clock.now();
                let snapshot = open.connection.transaction_with_behavior(TransactionBehavior::Deferred);
                snapshot
                    .and_then(|snapshot| {
                        read(&tx(&snapshot, &open.live, paths, &self.boot, &self.hinter, now))
                    })
                    .map_err(|e| explain(&paths.database, e))
            });
            if open.is_in_place(paths) {
                return seen;
            }
            self.close_replaced();
        }
        Err(replaced_error(&self.paths.database))
    }

    /// Closes the open file if it was replaced.
    fn check(&mut self) {
        if self.open.as_ref().is_some_and(|open| !open.is_in_place(&self.paths)) {
            self.close_replaced();
        }
    }

    /// Closes a file that was replaced, and hints the owners in it. The next call opens the new file.
    fn close_replaced(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.lost.extend(open.close());
        for owner in self.lost.owners() {
            self.hinter.hint(Hint::Owner(owner));
        }
        self.hinter.hint(Hint::Any);
    }

    fn ensure_open(&mut self) -> Result<()> {
        if self.open.is_none() {
            let open = OpenFile::new(&self.paths, &self.config, &self.clock)?;
            self.hinter.opened(&self.paths, open.live.id())?;
            self.open = Some(open);
            self.lost.clear();
        }
        Ok(())
    }
}

fn tx<'a>(
    db: &'a Connection,
    live: &'a LivenessFile,
    paths: &'a Paths,
    boot: &'a Boot,
    hinter: &'a Hinter,
    now: Moment,
) -> Tx<'a> {
    let me = Some(live.id()).filter(|id| !id.is_empty());
    Tx {
        db,
        live_dir: &paths.live_dir,
        me,
        boot,
        hinter,
        now,
        now_us: boot.stored_us(now),
        effects: Effects::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::super::queue::ENTRIES;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply};

    fn claim(name: &str) -> Claim {
        let name = Name::new(name).expect("a name");
        Claim::new(name, Owner::random(), Duration::from_secs(60))
    }

    #[test]
    fn a_release_undoes_an_acquire_of_the_same_batch() {
        let dir = tempfile::tempdir().expect("a directory");
        let (hinter, _commands) = super::super::hints::channel();
        let mut worker = Worker::new(Config::new(dir.path().join("locks.db")), hinter).expect("opened");
        let claims = vec![claim("job")];
        let (job, mut granted) = acquire(&mut worker, &claims);
        let (reply, mut released) = oneshot::channel();
        worker.execute(&mut vec![job, Job::Release { claims, reply }]);
        assert!(granted.try_recv().expect("answered")[0].is_ok());
        let released = released.try_recv().expect("answered").pop().expect("one answer");
        assert_eq!(released.expect("released"), ReleaseReply::Released);
    }

    fn acquire(worker: &mut Worker, claims: &[Claim]) -> (Job, oneshot::Receiver<Vec<Result<AcquireReply>>>) {
        let (reply, answer) = oneshot::channel();
        let (claims, sent) = (claims.to_vec(), worker.clock.now());
        (Job::Acquire { claims, sent, reply }, answer)
    }

    #[test]
    fn a_statement_is_compiled_once() {
        use rusqlite::StatementStatus;
        let dir = tempfile::tempdir().expect("a directory");
        let (hinter, _commands) = super::super::hints::channel();
        let mut worker = Worker::new(Config::new(dir.path().join("locks.db")), hinter).expect("opened");
        for claims in [0, 1, 2].map(|i| vec![claim(&format!("job/{i}"))]) {
            let (job, _granted) = acquire(&mut worker, &claims);
            let (reply, _released) = oneshot::channel();
            worker.execute(&mut vec![job, Job::Release { claims, reply }]);
        }
        let connection = &worker.open.as_ref().expect("open").connection;
        let entries = connection.prepare_cached(&ENTRIES).expect("cached");
        assert_eq!(entries.get_status(StatementStatus::Run), 6, "for each acquire and for each release");
        assert_eq!(entries.get_status(StatementStatus::RePrepare), 0);
    }

    #[test]
    fn on_a_full_disk_the_holder_still_releases() {
        let dir = tempfile::tempdir().expect("a directory");
        let (hinter, _commands) = super::super::hints::channel();
        let mut worker = Worker::new(Config::new(dir.path().join("locks.db")), hinter).expect("opened");
        let held = claim("held");
        let (job, mut granted) = acquire(&mut worker, std::slice::from_ref(&held));
        worker.execute(&mut vec![job]);
        assert!(granted.try_recv().expect("answered")[0].is_ok());

        let full = &worker.open.as_ref().expect("open").connection;
        let pages: i64 = full.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("counted");
        full.execute_batch(&format!("PRAGMA max_page_count = {pages}")).expect("limited");
        let many: Vec<_> = (0..200).map(|i| claim(&format!("many/{i}")).label("x".repeat(1000))).collect();
        let (job, mut refused) = acquire(&mut worker, &many);
        let (reply, mut released) = oneshot::channel();
        let claims = vec![held];
        worker.execute(&mut vec![job, Job::Release { claims, reply }]);

        for answer in refused.try_recv().expect("answered") {
            let error = answer.expect_err("no room");
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.to_string().contains("full; free some space"), "{error}");
            let source = std::error::Error::source(&error).expect("SQLite's own words").to_string();
            assert!(!error.to_string().contains(&source), "{error}: {source}");
        }
        let released = released.try_recv().expect("answered").pop().expect("one answer");
        assert_eq!(released.expect("released"), ReleaseReply::Released);
    }
}
