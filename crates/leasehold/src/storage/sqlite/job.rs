//! The requests to the thread that owns the lock file, and its answers.

use std::path::Path;

use tokio::sync::oneshot;

use super::errors::replaced_error;
use super::transaction::Tx;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Claim, Cursor, Holder, Name, ReleaseReply, RenewReply};

/// A request to the thread.
#[derive(Debug)]
pub(super) enum Job {
    Acquire {
        claims: Vec<Claim>,
        sent: Moment,
        reply: Reply<AcquireReply>,
    },
    Renew {
        claims: Vec<Claim>,
        sent: Moment,
        reply: Reply<RenewReply>,
    },
    Release {
        claims: Vec<Claim>,
        reply: Reply<ReleaseReply>,
    },
    Inspect {
        name: Name,
        reply: oneshot::Sender<Result<Option<Holder>>>,
    },
    List {
        prefix: String,
        after: Option<Cursor>,
        limit: usize,
        reply: oneshot::Sender<Result<Vec<Holder>>>,
    },
    /// Checks whether the file is still the one at its path.
    Check,
    Close,
}

/// The sender of the answers to a batch.
pub(super) type Reply<T> = oneshot::Sender<Vec<Result<T>>>;

/// The answers to one job.
pub(super) enum Done {
    Acquire(Vec<Result<AcquireReply>>),
    Renew(Vec<Result<RenewReply>>),
    Release(Vec<Result<ReleaseReply>>),
}

impl Job {
    /// Executes a write within a transaction.
    pub(super) fn run(&self, tx: &mut Tx<'_>) -> rusqlite::Result<Done> {
        Ok(match self {
            Self::Acquire { claims, sent, .. } => {
                Done::Acquire(claims.iter().map(|claim| tx.acquire(claim, *sent)).collect::<Result<_, _>>()?)
            }
            Self::Renew { claims, sent, .. } => {
                Done::Renew(claims.iter().map(|claim| tx.renew(claim, *sent)).collect::<Result<_, _>>()?)
            }
            Self::Release { claims, .. } => {
                Done::Release(claims.iter().map(|claim| tx.release(claim).map(Ok)).collect::<Result<_, _>>()?)
            }
            Self::Inspect { .. } | Self::List { .. } | Self::Check | Self::Close => Done::Renew(Vec::new()),
        })
    }

    /// Sends the answers. A call that was dropped does not receive them: its outcome is unknown to its caller.
    pub(super) fn answer(self, done: Done) {
        match (self, done) {
            (Self::Acquire { reply, .. }, Done::Acquire(done)) => drop(reply.send(done)),
            (Self::Renew { reply, .. }, Done::Renew(done)) => drop(reply.send(done)),
            (Self::Release { reply, .. }, Done::Release(done)) => drop(reply.send(done)),
            _ => {}
        }
    }

    /// Answers each claim with the error.
    pub(super) fn fail(self, error: &Error) {
        match self {
            Self::Acquire { claims, reply, .. } => drop(reply.send(all(&claims, || Err(error.clone())))),
            Self::Renew { claims, reply, .. } => drop(reply.send(all(&claims, || Err(error.clone())))),
            Self::Release { claims, reply } => drop(reply.send(all(&claims, || Err(error.clone())))),
            Self::Inspect { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::List { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Check | Self::Close => {}
        }
    }

    /// Answers a job after the file was replaced: the leases in the old file are void.
    pub(super) fn fail_replaced(self, path: &Path) {
        match self {
            Self::Renew { claims, reply, .. } => drop(reply.send(all(&claims, || Ok(RenewReply::NotHeld)))),
            Self::Release { claims, reply } => drop(reply.send(all(&claims, || Ok(ReleaseReply::NotHeld)))),
            other => other.fail(&replaced_error(path)),
        }
    }

    /// Answers a job while no file can be opened: the lost leases of the file before are void.
    pub(super) fn fail_closed(self, error: &Error, is_lost: impl Fn(&Claim) -> bool) {
        match self {
            Self::Renew { claims, reply, .. } => {
                let answer =
                    |claim| if is_lost(claim) { Ok(RenewReply::NotHeld) } else { Err(error.clone()) };
                drop(reply.send(claims.iter().map(answer).collect()));
            }
            Self::Release { claims, reply } => {
                let answer =
                    |claim| if is_lost(claim) { Ok(ReleaseReply::NotHeld) } else { Err(error.clone()) };
                drop(reply.send(claims.iter().map(answer).collect()));
            }
            other => other.fail(error),
        }
    }
}

fn all<T>(claims: &[Claim], answer: impl Fn() -> Result<T>) -> Vec<Result<T>> {
    claims.iter().map(|_| answer()).collect()
}
