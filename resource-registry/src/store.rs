//! What the registry asks of a storage engine: atomic commits with expectations, a history, and nothing of resources.
//!
//! Keys and values are opaque bytes. One revision number counts the commits. What the words below mean exactly is
//! said by `store/conformance.rs`, which every engine passes.

#[cfg(test)]
#[macro_use]
mod conformance;
#[cfg(test)]
mod disk;
mod engine;
mod etcd;
#[cfg(test)]
mod faults;
mod feed;
mod memory;
mod newest;
mod redb;
mod remote;
mod rows;
mod service;
mod transfer;
mod wal;
mod wire;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use starlane_core::{Epoch, Revision, Timestamp};

pub(crate) use engine::{Apply, Engine, EngineConfig, Failure, LOG_BYTES, file_opener};
pub use engine::{log_left, remove_file, sync_folder};
pub use etcd::{AddressError, ETCD_STATE_BYTES_MAX, EtcdConfig, EtcdStates, EtcdStore, EtcdTls, EtcdUser};
pub use memory::MemoryStore;
pub use redb::{RedbConfig, RedbStore};
#[cfg(test)]
pub(crate) use remote::away;
pub use remote::{RemoteConfig, RemoteStore};
pub use service::StoreService;
pub use transfer::{Aside, Moved, Part, Portable, TransferError, transfer};

/// The most operations of one commit.
pub const OPERATIONS_MAX: usize = 100;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4_200;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// A storage engine.
pub trait Store: Send + Sync + 'static {
    /// Queues a commit when called (not when polled, so that commits of one caller keep their order, unless they
    /// cross the mesh) and answers once it is durable. A commit that changes nothing makes no revision and answers the
    /// newest.
    ///
    /// # Errors
    /// [`Error::Conflict`] and [`Error::FenceStale`] changed nothing; [`Error::Busy`] neither: the queue is full; nor
    /// [`Error::Unreachable`]. After [`Error::Unknown`], [`Error::Unavailable`] and [`Error::Halted`] the commit may or
    /// may not have happened.
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>>;

    /// Reads some keys at one revision, `None` for those that are absent.
    ///
    /// # Errors
    /// Only the engine's own.
    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>>;

    /// Everything whose key begins with `prefix`, as it is now, in pages that all show the same revision.
    ///
    /// # Errors
    /// Only the engine's own.
    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>>;

    /// The commits after a revision that touch keys which begin with `prefix`. A watch of another node's store goes on
    /// after [`Error::Unreachable`] from where it was.
    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch>;

    /// Forgets the history before `keep_from`, though never the newest commit. Never stops writers; the space comes back a little later.
    ///
    /// # Errors
    /// Only the engine's own.
    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>>;

    /// Grants a lease: keys that were put with it are deleted when it ends. On another node that node's clock counts.
    ///
    /// # Errors
    /// Only the engine's own.
    fn grant(&self, ttl_ms: u64, now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>>;

    /// Lets a lease begin anew.
    ///
    /// # Errors
    /// [`Error::LeaseUnknown`] when it has ended.
    fn keep_alive(&self, lease: LeaseId, now: Timestamp) -> BoxFuture<'static, Result<(), Error>>;

    /// Ends a lease and deletes what hangs on it.
    ///
    /// # Errors
    /// [`Error::LeaseUnknown`] when it has ended.
    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>>;

    /// Ends the leases whose time is over, and tells which. Nothing happens on another node, which does so by itself.
    ///
    /// # Errors
    /// Only the engine's own.
    fn expire(&self, now: Timestamp, meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>>;

    /// The newest revision, and the oldest that can be watched; of another node's store, as far as is known.
    fn revisions(&self) -> Revisions;

    /// The newest commit, or a later one, of those that were acknowledged before the call.
    ///
    /// # Errors
    /// [`Error::Unreachable`]
    fn newest(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(std::future::ready(Ok(self.revisions().newest)))
    }

    /// How it is with the way to the store; `None` when nothing can come between.
    fn contact(&self) -> Option<Contact> {
        None
    }

    /// Whether somebody else ends leases and trims the history. Otherwise whoever opened the store must.
    fn is_tended(&self) -> bool {
        self.contact().is_some()
    }

    /// Whether the last commit could be written.
    ///
    /// # Errors
    /// Why it could not.
    fn writable(&self) -> Result<(), Error>;
}

/// How it is with the way to a store that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Why the last call was not answered; `None` when it was.
    pub lost: Option<Arc<str>>,
    /// How long ago a watch was answered last, which is how old what is known may be; `None` when none ever was.
    pub watched: Option<Duration>,
}

/// Pages of a snapshot.
pub trait Snapshot: Send {
    /// What all pages show.
    fn revision(&self) -> Revision;

    /// At most `limit` further records in the order of their keys; none at the end.
    ///
    /// # Errors
    /// Only the engine's own.
    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>>;
}

/// A stream of commits.
pub trait Watch: Send {
    /// The next step. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Only the engine's own.
    fn next(&mut self) -> BoxFuture<'_, Result<Event, Error>>;
}

/// One step of a store's watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// All that one commit changed under the prefix.
    Batch(Arc<Batch>),
    /// Nothing else changed up to here.
    Progress(Revision),
    /// The history that was asked for is no longer kept. Ends the watch.
    Compacted {
        /// The oldest revision that is.
        oldest: Revision,
    },
}

/// A commit as the history keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Which commit.
    pub revision: Revision,
    /// What was given along with it.
    pub meta: Bytes,
    /// What it changed, in the order of its operations.
    pub changes: Vec<Change>,
}

/// One changed key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub key: Bytes,
    /// What it was.
    pub before: Option<Record>,
    /// What it is.
    pub after: Option<Record>,
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The bytes.
    pub value: Bytes,
    /// The commit that made it.
    pub created: Revision,
    /// The commit that changed it last.
    pub modified: Revision,
    /// How many times it was written; 1 when new.
    pub version: u64,
    /// What it hangs on.
    pub lease: Option<LeaseId>,
}

/// Up to [`OPERATIONS_MAX`] operations that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Commit {
    /// Under which assignment.
    pub fence: Option<Fence>,
    /// Kept in the history along with the changes: who, when.
    pub meta: Bytes,
    /// Each key at most once among those that put or delete.
    pub operations: Vec<Operation>,
}

/// Refuses commits of an older epoch: the store keeps the highest that it has seen in each scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// What is assigned: a space, a point.
    pub scope: Arc<str>,
    /// Under which number.
    pub epoch: Epoch,
}

/// One operation of a commit. All expectations are checked against what was before the commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Which key.
    pub key: Bytes,
    /// What must hold.
    pub expect: Expect,
    /// What happens.
    pub action: Action,
}

/// What must hold before a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key is absent.
    Absent,
    /// The key is there.
    Present,
    /// The key was changed last by this commit.
    At(Revision),
    /// The key was made by this commit, and has been there since.
    MadeBy(Revision),
    /// The key is absent, or its value is a lesser number than the one that is put: both in eight little-endian bytes.
    /// So of several who count, each has numbers of its own.
    Grows,
    /// No longer key that begins with this one was written after this commit. So a whole tree can be deleted
    /// without losing what somebody else adds to it meanwhile.
    QuietBelow(Revision),
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Writes the key.
    Put {
        /// Its new value.
        value: Bytes,
        /// What it hangs on from now on.
        lease: Option<LeaseId>,
    },
    /// Removes the key, if it is there.
    Delete,
    /// Nothing: the operation is only an expectation.
    Keep,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadAt {
    /// Everything that was acknowledged before the call.
    Latest,
    /// At least this commit.
    AtLeast(Revision),
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The revision that was read.
    pub revision: Revision,
    /// In the order of the keys.
    pub records: Vec<Option<Record>>,
}

/// The ends of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revisions {
    /// The newest commit.
    pub newest: Revision,
    /// The oldest commit that is still kept.
    pub oldest: Revision,
}

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// An expectation did not hold. Nothing changed.
    #[error("`{}` is not as expected", String::from_utf8_lossy(key))]
    Conflict {
        /// Of which key.
        key: Bytes,
        /// What changed it last; `None` when it is absent.
        found: Option<Revision>,
        /// The newest revision that the expectation was checked against.
        revision: Revision,
    },
    /// The commit came under an older assignment. Nothing changed.
    #[error("`{scope}` is at epoch {}", epoch.0)]
    FenceStale {
        /// Of what.
        scope: Arc<str>,
        /// The epoch that holds.
        epoch: Epoch,
    },
    /// The lease has ended or never was.
    #[error("lease {} has ended", .0.0)]
    LeaseUnknown(LeaseId),
    /// The commit is larger than a commit may be.
    #[error("{0}")]
    TooLarge(Arc<str>),
    /// Too much is waiting to be written.
    #[error("too many commits are waiting")]
    Busy,
    /// The disk does not take writes at the moment. Reads go on, and so will writes when it recovers.
    #[error("{file} cannot be written: {reason}")]
    Unavailable {
        /// Which file.
        file: Arc<str>,
        /// What the system said.
        reason: Arc<str>,
    },
    /// A sync failed, so nobody knows what is on the disk: nothing is written until the store is opened anew.
    #[error("{file} is not written to any more until it is opened anew: {reason}")]
    Halted {
        /// Which file.
        file: Arc<str>,
        /// What the system said.
        reason: Arc<str>,
    },
    /// The file is damaged.
    #[error("{file} is damaged: {reason}")]
    Corrupt {
        /// Which file.
        file: Arc<str>,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The file was written by a newer version of this program.
    #[error("{file} has data format {found}; this version reads up to {known}")]
    FormatNewer {
        /// Which file.
        file: Arc<str>,
        /// Its format.
        found: u64,
        /// The newest that is understood here.
        known: u64,
    },
    /// Another process uses the file.
    #[error("{file} is in use by another process")]
    InUse {
        /// Which file.
        file: Arc<str>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The node that has the store is out of reach. Nothing changed.
    #[error("the registry cannot be reached: {reason}")]
    Unreachable {
        /// What the mesh said.
        reason: Arc<str>,
    },
    /// The node that has the store was asked and did not answer: what was asked may or may not have happened.
    #[error("the registry did not answer, so nobody knows whether it was done: {reason}")]
    Unknown {
        /// What the mesh said.
        reason: Arc<str>,
    },
    /// The node that has the store runs an older version, which does not know what was asked. Nothing changed.
    #[error("the registry's node does not know what was asked: {reason}")]
    Unsupported {
        /// What it said.
        reason: Arc<str>,
    },
    /// The store belongs to another mesh.
    #[error("{file} is the registry of another mesh ({owner})")]
    Foreign {
        /// Which.
        file: Arc<str>,
        /// The mesh that has it.
        owner: Arc<str>,
    },
    /// Whatever keeps the store does not let this node in. Nothing changed.
    #[error("{file} lets nobody in like that: {reason}")]
    Denied {
        /// Where the store is.
        file: Arc<str>,
        /// What it said, or which file of ours is of no use.
        reason: Arc<str>,
    },
}

impl Error {
    /// Whether it passes by itself, so that reading may be tried again after a while.
    pub(crate) fn passes(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::Unknown { .. }
                | Error::Busy
                | Error::Unsupported { .. }
                | Error::Denied { .. }
        )
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Operation {
    /// An expectation without a change.
    pub fn guard(key: impl Into<Bytes>, expect: Expect) -> Self {
        Self { key: key.into(), expect, action: Action::Keep }
    }

    /// Writes a value that hangs on nothing.
    pub fn put(key: impl Into<Bytes>, expect: Expect, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), expect, action: Action::Put { value: value.into(), lease: None } }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<Bytes>, expect: Expect) -> Self {
        Self { key: key.into(), expect, action: Action::Delete }
    }
}

impl Commit {
    /// Checks the bounds that hold for every engine.
    ///
    /// # Errors
    /// [`Error::TooLarge`] says which one is exceeded.
    pub fn check(&self) -> Result<(), Error> {
        if self.operations.len() > OPERATIONS_MAX {
            return Err(Error::TooLarge("a commit has at most 100 operations".into()));
        }
        let mut written = HashSet::with_capacity(self.operations.len());
        for operation in &self.operations {
            if operation.key.len() > KEY_BYTES_MAX {
                return Err(Error::TooLarge("a key has at most 4,200 bytes".into()));
            }
            if matches!(&operation.action, Action::Put { value, .. } if value.len() > VALUE_BYTES_MAX) {
                return Err(Error::TooLarge("a value has at most 256 KiB".into()));
            }
            if operation.action != Action::Keep && !written.insert(&operation.key) {
                return Err(Error::TooLarge("a commit changes a key once".into()));
            }
        }
        Ok(())
    }
}

/// What an engine looks up to judge a commit, the commits queued before it included.
trait Rows {
    type Error: From<Error>;

    fn get(&self, key: &[u8]) -> Result<Option<Record>, Self::Error>;

    /// The newest revision among the keys that are longer than `key` and begin with it.
    fn newest_below(&self, key: &[u8]) -> Result<Option<Revision>, Self::Error>;

    fn lease_lives(&self, lease: LeaseId) -> Result<bool, Self::Error>;
}

/// Judges a commit and tells what it changes; it would be the commit after `newest`.
fn judge<R: Rows>(rows: &R, commit: &Commit, newest: Revision) -> Result<Vec<Change>, R::Error> {
    let mut changes = Vec::with_capacity(commit.operations.len());
    let revision = Revision(newest.0 + 1);
    for operation in &commit.operations {
        let before = rows.get(&operation.key)?;
        let found = match operation.expect {
            Expect::QuietBelow(_) => rows.newest_below(&operation.key)?,
            _ => before.as_ref().map(|record| record.modified),
        };
        let holds = match operation.expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::At(expected) => found == Some(expected),
            Expect::MadeBy(expected) => before.as_ref().is_some_and(|record| record.created == expected),
            Expect::Grows => grows(before.as_ref(), &operation.action),
            Expect::QuietBelow(since) => found.is_none_or(|written| written <= since),
        };
        if !holds {
            return Err(Error::Conflict { key: operation.key.clone(), found, revision: newest }.into());
        }
        let after = match &operation.action {
            Action::Keep => continue,
            Action::Delete if before.is_none() => continue,
            Action::Delete => None,
            Action::Put { value, lease } => {
                if let Some(lease) = lease
                    && !rows.lease_lives(*lease)?
                {
                    return Err(Error::LeaseUnknown(*lease).into());
                }
                Some(Record {
                    value: value.clone(),
                    created: before.as_ref().map_or(revision, |record| record.created),
                    modified: revision,
                    version: before.as_ref().map_or(0, |record| record.version) + 1,
                    lease: *lease,
                })
            }
        };
        changes.push(Change { key: operation.key.clone(), before, after });
    }
    Ok(changes)
}

fn grows(before: Option<&Record>, action: &Action) -> bool {
    let number = |value: &[u8]| value.try_into().map(u64::from_le_bytes).ok();
    let Action::Put { value, .. } = action else { return false };
    let Some(new) = number(value) else { return false };
    before.is_none_or(|record| number(&record.value).is_some_and(|old| old < new))
}
