//! A store behind a mesh that loses things, and a caller who has patience: for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use starlane_core::NodeName;

use super::*;
use crate::flaky::{Faults, Flaky, Handler};
use crate::registry::Clock;
use crate::store::{MemoryStore, StoreService};

/// Tries again whatever surely did not happen, and looks to the clock and the upkeep of the other side.
#[derive(Clone)]
pub(crate) struct Away {
    pub(crate) remote: RemoteStore,
    home: MemoryStore,
    clock: Arc<AtomicU64>,
}

/// A service of a store, as the other side of an upstream.
pub(crate) fn served(store: Arc<dyn Store>, now: Clock) -> Handler {
    let service = StoreService::new(store, now);
    let from: NodeName = "edge-1".parse().unwrap();
    Arc::new(move |request| service.handle(from.clone(), request))
}

/// Short waits, so that a lost poll costs a test little.
pub(crate) fn quick() -> RemoteConfig {
    RemoteConfig { poll_wait: Duration::from_millis(50), ..RemoteConfig::default() }
}

/// Whether a call changes something, so that its outcome matters. Parts of a long one do too.
pub(crate) fn writes(frame: &[u8]) -> bool {
    crate::exchange::whole(frame)
        .is_none_or(|request| wire::decode::<Request>(request).is_ok_and(|request| !request.only_reads()))
}

impl Away {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let (home, clock) = (MemoryStore::new(), Arc::new(AtomicU64::new(0)));
        let now = clock.clone();
        let now: Clock = Arc::new(move || Timestamp(now.load(Ordering::SeqCst)));
        let upstream = Flaky::sparing(served(Arc::new(home.clone()), now), seed, faults, writes);
        Self { remote: RemoteStore::new(upstream, quick()), home, clock }
    }

    fn set_clock(&self, now: Timestamp) {
        self.clock.store(now.0, Ordering::SeqCst);
    }
}

/// Asks until it is answered.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 0..1_000 {
        match ask().await {
            Err(Error::Unreachable { .. }) => {}
            result => return result,
        }
    }
    panic!("never answered");
}

impl Store for Away {
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>> {
        let remote = self.remote.clone();
        async move { patiently(|| remote.commit(commit.clone())).await }.boxed()
    }

    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>> {
        async move { patiently(|| self.remote.read(keys.clone(), at)).await }.boxed()
    }

    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>> {
        async move {
            let pages = patiently(|| self.remote.snapshot(prefix.clone())).await?;
            let pages: Box<dyn Snapshot> = Box::new(Patient(pages));
            Ok(pages)
        }
        .boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch> {
        Box::new(Patient(self.remote.watch(prefix, after)))
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>> {
        let remote = self.remote.clone();
        async move { patiently(|| remote.compact(keep_from)).await }.boxed()
    }

    fn grant(&self, ttl_ms: u64, now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>> {
        self.set_clock(now);
        let remote = self.remote.clone();
        async move { patiently(|| remote.grant(ttl_ms, Timestamp(0))).await }.boxed()
    }

    fn keep_alive(&self, lease: LeaseId, now: Timestamp) -> BoxFuture<'static, Result<(), Error>> {
        self.set_clock(now);
        let remote = self.remote.clone();
        async move { patiently(|| remote.keep_alive(lease, Timestamp(0))).await }.boxed()
    }

    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let remote = self.remote.clone();
        async move { patiently(|| remote.revoke(lease, meta.clone())).await }.boxed()
    }

    fn expire(&self, now: Timestamp, meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>> {
        self.home.expire(now, meta)
    }

    fn revisions(&self) -> Revisions {
        self.remote.revisions()
    }

    fn writable(&self) -> Result<(), Error> {
        self.remote.writable()
    }
}

struct Patient<T>(T);

impl Snapshot for Patient<Box<dyn Snapshot>> {
    fn revision(&self) -> Revision {
        self.0.revision()
    }

    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>> {
        async move {
            loop {
                match self.0.next(limit).await {
                    Err(Error::Unreachable { .. }) => {}
                    result => return result,
                }
            }
        }
        .boxed()
    }
}

impl Watch for Patient<Box<dyn Watch>> {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>> {
        async move {
            loop {
                match self.0.next().await {
                    Err(Error::Unreachable { .. }) => {}
                    result => return result,
                }
            }
        }
        .boxed()
    }
}
