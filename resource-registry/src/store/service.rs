//! A store, served to other nodes.
//!
//! A watch is a poll that waits, so the only thing that is kept from one call to the next is a snapshot while its pages
//! are fetched.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use starlane_core::{Code, NodeName, Refusal, Revision};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::wire::{self, Answer, BATCHES_BYTES, PAGE_BYTES, Request, Response};
use super::{Commit, Error, Event, Record, Snapshot, Store};
use crate::backoff::jitter;
use crate::exchange::Exchanges;
use crate::registry::Clock;

/// The most snapshots that are pinned at a time; who asks for one more is told that the registry is busy.
const SNAPSHOTS_MAX: usize = 64;
/// How long a snapshot stays pinned while nobody fetches a page. A pinned snapshot keeps the file from reusing its
/// space.
const SNAPSHOT_IDLE_MAX: Duration = Duration::from_secs(60);
/// How many records are read at once; a page ends where it is full.
const READ_AT_ONCE: usize = 16;
/// The most polls that wait at a time; one more is told that the registry is busy.
const POLLS_MAX: usize = 10_000;
/// The longest that a poll waits.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Answers the calls of [`super::RemoteStore`]s. Cloning is cheap.
#[derive(Clone)]
pub struct StoreService {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    now: Clock,
    exchanges: Exchanges,
    polls: Semaphore,
    snapshots: Mutex<Snapshots>,
}

struct Snapshots {
    pinned: HashMap<(NodeName, u64), Pinned>,
    last: u64,
    /// Whether somebody looks after those that nobody fetches.
    watched: bool,
}

#[derive(Clone)]
struct Pinned {
    pages: Arc<tokio::sync::Mutex<Pages>>,
    touched: Instant,
}

struct Pages {
    snapshot: Box<dyn Snapshot>,
    waiting: VecDeque<(Bytes, Record)>,
    /// How many pages were read.
    read: u64,
    /// The last of them, which may be asked for again.
    page: Option<(Vec<(Bytes, Record)>, bool)>,
}

impl StoreService {
    /// A service for a store of this process. `now` is the clock by which leases end.
    pub fn new(store: Arc<dyn Store>, now: Clock) -> Self {
        let snapshots = Snapshots { pinned: HashMap::new(), last: jitter(), watched: false };
        Self {
            shared: Arc::new(Shared {
                store,
                now,
                exchanges: Exchanges::default(),
                polls: Semaphore::new(POLLS_MAX),
                snapshots: Mutex::new(snapshots),
            }),
        }
    }

    /// Answers a call of a node. Commits are queued in the order in which these futures are polled first.
    ///
    /// # Errors
    /// When the call is none that is known. Nothing was done then.
    pub fn handle(&self, from: NodeName, request: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let shared = self.shared.clone();
        async move {
            let run = |request| shared.run(from.clone(), request);
            shared.exchanges.handle(from.clone(), request, run).await
        }
        .boxed()
    }
}

impl fmt::Debug for StoreService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreService")
    }
}

impl Shared {
    async fn run(self: &Arc<Self>, from: NodeName, request: Bytes) -> Result<Bytes, Refusal> {
        let request: Request = wire::decode(&request)
            .map_err(|_| Refusal::new(Code::Unsupported, "the registry does not know this call"))?;
        let result = self.answer(from, request).await;
        Ok(wire::encode(&Response { revisions: self.store.revisions(), result }))
    }

    async fn answer(self: &Arc<Self>, from: NodeName, request: Request) -> Result<Answer, Error> {
        let (store, now) = (&self.store, &self.now);
        Ok(match request {
            Request::Commit(commit) => Answer::Committed(self.commit(commit).await?),
            Request::Read { keys, at } => Answer::Reading(store.read(keys, at).await?),
            Request::Open { prefix } => self.open(from, prefix).await?,
            Request::Page { snapshot, number } => self.page(from, snapshot, number).await?,
            Request::Poll { prefix, after, wait_ms } => {
                let _turn = self.polls.try_acquire().map_err(|_| Error::Busy)?;
                self.poll(prefix, after, Duration::from_millis(wait_ms.into()).min(WAIT_MAX)).await?
            }
            Request::Compact { keep_from } => store.compact(keep_from).await.map(|()| Answer::Done)?,
            Request::Grant { ttl_ms } => Answer::Granted(store.grant(ttl_ms, now()).await?),
            Request::KeepAlive { lease } => store.keep_alive(lease, now()).await.map(|()| Answer::Done)?,
            Request::Revoke { lease, meta } => store.revoke(lease, meta).await.map(|()| Answer::Done)?,
        })
    }

    /// Whoever asked may go away; what was queued is committed all the same.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Revision, Error>> + use<> {
        self.store.commit(commit)
    }

    async fn open(self: &Arc<Self>, from: NodeName, prefix: Bytes) -> Result<Answer, Error> {
        self.unpin();
        if self.snapshots.lock().pinned.len() >= SNAPSHOTS_MAX {
            return Err(Error::Busy);
        }
        let snapshot = self.store.snapshot(prefix).await?;
        let revision = snapshot.revision();
        let pages = Pages { snapshot, waiting: VecDeque::new(), read: 0, page: None };
        let pinned = Pinned { pages: Arc::new(tokio::sync::Mutex::new(pages)), touched: Instant::now() };
        let mut snapshots = self.snapshots.lock();
        snapshots.last = snapshots.last.wrapping_add(1);
        let id = snapshots.last;
        snapshots.pinned.insert((from, id), pinned);
        if !std::mem::replace(&mut snapshots.watched, true) {
            tokio::spawn(unpin_idle(Arc::downgrade(self)));
        }
        Ok(Answer::Opened { snapshot: id, revision })
    }

    async fn page(&self, from: NodeName, snapshot: u64, number: u64) -> Result<Answer, Error> {
        self.unpin();
        let key = (from, snapshot);
        let pages = {
            let mut snapshots = self.snapshots.lock();
            let Some(pinned) = snapshots.pinned.get_mut(&key) else { return Ok(Answer::Unpinned) };
            pinned.touched = Instant::now();
            pinned.pages.clone()
        };
        let mut pages = pages.lock().await;
        if number == pages.read {
            pages.turn().await?;
        }
        match &pages.page {
            Some((records, last)) if number + 1 == pages.read => {
                Ok(Answer::Page { records: records.clone(), last: *last })
            }
            _ => Ok(Answer::Unpinned),
        }
    }

    /// Lets go of the snapshots that nobody fetches any more, and tells when the next one will be let go of.
    fn unpin(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut snapshots = self.snapshots.lock();
        snapshots.pinned.retain(|_, pinned| now.duration_since(pinned.touched) < SNAPSHOT_IDLE_MAX);
        snapshots.pinned.values().map(|pinned| pinned.touched + SNAPSHOT_IDLE_MAX).min()
    }

    async fn poll(&self, prefix: Bytes, after: Revision, wait: Duration) -> Result<Answer, Error> {
        if after > self.store.revisions().newest {
            // Several processes may write to the store, and this one may not have heard of it yet.
            let newest = self.store.newest().await?;
            if after > newest {
                // Whoever saw a later revision saw another history than this one.
                return Ok(Answer::Compacted { oldest: Revision(newest.0 + 1) });
            }
        }
        let mut watch = self.store.watch(prefix, after);
        let (mut batches, mut bytes, mut until) = (Vec::new(), 0, after);
        let Ok(mut event) = tokio::time::timeout(wait, watch.next()).await else {
            return Ok(Answer::Changes { batches, until });
        };
        loop {
            match event {
                Ok(Event::Batch(batch)) => {
                    until = batch.revision;
                    bytes += wire::batch_weight(&batch);
                    batches.push(batch);
                }
                Ok(Event::Progress(revision)) => until = revision,
                Ok(Event::Compacted { oldest }) if batches.is_empty() => {
                    return Ok(Answer::Compacted { oldest });
                }
                Err(error) if batches.is_empty() => return Err(error),
                // The next poll will say so.
                Ok(Event::Compacted { .. }) | Err(_) => break,
            }
            if bytes >= BATCHES_BYTES {
                break;
            }
            match watch.next().now_or_never() {
                Some(next) => event = next,
                None => break,
            }
        }
        Ok(Answer::Changes { batches, until })
    }
}

impl Pages {
    /// Reads the next page.
    async fn turn(&mut self) -> Result<(), Error> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let last = loop {
            if self.waiting.is_empty() {
                self.waiting = self.snapshot.next(READ_AT_ONCE).await?.into();
            }
            let Some((key, record)) = self.waiting.pop_front() else { break true };
            bytes += wire::weight(&key, &record);
            records.push((key, record));
            if bytes >= PAGE_BYTES {
                break false;
            }
        };
        self.page = Some((records, last));
        self.read += 1;
        Ok(())
    }
}

/// Lets go of snapshots in time also when nobody calls, as long as there are any.
async fn unpin_idle(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let next = strong.unpin();
        let mut snapshots = strong.snapshots.lock();
        let Some(next) = next else {
            // Unless one was pinned meanwhile.
            if snapshots.pinned.is_empty() {
                snapshots.watched = false;
                return;
            }
            continue;
        };
        drop(snapshots);
        drop(strong);
        tokio::time::sleep_until(next).await;
    }
}
