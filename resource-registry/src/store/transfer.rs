//! Moves all that a store keeps into another one, of whichever engine: records with the revisions that made and changed
//! them, the history as far as it is kept, fences and leases. So whoever knew a revision of the one knows it of the other.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use starlane_core::{Epoch, Revision};

use super::{Batch, Error, Event, LeaseId, Record, Revisions, Store, wire};

/// How many records are read at once.
const RECORDS: usize = 500;
/// How many bytes of commits are handed over at once, or one more commit.
const HISTORY_BYTES: usize = 512 * 1024;

/// A store that can be moved. Neither side may be in use meanwhile.
pub trait Portable: Store {
    /// What it keeps besides records and their history.
    ///
    /// # Errors
    /// Only the engine's own.
    fn aside(&self) -> BoxFuture<'_, Result<Aside, Error>>;

    /// Takes a part of another store. In between this store is of no use; after [`Part::End`] it is to be opened anew.
    ///
    /// # Errors
    /// Only the engine's own.
    fn take(&self, part: Part) -> BoxFuture<'_, Result<(), Error>>;
}

/// What a store keeps besides records and their history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aside {
    /// The highest epoch of each scope.
    pub fences: Vec<(Arc<str>, Epoch)>,
    /// Leases, and how many milliseconds each lives from when it began anew.
    pub leases: Vec<(LeaseId, u64)>,
}

/// A part of a store.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Fences and leases. Comes first.
    Aside(Aside),
    /// Some records.
    Records(Vec<(Bytes, Record)>),
    /// Some commits, in order.
    History(Vec<Arc<Batch>>),
    /// That is all, and so far the history goes.
    End(Revisions),
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How many records.
    pub records: usize,
    /// How many commits of the history.
    pub commits: usize,
    /// The ends of it.
    pub revisions: Revisions,
}

/// Why a store was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// There is something in the target already. It is left as it is.
    #[error("the target is not empty: it has revision {} and {records} records", revision.0)]
    NotEmpty {
        /// How far its history goes.
        revision: Revision,
        /// How many records it has; more are not counted.
        records: usize,
    },
    /// Somebody wrote to the source meanwhile.
    #[error("the source was written to meanwhile: it was at revision {}, and is at {}", before.0, after.0)]
    Moving {
        /// Where it was at first.
        before: Revision,
        /// Where it is.
        after: Revision,
    },
    /// What arrived is not what was sent.
    #[error("the target has {found:?}, and the source {sent:?}")]
    Differs {
        /// What was sent.
        sent: Moved,
        /// What is there.
        found: Moved,
    },
    /// The source failed.
    #[error("the source cannot be read: {0}")]
    Source(Error),
    /// The target failed.
    #[error("the target cannot be written: {0}")]
    Target(Error),
}

/// Moves everything. The target is to be opened anew then, and to be compared with [`Moved::check`].
///
/// # Errors
/// When the target is not empty, the source does not stay as it is, or either fails.
pub async fn transfer(from: &dyn Portable, to: &dyn Portable) -> Result<Moved, TransferError> {
    use TransferError::{Moving, NotEmpty, Source, Target};
    let there = to.newest().await.map_err(Target)?;
    let mut found = to.snapshot(Bytes::new()).await.map_err(Target)?;
    let found = found.next(1).await.map_err(Target)?.len();
    if there > Revision(0) || found > 0 {
        return Err(NotEmpty { revision: there, records: found });
    }
    to.take(Part::Aside(from.aside().await.map_err(Source)?)).await.map_err(Target)?;
    let mut snapshot = from.snapshot(Bytes::new()).await.map_err(Source)?;
    let newest = snapshot.revision();
    let revisions = Revisions { newest, oldest: from.revisions().oldest };
    let mut moved = Moved { records: 0, commits: 0, revisions };
    loop {
        let page = snapshot.next(RECORDS).await.map_err(Source)?;
        if page.is_empty() {
            break;
        }
        moved.records += page.len();
        to.take(Part::Records(page)).await.map_err(Target)?;
    }
    let mut history = History::of(from, revisions);
    while let Some(batches) = history.next().await.map_err(Source)? {
        moved.commits += batches.len();
        to.take(Part::History(batches)).await.map_err(Target)?;
    }
    let after = from.newest().await.map_err(Source)?;
    if after != newest || from.revisions().oldest != revisions.oldest {
        return Err(Moving { before: newest, after });
    }
    to.take(Part::End(revisions)).await.map_err(Target)?;
    Ok(moved)
}

impl Moved {
    /// Counts what a store has that was opened after it took everything.
    ///
    /// # Errors
    /// [`TransferError::Differs`] when that is something else.
    pub async fn check(self, to: &dyn Store) -> Result<(), TransferError> {
        use TransferError::{Differs, Target};
        let mut snapshot = to.snapshot(Bytes::new()).await.map_err(Target)?;
        let revisions = Revisions { newest: snapshot.revision(), oldest: to.revisions().oldest };
        let mut found = Moved { records: 0, commits: 0, revisions };
        loop {
            let page = snapshot.next(RECORDS).await.map_err(Target)?;
            if page.is_empty() {
                break;
            }
            found.records += page.len();
        }
        let mut history = History::of(to, revisions);
        while let Some(batches) = history.next().await.map_err(Target)? {
            found.commits += batches.len();
        }
        if found == self { Ok(()) } else { Err(Differs { sent: self, found }) }
    }
}

/// The commits that a store still keeps, some at a time.
struct History {
    watch: Box<dyn super::Watch>,
    last: Revision,
    newest: Revision,
}

impl History {
    fn of<S: Store + ?Sized>(store: &S, Revisions { newest, oldest }: Revisions) -> Self {
        let last = Revision(oldest.0.saturating_sub(1));
        Self { watch: store.watch(Bytes::new(), last), last, newest }
    }

    async fn next(&mut self) -> Result<Option<Vec<Arc<Batch>>>, Error> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while self.last < self.newest && bytes < HISTORY_BYTES {
            match self.watch.next().await? {
                Event::Batch(batch) => {
                    self.last = batch.revision;
                    bytes += wire::batch_weight(&batch);
                    batches.push(batch);
                }
                Event::Progress(revision) => self.last = revision,
                Event::Compacted { .. } => {
                    return Err(Error::Unreachable { reason: "its history was trimmed meanwhile".into() });
                }
            }
        }
        Ok((!batches.is_empty()).then_some(batches))
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::Timestamp;

    use super::*;
    use crate::store::etcd::tests::fresh;
    use crate::store::{Action, Commit, EtcdStore, Expect, Fence, Operation, ReadAt, RedbConfig, RedbStore};

    /// A history with everything in it: deletes, second lives, a lease, a fence, large values, and a beginning that was cut off.
    async fn fill(store: &dyn Store) -> LeaseId {
        let commit = |operations| Commit { meta: "who".into(), operations, ..Commit::default() };
        let put = |n: usize, value: Vec<u8>| Operation::put(format!("k{n:04}"), Expect::Any, value);
        for from in (0..600).step_by(100) {
            store.commit(commit((from..from + 100).map(|n| put(n, vec![1])).collect())).await.unwrap();
        }
        store.commit(commit((0..20).map(|n| put(n, vec![2; 150 * 1024])).collect())).await.unwrap();
        store.commit(commit(vec![Operation::delete("k0030", Expect::Any)])).await.unwrap();
        store.commit(commit(vec![put(30, vec![3])])).await.unwrap();
        let lease = store.grant(5_000, Timestamp(0)).await.unwrap();
        let hung = Action::Put { value: "v".into(), lease: Some(lease) };
        let fence = Some(Fence { scope: "shop".into(), epoch: Epoch(7) });
        let hang = vec![Operation { key: "hung".into(), expect: Expect::Any, action: hung }];
        store.commit(Commit { fence, ..commit(hang) }).await.unwrap();
        store.compact(Revision(4)).await.unwrap();
        lease
    }

    async fn all(store: &dyn Store) -> (Vec<(Bytes, Record)>, Vec<Arc<Batch>>, Revisions) {
        let mut snapshot = store.snapshot(Bytes::new()).await.unwrap();
        let records = snapshot.next(10_000).await.unwrap();
        let mut history = History::of(store, store.revisions());
        let mut batches = Vec::new();
        while let Some(more) = history.next().await.unwrap() {
            batches.extend(more);
        }
        (records, batches, store.revisions())
    }

    #[tokio::test]
    async fn a_store_comes_back_from_another_engine_as_it_was() {
        let Some((target, etcd)) = fresh() else { return };
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| RedbStore::open(&folder.path().join(name), &RedbConfig::default()).unwrap();
        let source = open("source");
        let lease = fill(&source).await;
        let before = all(&source).await;
        let moved = transfer(&source, &target).await.unwrap();
        assert_eq!((moved.records, moved.commits), (601, 7));
        let config = target.config().clone();
        drop(target);
        let there = EtcdStore::open(config.clone()).unwrap();
        moved.check(&there).await.unwrap();
        assert_eq!(all(&there).await, before);

        let refused = transfer(&source, &there).await;
        assert!(matches!(refused, Err(TransferError::NotEmpty { .. })), "{refused:?}");
        drop(open("back"));
        let moved = transfer(&there, &open("back")).await.unwrap();
        let back = open("back");
        moved.check(&back).await.unwrap();
        assert_eq!(all(&back).await, before);

        // What is moved goes on as what it was.
        for store in [&back as &dyn Store, &there] {
            let old = Some(Fence { scope: "shop".into(), epoch: Epoch(6) });
            let refused = store.commit(Commit { fence: old, ..Commit::default() }).await;
            assert!(matches!(refused, Err(Error::FenceStale { .. })), "{refused:?}");
            store.keep_alive(lease, Timestamp(9_000)).await.unwrap();
            store.revoke(lease, Bytes::new()).await.unwrap();
            let reading = store.read(vec!["hung".into()], ReadAt::Latest).await.unwrap();
            assert_eq!((reading.revision, &reading.records[..]), (Revision(11), &[None][..]));
        }
        drop(etcd);
    }

    #[tokio::test]
    async fn what_arrived_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store"), &RedbConfig::default()).unwrap();
        fill(&store).await;
        let moved = Moved { records: 601, commits: 7, revisions: store.revisions() };
        assert_eq!(moved.check(&store).await, Ok(()));
        let other = Moved { records: 602, ..moved };
        assert!(matches!(other.check(&store).await, Err(TransferError::Differs { .. })));
    }
}
