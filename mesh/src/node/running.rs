//! What runs here for those that asked, so that it can be ended when they do not wait any more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use starlane_core::frame::Header;
use starlane_core::{MessageId, NodeId};

/// What begins and what ends are on different threads, which seldom wait for each other with so many.
const SHARDS: usize = 64;

/// Requests and calls that run here.
pub(crate) struct Running {
    shards: Box<[Mutex<Entries>]>,
    next: AtomicU64,
}

type Entries = HashMap<Asked, Awaited, RandomState>;

/// What ends something that runs.
pub(crate) type End = Box<dyn FnOnce() + Send>;

/// Who asked, and what.
type Asked = (NodeId, MessageId);

struct Awaited {
    serial: u64,
    end: Option<End>,
}

/// A place among what runs, for as long as somebody waits for it.
pub(crate) struct Place {
    running: Arc<Running>,
    asked: Asked,
    serial: u64,
}

impl Default for Running {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), next: AtomicU64::new(0) }
    }
}

impl Running {
    fn entries(&self, (_, id): &Asked) -> MutexGuard<'_, Entries> {
        // The last bits of an id are random, or count.
        self.shards[id.0 as usize % SHARDS].lock()
    }

    /// A place for something that is to run, unless the same runs for the node already.
    pub(crate) fn begin(self: &Arc<Self>, asked: &Header) -> Option<Place> {
        let asked = (asked.from, asked.id);
        let mut entries = self.entries(&asked);
        let Entry::Vacant(entry) = entries.entry(asked) else { return None };
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        entry.insert(Awaited { serial, end: None });
        Some(Place { running: self.clone(), asked, serial })
    }

    /// Whoever asked does not wait any more: what runs is ended.
    pub(crate) fn cancel(&self, from: NodeId, id: MessageId) {
        let awaited = self.entries(&(from, id)).remove(&(from, id));
        // Without the lock, which it may take.
        if let Some(end) = awaited.and_then(|awaited| awaited.end) {
            end();
        }
    }

    /// How much runs.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Place {
    /// What ends it when nobody waits any more; at once, when that is so already.
    pub(crate) fn end_by(&self, end: End) {
        let mut entries = self.running.entries(&self.asked);
        match entries.get_mut(&self.asked) {
            Some(awaited) if awaited.serial == self.serial => awaited.end = Some(end),
            _ => {
                drop(entries);
                end();
            }
        }
    }

    /// It is over. Tells whether somebody waited until now.
    pub(crate) fn leave(&self) -> bool {
        let awaited = {
            let mut entries = self.running.entries(&self.asked);
            match entries.entry(self.asked) {
                Entry::Occupied(entry) if entry.get().serial == self.serial => Some(entry.remove()),
                _ => None,
            }
        };
        awaited.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
