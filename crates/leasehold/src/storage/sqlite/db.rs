//! The thread that owns the connection. Calls are jobs; jobs that meet share a transaction.

use std::path::Path;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, TransactionBehavior};

use super::Config;
use super::boot::Boot;
use super::connect::{NotBegun, begin, connect, explain, is_busy, replaced_error};
use super::exclusive::Exclusive;
use super::fs::{self, Files, Kept, Paths};
use super::hints::Hinter;
use super::job::{Done, Job};
use super::leases::Leases;
use super::live::{self, Live};
use super::tx::{Effects, Tx};
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::storage::Hint;

/// The most jobs in one transaction.
const MERGED: usize = 64;
/// How many transactions there are from one pruning to the next.
const PRUNE_EVERY: u32 = 64;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Db {
    config: Config,
    paths: Paths,
    clock: Clock,
    boot: Boot,
    hinter: Hinter,
    open: Option<Open>,
    /// What was held in a file that was replaced, until the new one is open.
    lost: Leases,
}

/// An open lock file.
#[derive(Debug)]
struct Open {
    // Dropped first: nobody may take the leases of this storage while it still writes.
    connection: Connection,
    files: Files,
    kept: Kept,
    live: Live,
    exclusive: Exclusive,
    leases: Leases,
    transactions: u32,
    prune_from: String,
}

/// Why a transaction was not done.
enum Failed {
    /// The file is not the one that others use.
    Replaced,
    NotBegun(NotBegun),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Db {
    pub(super) fn open(config: Config, hinter: Hinter) -> Result<Self> {
        let paths = Paths::new(fs::prepare(&config)?);
        let (clock, boot, lost) = (Clock::boot(), Boot::read()?, Leases::default());
        let mut db = Self { config, paths, clock, boot, hinter, open: None, lost };
        db.ensure_open()?;
        Ok(db)
    }

    pub(super) fn path(&self) -> &Path {
        &self.paths.database
    }

    /// Works until told to close.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(job) = jobs.recv() {
            batch.push(job);
            batch.extend(jobs.try_iter().take(MERGED));
            if self.work(&mut batch) {
                return;
            }
        }
    }

    /// Does the jobs; true if one of them was to close.
    fn work(&mut self, batch: &mut Vec<Job>) -> bool {
        let (mut writes, mut looks, mut close) = (Vec::new(), Vec::new(), false);
        for job in batch.drain(..) {
            match job {
                // In the order in which they came: a release sent after an acquire must undo it.
                Job::Acquire { .. } | Job::Renew { .. } | Job::Release { .. } => writes.push(job),
                Job::Inspect { .. } | Job::List { .. } => looks.push(job),
                Job::Check => self.check(),
                Job::Close => close = true,
            }
        }
        self.write(writes);
        for job in looks {
            self.look(job);
        }
        close
    }

    fn write(&mut self, mut jobs: Vec<Job>) {
        // Who does not listen any more gets no lock: the outcome would be resolved by a release anyway.
        jobs.retain(|job| !matches!(job, Job::Acquire { reply, .. } if reply.is_closed()));
        if jobs.is_empty() {
            return;
        }
        if let Err(error) = self.ensure_open() {
            return jobs.into_iter().for_each(|job| job.fail_closed(&error, &self.lost));
        }
        match self.transaction(&jobs) {
            Ok(done) => jobs.into_iter().zip(done).for_each(|(job, done)| job.answer(done)),
            Err(Failed::Replaced) => self.write_anew(jobs),
            Err(Failed::NotBegun(why)) => {
                let error = why.explain(&self.paths.database);
                jobs.into_iter().for_each(|job| job.fail(&error));
            }
            // What one job needs may be more than there is: a release fits on a full disk where a grant does not.
            Err(Failed::Sqlite(error)) if jobs.len() > 1 && !is_busy(&error) => {
                jobs.into_iter().for_each(|job| self.write(vec![job]));
            }
            Err(Failed::Sqlite(error)) => {
                let error = explain(&self.paths.database, error);
                jobs.into_iter().for_each(|job| job.fail(&error));
            }
        }
    }

    /// Lets go of a file that was replaced. What was held in it is looked for in the new one: a part may
    /// have come back with it.
    fn write_anew(&mut self, jobs: Vec<Job>) {
        self.let_go();
        let replaced = replaced_error(&self.paths.database);
        let (grants, rest): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| matches!(job, Job::Acquire { .. }));
        grants.into_iter().for_each(|job| job.fail(&replaced));
        match self.ensure_open() {
            Ok(()) => self.write(rest),
            Err(_) => rest.into_iter().for_each(|job| job.fail_replaced(&self.paths.database)),
        }
    }

    fn transaction(&mut self, jobs: &[Job]) -> Result<Vec<Done>, Failed> {
        let Some(open) = &mut self.open else {
            return Err(Failed::Replaced);
        };
        let Open { connection, files, kept, live, exclusive, leases, transactions, prune_from } = open;
        // Ends last, whatever happens.
        let turn = begin(exclusive, &self.clock);
        let started =
            turn.is_ok().then(|| connection.transaction_with_behavior(TransactionBehavior::Immediate));
        // Under the write lock: whoever does not see this storage cannot have taken its leases since.
        if !(kept.are_at(*files, &self.paths) && live.is_seen()) {
            return Err(Failed::Replaced);
        }
        let _turn = turn.map_err(Failed::NotBegun)?;
        let Some(work) = started.transpose()? else {
            return Err(Failed::Replaced);
        };
        // Only now: waiting for the file took time.
        let now = self.clock.now();
        let mut tx = tx(&work, live, &self.paths, &self.boot, &self.hinter, now);
        let done = jobs.iter().map(|job| job.run(&mut tx)).collect::<rusqlite::Result<Vec<_>>>()?;
        *transactions = transactions.wrapping_add(1);
        if transactions.is_multiple_of(PRUNE_EVERY) {
            *prune_from = tx.prune(prune_from)?;
        }
        let mut effects = tx.effects;
        work.commit()?;
        // Its guard is here, so no other process has to be told.
        let own = effects.hints_to_all.extract_if(.., |owner| leases.is_granted(*owner));
        effects.hints.extend(own.map(|owner| (live.id().to_owned(), owner)));
        jobs.iter().zip(&done).for_each(|(job, done)| leases.note(job, done, now));
        tell(effects, live.id(), &self.paths.live_dir, &self.hinter, now);
        Ok(done)
    }

    fn look(&mut self, job: Job) {
        match job {
            Job::Inspect { name, reply } => {
                let seen = match self.read(|tx| tx.inspect(&name)) {
                    // Others may keep the new file from being opened; that the old lease is over is known.
                    Err(_) if self.lost.has_name(&name) => Ok(None),
                    seen => seen,
                };
                let _nobody_waits = reply.send(seen);
            }
            Job::List { prefix, after, limit, reply } => {
                let holders = self.read(|tx| tx.list(&prefix, after.as_ref(), limit));
                let _nobody_waits = reply.send(holders);
            }
            _ => {}
        }
    }

    fn read<T>(&mut self, look: impl Fn(&Tx<'_>) -> rusqlite::Result<T>) -> Result<T> {
        // Once more in the new file: whoever holds in the old one is to learn at once that it does not.
        for _ in 0..2 {
            self.ensure_open()?;
            let Some(open) = &mut self.open else { break };
            let paths = &self.paths;
            let seen = begin(&open.exclusive, &self.clock).map_err(|e| e.explain(&paths.database)).and_then(
                |_turn| {
                    let now = self.clock.now();
                    let snapshot = open.connection.transaction_with_behavior(TransactionBehavior::Deferred);
                    snapshot
                        .and_then(|snapshot| {
                            look(&tx(&snapshot, &open.live, paths, &self.boot, &self.hinter, now))
                        })
                        .map_err(|e| explain(&paths.database, e))
                },
            );
            if in_place(open.files, &open.live, paths) {
                return seen;
            }
            self.let_go();
        }
        Err(replaced_error(&self.paths.database))
    }

    /// Lets go of the open file if it was replaced.
    fn check(&mut self) {
        if self.open.as_ref().is_some_and(|open| !in_place(open.files, &open.live, &self.paths)) {
            self.let_go();
        }
    }

    /// Closes a file that was replaced; the next call opens the new one.
    fn let_go(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.lost.extend(open.close());
        // Whoever holds or waits here has to learn it.
        for owner in self.lost.owners() {
            self.hinter.tell(Hint::Owner(owner));
        }
        self.hinter.tell(Hint::Any);
    }

    fn ensure_open(&mut self) -> Result<()> {
        if self.open.is_none() {
            let open = Open::new(&self.paths, &self.config, &self.clock)?;
            self.hinter.opened(&self.paths, open.live.id())?;
            self.open = Some(open);
            self.lost.clear();
        }
        Ok(())
    }
}

impl Open {
    fn new(paths: &Paths, config: &Config, clock: &Clock) -> Result<Self> {
        // Looked at before it is trusted, and made only for a file that is ours.
        fs::check_private_dir(&paths.live_dir)?;
        let (connection, files) = connect(paths, config, clock)?;
        let seen = Live::create(paths, &files.tag()).and_then(|live| {
            // Whoever replaced a file before this liveness file was there has not seen it, and others may have
            // gone on with the old one.
            live::refuse_others(&paths.live_dir, &files.tag())?;
            let (kept, exclusive) = (Kept::new(paths)?, Exclusive::open(&paths.live_dir)?);
            // The directory too, which may have been made just now.
            fs::check_mounts(paths)?;
            let replaced = || replaced_error(&paths.database);
            if in_place(files, &live, paths) { Ok((live, kept, exclusive)) } else { Err(replaced()) }
        });
        let (live, kept, exclusive) = seen.inspect_err(|_| {
            // Only if it is empty.
            let _kept = std::fs::remove_dir(&paths.live_dir);
        })?;
        let leases = Leases::default();
        Ok(Self {
            connection,
            files,
            kept,
            live,
            exclusive,
            leases,
            transactions: 0,
            prune_from: String::new(),
        })
    }

    /// Closes in the order of the fields, and returns what was held.
    fn close(self) -> Leases {
        self.leases
    }
}

/// Whether every file is the one at its path, and others can see that this storage lives.
fn in_place(files: Files, live: &Live, paths: &Paths) -> bool {
    Files::at(paths).is_ok_and(|now| now == files) && live.is_seen()
}

fn tx<'a>(
    db: &'a Connection,
    live: &'a Live,
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

/// Passes turns on. After the commit: whoever is hinted finds the lock free.
fn tell(effects: Effects, me: &str, live_dir: &Path, hinter: &Hinter, now: Moment) {
    for owner in effects.settled {
        hinter.settled(owner);
    }
    for (owner, ids) in effects.deaths {
        hinter.watch_deaths(owner, ids.into_iter().filter(|id| id != me).collect(), now);
    }
    for (id, owner) in effects.hints {
        if id == me {
            hinter.tell(Hint::Owner(owner));
        } else {
            hinter.pass(live_dir, &id, owner);
        }
    }
    if effects.hints_to_all.is_empty() {
        return;
    }
    // Who cannot be told learns of it at its next renewal.
    let all = live::storages(live_dir).unwrap_or_default();
    for owner in effects.hints_to_all {
        hinter.tell(Hint::Owner(owner));
        all.iter().filter(|id| *id != me).for_each(|id| hinter.pass(live_dir, id, owner));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::ErrorKind;
    use crate::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply};

    fn claim(name: &str) -> Claim {
        let name = Name::new(name).expect("a name");
        Claim::new(name, Owner::random(), Duration::from_secs(60))
    }

    #[test]
    fn a_release_undoes_the_acquire_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (hinter, _commands) = super::super::hints::channel();
        let mut db = Db::open(Config::new(dir.path().join("locks.db")), hinter).expect("opened");
        let claims = vec![claim("job")];
        let (job, mut granted) = acquire(&mut db, &claims);
        let (reply, mut released) = oneshot::channel();
        db.work(&mut vec![job, Job::Release { claims, reply }]);
        assert!(granted.try_recv().expect("answered")[0].is_ok());
        let released = released.try_recv().expect("answered").pop().expect("one answer");
        assert_eq!(released.expect("released"), ReleaseReply::Released);
    }

    fn acquire(db: &mut Db, claims: &[Claim]) -> (Job, oneshot::Receiver<Vec<Result<AcquireReply>>>) {
        let (reply, answer) = oneshot::channel();
        let (claims, sent) = (claims.to_vec(), db.clock.now());
        (Job::Acquire { claims, sent, reply }, answer)
    }

    #[test]
    fn on_a_full_disk_the_holder_still_releases() {
        let dir = tempfile::tempdir().expect("a directory");
        let (hinter, _commands) = super::super::hints::channel();
        let mut db = Db::open(Config::new(dir.path().join("locks.db")), hinter).expect("opened");
        let held = claim("held");
        let (job, mut granted) = acquire(&mut db, std::slice::from_ref(&held));
        db.work(&mut vec![job]);
        assert!(granted.try_recv().expect("answered")[0].is_ok());

        let full = &db.open.as_ref().expect("open").connection;
        let pages: i64 = full.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("counted");
        full.execute_batch(&format!("PRAGMA max_page_count = {pages}")).expect("limited");
        let many: Vec<_> = (0..200).map(|i| claim(&format!("many/{i}")).label("x".repeat(1000))).collect();
        let (job, mut refused) = acquire(&mut db, &many);
        let (reply, mut released) = oneshot::channel();
        let claims = vec![held];
        db.work(&mut vec![job, Job::Release { claims, reply }]);

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
