//! The registry: commands become commits, commits become the view, and the view answers.

mod aggregate;
mod commands;
mod config;
mod declare;
mod delete;
mod follow;
mod history;
mod live;
mod past;
mod read;
mod records;
mod rehearse;
mod upkeep;
mod write;

#[cfg(test)]
mod apart;
#[cfg(test)]
mod model;
#[cfg(test)]
mod past_model;
#[cfg(test)]
mod query_model;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use starlane_core::{Revision, Timestamp};
use tokio::sync::{Semaphore, oneshot, watch};

pub use self::aggregate::QueryWatch;
pub use self::commands::{
    BATCH_MAX, Create, Created, Delete, Done, Op, Outcome, Provided, RESERVED_BATCH_MAX, Reserved,
};
pub use self::config::{Backing, Clock, Config};
pub use self::history::{LogChange, LogEntry, LogOf};
pub use self::past::Diff;
pub use self::read::Selection;
pub(crate) use self::records::{prefix_of, steps_of};
use crate::draft::Counters;
use crate::error::Error;
use crate::hub::Hub;
use crate::locks::Locks;
use crate::schema::{Compiled, Schemas};
use crate::store::{self, RedbConfig, RedbStore, Store, StoreService};
use crate::view::View;

/// All resources of a mesh, or of its part. Cloning is cheap; the last clone closes it.
#[derive(Clone)]
pub struct Registry {
    // Goes before the thread, which ends when it is gone.
    inner: Arc<Inner>,
    _thread: Arc<ViewThread>,
}

/// Waits for the thread of the view, so that the file is free when the registry is dropped.
struct ViewThread(Option<std::thread::JoinHandle<()>>);

impl Drop for ViewThread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It reports its own failures.
            drop(thread.join());
        }
    }
}

pub(crate) struct Inner {
    store: Arc<dyn Store>,
    /// Whether the store is on another node.
    remote: bool,
    view: RwLock<View>,
    reached: watch::Sender<Reached>,
    hub: Hub,
    locks: Locks,
    /// The last numbers given out, which run ahead of those in the view.
    counters: Mutex<Counters>,
    schemas: OnceLock<Arc<dyn Schemas>>,
    compiled: Compiled,
    commits: Semaphore,
    room: Arc<Semaphore>,
    config: Config,
}

/// How far the view is.
#[derive(Debug, Clone)]
struct Reached {
    revision: Revision,
    /// Whether all indexes are full.
    filled: bool,
    /// Why it goes no further.
    stopped: Option<store::Error>,
}

impl Registry {
    /// Opens the registry and loads the view. For a store of another node use [`Registry::connect`], which does not
    /// block.
    ///
    /// # Errors
    /// [`Error::Store`] when the file cannot be used.
    pub fn open(config: Config) -> Result<Self, Error> {
        let (loaded, first) = mpsc::sync_channel(1);
        let thread = start(config, Box::new(move |inner| drop(loaded.send(inner))))?;
        let inner = first.recv().map_err(|_| store::Error::Closed)??;
        Ok(Self { inner, _thread: Arc::new(thread) })
    }

    /// As [`Registry::open`], without blocking: the way for a store of another node, which must be in reach until the
    /// view is loaded and may be out of reach after that.
    ///
    /// # Errors
    /// [`Error::Store`] when the store fails or is out of reach; it may be tried again.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let (loaded, first) = oneshot::channel();
        let thread = start(config, Box::new(move |inner| drop(loaded.send(inner))))?;
        let inner = first.await.map_err(|_| store::Error::Closed)??;
        Ok(Self { inner, _thread: Arc::new(thread) })
    }

    /// Waits until answers show everything that was acknowledged before the call, by whichever node.
    ///
    /// # Errors
    /// [`store::Error::Unreachable`] when the registry is out of reach: what answers show may be old.
    pub async fn fresh(&self) -> Result<(), Error> {
        self.inner.fresh().await.map(drop)
    }

    /// How it is with the way to the store; `None` when it is in this process, so that answers are never old.
    pub fn contact(&self) -> Option<store::Contact> {
        self.inner.store.contact()
    }

    /// Serves the store of this registry to other nodes.
    pub fn serve(&self) -> StoreService {
        StoreService::new(self.inner.store.clone(), self.inner.config.now.clone())
    }

    /// Says where the schemas of users' kinds come from; only the first call counts.
    pub fn set_schemas(&self, schemas: Arc<dyn Schemas>) {
        drop(self.inner.schemas.set(schemas));
    }

    /// The newest revision that answers show.
    pub fn revision(&self) -> Revision {
        self.inner.published()
    }

    /// How many resources there are, `ROOT` included.
    pub fn resources(&self) -> usize {
        self.inner.view.read().len()
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.inner.hub.watches()
    }

    /// The oldest revision that a watch can resume after, and the newest.
    pub fn revisions(&self) -> store::Revisions {
        self.inner.store.revisions()
    }

    /// Whether the store takes writes, as far as is known without trying.
    ///
    /// # Errors
    /// Why it does not.
    pub fn writable(&self) -> Result<(), Error> {
        match &self.inner.reached.borrow().stopped {
            Some(error) => Err(Error::Store(error.clone())),
            None => self.inner.store.writable().map_err(Error::Store),
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// What the clock shows.
    pub(crate) fn now(&self) -> Timestamp {
        (self.inner.config.now)()
    }
}

impl Inner {
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How long a watch is quiet before it tells how far it is.
    pub(crate) fn bookmark_every(&self) -> Duration {
        self.config.bookmark_every
    }

    /// The newest revision that the view shows and that watches were told of.
    pub(crate) fn published(&self) -> Revision {
        self.reached.borrow().revision
    }

    /// Waits until the view shows a revision.
    async fn reach(&self, revision: Revision) -> Result<(), store::Error> {
        let mut reached = self.reached.subscribe();
        let reached = reached.wait_for(|reached| reached.revision >= revision || reached.stopped.is_some());
        let reached = match self.remote {
            false => reached.await,
            true => tokio::time::timeout(self.config.reach_max, reached).await.map_err(|_| {
                let reason = format!("this node does not know of revision {revision} yet").into();
                store::Error::Unreachable { reason }
            })?,
        };
        let reached = reached.map_err(|_| store::Error::Closed)?;
        match &reached.stopped {
            Some(error) if reached.revision < revision => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until the indexes are full that were declared before, or the view goes no further.
    async fn filled(&self) {
        let mut reached = self.reached.subscribe();
        // It fails when the registry is closed.
        let _ = reached.wait_for(|reached| reached.filled || reached.stopped.is_some()).await;
    }

    /// Waits until the view shows all that was acknowledged before, and tells how far that is.
    async fn fresh(&self) -> Result<Revision, Error> {
        let newest = self.store.newest().await?;
        self.reach(newest).await?;
        Ok(newest)
    }
}

fn start(config: Config, loaded: follow::Loaded) -> Result<ViewThread, Error> {
    let store: Arc<dyn Store> = match &config.backing {
        Backing::File(path) => Arc::new(RedbStore::open(path, &RedbConfig::default())?),
        Backing::Store(store) => store.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("registry-view".into())
        .spawn(move || follow::run(store, config, loaded))
        .map_err(|error| cannot_start(&error))?;
    Ok(ViewThread(Some(thread)))
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.close();
    }
}

fn cannot_start(error: &std::io::Error) -> Error {
    let reason = format!("a thread cannot be started: {error}").into();
    store::Error::Unavailable { file: "the registry".into(), reason }.into()
}
