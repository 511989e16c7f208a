//! How a registry runs, and where it keeps its data.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use starlane_core::Timestamp;

use crate::schema::Schemas;
use crate::store::{MemoryStore, Store};

/// A clock: wall time for people, and for leases.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a registry runs.
#[derive(Clone)]
pub struct Config {
    /// Where it keeps its data.
    pub backing: Backing,
    /// How many commits the history keeps at most.
    pub history_revisions_max: u64,
    /// How long the history keeps a commit at most.
    pub history_time_max: Duration,
    /// How often the history is trimmed and ended leases are looked for.
    pub upkeep_every: Duration,
    /// The most watches at a time; one more is refused as busy.
    pub watches_max: usize,
    /// The most resources in the lists of all watches that are not read to their end yet; a watch that would make it
    /// more is refused as busy.
    pub listed_max: usize,
    /// How long a watch is quiet before it tells how far it is; with more than 1,000 watches longer, so that no more than
    /// 1,000 tell it in a second.
    pub bookmark_every: Duration,
    /// The most commits under way; others wait for their turn.
    pub commits_max: usize,
    /// How long a call waits for the view to show what the store of another node acknowledged.
    pub reach_max: Duration,
    /// The clock.
    pub now: Clock,
    /// Where the schemas of users' kinds come from; may be given later, see [`Registry::set_schemas`](crate::Registry::set_schemas).
    pub schemas: Option<Arc<dyn Schemas>>,
}

/// Where a registry keeps its data.
#[derive(Clone)]
pub enum Backing {
    /// In a file of its own.
    File(PathBuf),
    /// In a store that was opened already, or one of another node.
    Store(Arc<dyn Store>),
}

impl Config {
    /// The defaults, on a file that is made when it is missing; its folder must exist.
    pub fn at(path: impl Into<PathBuf>, now: Clock) -> Self {
        Self::on(Backing::File(path.into()), now)
    }

    /// The defaults, in memory: for tests.
    pub fn in_memory(now: Clock) -> Self {
        Self::on(Backing::Store(Arc::new(MemoryStore::new())), now)
    }

    /// The defaults.
    pub fn on(backing: Backing, now: Clock) -> Self {
        Self {
            backing,
            history_revisions_max: 1_000_000,
            history_time_max: Duration::from_secs(3_600),
            upkeep_every: Duration::from_secs(1),
            watches_max: 100_000,
            listed_max: 8_000_000,
            bookmark_every: Duration::from_secs(5),
            commits_max: 2_048,
            reach_max: Duration::from_secs(10),
            now,
            schemas: None,
        }
    }
}
