//! The parts of transactions.

use super::errors::Fault;
use super::proto::{
    ASCENDING, BY_CREATION, CREATE, Compare, Compared, DESCENDING, DeleteRangeRequest, KeyValue, LEASE, MOD,
    PutRequest, RangeRequest, Request, RequestOp, Response, ResponseOp, TxnRequest, TxnResponse,
};

fn compare(target: i32, key: Vec<u8>, with: Compared) -> Compare {
    Compare { result: 0, target, key, with: Some(with), range_end: Vec::new() }
}

/// Requires that the key was created by that revision; 0: that there is no such key.
pub(super) fn created_by(key: Vec<u8>, revision: i64) -> Compare {
    compare(CREATE, key, Compared::CreateRevision(revision))
}

/// Requires that the key was last changed by that revision; 0: that there is no such key.
pub(super) fn changed_by(key: Vec<u8>, revision: i64) -> Compare {
    compare(MOD, key, Compared::ModRevision(revision))
}

/// Requires that the key is attached to that lease.
pub(super) fn attached_to(key: Vec<u8>, lease: i64) -> Compare {
    compare(LEASE, key, Compared::Lease(lease))
}

/// Requires that there is no key in the range.
pub(super) fn empty((key, range_end): (Vec<u8>, Vec<u8>)) -> Compare {
    Compare { range_end, ..created_by(key, 0) }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub(super) fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> RequestOp {
    op(Request::Put(PutRequest { key, value, lease }))
}

pub(super) fn delete(key: Vec<u8>) -> RequestOp {
    op(Request::Delete(DeleteRangeRequest { key }))
}

pub(super) fn nested(txn: TxnRequest) -> RequestOp {
    op(Request::Txn(txn))
}

pub(super) fn read(range: RangeRequest) -> RequestOp {
    op(Request::Range(range))
}

pub(super) fn one(key: Vec<u8>) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// Returns the request for the oldest keys of a range, or for all of them if `limit` is 0.
pub(super) fn oldest((key, range_end): (Vec<u8>, Vec<u8>), limit: i64) -> RangeRequest {
    let (sort_order, sort_target) = (ASCENDING, BY_CREATION);
    RangeRequest { key, range_end, limit, sort_order, sort_target, ..RangeRequest::default() }
}

/// Returns the request for the youngest keys of a range that were created by that revision or before; 0: of all of them.
pub(super) fn youngest(range: (Vec<u8>, Vec<u8>), limit: i64, max_create_revision: i64) -> RangeRequest {
    RangeRequest { sort_order: DESCENDING, max_create_revision, ..oldest(range, limit) }
}

pub(super) fn all(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

/// The answers of a transaction, in order. An answer that is missing is no answer of etcd.
pub(super) struct Answers(std::vec::IntoIter<ResponseOp>);

impl Answers {
    pub(super) fn of(responses: Vec<ResponseOp>) -> Self {
        Self(responses.into_iter())
    }

    fn next(&mut self) -> Result<Response, Fault> {
        self.0.next().and_then(|answer| answer.response).ok_or(Fault::Broken)
    }

    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        self.next().map(drop)
    }

    pub(super) fn kvs(&mut self) -> Result<Vec<KeyValue>, Fault> {
        match self.next()? {
            Response::Range(range) => Ok(range.kvs),
            _ => Err(Fault::Broken),
        }
    }

    pub(super) fn kv(&mut self) -> Result<Option<KeyValue>, Fault> {
        Ok(self.kvs()?.into_iter().next())
    }

    pub(super) fn deleted(&mut self) -> Result<bool, Fault> {
        match self.next()? {
            Response::Delete(answer) => Ok(answer.deleted > 0),
            _ => Err(Fault::Broken),
        }
    }

    pub(super) fn txn(&mut self) -> Result<TxnResponse, Fault> {
        match self.next()? {
            Response::Txn(txn) => Ok(txn),
            _ => Err(Fault::Broken),
        }
    }
}

/// Returns the revision of a transaction.
pub(super) fn revision(answer: &TxnResponse) -> Result<i64, Fault> {
    answer.header.map(|header| header.revision).ok_or(Fault::Broken)
}
