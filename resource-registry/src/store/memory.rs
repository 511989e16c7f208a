//! A store without a disk: for tests, and the plainest reading of what a store is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use starlane_core::{Epoch, Revision, Timestamp};

use super::feed::{Feed, Log};
use super::{
    Action, Batch, Commit, Error, Expect, LeaseId, OPERATIONS_MAX, Operation, ReadAt, Reading, Record,
    Revisions, Rows, Snapshot, Store, Watch, judge,
};

/// Keeps everything in memory and forgets it when dropped.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    feed: Arc<Feed>,
}

#[derive(Default)]
struct State {
    main: BTreeMap<Bytes, Record>,
    log: BTreeMap<Revision, Arc<Batch>>,
    newest: Revision,
    fences: HashMap<Arc<str>, Epoch>,
    leases: BTreeMap<LeaseId, Lease>,
    leases_granted: u64,
}

struct Lease {
    ttl_ms: u64,
    ends: Timestamp,
    keys: BTreeSet<Bytes>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let revisions = Revisions { newest: Revision(0), oldest: Revision(1) };
        Self { inner: Arc::new(Inner { state: Mutex::default(), feed: Arc::new(Feed::new(revisions)) }) }
    }
}

impl Inner {
    fn commit(&self, state: &mut State, commit: &Commit) -> Result<Revision, Error> {
        commit.check()?;
        if let Some(fence) = &commit.fence {
            let epoch = state.fences.get(&fence.scope).copied().unwrap_or_default();
            if fence.epoch < epoch {
                return Err(Error::FenceStale { scope: fence.scope.clone(), epoch });
            }
        }
        let changes = judge(&*state, commit, state.newest)?;
        if let Some(fence) = &commit.fence {
            state.fences.insert(fence.scope.clone(), fence.epoch);
        }
        if changes.is_empty() {
            return Ok(state.newest);
        }
        for change in &changes {
            for lease in change.before.iter().filter_map(|record| record.lease) {
                if let Some(lease) = state.leases.get_mut(&lease) {
                    lease.keys.remove(&change.key);
                }
            }
            match &change.after {
                Some(record) => {
                    if let Some(lease) = record.lease.and_then(|lease| state.leases.get_mut(&lease)) {
                        lease.keys.insert(change.key.clone());
                    }
                    state.main.insert(change.key.clone(), record.clone());
                }
                None => {
                    state.main.remove(&change.key);
                }
            }
        }
        state.newest = Revision(state.newest.0 + 1);
        let batch = Arc::new(Batch { revision: state.newest, meta: commit.meta.clone(), changes });
        state.log.insert(batch.revision, batch.clone());
        self.feed.publish([batch]);
        Ok(state.newest)
    }

    fn end_lease(&self, state: &mut State, lease: LeaseId, meta: &Bytes) -> Result<(), Error> {
        let ended = state.leases.remove(&lease).ok_or(Error::LeaseUnknown(lease))?;
        let keys: Vec<Bytes> = ended.keys.into_iter().collect();
        for keys in keys.chunks(OPERATIONS_MAX) {
            let operations = keys
                .iter()
                .map(|key| Operation { key: key.clone(), expect: Expect::Any, action: Action::Delete })
                .collect();
            self.commit(state, &Commit { fence: None, meta: meta.clone(), operations })?;
        }
        Ok(())
    }
}

impl Rows for State {
    type Error = Error;

    fn get(&self, key: &[u8]) -> Result<Option<Record>, Error> {
        Ok(self.main.get(key).cloned())
    }

    fn newest_below(&self, key: &[u8]) -> Result<Option<Revision>, Error> {
        let below = self.main.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded));
        Ok(below.take_while(|(below, _)| below.starts_with(key)).map(|(_, record)| record.modified).max())
    }

    fn lease_lives(&self, lease: LeaseId) -> Result<bool, Error> {
        Ok(self.leases.contains_key(&lease))
    }
}

impl Log for Inner {
    fn read_after(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>, Error> {
        let state = self.state.lock();
        let range = state.log.range((Bound::Excluded(after), Bound::Unbounded));
        Ok(range.take(limit).map(|(_, batch)| batch.clone()).collect())
    }
}

impl Store for MemoryStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>> {
        let result = self.inner.commit(&mut self.inner.state.lock(), &commit);
        futures::future::ready(result).boxed()
    }

    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>> {
        async move {
            if let ReadAt::AtLeast(revision) = at {
                self.inner.feed.reach(revision).await?;
            }
            let state = self.inner.state.lock();
            let records = keys.iter().map(|key| state.main.get(key).cloned()).collect();
            Ok(Reading { revision: state.newest, records })
        }
        .boxed()
    }

    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>> {
        let state = self.inner.state.lock();
        let records = state
            .main
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect::<Vec<_>>();
        let pages: Box<dyn Snapshot> =
            Box::new(Pages { revision: state.newest, records: records.into_iter() });
        futures::future::ready(Ok(pages)).boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch> {
        Box::new(self.inner.feed.watch(self.inner.clone(), prefix, after))
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>> {
        let mut state = self.inner.state.lock();
        let keep_from = keep_from.min(state.newest);
        self.inner.feed.forget_before(keep_from);
        state.log = state.log.split_off(&keep_from);
        futures::future::ready(Ok(())).boxed()
    }

    fn grant(&self, ttl_ms: u64, now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>> {
        let mut state = self.inner.state.lock();
        state.leases_granted += 1;
        let id = LeaseId(state.leases_granted);
        let ends = Timestamp(now.0.saturating_add(ttl_ms));
        state.leases.insert(id, Lease { ttl_ms, ends, keys: BTreeSet::new() });
        futures::future::ready(Ok(id)).boxed()
    }

    fn keep_alive(&self, lease: LeaseId, now: Timestamp) -> BoxFuture<'static, Result<(), Error>> {
        let mut state = self.inner.state.lock();
        let result = match state.leases.get_mut(&lease) {
            Some(lease) => {
                lease.ends = Timestamp(now.0.saturating_add(lease.ttl_ms));
                Ok(())
            }
            None => Err(Error::LeaseUnknown(lease)),
        };
        futures::future::ready(result).boxed()
    }

    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let result = self.inner.end_lease(&mut self.inner.state.lock(), lease, &meta);
        futures::future::ready(result).boxed()
    }

    fn expire(&self, now: Timestamp, meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>> {
        let mut state = self.inner.state.lock();
        let over: Vec<_> =
            state.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        let ended = over.iter().try_for_each(|lease| self.inner.end_lease(&mut state, *lease, &meta));
        futures::future::ready(ended.map(|()| over)).boxed()
    }

    fn revisions(&self) -> Revisions {
        self.inner.feed.revisions()
    }

    fn writable(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.feed.close();
    }
}

struct Pages {
    revision: Revision,
    records: std::vec::IntoIter<(Bytes, Record)>,
}

impl Snapshot for Pages {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>> {
        futures::future::ready(Ok(self.records.by_ref().take(limit).collect())).boxed()
    }
}
