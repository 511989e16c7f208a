//! The registry: commands become commits, commits become the view, and the view answers.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use starlane_core::{
    Agent, Assignment, Base, Code, CreateMode, DeleteTarget, Kind, Point, Problem, PropertyChange, Resource,
    ResumeToken, Revision, Selector, Status, Target, Timestamp,
};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::draft::{Counters, Draft, Results, SEQUENCE, Stop};
use crate::error::Error;
use crate::hub::{Hub, Mail, Step};
use crate::locks::{Claim, Locks};
use crate::packed::{Unpacker, pack_meta, unpack_meta};
use crate::schema::{Compiled, Schema, Schemas, Versions};
use crate::store::{
    self, Action, Batch, Commit, LeaseId, MemoryStore, OPERATIONS_MAX, RedbConfig, RedbStore, Store,
    StoreService,
};
use crate::view::View;
use crate::watch::{List, Watch};

/// The most resources of one atomic batch.
pub const BATCH_MAX: usize = 32;
/// The most resources that the mesh makes in one atomic batch.
pub const RESERVED_BATCH_MAX: usize = 64;

/// How often a commit that met another's is drafted anew.
const ATTEMPTS_MAX: usize = 16;
/// How many resources are looked at before others may go on; few in tests, so that they see it happen.
const LOOKS: usize = if cfg!(test) { 3 } else { 20_000 };

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
    /// How long a watch is quiet before it tells how far it is.
    pub bookmark_every: Duration,
    /// The most commits under way; others wait for their turn.
    pub commits_max: usize,
    /// How long a call waits for the view to show what the store of another node acknowledged.
    pub reach_max: Duration,
    /// The clock.
    pub now: Clock,
    /// Where the schemas of users' kinds come from; may be given later, see [`Registry::set_schemas`].
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
            watches_max: 10_000,
            listed_max: 8_000_000,
            bookmark_every: Duration::from_secs(5),
            commits_max: 2_048,
            reach_max: Duration::from_secs(10),
            now,
            schemas: None,
        }
    }
}

/// What `create` is to make.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// What happens when it is there already.
    pub mode: CreateMode,
    /// Where.
    pub target: Target,
    /// As what.
    pub kind: Kind,
    /// With which properties.
    pub changes: Vec<PropertyChange>,
    /// In which state.
    pub status: Status,
}

impl Create {
    /// A new resource, ready, without properties.
    pub fn new(point: Point, kind: Kind) -> Self {
        Self {
            mode: CreateMode::New,
            target: Target::Point(point),
            kind,
            changes: Vec::new(),
            status: Status::ready(),
        }
    }
}

/// What became of a `create`.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// The resource as it is now.
    pub resource: Arc<Resource>,
    /// Whether it is new.
    pub outcome: Outcome,
}

/// Whether a resource was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    New,
    /// It was there, and is as it was.
    Existed,
    /// It was there, and was changed.
    Replaced,
}

/// What `delete` is to take away.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// Which resources.
    pub target: DeleteTarget,
    /// Whether all below them goes too.
    pub recursive: bool,
    /// What must have changed the resource last; only for a point.
    pub expect: Option<Revision>,
}

impl Delete {
    /// One resource.
    pub fn point(point: Point, recursive: bool) -> Self {
        Self { target: DeleteTarget::Point(point), recursive, expect: None }
    }

    /// Whatever matches.
    pub fn selector(selector: Selector, recursive: bool) -> Self {
        Self { target: DeleteTarget::Selector(selector), recursive, expect: None }
    }
}

/// A resource that the mesh makes for itself, of whatever kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Reserved {
    /// Where.
    pub point: Point,
    /// As what.
    pub kind: Kind,
    /// With which properties, besides those that it has.
    pub changes: Vec<PropertyChange>,
    /// In which state.
    pub status: Status,
    /// What it hangs on.
    pub lease: Option<LeaseId>,
}

impl Reserved {
    /// A resource that hangs on nothing.
    pub fn new(point: Point, kind: Kind, changes: Vec<PropertyChange>, status: Status) -> Self {
        Self { point, kind, changes, status, lease: None }
    }
}

/// What must hold for resources that the mesh makes in several commits, which another node may try at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provided {
    /// Nothing is there yet.
    Absent(Point),
    /// What is there was made by this commit, and not deleted since.
    MadeBy(Point, Revision),
}

/// One part of an atomic batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Makes a resource.
    Create(Create),
    /// Changes properties.
    Set {
        /// Of which resource.
        point: Point,
        /// How.
        changes: Vec<PropertyChange>,
        /// What must have changed it last before the batch.
        expect: Option<Revision>,
    },
    /// Changes the status.
    SetStatus {
        /// Of which resource.
        point: Point,
        /// To what.
        status: Status,
    },
    /// Takes a resource without children away.
    Delete {
        /// Which.
        point: Point,
        /// What must have changed it last before the batch.
        expect: Option<Revision>,
    },
}

/// What became of one part of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// It was made, or was there.
    Created(Created),
    /// It was changed.
    Changed(Arc<Resource>),
    /// It is gone.
    Deleted(Point, Kind),
}

/// A page of a selector's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// In the order of their points.
    pub resources: Vec<Arc<Resource>>,
    /// What they are at.
    pub revision: Revision,
    /// The cursor of the next page, when there is more.
    pub next: Option<String>,
}

/// Which part of the history is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum LogOf {
    /// What happened to a resource, newest first.
    Point(Point),
    /// What happened in some revisions, oldest first.
    Revisions(RangeInclusive<u64>),
}

/// One commit of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Which.
    pub revision: Revision,
    /// When, by the clock of the node that asked for it.
    pub time: Timestamp,
    /// On whose authority.
    pub agent: Agent,
    /// What it changed.
    pub changes: Vec<LogChange>,
}

/// What a commit changed of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct LogChange {
    /// Which.
    pub point: Point,
    /// What it was; `None` when it was made.
    pub before: Option<Arc<Resource>>,
    /// What it became; `None` when it was deleted.
    pub after: Option<Arc<Resource>>,
}

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

    /// Makes a resource.
    ///
    /// # Errors
    /// When it is there already and must not be, or a rule refuses it.
    pub async fn create(&self, by: &Agent, create: Create) -> Result<Created, Error> {
        match self.batch(by, vec![Op::Create(create)]).await?.pop() {
            Some(Done::Created(created)) => Ok(created),
            _ => Err(store::Error::Closed.into()),
        }
    }

    /// Changes properties, all or none. What changes nothing makes no commit.
    ///
    /// # Errors
    /// When the resource is missing or at another revision than `expect`, or a rule refuses it.
    pub async fn set(
        &self,
        by: &Agent,
        point: &Point,
        changes: Vec<PropertyChange>,
        expect: Option<Revision>,
    ) -> Result<Arc<Resource>, Error> {
        self.change(by, Op::Set { point: point.clone(), changes, expect }).await
    }

    /// Changes the status.
    ///
    /// # Errors
    /// When the resource is missing.
    pub async fn set_status(
        &self,
        by: &Agent,
        point: &Point,
        status: Status,
    ) -> Result<Arc<Resource>, Error> {
        self.change(by, Op::SetStatus { point: point.clone(), status }).await
    }

    async fn change(&self, by: &Agent, op: Op) -> Result<Arc<Resource>, Error> {
        match self.batch(by, vec![op]).await?.pop() {
            Some(Done::Changed(resource)) => Ok(resource),
            _ => Err(store::Error::Closed.into()),
        }
    }

    /// Does several things at once or not at all; later ones see the earlier.
    ///
    /// # Errors
    /// That of the first part that fails; more than [`BATCH_MAX`] parts are too many.
    pub async fn batch(&self, by: &Agent, ops: Vec<Op>) -> Result<Vec<Done>, Error> {
        if ops.len() > BATCH_MAX {
            return Err(Error::TooLarge(format!(
                "a batch has at most {BATCH_MAX} parts, this one {}",
                ops.len()
            )));
        }
        for op in &ops {
            self.inner.check_declaration(op).await?;
        }
        self.inner.batch(by, &ops).await
    }

    /// Says which nodes act for a resource, and how it is, each if it is given: for the leader of the registry's nodes alone.
    /// A later assignment has a greater epoch; `expect` is what must have changed the resource last.
    ///
    /// # Errors
    /// When the resource is missing or at another revision than `expect`.
    pub async fn assign(
        &self,
        by: &Agent,
        point: &Point,
        assignment: Option<&Assignment>,
        status: Option<&Status>,
        expect: Revision,
    ) -> Result<Arc<Resource>, Error> {
        let changes = assignment.map(Assignment::changes).unwrap_or_default();
        let claim = Claim { here: vec![point.clone()], ..Claim::default() };
        let _held = self.inner.locks.take(claim).await;
        let committed = self
            .inner
            .commit(by, false, |draft| {
                draft.expect(point, Some(expect))?;
                draft.set(point, &changes)?;
                status.map_or(Ok(()), |status| draft.set_status(point, status))
            })
            .await?;
        committed.resource(point)
    }

    /// Makes a resource of any kind, or brings it to this state: for what the mesh makes itself.
    ///
    /// # Errors
    /// As [`Registry::create`].
    pub async fn put_reserved(&self, by: &Agent, reserved: Reserved) -> Result<Created, Error> {
        match self.put_all_reserved(by, vec![reserved]).await?.pop() {
            Some(created) => Ok(created),
            None => Err(store::Error::Closed.into()),
        }
    }

    /// Makes several resources at once or none, as [`Registry::put_reserved`]; parents before children.
    ///
    /// # Errors
    /// That of the first that fails; more than [`RESERVED_BATCH_MAX`] are too many.
    pub async fn put_all_reserved(&self, by: &Agent, reserved: Vec<Reserved>) -> Result<Vec<Created>, Error> {
        self.put_all_reserved_if(by, reserved, None).await
    }

    /// As [`Registry::put_all_reserved`], when something holds.
    ///
    /// # Errors
    /// [`Error::Exists`] when something is there that must not be, [`Error::NotFound`] when what must be there is gone.
    pub async fn put_all_reserved_if(
        &self,
        by: &Agent,
        reserved: Vec<Reserved>,
        provided: Option<&Provided>,
    ) -> Result<Vec<Created>, Error> {
        if reserved.len() > RESERVED_BATCH_MAX {
            return Err(Error::TooLarge(format!(
                "a batch has at most {RESERVED_BATCH_MAX} parts, this one {}",
                reserved.len()
            )));
        }
        let here = reserved.iter().map(|reserved| reserved.point.clone()).collect();
        let claim = Claim { here, ..Claim::default() };
        let _held = self.inner.locks.take(claim).await;
        let committed = self
            .inner
            .commit(by, false, |draft| {
                if let Some(provided) = provided {
                    draft.provide(provided)?;
                }
                let put = |reserved: &Reserved| {
                    draft.hang_on(reserved.lease);
                    let create = Create {
                        mode: CreateMode::New,
                        target: Target::Point(reserved.point.clone()),
                        kind: reserved.kind.clone(),
                        changes: reserved.changes.clone(),
                        status: reserved.status.clone(),
                    };
                    draft.put(&reserved.point, &create)
                };
                reserved.iter().map(put).collect::<Result<Vec<_>, Stop>>()
            })
            .await?;
        let created = |(reserved, outcome): (&Reserved, &Outcome)| {
            Ok(Created { resource: committed.resource(&reserved.point)?, outcome: *outcome })
        };
        reserved.iter().zip(&committed.value).map(created).collect()
    }

    /// Takes resources away and tells which, children before their parents. What fits one commit goes at once or not at
    /// all; a larger tree goes in several, from below.
    ///
    /// # Errors
    /// [`Error::HasChildren`] unless `recursive`; [`Error::DeletedPartly`] when a larger tree was not deleted to its end.
    pub async fn delete(&self, by: &Agent, delete: Delete) -> Result<Vec<(Point, Kind)>, Error> {
        self.inner.delete(by, &delete, true).await
    }

    /// As [`Registry::delete`], for what the mesh made itself.
    ///
    /// # Errors
    /// As [`Registry::delete`].
    pub async fn delete_reserved(&self, by: &Agent, delete: Delete) -> Result<Vec<(Point, Kind)>, Error> {
        self.inner.delete(by, &delete, false).await
    }

    /// The resource at a point.
    pub fn get(&self, point: &Point) -> Option<Arc<Resource>> {
        self.inner.view.read().get(point).cloned()
    }

    /// The first resources one level below a point, in the order of their points.
    pub fn children(&self, point: &Point, limit: usize) -> Vec<Arc<Resource>> {
        self.inner.view.read().children(point).take(limit).cloned().collect()
    }

    /// A page of what matches, in the order of points, all at one revision. `after` is the cursor of the page before;
    /// pages may be of different revisions.
    ///
    /// # Errors
    /// [`Error::CursorInvalid`]
    pub fn select(&self, selector: &Selector, limit: usize, after: Option<&str>) -> Result<Selection, Error> {
        let after = after.map(|cursor| read_cursor(cursor, selector)).transpose()?;
        let (resources, revision, more) = self.inner.list(selector, after.as_ref(), limit);
        let next = more.map(|last| cursor_after(selector, &last));
        if resources.is_empty() && after.is_none() {
            self.check_measured(selector)?;
        }
        Ok(Selection { resources, revision, next })
    }

    /// Nothing is the wrong answer to a question for what nobody measures.
    fn check_measured(&self, selector: &Selector) -> Result<(), Error> {
        let Some(field) = selector.fields().find(|field| SAMPLED.contains(field)) else { return Ok(()) };
        let set: Selector = format!("ROOT+**[exists({field})]").parse()?;
        if !self.inner.list(&set, None, 1).0.is_empty() {
            return Ok(());
        }
        let detail = format!("`{field}` is not measured yet, and no resource has a property of that name");
        Err(Problem::new(Code::Unsupported, detail).help("leave it out of the filter").into())
    }

    /// How many resources match.
    pub fn count(&self, selector: &Selector) -> usize {
        let everything = selector.to_string() == "ROOT+**";
        if everything {
            return self.inner.view.read().len();
        }
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.inner.view.read().page(selector, after.as_ref(), usize::MAX, LOOKS);
            count += page.resources.len();
            after = Some(match page.looked_at {
                Some(last) => last,
                None => return count,
            });
        }
    }

    /// What matches now, then what changes of it; or, with a token, what changed since.
    ///
    /// # Errors
    /// [`Error::Sampled`], [`Error::TokenMismatch`], and [`Error::Busy`] when there are too many watches or too many lists are
    /// being read.
    pub fn watch(&self, selector: &Selector, since: Option<ResumeToken>) -> Result<Watch, Error> {
        if let Some(field) = selector.fields().find(|field| SAMPLED.contains(field)) {
            return Err(Error::Sampled(field.to_owned()));
        }
        if since.is_some_and(|token| token != ResumeToken::new(token.revision, &selector.to_string())) {
            return Err(Error::TokenMismatch);
        }
        // A token of revision 0 was given out before the end of a list.
        let since = since.map(|token| token.revision).filter(|revision| revision.0 > 0);
        let inner = &self.inner;
        let mailbox = inner
            .hub
            .join(selector, since.is_some(), inner.config.watches_max)
            .ok_or(Error::Busy("too many watches are open"))?;
        let mut watch = Watch {
            inner: Arc::downgrade(inner),
            selector: selector.clone(),
            mailbox,
            seen: since.unwrap_or_default(),
            list: None,
            bookmark_every: inner.config.bookmark_every,
            log: None,
            ended: false,
            ahead: None,
        };
        // The data may be older than the token: restored from a backup. Going on would pass over what comes until then.
        let revisions = inner.store.revisions();
        if since.is_some_and(|since| since > revisions.newest) {
            watch.ahead = Some(revisions.oldest);
        }
        if since.is_none() {
            let (resources, revision, _) = inner.list(selector, None, usize::MAX);
            let room = u32::try_from(resources.len())
                .ok()
                .and_then(|count| inner.room.clone().try_acquire_many_owned(count).ok())
                .ok_or(Error::Busy("too many long lists are being read"))?;
            watch.seen = revision;
            watch.list = Some(List { resources: resources.into_iter(), _room: room });
        }
        Ok(watch)
    }

    /// A part of the history, at most `limit` commits of it. What happened to a resource that is there is found directly; for
    /// one that is gone the whole history is read.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn log(&self, of: LogOf, limit: usize) -> Result<Vec<LogEntry>, Error> {
        match of {
            LogOf::Point(point) => self.inner.log_of_point(&point, limit).await,
            LogOf::Revisions(range) => {
                let (from, to) = range.into_inner();
                let to = to.min(self.inner.published().0);
                let from = from.max(self.inner.store.revisions().oldest.0);
                self.inner.log_range(Bytes::new(), from, to, limit).await
            }
        }
    }

    /// What the clock shows.
    pub(crate) fn now(&self) -> Timestamp {
        (self.inner.config.now)()
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

    /// Grants a lease: resources that were put with it go when it ends.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(self.inner.store.grant(ttl_ms, (self.inner.config.now)()).await?)
    }

    /// Lets a lease begin anew.
    ///
    /// # Errors
    /// [`store::Error::LeaseUnknown`] when it has ended.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        Ok(self.inner.store.keep_alive(lease, (self.inner.config.now)()).await?)
    }

    /// Ends a lease; what hangs on it goes.
    ///
    /// # Errors
    /// [`store::Error::LeaseUnknown`] when it has ended.
    pub async fn revoke(&self, by: &Agent, lease: LeaseId) -> Result<(), Error> {
        self.inner.store.revoke(lease, self.inner.meta(by)).await?;
        let revision = self.inner.store.revisions().newest;
        Ok(self.inner.reach(revision).await.map_err(|error| unseen(revision, error))?)
    }

    /// Trims the history and ends leases whose time is over; the registry does so by itself from time to time. Nothing
    /// happens when another node has the store, and looks after it.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn upkeep(&self) -> Result<(), Error> {
        self.inner.upkeep().await
    }

    /// Forgets the history before a revision.
    ///
    /// # Errors
    /// Only the store's.
    pub async fn compact(&self, keep_from: Revision) -> Result<(), Error> {
        Ok(self.inner.store.compact(keep_from).await?)
    }
}

/// Fields that are measured when they are asked for, so that they change without commits.
const SAMPLED: [&str; 4] = ["queue", "cpu", "memory", "live"];

impl Inner {
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The newest revision that the view shows and that watches were told of.
    pub(crate) fn published(&self) -> Revision {
        self.reached.borrow().revision
    }

    fn meta(&self, by: &Agent) -> Bytes {
        pack_meta((self.config.now)(), by)
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

    /// Waits until the view shows all that was acknowledged before, and tells how far that is.
    async fn fresh(&self) -> Result<Revision, Error> {
        let newest = self.store.newest().await?;
        self.reach(newest).await?;
        Ok(newest)
    }

    /// Drafts and commits, again when somebody else was faster. The caller holds what it changes.
    ///
    /// What a draft finds in the way, or finds done already, may be the past: others commit too. It is believed when the
    /// view shows all that was acknowledged before the call.
    async fn commit<T>(
        &self,
        by: &Agent,
        by_hand: bool,
        mut plan: impl FnMut(&mut Draft<'_>) -> Result<T, Stop>,
    ) -> Result<Committed<T>, Error> {
        let mut fresh = false;
        for _ in 0..ATTEMPTS_MAX {
            let turn = self.commits.acquire().await.map_err(|_| store::Error::Closed)?;
            let (seen, planned) = {
                let view = self.view.read();
                let mut draft = Draft::new(&view, &self.compiled, &self.counters, by_hand);
                let planned = match plan(&mut draft) {
                    Ok(value) => self.send(by, draft, value),
                    Err(Stop::Error(error)) => Planned::Settled(Err(error)),
                    Err(Stop::Load(declaration)) => Planned::Load(declaration),
                };
                (view.revision, planned)
            };
            match planned {
                Planned::Sent(value, results, sent) => match sent.await {
                    Ok(revision) => {
                        self.reach(revision).await.map_err(|error| unseen(revision, error))?;
                        return Ok(Committed { value, results, revision });
                    }
                    Err(store::Error::Conflict { revision, .. }) => self.reach(revision).await?,
                    Err(error) => return Err(error.into()),
                },
                Planned::Settled(result) => {
                    drop(turn);
                    if fresh || self.fresh().await? <= seen {
                        return result;
                    }
                    fresh = true;
                }
                Planned::Load(declaration) => {
                    drop(turn);
                    self.load_schema(&declaration).await?;
                }
            }
        }
        Err(Error::Busy("others keep changing the same resources"))
    }

    /// Queues the commit of a draft.
    fn send<T>(&self, by: &Agent, draft: Draft<'_>, value: T) -> Planned<T> {
        let finished = match draft.finish() {
            Ok(finished) => finished,
            Err(error) => return Planned::Settled(Err(error)),
        };
        let (operations, results) = (finished.operations, finished.results);
        if operations.len() > OPERATIONS_MAX {
            return Planned::Settled(Err(Error::TooLarge(format!(
                "the batch needs {} operations; a commit has at most {OPERATIONS_MAX}: split it",
                operations.len()
            ))));
        }
        if operations.iter().all(|operation| operation.action == Action::Keep) {
            return Planned::Settled(Ok(Committed { value, results, revision: Revision(0) }));
        }
        let sent = self.store.commit(Commit { fence: None, meta: self.meta(by), operations });
        // Numbers are queued in the order in which they grow: whoever counts next waited until here.
        drop(finished.counting);
        Planned::Sent(value, results, sent)
    }

    async fn batch(&self, by: &Agent, ops: &[Op]) -> Result<Vec<Done>, Error> {
        let mut claim = Claim::default();
        for op in ops {
            match op {
                Op::Create(Create { target: Target::Sequence(sequence), .. }) => {
                    claim.under.push(sequence.parent.clone());
                }
                Op::Create(Create { target: Target::Point(point), .. })
                | Op::Set { point, .. }
                | Op::SetStatus { point, .. } => claim.here.push(point.clone()),
                Op::Delete { point, .. } => claim.trees.push(point.clone()),
            }
        }
        let _held = self.locks.take(claim).await;
        enum Part {
            Created(Point, Outcome),
            Changed(Point),
            Deleted(Point, Kind),
        }
        let committed = self
            .commit(by, true, |draft| {
                for op in ops {
                    if let Op::Set { point, expect, .. } | Op::Delete { point, expect } = op {
                        draft.expect(point, *expect)?;
                    }
                }
                let part = |op: &Op| {
                    Ok(match op {
                        Op::Create(create) => {
                            let point = match &create.target {
                                Target::Point(point) => point.clone(),
                                Target::Sequence(sequence) => draft.next_of(sequence)?,
                            };
                            let outcome = draft.create(&point, create)?;
                            Part::Created(point, outcome)
                        }
                        Op::Set { point, changes, .. } => {
                            draft.set(point, changes)?;
                            Part::Changed(point.clone())
                        }
                        Op::SetStatus { point, status } => {
                            draft.set_status(point, status)?;
                            Part::Changed(point.clone())
                        }
                        Op::Delete { point, .. } => Part::Deleted(point.clone(), draft.delete(point)?),
                    })
                };
                ops.iter().map(part).collect::<Result<Vec<_>, Stop>>()
            })
            .await?;
        let done = |part: &Part| match part {
            Part::Created(point, outcome) => {
                Ok(Done::Created(Created { resource: committed.resource(point)?, outcome: *outcome }))
            }
            Part::Changed(point) => committed.resource(point).map(Done::Changed),
            Part::Deleted(point, kind) => {
                self.counters.lock().forget(point);
                Ok(Done::Deleted(point.clone(), kind.clone()))
            }
        };
        committed.value.iter().map(done).collect()
    }

    /// Before a kind is declared, its schema must be one.
    async fn check_declaration(&self, op: &Op) -> Result<(), Error> {
        let (point, changes) = match op {
            Op::Create(create) if create.kind.base == Base::Kind => match &create.target {
                Target::Point(point) => (point, &create.changes),
                Target::Sequence(sequence) => (&sequence.parent, &create.changes),
            },
            Op::Set { point, changes, .. }
                if self.view.read().get(point).is_some_and(|resource| resource.kind.base == Base::Kind) =>
            {
                (point, changes)
            }
            _ => return Ok(()),
        };
        for change in changes {
            if let PropertyChange::Set { key, value, .. } = change
                && key.as_str() == "schema"
            {
                self.read_schema(point, value.as_point()).await?;
            }
        }
        Ok(())
    }

    async fn load_schema(&self, declaration: &Arc<Resource>) -> Result<(), Error> {
        let source = declaration.point_property("schema");
        let versions = {
            let view = self.view.read();
            Versions::of(declaration, source.as_ref().and_then(|source| view.get(source)))
        };
        let schema = self.read_schema(&declaration.point, source).await?;
        self.compiled.insert(declaration.point.clone(), versions, schema);
        Ok(())
    }

    async fn read_schema(&self, declaration: &Point, source: Option<Point>) -> Result<Schema, Error> {
        let unusable =
            |problem: Box<Problem>| Error::SchemaUnusable { declaration: declaration.clone(), problem };
        let source = source.ok_or_else(|| {
            let what = "`schema` does not name a point";
            unusable(Box::new(Problem::new(starlane_core::Code::PropertyValue, what)))
        })?;
        let schemas = self.schemas.get().ok_or_else(|| {
            let what = "this registry cannot read schemas";
            unusable(Box::new(Problem::new(starlane_core::Code::Unsupported, what)))
        })?;
        let text = schemas.read(source).await.map_err(|problem| unusable(Box::new(problem)))?;
        Schema::compile(&text).map_err(unusable)
    }

    async fn delete(&self, by: &Agent, delete: &Delete, by_hand: bool) -> Result<Vec<(Point, Kind)>, Error> {
        let base = match &delete.target {
            DeleteTarget::Point(point) => point.clone(),
            DeleteTarget::Selector(selector) => selector.scope().base,
        };
        let _held = self.locks.take(Claim::tree(&base)).await;
        // What there is to delete is decided by what was acknowledged before the call.
        self.fresh().await?;
        let mut attempts = 1..ATTEMPTS_MAX;
        let removed = loop {
            match self.delete_listed(by, self.to_delete(delete, by_hand)?, by_hand).await {
                // Others made or took away some of it since it was listed.
                Err(Error::HasChildren { .. } | Error::NotFound(_))
                    if delete.recursive && attempts.next().is_some() =>
                {
                    self.fresh().await?;
                }
                done => break done?,
            }
        };
        let mut counters = self.counters.lock();
        for (point, _) in &removed {
            counters.forget(point);
        }
        drop(counters);
        Ok(removed)
    }

    /// Takes away what was listed, children before their parents.
    async fn delete_listed(
        &self,
        by: &Agent,
        list: Vec<Point>,
        by_hand: bool,
    ) -> Result<Vec<(Point, Kind)>, Error> {
        let mut removed = Vec::with_capacity(list.len());
        // What fits goes at once: an operation a resource, one for what its tree rests on, one for a counter.
        let at_once = if list.len() <= BATCH_MAX { BATCH_MAX } else { OPERATIONS_MAX / 3 };
        for part in list.chunks(at_once) {
            let kinds = self
                .commit(by, by_hand, |draft| {
                    part.iter().map(|point| draft.delete(point)).collect::<Result<Vec<_>, Stop>>()
                })
                .await;
            match kinds {
                Ok(kinds) => removed.extend(part.iter().cloned().zip(kinds.value)),
                Err(cause) if removed.is_empty() => return Err(cause),
                Err(cause) => return Err(Error::DeletedPartly { removed, cause: Box::new(cause) }),
            }
        }
        Ok(removed)
    }

    /// What a `delete` takes away, children before their parents.
    fn to_delete(&self, delete: &Delete, by_hand: bool) -> Result<Vec<Point>, Error> {
        let view = self.view.read();
        let draft = Draft::new(&view, &self.compiled, &self.counters, by_hand);
        let mut list: Vec<Point> = match &delete.target {
            DeleteTarget::Point(point) => {
                draft.expect(point, delete.expect)?;
                view.get(point)
                    .map(|resource| vec![resource.point.clone()])
                    .ok_or_else(|| Error::NotFound(point.clone()))?
            }
            DeleteTarget::Selector(selector) => {
                let page = view.page(selector, None, usize::MAX, usize::MAX);
                page.resources.into_iter().map(|resource| resource.point.clone()).collect()
            }
        };
        let known: std::collections::HashSet<Point> = list.iter().cloned().collect();
        if delete.recursive {
            let tops: Vec<Point> = list
                .iter()
                .filter(|point| !point.ancestors().any(|above| known.contains(&above)))
                .cloned()
                .collect();
            list = Vec::new();
            for top in tops {
                list.extend(view.below(&top).map(|resource| resource.point.clone()));
                list.push(top);
            }
        } else {
            for point in &list {
                let mut left = view.children(point).filter(|child| !known.contains(&child.point));
                if let Some(child) = left.next() {
                    return Err(Error::HasChildren {
                        point: point.clone(),
                        child: child.point.clone(),
                        more: left.next().is_some(),
                    });
                }
            }
        }
        list.iter().try_for_each(|point| draft.check_deletable(point))?;
        draft.check_whole(&list)?;
        // A point stands before all that are below it.
        list.sort_unstable_by(|a, b| b.cmp(a));
        Ok(list)
    }

    /// A part of a selector's answer at one revision, and where it ends when there is more. Looks at a stretch at a time, so
    /// that writers go on meanwhile, and then brings what was read first up to what was read last.
    fn list(
        &self,
        selector: &Selector,
        after: Option<&Point>,
        limit: usize,
    ) -> (Vec<Arc<Resource>>, Revision, Option<Point>) {
        {
            let view = self.view.read();
            let page = view.page(selector, after, limit, LOOKS);
            let full = page.resources.len() >= limit;
            if page.looked_at.is_none() || full {
                return (page.resources, view.revision, page.looked_at);
            }
        }
        self.list_long(selector, after, limit).unwrap_or_else(|| {
            // So much changed meanwhile that writers have to wait for once.
            let view = self.view.read();
            let page = view.page(selector, after, limit, usize::MAX);
            (page.resources, view.revision, page.looked_at)
        })
    }

    fn list_long(
        &self,
        selector: &Selector,
        after: Option<&Point>,
        limit: usize,
    ) -> Option<(Vec<Arc<Resource>>, Revision, Option<Point>)> {
        let joined = Joined::new(self, selector)?;
        let mut list = Vec::new();
        // Up to which point the list was read at which revision.
        let mut stretches: Vec<(Option<Point>, Revision)> = Vec::new();
        let mut from = after.cloned();
        let (revision, more) = loop {
            let view = self.view.read();
            let page = view.page(selector, from.as_ref(), limit - list.len(), LOOKS);
            list.extend(page.resources);
            stretches.push((page.looked_at.clone(), view.revision));
            if page.looked_at.is_none() || list.len() >= limit {
                break (view.revision, page.looked_at);
            }
            from = page.looked_at;
        };
        let mut fixes: HashMap<Point, Option<Arc<Resource>>> = HashMap::new();
        loop {
            match joined.mailbox.take() {
                Mail::InLog | Mail::Closed => return None,
                Mail::Nothing => break,
                Mail::Commit(commit) if commit.revision > revision => break,
                Mail::Commit(commit) => {
                    for change in commit.changes.iter() {
                        let point = &change.resource().point;
                        let read_at = stretches
                            .iter()
                            .find(|(end, _)| end.as_ref().is_none_or(|end| point <= end))
                            .map(|(_, revision)| *revision);
                        let inside = after.is_none_or(|after| point > after);
                        if inside && read_at.is_some_and(|read_at| commit.revision > read_at) {
                            let now = match change {
                                starlane_core::Change::Left(_) => None,
                                other => Some(other.resource().clone()),
                            };
                            fixes.insert(point.clone(), now);
                        }
                    }
                }
            }
        }
        if !fixes.is_empty() {
            list.retain(|resource| !fixes.contains_key(&resource.point));
            list.extend(fixes.into_values().flatten());
            list.sort_unstable_by(|a, b| a.point.cmp(&b.point));
        }
        Some((list, revision, more))
    }

    async fn log_of_point(&self, point: &Point, limit: usize) -> Result<Vec<LogEntry>, Error> {
        let key = Bytes::copy_from_slice(point.as_str().as_bytes());
        let Some(resource) = self.view.read().get(point).cloned() else {
            let (from, to) = (self.store.revisions().oldest.0, self.published().0);
            let all = self.log_range(key, from, to, usize::MAX).await?;
            let exactly = all.into_iter().rev().filter_map(|mut entry| {
                entry.changes.retain(|change| change.point == *point);
                (!entry.changes.is_empty()).then_some(entry)
            });
            return Ok(exactly.take(limit).collect());
        };
        // Each change knows the one before it.
        let mut entries = Vec::new();
        let mut next = Some(resource.modified);
        while let Some(revision) = next.filter(|revision| *revision >= self.store.revisions().oldest) {
            if entries.len() >= limit {
                break;
            }
            let Some(mut entry) = self.log_range(key.clone(), revision.0, revision.0, 1).await?.pop() else {
                break;
            };
            entry.changes.retain(|change| change.point == *point);
            let Some(change) = entry.changes.first() else { break };
            next = change.before.as_ref().map(|before| before.modified);
            entries.push(entry);
        }
        Ok(entries)
    }

    async fn log_range(
        &self,
        prefix: Bytes,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut entries = Vec::new();
        if from > to || from == 0 {
            return Ok(entries);
        }
        let mut commits = self.store.watch(prefix, Revision(from - 1));
        let mut unpacker = Unpacker::default();
        while entries.len() < limit {
            match commits.next().await? {
                store::Event::Batch(batch) if batch.revision.0 > to => break,
                store::Event::Batch(batch) => {
                    let last = batch.revision.0 == to;
                    entries.push(log_entry(&mut unpacker, &batch)?);
                    if last {
                        break;
                    }
                }
                store::Event::Progress(revision) if revision.0 >= to => break,
                store::Event::Progress(_) => {}
                store::Event::Compacted { .. } => break,
            }
        }
        Ok(entries)
    }

    async fn upkeep(&self) -> Result<(), Error> {
        if self.remote {
            return Ok(());
        }
        let mesh = Agent(Point::root());
        self.store.expire((self.config.now)(), self.meta(&mesh)).await?;
        let revisions = self.store.revisions();
        let by_count = revisions.newest.0.saturating_sub(self.config.history_revisions_max) + 1;
        let by_time = self.first_within_time(revisions).await?;
        let keep_from = Revision(by_count.max(by_time.0));
        if keep_from > revisions.oldest {
            self.store.compact(keep_from).await?;
        }
        Ok(())
    }

    /// The oldest commit that is young enough to be kept, by bisection: times grow with revisions, or nearly.
    async fn first_within_time(&self, revisions: store::Revisions) -> Result<Revision, Error> {
        let age_ms = u64::try_from(self.config.history_time_max.as_millis()).unwrap_or(u64::MAX);
        let cutoff = Timestamp((self.config.now)().0.saturating_sub(age_ms));
        let (mut from, mut to) = (revisions.oldest.0, revisions.newest.0);
        if from > to || self.time_of(from).await?.is_none_or(|time| time >= cutoff) {
            return Ok(revisions.oldest);
        }
        // What is at `from` is too old; what comes after `to` is not looked at.
        while from < to {
            let middle = from + (to - from).div_ceil(2);
            match self.time_of(middle).await? {
                Some(time) if time < cutoff => from = middle,
                _ => to = middle - 1,
            }
        }
        Ok(Revision(from + 1))
    }

    async fn time_of(&self, revision: u64) -> Result<Option<Timestamp>, Error> {
        Ok(self.log_range(Bytes::new(), revision, revision, 1).await?.pop().map(|entry| entry.time))
    }
}

/// What became of a draft.
enum Planned<T> {
    /// Its commit is queued.
    Sent(T, Results, BoxFuture<'static, Result<Revision, store::Error>>),
    /// It is refused, or changes nothing.
    Settled(Result<Committed<T>, Error>),
    /// The schema of this declaration must be loaded first.
    Load(Arc<Resource>),
}

/// A draft that was committed.
struct Committed<T> {
    value: T,
    results: Results,
    revision: Revision,
}

impl<T> Committed<T> {
    /// A resource as the commit made or left it; others may have changed it since.
    fn resource(&self, point: &Point) -> Result<Arc<Resource>, Error> {
        self.results.resource(point, self.revision)
    }
}

/// Something was written, and this node lost sight of it.
fn unseen(revision: Revision, error: store::Error) -> store::Error {
    match error {
        store::Error::Unreachable { .. } => {
            let reason = format!("it was acknowledged as revision {revision}, then the registry was lost");
            store::Error::Unknown { reason: reason.into() }
        }
        error => error,
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

/// A mailbox for as long as a list is read.
struct Joined<'a> {
    inner: &'a Inner,
    selector: &'a Selector,
    mailbox: Arc<crate::hub::Mailbox>,
}

impl<'a> Joined<'a> {
    fn new(inner: &'a Inner, selector: &'a Selector) -> Option<Self> {
        let mailbox = inner.hub.join(selector, false, usize::MAX)?;
        Some(Self { inner, selector, mailbox })
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.inner.hub.leave(self.selector, &self.mailbox);
    }
}

/// The steps of a commit that was read from the log.
pub(crate) fn steps_of(unpacker: &mut Unpacker, batch: &Batch) -> Result<Vec<Step>, store::Error> {
    let mut steps = Vec::with_capacity(batch.changes.len());
    for change in &batch.changes {
        if sequence_parent(&change.key)?.is_some() {
            continue;
        }
        let point = point_of(&change.key)?;
        let mut unpack = |record: &Option<store::Record>| match record {
            Some(record) => {
                let resource = unpacker.unpack(point.clone(), record).map_err(|_| unreadable(&point))?;
                Ok(Some(Arc::new(resource)))
            }
            None => Ok(None),
        };
        steps.push(Step {
            before: unpack(&change.before)?,
            after: unpack(&change.after)?,
            bytes: bytes_of(change),
        });
    }
    Ok(steps)
}

fn log_entry(unpacker: &mut Unpacker, batch: &Batch) -> Result<LogEntry, Error> {
    let (time, agent) = unpack_meta(&batch.meta).map_err(|_| unreadable(&Point::root()))?;
    let change = |step: Step| {
        let point = step.after.as_ref().or(step.before.as_ref())?.point.clone();
        Some(LogChange { point, before: step.before, after: step.after })
    };
    let changes = steps_of(unpacker, batch)?.into_iter().filter_map(change).collect();
    Ok(LogEntry { revision: batch.revision, time, agent, changes })
}

/// What stands above everything; it is not stored.
fn root() -> Resource {
    Resource {
        point: Point::root(),
        kind: Kind::of(Base::Root),
        properties: Default::default(),
        status: Status::ready(),
        created: Revision(0),
        modified: Revision(0),
        version: 1,
    }
}

fn bytes_of(change: &store::Change) -> usize {
    let record =
        |record: &Option<store::Record>| record.as_ref().map_or(0, |record| record.value.len() + 256);
    change.key.len() + record(&change.before) + record(&change.after)
}

fn point_of(key: &[u8]) -> Result<Point, store::Error> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| corrupt(format!("a key is not a point: {}", String::from_utf8_lossy(key))))
}

fn sequence_parent(key: &[u8]) -> Result<Option<Point>, store::Error> {
    key.strip_prefix(&[SEQUENCE]).map(point_of).transpose()
}

fn sequence_number(value: &[u8]) -> Result<u64, store::Error> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| corrupt("a counter is no number".into()))
}

fn unreadable(point: &Point) -> store::Error {
    corrupt(format!("what is stored of `{point}` cannot be read"))
}

fn corrupt(reason: String) -> store::Error {
    store::Error::Corrupt { file: "the registry".into(), reason: reason.into() }
}

fn cannot_start(error: &std::io::Error) -> Error {
    let reason = format!("a thread cannot be started: {error}").into();
    store::Error::Unavailable { file: "the registry".into(), reason }.into()
}

/// A cursor is as opaque as a resume token, and bound to its selector in the same way.
fn cursor_after(selector: &Selector, last: &Point) -> String {
    format!("c1.{:08x}.{last}", ResumeToken::new(Revision(0), &selector.to_string()).selector)
}

fn read_cursor(cursor: &str, selector: &Selector) -> Result<Point, Error> {
    let wrong = || Error::CursorInvalid(cursor.to_owned());
    let (hash, last) = cursor.strip_prefix("c1.").and_then(|rest| rest.split_once('.')).ok_or_else(wrong)?;
    let ours = ResumeToken::new(Revision(0), &selector.to_string()).selector;
    if u32::from_str_radix(hash, 16) != Ok(ours) {
        return Err(wrong());
    }
    last.parse().map_err(|_| wrong())
}

mod follow;

#[cfg(test)]
mod apart;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
