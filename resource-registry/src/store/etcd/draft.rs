//! What commits come to, judged by what is known at one head, and the one transaction that makes it so.
//!
//! Nothing here asks etcd. The transaction holds only if the head is still the one that was judged by, so what was judged
//! is what was.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use starlane_core::{Epoch, Revision, Timestamp};

use super::layout::{BlobAt, BlobId, Head, Layout, LeaseRow, LogRow, MainRow, encode};
use super::rpc::{Compare, RangeRequest, RequestOp, TxnRequest};
use crate::store::{Batch, Change, Commit, Error, LeaseId, Record, Rows, judge};

/// The most operations of a transaction, and the most bytes: 128 and 1.5 MiB are what etcd allows unless told otherwise.
const OPERATIONS_MAX: usize = 120;
const BYTES_MAX: usize = 1_400_000;
/// When a transaction is too large, values from so many bytes on go elsewhere: what is left always fits.
const SPILL_FROM: usize = 1_024;

/// What is to be done under one head.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Commit(Commit),
    Grant {
        lease: LeaseId,
        ttl_ms: u64,
        now: Timestamp,
    },
    KeepAlive {
        lease: LeaseId,
        now: Timestamp,
    },
    /// Deletes what hangs on a lease, and with the last of it the lease.
    End {
        lease: LeaseId,
        deletes: Commit,
        last: bool,
    },
    /// Forgets the history before a revision.
    Trim(Revision),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Revision(Revision),
    Done,
    Granted(LeaseId),
    Ended(Vec<LeaseId>),
}

/// A record, and where its value is when that is not in its row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) record: Record,
    pub(super) blob: Option<BlobId>,
}

/// What was read, all at one head.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) records: HashMap<Bytes, Option<Stored>>,
    /// The keys of which it is only supposed that they are absent; the transaction finds out.
    pub(super) guessed: HashSet<Bytes>,
    /// The newest revision below a key.
    pub(super) below: HashMap<Bytes, Option<Revision>>,
    pub(super) leases: HashMap<LeaseId, Option<LeaseRow>>,
    pub(super) fences: HashMap<Arc<str>, Epoch>,
}

/// What becomes of everything.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    known: &'a Known,
    old: Head,
    pub(super) head: Head,
    pub(super) answers: Vec<Result<Answer, Error>>,
    pub(super) batches: Vec<Batch>,
    pub(super) records: HashMap<Bytes, Option<Stored>>,
    pub(super) leases: BTreeMap<LeaseId, Option<LeaseRow>>,
    pub(super) fences: HashMap<Arc<str>, Epoch>,
    /// The keys that are hung on leases.
    hung: BTreeMap<LeaseId, Vec<Bytes>>,
    blobs: Vec<BlobAt>,
    /// Of no use any more when these commits are forgotten.
    useless: Vec<BlobId>,
}

impl<'a> Draft<'a> {
    /// Judges works in their order, each seeing those before it.
    pub(super) fn new(known: &'a Known, head: Head, works: &[Work]) -> Self {
        let mut draft = Self {
            known,
            old: head,
            head,
            answers: Vec::with_capacity(works.len()),
            batches: Vec::new(),
            records: HashMap::new(),
            leases: BTreeMap::new(),
            fences: HashMap::new(),
            hung: BTreeMap::new(),
            blobs: Vec::new(),
            useless: Vec::new(),
        };
        for work in works {
            let answer = draft.work(work);
            draft.answers.push(answer);
        }
        if !draft.leases.is_empty() || !draft.fences.is_empty() {
            draft.head.aside += 1;
        }
        draft
    }

    /// Whether there is anything to write.
    pub(super) fn changes(&self) -> bool {
        self.head != self.old
    }

    fn work(&mut self, work: &Work) -> Result<Answer, Error> {
        match work {
            Work::Commit(commit) => self.commit(commit).map(Answer::Revision),
            Work::Grant { lease, ttl_ms, .. } => {
                let row = LeaseRow { ttl_ms: *ttl_ms, beats: 0, ends: false };
                self.leases.insert(*lease, Some(row));
                Ok(Answer::Granted(*lease))
            }
            Work::KeepAlive { lease, .. } => {
                let row = self.lease(*lease).filter(|row| !row.ends).ok_or(Error::LeaseUnknown(*lease))?;
                self.leases.insert(*lease, Some(LeaseRow { beats: row.beats + 1, ..row }));
                Ok(Answer::Done)
            }
            Work::End { lease, deletes, last } => {
                let row = self.lease(*lease).ok_or(Error::LeaseUnknown(*lease))?;
                self.commit(deletes)?;
                self.leases.insert(*lease, (!last).then_some(LeaseRow { ends: true, ..row }));
                Ok(Answer::Done)
            }
            Work::Trim(keep_from) => {
                self.head.oldest = self.head.oldest.max((*keep_from).min(self.head.newest));
                Ok(Answer::Done)
            }
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<Revision, Error> {
        if let Some(fence) = &commit.fence {
            let epoch = self.fence(&fence.scope);
            if fence.epoch < epoch {
                return Err(Error::FenceStale { scope: fence.scope.clone(), epoch });
            }
        }
        let changes = judge(&*self, commit, self.head.newest)?;
        if let Some(fence) = &commit.fence
            && fence.epoch > self.fence(&fence.scope)
        {
            self.fences.insert(fence.scope.clone(), fence.epoch);
        }
        if changes.is_empty() {
            return Ok(self.head.newest);
        }
        let revision = Revision(self.head.newest.0 + 1);
        for (number, change) in changes.iter().enumerate() {
            let blob = self.stored(&change.key).and_then(|stored| stored.blob);
            if let Some(blob) = blob {
                self.useless.push(blob);
                self.blobs.push(BlobAt {
                    batch: self.batches.len() as u32,
                    change: number as u32,
                    after: false,
                    blob,
                });
            }
            let lease_of = |record: &Option<Record>| record.as_ref().and_then(|record| record.lease);
            if let Some(lease) = lease_of(&change.after)
                && lease_of(&change.before) != Some(lease)
            {
                self.hung.entry(lease).or_default().push(change.key.clone());
            }
            let after = change.after.clone().map(|record| Stored { record, blob: None });
            self.records.insert(change.key.clone(), after);
        }
        self.batches.push(Batch { revision, meta: commit.meta.clone(), changes });
        self.head.newest = revision;
        Ok(revision)
    }

    fn stored(&self, key: &[u8]) -> Option<&Stored> {
        self.records.get(key).or_else(|| self.known.records.get(key))?.as_ref()
    }

    fn lease(&self, lease: LeaseId) -> Option<LeaseRow> {
        *self.leases.get(&lease).or_else(|| self.known.leases.get(&lease)).unwrap_or(&None)
    }

    fn fence(&self, scope: &str) -> Epoch {
        self.fences.get(scope).or_else(|| self.known.fences.get(scope)).copied().unwrap_or_default()
    }

    /// Takes large values out of the one commit that is too large for a transaction; they are to be put before it.
    pub(super) fn spill(&mut self, mut name: impl FnMut() -> BlobId) -> Vec<(BlobId, Bytes)> {
        let mut spilt = Vec::new();
        for (batch_number, batch) in self.batches.iter().enumerate() {
            for (number, change) in batch.changes.iter().enumerate() {
                for (after, record) in [(false, &change.before), (true, &change.after)] {
                    let at = |blob: &BlobAt| {
                        (blob.batch as usize, blob.change as usize, blob.after)
                            == (batch_number, number, after)
                    };
                    let Some(record) = record else { continue };
                    if record.value.len() < SPILL_FROM || self.blobs.iter().any(at) {
                        continue;
                    }
                    let blob = name();
                    spilt.push((blob, record.value.clone()));
                    let (batch, change_number) = (batch_number as u32, number as u32);
                    self.blobs.push(BlobAt { batch, change: change_number, after, blob });
                    if after {
                        if let Some(Some(stored)) = self.records.get_mut(&change.key) {
                            stored.blob = Some(blob);
                        }
                    } else {
                        self.useless.push(blob);
                    }
                }
            }
        }
        spilt
    }

    /// What to write before: hints of leases, when there are too many for the transaction. They do no harm should it fail.
    pub(super) fn take_hints(&mut self, layout: &Layout, id: u128) -> Vec<RequestOp> {
        let hung = std::mem::take(&mut self.hung);
        hung.into_iter().map(|(lease, keys)| hint(layout, lease, id, &keys)).collect()
    }

    /// Whether etcd takes it.
    pub(super) fn fits(txn: &TxnRequest) -> bool {
        txn.success.len() <= OPERATIONS_MAX && txn.encoded_len() <= BYTES_MAX
    }

    /// Makes it so, unless the head was changed since `head_at`; then it tells how the head and what was guessed are.
    /// `staged` is the set of blobs that goes with it, and when that was made.
    pub(super) fn txn(
        &self,
        layout: &Layout,
        id: u128,
        head_at: i64,
        staged: Option<(u128, i64)>,
    ) -> TxnRequest {
        let mut compare = vec![Compare::changed_at(layout.head(), head_at)];
        let mut failure = vec![RequestOp::range(RangeRequest::key(layout.head()))];
        for key in &self.known.guessed {
            compare.push(Compare::absent(layout.main(key)));
            failure.push(RequestOp::range(RangeRequest::key(layout.main(key))));
        }
        let mut success = vec![RequestOp::put(layout.head(), encode(&self.head))];
        for (key, stored) in &self.records {
            success.push(match stored {
                Some(stored) => RequestOp::put(layout.main(key), encode(&main_row(stored))),
                None => RequestOp::delete(layout.main(key)),
            });
        }
        if !self.batches.is_empty() {
            success.push(RequestOp::put(layout.log(self.head.newest.0), encode(&self.log_row(id))));
        }
        if !self.useless.is_empty() {
            success.push(RequestOp::put(layout.useless(self.head.newest.0), encode(&self.useless)));
        }
        for (scope, epoch) in &self.fences {
            success.push(RequestOp::put(layout.fence(scope), encode(&epoch.0)));
        }
        for (lease, row) in &self.leases {
            match row {
                Some(row) => success.push(RequestOp::put(layout.lease(*lease), encode(row))),
                None => {
                    let (from, end) = layout.hints(*lease);
                    success.push(RequestOp::delete(layout.lease(*lease)));
                    success.push(RequestOp::delete_range(from, end));
                }
            }
        }
        success.extend(self.hung.iter().map(|(lease, keys)| hint(layout, *lease, id, keys)));
        if let Some((set, made_at)) = staged {
            compare.push(Compare::changed_at(layout.staged(set), made_at));
            success.push(RequestOp::delete(layout.staged(set)));
        }
        TxnRequest { compare, success, failure }
    }

    fn log_row(&self, id: u128) -> LogRow {
        let mut batches = self.batches.clone();
        for at in &self.blobs {
            if let Some(record) = value_of(&mut batches, at) {
                record.value = Bytes::new();
            }
        }
        LogRow { id, batches, blobs: self.blobs.clone() }
    }
}

/// The record whose value a blob is.
pub(super) fn value_of<'a>(batches: &'a mut [Batch], at: &BlobAt) -> Option<&'a mut Record> {
    let change: &mut Change = batches.get_mut(at.batch as usize)?.changes.get_mut(at.change as usize)?;
    if at.after { change.after.as_mut() } else { change.before.as_mut() }
}

fn main_row(stored: &Stored) -> MainRow {
    let mut record = stored.record.clone();
    if stored.blob.is_some() {
        record.value = Bytes::new();
    }
    MainRow { record, blob: stored.blob }
}

fn hint(layout: &Layout, lease: LeaseId, id: u128, keys: &Vec<Bytes>) -> RequestOp {
    RequestOp::put(layout.hint(lease, id), encode(keys))
}

impl Rows for Draft<'_> {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Record>, Error> {
        Ok(self.stored(key).map(|stored| stored.record.clone()))
    }

    /// Asked only of a commit that is judged alone, so that nothing was written below meanwhile.
    fn newest_below(&self, key: &[u8]) -> Result<Option<Revision>, Error> {
        Ok(self.known.below.get(key).copied().flatten())
    }

    fn lease_lives(&self, lease: LeaseId) -> Result<bool, Error> {
        Ok(self.lease(lease).is_some_and(|row| !row.ends))
    }
}
