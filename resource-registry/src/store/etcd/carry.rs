//! A whole registry, out of etcd and into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use starlane_core::{Epoch, Revision};
use tokio::time::Instant;

use super::client::{Fault, Pager};
use super::draft::value_of;
use super::layout::{BlobAt, BlobId, Head, Layout, LeaseRow, LogRow, MainRow, Unreadable, decode, encode};
use super::rpc::{Compare, RequestOp, TxnRequest};
use super::writer::{damaged, reading};
use super::{EtcdStore, Reader};
use crate::backoff::{Backoff, jitter};
use crate::store::{Aside, Batch, Error, LeaseId, Part, Portable, Record, Revisions, wire};

/// How long one transaction is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most operations and bytes of one.
const OPERATIONS: usize = 100;
const BYTES: usize = 1024 * 1024;
/// How many keys one hint of a lease names.
const HINT_KEYS: usize = 100;
/// Values from so many bytes on are kept outside of the row of a commit that is too large for one.
const SPILL_FROM: usize = 1_024;

impl Portable for EtcdStore {
    fn aside(&self) -> BoxFuture<'_, Result<Aside, Error>> {
        self.inner.reader.aside().boxed()
    }

    fn take(&self, part: Part) -> BoxFuture<'_, Result<(), Error>> {
        let reader = &self.inner.reader;
        match part {
            Part::Aside(aside) => reader.take_aside(aside).boxed(),
            Part::Records(records) => reader.take_records(records).boxed(),
            Part::History(batches) => reader.take_history(batches).boxed(),
            Part::End(revisions) => reader.end(revisions).boxed(),
        }
    }
}

impl Reader {
    async fn aside(&self) -> Result<Aside, Error> {
        let unreadable = |Unreadable| damaged(&self.client, "a fence or a lease is unreadable");
        let mut aside = Aside::default();
        let (from, end) = self.layout.fences();
        let scopes = from.len();
        for row in self.rows(from, end).await? {
            let scope = String::from_utf8_lossy(&row.key[scopes..]).into();
            aside.fences.push((scope, Epoch(decode(&row.value).map_err(unreadable)?)));
        }
        let (from, end) = self.layout.leases();
        for row in self.rows(from, end).await? {
            let lease: LeaseRow = decode(&row.value).map_err(unreadable)?;
            let id = Layout::lease_of(&row.key).ok_or(Unreadable).map_err(unreadable)?;
            aside.leases.push((id, lease.ttl_ms));
        }
        Ok(aside)
    }

    async fn rows(&self, from: Bytes, end: Bytes) -> Result<Vec<super::rpc::KeyValue>, Error> {
        let mut pager = Pager::new(from, end, 0);
        let mut rows = Vec::new();
        loop {
            let page = pager.next(&self.client, usize::MAX, Instant::now() + self.timeout).await;
            let page = page.map_err(|fault| reading(&self.client, fault))?;
            if page.is_empty() {
                return Ok(rows);
            }
            rows.extend(page);
        }
    }

    async fn take_aside(&self, aside: Aside) -> Result<(), Error> {
        let fences = aside.fences.iter().map(|(scope, epoch)| (self.layout.fence(scope), encode(&epoch.0)));
        let lease = |(lease, ttl_ms): &(LeaseId, u64)| {
            (self.layout.lease(*lease), encode(&LeaseRow { ttl_ms: *ttl_ms, beats: 0, ends: false }))
        };
        self.put(fences.chain(aside.leases.iter().map(lease)).collect()).await
    }

    async fn take_records(&self, records: Vec<(Bytes, Record)>) -> Result<(), Error> {
        let mut rows = Vec::with_capacity(records.len());
        let mut hung: BTreeMap<LeaseId, Vec<Bytes>> = BTreeMap::new();
        for (key, record) in records {
            if let Some(lease) = record.lease {
                hung.entry(lease).or_default().push(key.clone());
            }
            rows.push((self.layout.main(&key), encode(&MainRow { record, blob: None })));
        }
        let hung =
            hung.iter().flat_map(|(lease, keys)| keys.chunks(HINT_KEYS).map(move |keys| (*lease, keys)));
        for (lease, keys) in hung {
            // Whatever names the hint, as long as nothing else does.
            let id = getrandom::u64();
            let id = id.map_err(|error| damaged(&self.client, &format!("no randomness: {error}")))?;
            rows.push((self.layout.hint(lease, u128::from(id)), encode(&keys)));
        }
        self.put(rows).await
    }

    async fn take_history(&self, batches: Vec<Arc<Batch>>) -> Result<(), Error> {
        let (mut rows, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
        for batch in &batches {
            let weight = wire::batch_weight(batch);
            if bytes + weight > BYTES / 2 {
                rows.extend(self.log_row(std::mem::take(&mut group)));
                bytes = 0;
            }
            if weight > BYTES / 2 {
                rows.extend(self.spilt(batch));
                continue;
            }
            bytes += weight;
            group.push((**batch).clone());
        }
        rows.extend(self.log_row(group));
        self.put(rows).await
    }

    fn log_row(&self, batches: Vec<Batch>) -> Option<(Bytes, Bytes)> {
        let last = batches.last()?.revision.0;
        Some((self.layout.log(last), encode(&LogRow { id: 0, batches, blobs: Vec::new() })))
    }

    /// A commit whose large values are kept outside of its row, and go with it.
    fn spilt(&self, batch: &Batch) -> Vec<(Bytes, Bytes)> {
        let mut batches = vec![batch.clone()];
        let (mut rows, mut blobs) = (Vec::new(), Vec::new());
        for (change, both) in batch.changes.iter().enumerate() {
            for (after, record) in [(false, &both.before), (true, &both.after)] {
                let at = blobs.len() as u64;
                let blob = BlobId(u128::from(batch.revision.0) << 64 | u128::from(at));
                let at = BlobAt { batch: 0, change: change as u32, after, blob };
                if record.as_ref().is_some_and(|record| record.value.len() >= SPILL_FROM)
                    && let Some(record) = value_of(&mut batches, &at)
                {
                    rows.push((self.layout.blob(blob), std::mem::take(&mut record.value)));
                    blobs.push(at);
                }
            }
        }
        let useless: Vec<BlobId> = blobs.iter().map(|at| at.blob).collect();
        rows.push((self.layout.useless(batch.revision.0), encode(&useless)));
        rows.push((self.layout.log(batch.revision.0), encode(&LogRow { id: 0, batches, blobs })));
        rows
    }

    /// Says how far the history goes, if nobody began one meanwhile.
    async fn end(&self, Revisions { newest, oldest }: Revisions) -> Result<(), Error> {
        let until = Instant::now() + PATIENCE;
        let head = encode(&Head { newest, oldest, aside: 1 });
        let found = self.client.get(self.layout.head(), until).await;
        let (row, _) = found.map_err(|fault| reading(&self.client, fault))?;
        let begun = row.filter(|row| decode(&row.value).is_ok_and(|head: Head| head.newest == Revision(0)));
        let begun = begun.ok_or_else(|| damaged(&self.client, "somebody wrote to it meanwhile"))?;
        let compare = vec![Compare::changed_at(self.layout.head(), begun.mod_revision)];
        let success = vec![RequestOp::put(self.layout.head(), head.clone())];
        self.until_done(TxnRequest { compare, success, failure: Vec::new() }).await?;
        let found = self.client.get(self.layout.head(), until).await;
        match found.map_err(|fault| reading(&self.client, fault))? {
            (Some(row), _) if row.value == head => Ok(()),
            _ => Err(damaged(&self.client, "somebody wrote to it meanwhile")),
        }
    }

    /// Writes rows, in as many transactions as it takes. Nobody looks at them before the head says that they are there.
    async fn put(&self, rows: Vec<(Bytes, Bytes)>) -> Result<(), Error> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut success, mut bytes) = (Vec::new(), 0);
            while let Some((key, value)) = rows.peek()
                && success.len() < OPERATIONS
                && (success.is_empty() || bytes + key.len() + value.len() <= BYTES)
                && let Some((key, value)) = rows.next()
            {
                bytes += key.len() + value.len();
                success.push(RequestOp::put(key, value));
            }
            self.until_done(TxnRequest { success, ..TxnRequest::default() }).await?;
        }
        Ok(())
    }

    /// Does what may be done twice.
    async fn until_done(&self, txn: TxnRequest) -> Result<(), Error> {
        let until = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            match self.client.txn(txn.clone()).await {
                Ok(_) => return Ok(()),
                Err(Fault::Unsent(_) | Fault::Lost(_)) if Instant::now() < until => {
                    tokio::time::sleep(backoff.next(jitter())).await;
                }
                Err(fault) => return Err(reading(&self.client, fault)),
            }
        }
    }
}
