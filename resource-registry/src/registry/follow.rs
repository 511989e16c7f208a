//! The view follows the store: it is loaded, then takes in what is committed.
//!
//! It runs on a thread of its own. A store on another node may be out of reach for a while: then the view stays as it
//! is, and goes on from there. When the history between is no longer kept, the view is brought to a new snapshot, and
//! watches are told that it is gone: what happened is never told as what did not happen so.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use starlane_core::{Point, Resource, Revision};
use tokio::sync::{Semaphore, watch};

use super::read::LOOKS;
use super::records::{bytes_of, corrupt, point_of, root, sequence_number, sequence_parent, unreadable};
use super::{Config, Inner, Reached, cannot_start};
use crate::backoff::{Backoff, jitter};
use crate::error::Error;
use crate::hub::{Hub, Step};
use crate::locks::Locks;
use crate::packed::Unpacker;
use crate::schema::Compiled;
use crate::store::{self, Batch, Store};
use crate::view::View;

/// How many records are loaded at once.
const LOAD_PAGE: usize = 10_000;
/// How many commits the view takes in before it shows them, when there are many.
const APPLY_AT_ONCE: usize = 256;

/// Tells once whether the view was loaded.
pub(super) type Loaded = Box<dyn FnOnce(Result<Arc<Inner>, Error>) + Send>;

/// The thread that keeps the view.
pub(super) fn run(store: Arc<dyn Store>, config: Config, loaded: Loaded) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return loaded(Err(cannot_start(&error))),
    };
    runtime.block_on(async {
        let view = match load(&*store).await {
            Ok(view) => view,
            Err(error) => return loaded(Err(error.into())),
        };
        let upkeep_every = config.upkeep_every;
        let tended = store.is_tended();
        let inner = Arc::new(Inner::new(store.clone(), config, view));
        let weak = Arc::downgrade(&inner);
        let mut ended = inner.reached.subscribe();
        loaded(Ok(inner));
        let until_closed = async move {
            // The channel closes with the registry, though somebody else may keep the store open.
            drop(ended.wait_for(|reached| reached.stopped.is_some()).await);
        };
        let upkeep = async {
            match tended {
                // The node that has the store looks after it.
                true => std::future::pending().await,
                false => keep_up(weak.clone(), upkeep_every).await,
            }
        };
        tokio::select! {
            () = until_closed => {}
            () = follow(weak.clone(), store) => {}
            () = upkeep => {}
        }
    });
}

/// Everything in the store, as a view.
async fn load(store: &dyn Store) -> Result<View, store::Error> {
    let mut snapshot = store.snapshot(Bytes::new()).await?;
    let mut unpacker = Unpacker::default();
    let mut resources = vec![Arc::new(root())];
    let mut sequences = HashMap::new();
    loop {
        let page = snapshot.next(LOAD_PAGE).await?;
        if page.is_empty() {
            break;
        }
        for (key, record) in page {
            if let Some(parent) = sequence_parent(&key)? {
                sequences.insert(parent, sequence_number(&record.value)?);
                continue;
            }
            let point = point_of(&key)?;
            let resource = unpacker.unpack(point.clone(), &record).map_err(|_| unreadable(&point))?;
            resources.push(Arc::new(resource));
        }
    }
    Ok(View::load(resources, sequences, snapshot.revision()))
}

/// Takes in what is committed, until the registry is closed or what is stored cannot be read.
async fn follow(inner: Weak<Inner>, store: Arc<dyn Store>) {
    let Some(mut seen) = inner.upgrade().map(|inner| inner.published()) else { return };
    let mut unpacker = Unpacker::default();
    let mut backoff = Backoff::default();
    loop {
        let mut commits = store.watch(Bytes::new(), seen);
        let stopped = loop {
            let fill = || inner.upgrade().is_some_and(|inner| inner.fill());
            let event = next(&mut *commits, fill).await;
            let Some(inner) = inner.upgrade() else { return };
            let stopped = take_in(&inner, &mut unpacker, &mut *commits, event);
            seen = inner.published();
            match stopped {
                None => backoff.reset(),
                Some(stopped) => break stopped,
            }
        };
        let stopped = match stopped {
            Stopped::Compacted => match replace(&inner, &*store, &mut unpacker).await {
                Ok(Some(revision)) => {
                    seen = revision;
                    backoff.reset();
                    continue;
                }
                Ok(None) => return,
                Err(stopped) => stopped,
            },
            stopped => stopped,
        };
        let Some(inner) = inner.upgrade() else { return };
        match stopped {
            Stopped::Unreadable(error) => return inner.stop(error),
            Stopped::Failed(error) if !inner.remote => return inner.stop(error),
            Stopped::Failed(_) | Stopped::Compacted => {}
        }
        drop(inner);
        tokio::time::sleep(backoff.next(jitter())).await;
    }
}

/// The next event. Before it `fill` puts one stretch into an index that is not full and tells whether there is more to do, and
/// more stretches while no event comes: neither what is committed nor an index waits for the end of the other.
async fn next(
    commits: &mut dyn store::Watch,
    mut fill: impl FnMut() -> bool,
) -> Result<store::Event, store::Error> {
    while fill() {
        if let Some(event) = commits.next().now_or_never() {
            return event;
        }
        tokio::task::yield_now().await;
    }
    commits.next().await
}

/// Why a watch of the store goes no further.
enum Stopped {
    /// What it told cannot be taken in.
    Unreadable(store::Error),
    /// The store failed, which on another node passes.
    Failed(store::Error),
    /// The history that comes next is no longer kept.
    Compacted,
}

/// Takes in an event and all that are there already, and shows them before anybody is woken.
fn take_in(
    inner: &Inner,
    unpacker: &mut Unpacker,
    commits: &mut dyn store::Watch,
    mut event: Result<store::Event, store::Error>,
) -> Option<Stopped> {
    let mut applied = 0;
    let stopped = loop {
        match event {
            Ok(store::Event::Batch(batch)) => {
                if let Err(error) = inner.apply(unpacker, &batch) {
                    break Some(Stopped::Unreadable(error));
                }
            }
            Ok(store::Event::Progress(_)) => {}
            Ok(store::Event::Compacted { .. }) => break Some(Stopped::Compacted),
            Err(error) => break Some(Stopped::Failed(error)),
        }
        applied += 1;
        match commits.next().now_or_never() {
            Some(next) if applied < APPLY_AT_ONCE => event = next,
            Some(next) => {
                inner.publish();
                // Commits that come without a pause do not keep an index waiting.
                inner.fill();
                applied = 0;
                event = next;
            }
            None => break None,
        }
    };
    inner.publish();
    stopped
}

/// Brings the view to a new snapshot, and sends the watches to the log, which tells that what they missed is gone; `None` when
/// the registry is closed.
async fn replace(
    inner: &Weak<Inner>,
    store: &dyn Store,
    unpacker: &mut Unpacker,
) -> Result<Option<Revision>, Stopped> {
    let mut snapshot = store.snapshot(Bytes::new()).await.map_err(Stopped::Failed)?;
    let mut difference = Difference::default();
    loop {
        let page = snapshot.next(LOAD_PAGE).await.map_err(Stopped::Failed)?;
        let Some(inner) = inner.upgrade() else { return Ok(None) };
        let end = page.is_empty();
        // Only this thread changes the view, so it is the same for all pages.
        difference.compare(&inner.view.read(), unpacker, page).map_err(Stopped::Unreadable)?;
        if end {
            let revision = snapshot.revision();
            let known = inner.view.read().revision;
            if revision < known {
                return Err(Stopped::Unreadable(corrupt(format!(
                    "its history went back from revision {known} to {revision}; restart the node"
                ))));
            }
            tracing::warn!(from = %known, to = %revision, "the history between is no longer kept, watches list again");
            inner.leap(revision, difference);
            inner.publish();
            return Ok(Some(revision));
        }
    }
}

/// What is different in a snapshot, whose records come in order.
#[derive(Default)]
struct Difference {
    /// Everything up to here was compared.
    last: Option<Point>,
    changed: Vec<(Point, Option<Arc<Resource>>)>,
    sequences: HashMap<Point, u64>,
}

impl Difference {
    /// Compares a page; an empty one is the end.
    fn compare(
        &mut self,
        view: &View,
        unpacker: &mut Unpacker,
        page: Vec<(Bytes, store::Record)>,
    ) -> Result<(), store::Error> {
        let end = page.is_empty();
        for (key, record) in page {
            if let Some(parent) = sequence_parent(&key)? {
                self.sequences.insert(parent, sequence_number(&record.value)?);
                continue;
            }
            let point = point_of(&key)?;
            self.missing(view, Some(&point));
            let known = view.get(&point).map(|known| (known.created, known.modified));
            if known != Some((record.created, record.modified)) {
                let resource = unpacker.unpack(point.clone(), &record).map_err(|_| unreadable(&point))?;
                self.changed.push((point.clone(), Some(Arc::new(resource))));
            }
            self.last = Some(point);
        }
        if end {
            self.missing(view, None);
        }
        Ok(())
    }

    /// What the view has between the last record and the next is gone.
    fn missing(&mut self, view: &View, next: Option<&Point>) {
        let gone = view.between(self.last.as_ref(), next).map(|gone| (gone.point.clone(), None));
        self.changed.extend(gone);
    }
}

async fn keep_up(inner: Weak<Inner>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = inner.upkeep().await {
            tracing::warn!(%error, "the registry's upkeep failed; it is tried again");
        }
    }
}

impl Inner {
    fn new(store: Arc<dyn Store>, config: Config, view: View) -> Self {
        let after = view.revision;
        Self {
            remote: store.contact().is_some(),
            store,
            view: RwLock::new(view),
            reached: watch::Sender::new(Reached { revision: after, filled: true, stopped: None }),
            hub: Hub::new(after),
            locks: Locks::default(),
            counters: Mutex::default(),
            schemas: config.schemas.clone().map(OnceLock::from).unwrap_or_default(),
            compiled: Compiled::default(),
            commits: Semaphore::new(config.commits_max),
            room: Arc::new(Semaphore::new(config.listed_max.min(Semaphore::MAX_PERMITS))),
            config,
        }
    }

    /// Takes a commit into the view and hands it to the watches.
    fn apply(&self, unpacker: &mut Unpacker, batch: &Batch) -> Result<(), store::Error> {
        let mut changed = Vec::with_capacity(batch.changes.len());
        let mut numbers = Vec::new();
        for change in &batch.changes {
            if let Some(parent) = sequence_parent(&change.key)? {
                let number =
                    change.after.as_ref().map(|record| sequence_number(&record.value)).transpose()?;
                numbers.push((parent, number));
                continue;
            }
            let point = point_of(&change.key)?;
            let after = match &change.after {
                Some(record) => {
                    Some(Arc::new(unpacker.unpack(point.clone(), record).map_err(|_| unreadable(&point))?))
                }
                None => None,
            };
            changed.push((point, after, bytes_of(change)));
        }
        // Under one lock, so that who sees the view at a revision also knows that the watches have it.
        let mut view = self.view.write();
        for (parent, number) in numbers {
            view.set_sequence(parent, number);
        }
        self.step(view, batch.revision, changed);
        Ok(())
    }

    /// Takes in what is different in a snapshot, over commits that nobody knows any more.
    fn leap(&self, revision: Revision, difference: Difference) {
        let mut view = self.view.write();
        view.set_sequences(difference.sequences);
        for (point, after) in difference.changed {
            match after {
                Some(after) => view.put(after),
                None => view.remove(&point),
            }
        }
        view.revision = revision;
        self.hub.leap(revision);
    }

    fn step(
        &self,
        mut view: RwLockWriteGuard<'_, View>,
        revision: Revision,
        changed: Vec<(Point, Option<Arc<Resource>>, usize)>,
    ) {
        let mut steps: Vec<Step> = Vec::with_capacity(changed.len());
        for (point, after, bytes) in changed {
            let before = view.get(&point).cloned();
            match &after {
                Some(after) => view.put(after.clone()),
                None => view.remove(&point),
            }
            match (before, after) {
                // It was deleted and made again meanwhile: another resource at the same point.
                (Some(old), Some(new)) if old.created != new.created => {
                    steps.push(Step { before: Some(old), after: None, bytes });
                    steps.push(Step { before: None, after: Some(new), bytes });
                }
                (before, after) => steps.push(Step { before, after, bytes }),
            }
        }
        view.revision = revision;
        self.hub.dispatch(revision, &steps);
    }

    /// Puts the next stretch into an index that was declared, and tells whether there is more to do. Nobody but this thread
    /// changes the view.
    fn fill(&self) -> bool {
        if !self.view.read().is_unfilled() {
            return false;
        }
        let unfilled = self.view.write().fill(LOOKS);
        if !unfilled {
            self.publish();
        }
        unfilled
    }

    fn publish(&self) {
        let view = self.view.read();
        let (revision, filled) = (view.revision, !view.is_unfilled());
        drop(view);
        self.reached.send_modify(|reached| (reached.revision, reached.filled) = (revision, filled));
    }

    fn stop(&self, error: store::Error) {
        self.reached.send_modify(|reached| reached.stopped = Some(error));
        self.hub.close();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::future::BoxFuture;
    use starlane_core::{Property, Status, Timestamp};

    use super::*;
    use crate::store::MemoryStore;

    /// Events that are there already; then none comes.
    struct There(VecDeque<u64>);

    impl store::Watch for There {
        fn next(&mut self) -> BoxFuture<'_, Result<store::Event, store::Error>> {
            match self.0.pop_front() {
                Some(revision) => {
                    futures::future::ready(Ok(store::Event::Progress(Revision(revision)))).boxed()
                }
                None => futures::future::pending().boxed(),
            }
        }
    }

    #[tokio::test]
    async fn what_is_committed_and_a_new_index_do_not_wait_for_each_other() {
        let mut commits = There([1, 2, 3].into());
        let mut stretches = 0..5_u64;
        for expected in 1..=3 {
            let event = next(&mut commits, || stretches.next().is_some()).await;
            assert!(matches!(event, Ok(store::Event::Progress(Revision(n))) if n == expected), "{event:?}");
            assert_eq!(stretches.start, expected, "one stretch for each event");
        }
        // While nothing is committed it goes on, and then it waits.
        let mut waits = Box::pin(next(&mut commits, || stretches.next().is_some()));
        for _ in 0..4 {
            assert!((&mut waits).now_or_never().is_none());
        }
        drop(waits);
        assert!(stretches.is_empty());
    }

    fn resource(point: &str, kind: &str) -> Arc<Resource> {
        let indexed = Property { value: "total".into(), locked: false };
        Arc::new(Resource {
            point: point.parse().unwrap(),
            kind: kind.parse().unwrap(),
            properties: [("indexed".parse().unwrap(), indexed)].into_iter().collect(),
            status: Status::ready(),
            created: Revision(1),
            modified: Revision(1),
            version: 1,
        })
    }

    #[test]
    fn an_index_is_filled_while_commits_come_without_a_pause() {
        let mut view = View::load(vec![Arc::new(root())], HashMap::new(), Revision(1));
        for n in 0..3 * LOOKS {
            view.put(resource(&format!("shop:o-{n}"), "Order"));
        }
        view.put(resource("shop:kinds:order", "Kind"));
        assert!(view.is_unfilled());
        let config = Config::in_memory(Arc::new(|| Timestamp(1)));
        let inner = Inner::new(Arc::new(MemoryStore::default()), config, view);
        let mut commits = There((2..10 * APPLY_AT_ONCE as u64).collect());
        let first = Ok(store::Event::Progress(Revision(1)));
        assert!(take_in(&inner, &mut Unpacker::default(), &mut commits, first).is_none());
        assert!(commits.0.is_empty() && !inner.view.read().is_unfilled());
    }
}
