//! The newest commits in memory, for all who watch: writers append and never wait.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use starlane_core::Revision;
use tokio::sync::watch;

use super::{Batch, Error, Event, Revisions, Watch};

/// The most commits that are kept in memory; older ones are read from the log.
const BATCHES_MAX: usize = 8_192;
/// The most bytes of changes that are kept in memory.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many commits are read from the log at once.
const READ_AT_ONCE: usize = 256;

/// The durable history behind a feed.
pub(super) trait Log: Send + Sync {
    /// At most `limit` commits after a revision, oldest first.
    fn read_after(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>, Error>;
}

pub(super) struct Feed {
    recent: Mutex<Recent>,
    newest: watch::Sender<Option<Revision>>,
}

struct Recent {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    revisions: Revisions,
}

impl Feed {
    pub(super) fn new(revisions: Revisions) -> Self {
        let recent = Recent { batches: VecDeque::new(), bytes: 0, revisions };
        Self { recent: Mutex::new(recent), newest: watch::Sender::new(Some(revisions.newest)) }
    }

    pub(super) fn revisions(&self) -> Revisions {
        self.recent.lock().revisions
    }

    /// Appends commits that are durable, and wakes who waits for them.
    pub(super) fn publish(&self, batches: impl IntoIterator<Item = Arc<Batch>>) {
        let newest = {
            let mut recent = self.recent.lock();
            for batch in batches {
                recent.revisions.newest = batch.revision;
                recent.bytes += weight(&batch);
                recent.batches.push_back(batch);
            }
            while recent.batches.len() > BATCHES_MAX || recent.bytes > BYTES_MAX {
                let Some(oldest) = recent.batches.pop_front() else { break };
                recent.bytes -= weight(&oldest);
            }
            recent.revisions.newest
        };
        self.newest.send_replace(Some(newest));
    }

    /// Begins the feed of a store that was opened.
    pub(super) fn start(&self, revisions: Revisions) {
        self.recent.lock().revisions = revisions;
        self.newest.send_replace(Some(revisions.newest));
    }

    /// Waits until a revision exists.
    pub(super) async fn reach(&self, revision: Revision) -> Result<(), Error> {
        let mut newest = self.newest.subscribe();
        let reached = newest.wait_for(|newest| newest.is_none_or(|newest| newest >= revision)).await;
        if reached.is_ok_and(|newest| newest.is_some()) { Ok(()) } else { Err(Error::Closed) }
    }

    /// From now on nobody reads anything older.
    pub(super) fn forget_before(&self, oldest: Revision) {
        let mut recent = self.recent.lock();
        recent.revisions.oldest = recent.revisions.oldest.max(oldest);
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.newest.send_replace(None);
    }

    pub(super) fn watch(self: &Arc<Self>, log: Arc<dyn Log>, prefix: Bytes, after: Revision) -> FeedWatch {
        FeedWatch {
            newest: self.newest.subscribe(),
            feed: self.clone(),
            log,
            prefix,
            seen: after,
            told: after,
            read: VecDeque::new(),
        }
    }

    /// What comes after a revision, as far as memory reaches.
    fn after(&self, seen: Revision) -> After {
        let recent = self.recent.lock();
        if seen >= recent.revisions.newest {
            return After::Nothing;
        }
        if seen.0 + 1 < recent.revisions.oldest.0 {
            return After::Compacted { oldest: recent.revisions.oldest };
        }
        let at = recent.batches.partition_point(|batch| batch.revision <= seen);
        match recent.batches.get(at) {
            Some(batch) if batch.revision.0 == seen.0 + 1 => {
                After::Batches(recent.batches.range(at..).take(READ_AT_ONCE).cloned().collect())
            }
            _ => After::InLog,
        }
    }
}

enum After {
    Nothing,
    Batches(VecDeque<Arc<Batch>>),
    InLog,
    Compacted { oldest: Revision },
}

fn weight(batch: &Batch) -> usize {
    let change = |change: &super::Change| {
        let value = |record: &Option<super::Record>| record.as_ref().map_or(0, |record| record.value.len());
        96 + change.key.len() + value(&change.before) + value(&change.after)
    };
    64 + batch.meta.len() + batch.changes.iter().map(change).sum::<usize>()
}

pub(super) struct FeedWatch {
    feed: Arc<Feed>,
    newest: watch::Receiver<Option<Revision>>,
    log: Arc<dyn Log>,
    prefix: Bytes,
    /// Everything up to here was looked at.
    seen: Revision,
    /// The last revision that was told.
    told: Revision,
    read: VecDeque<Arc<Batch>>,
}

impl FeedWatch {
    async fn step(&mut self) -> Result<Event, Error> {
        loop {
            while let Some(batch) = self.read.pop_front() {
                self.seen = batch.revision;
                if let Some(batch) = under(&self.prefix, batch) {
                    self.told = batch.revision;
                    return Ok(Event::Batch(batch));
                }
            }
            match self.feed.after(self.seen) {
                After::Batches(batches) => self.read = batches,
                After::InLog => self.read = self.read_log().await?,
                After::Compacted { oldest } => return Ok(Event::Compacted { oldest }),
                After::Nothing if self.told < self.seen => {
                    self.told = self.seen;
                    return Ok(Event::Progress(self.seen));
                }
                After::Nothing => {
                    let seen = self.seen;
                    let more = self.newest.wait_for(|newest| newest.is_none_or(|newest| newest > seen)).await;
                    if more.map_err(|_| Error::Closed)?.is_none() {
                        return Err(Error::Closed);
                    }
                }
            }
        }
    }

    async fn read_log(&self) -> Result<VecDeque<Arc<Batch>>, Error> {
        let (log, after) = (self.log.clone(), self.seen);
        let batches = tokio::task::spawn_blocking(move || log.read_after(after, READ_AT_ONCE))
            .await
            .map_err(|_| Error::Closed)??;
        match batches.first() {
            Some(first) if first.revision.0 == after.0 + 1 => Ok(batches.into()),
            // The history was compacted between the two looks: the next look says so.
            _ if self.feed.revisions().oldest.0 > after.0 + 1 => Ok(VecDeque::new()),
            _ => Err(Error::Corrupt {
                file: Arc::from("the log"),
                reason: Arc::from(format!("revision {} is missing", after.0 + 1)),
            }),
        }
    }
}

/// The part of a commit that is under a prefix.
fn under(prefix: &[u8], batch: Arc<Batch>) -> Option<Arc<Batch>> {
    if batch.changes.iter().all(|change| change.key.starts_with(prefix)) {
        return (!batch.changes.is_empty()).then_some(batch);
    }
    let changes: Vec<_> =
        batch.changes.iter().filter(|change| change.key.starts_with(prefix)).cloned().collect();
    (!changes.is_empty())
        .then(|| Arc::new(Batch { revision: batch.revision, meta: batch.meta.clone(), changes }))
}

impl Watch for FeedWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>> {
        self.step().boxed()
    }
}
