//! The embedded store: one redb file with the tables main, log and meta.
//!
//! An acknowledged commit is on the disk: commits are written to a log under the file and synced, many callers' at once
//! (`wal.rs`). The table log keeps what each commit changed, with what was before, until it is compacted away in small steps.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redb::{Database, ReadTransaction, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use starlane_core::{Agent, Epoch, Point, Revision, Timestamp};
use tokio::sync::oneshot;

use super::engine::{
    Apply, Engine, EngineConfig, Failure, LOG_BYTES, META, OpenFile, Opener, file_opener, write_format,
};
use super::feed::{Feed, Log};
use super::rows::{Damaged, decode_batch, decode_record, encode_batch, encode_record};
use super::{
    Aside, Batch, Change, Commit, Error, Expect, LeaseId, OPERATIONS_MAX, Operation, Part, Portable, ReadAt,
    Reading, Record, Revisions, Rows, Snapshot, Store, Watch, judge,
};
use crate::packed::pack_meta;

const MAIN: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("main");
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const FORMAT: &str = "registry";
const FORMAT_VERSION: u64 = 1;

const OLDEST: &[u8] = b"oldest";
const FENCE: &[u8] = b"fence/";
/// One row a lease: its time to live.
const LEASE: &[u8] = b"lease/";
/// One row for each key that hangs on a lease.
const HELD: &[u8] = b"held/";

/// How many commits one group forgets at most.
const COMPACT_STEP: u64 = 512;

/// How an embedded store runs.
#[derive(Debug, Clone)]
pub struct RedbConfig {
    /// The most commits that wait to be written; the next is answered [`Error::Busy`].
    pub queue_max: usize,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
    /// How long the log beside the file may become, in bytes, before what it holds goes to the file. So much more memory is
    /// needed at most. It is as short as what is written lets it be.
    pub log_bytes: u64,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { queue_max: 4_096, cache_bytes: 64 * 1024 * 1024, log_bytes: LOG_BYTES }
    }
}

/// A store in one file. Cloning is cheap; the file is closed with the last clone.
#[derive(Clone)]
pub struct RedbStore {
    engine: Arc<Engine<Journal>>,
    reader: Arc<Reader>,
}

impl RedbStore {
    /// Opens the store in a file, or makes an empty one; the folder must exist.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Corrupt`], [`Error::FormatNewer`], or [`Error::Unavailable`] when the system refuses.
    pub fn open(path: &Path, config: &RedbConfig) -> Result<Self, Error> {
        Self::open_with(Arc::from(path.to_string_lossy()), file_opener(path), Some(path), config)
    }

    /// Opens the store on bytes that are somewhere else, those of the file and those of its log, and again when they refused a
    /// write.
    #[cfg(test)]
    pub(super) fn open_on<B: redb::StorageBackend>(
        name: &str,
        disk: impl Fn() -> std::io::Result<[B; 2]> + Send + 'static,
        config: &RedbConfig,
    ) -> Result<Self, Error> {
        let opener: Opener = Box::new(move || {
            let [file, log] = disk()?;
            Ok(super::engine::Files { file: Box::new(file), log: Box::new(log) })
        });
        Self::open_with(Arc::from(name), opener, None, config)
    }

    fn open_with(
        file: Arc<str>,
        disk: Opener,
        path: Option<&Path>,
        config: &RedbConfig,
    ) -> Result<Self, Error> {
        let feed = Arc::new(Feed::new(Revisions { newest: Revision(0), oldest: Revision(1) }));
        let config = EngineConfig {
            file,
            format: FORMAT,
            format_version: FORMAT_VERSION,
            queue_max: config.queue_max,
            cache_bytes: config.cache_bytes,
            disk,
            log_bytes: config.log_bytes,
            path: path.map(Path::to_owned),
        };
        let engine = Engine::open(config, Journal::new(feed.clone()))?;
        let reader = Arc::new(Reader { feed, file: engine.file().clone() });
        Ok(Self { engine: Arc::new(engine), reader })
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let (reply, answer) = oneshot::channel();
        match self.engine.push(job(reply)) {
            Ok(()) => answer.map(|answer| answer.unwrap_or(Err(Error::Closed))).boxed(),
            Err((_, error)) => futures::future::ready(Err(error)).boxed(),
        }
    }
}

/// A file that is filled before anybody opens it as a store. It may be lost with the power until it is finished.
pub(crate) struct Import {
    file: Arc<str>,
    database: Database,
}

impl RedbStore {
    /// Begins a new file.
    pub(crate) fn import(path: &Path) -> Result<Import, Error> {
        let file: Arc<str> = Arc::from(path.to_string_lossy());
        let database = Database::create(path).map_err(|error| unfilled(&file, error.into()))?;
        write_format(&database, FORMAT, FORMAT_VERSION).map_err(|failure| unfilled(&file, failure))?;
        Ok(Import { file, database })
    }
}

impl Import {
    /// Adds records as they are.
    pub(crate) fn put(&mut self, page: &[(Bytes, Record)]) -> Result<(), Error> {
        let put = || -> Result<(), Failure> {
            let write = self.database.begin_write()?;
            let mut main = write.open_table(MAIN)?;
            for (key, record) in page {
                main.insert(&**key, &*encode_record(key, record))?;
            }
            drop(main);
            write.commit()?;
            Ok(())
        };
        put().map_err(|failure| unfilled(&self.file, failure))
    }

    /// Makes this the newest revision, and the oldest whose history is kept.
    pub(crate) fn finish(self, newest: Revision) -> Result<(), Error> {
        let file = self.file.clone();
        let finish = || -> Result<(), Failure> {
            let write = self.database.begin_write()?;
            let batch = Batch {
                revision: newest,
                meta: pack_meta(Timestamp(0), &Agent(Point::root())),
                changes: Vec::new(),
            };
            write.open_table(LOG)?.insert(newest.0, &*encode_batch(&batch))?;
            write.open_table(META)?.insert(OLDEST, &newest.0.to_le_bytes()[..])?;
            write.commit()?;
            self.database.close()?;
            Ok(())
        };
        finish().map_err(|failure| unfilled(&file, failure))
    }
}

fn unfilled(file: &Arc<str>, failure: Failure) -> Error {
    let reason = match failure {
        Failure::Redb(error) => error.to_string(),
        Failure::Damaged(reason) => reason.to_owned(),
        Failure::Newer { .. } => "it is there already".to_owned(),
    };
    Error::Unavailable { file: file.clone(), reason: reason.into() }
}

impl Store for RedbStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Revision, Error>> {
        match commit.check() {
            Ok(()) => self.ask(|reply| Job::Commit(commit, reply)),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    fn read(&self, keys: Vec<Bytes>, at: ReadAt) -> BoxFuture<'_, Result<Reading, Error>> {
        async move {
            if let ReadAt::AtLeast(revision) = at {
                self.reader.feed.reach(revision).await?;
            }
            self.reader.file.read(|read| {
                let revision = newest_of(read)?;
                let Some(main) = existing(read.open_table(MAIN))? else {
                    return Ok(Reading { revision, records: vec![None; keys.len()] });
                };
                let get = |key: &Bytes| match main.get(&**key)? {
                    Some(row) => Ok(Some(decode_record(key, row.value())?)),
                    None => Ok(None),
                };
                Ok(Reading { revision, records: keys.iter().map(get).collect::<Result<_, Failure>>()? })
            })
        }
        .boxed()
    }

    fn snapshot(&self, prefix: Bytes) -> BoxFuture<'_, Result<Box<dyn Snapshot>, Error>> {
        let file = self.reader.file.clone();
        let range = file.read(|read| {
            let range = match existing(read.open_table(MAIN))? {
                Some(main) => Some(main.range::<&[u8]>(&*prefix..)?),
                None => None,
            };
            Ok((newest_of(read)?, range))
        });
        let pages = range.map(|(revision, range)| -> Box<dyn Snapshot> {
            Box::new(Pages { file, prefix, revision, range })
        });
        futures::future::ready(pages).boxed()
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Box<dyn Watch> {
        Box::new(self.reader.feed.watch(self.reader.clone(), prefix, after))
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(|reply| Job::Compact(keep_from, reply))
    }

    fn grant(&self, ttl_ms: u64, now: Timestamp) -> BoxFuture<'static, Result<LeaseId, Error>> {
        self.ask(|reply| Job::Grant { ttl_ms, now, reply })
    }

    fn keep_alive(&self, lease: LeaseId, now: Timestamp) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(|reply| Job::KeepAlive { lease, now, reply })
    }

    fn revoke(&self, lease: LeaseId, meta: Bytes) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(|reply| Job::Revoke { lease, meta, reply })
    }

    fn expire(&self, now: Timestamp, meta: Bytes) -> BoxFuture<'static, Result<Vec<LeaseId>, Error>> {
        self.ask(|reply| Job::Expire { now, meta, reply })
    }

    fn revisions(&self) -> Revisions {
        self.reader.feed.revisions()
    }

    fn writable(&self) -> Result<(), Error> {
        self.reader.file.writable()
    }
}

impl Portable for RedbStore {
    fn aside(&self) -> BoxFuture<'_, Result<Aside, Error>> {
        let aside = self.reader.file.read(|read| {
            let mut aside = Aside::default();
            let Some(meta) = existing(read.open_table(META))? else { return Ok(aside) };
            for row in meta.iter()? {
                let (key, row) = row?;
                if let Some(scope) = key.value().strip_prefix(FENCE) {
                    aside.fences.push((fence_scope(scope)?, Epoch(number(row.value())?)));
                } else if let Some(id) = key.value().strip_prefix(LEASE) {
                    aside.leases.push((lease_id(id)?, number(row.value())?));
                }
            }
            Ok(aside)
        });
        futures::future::ready(aside).boxed()
    }

    fn take(&self, part: Part) -> BoxFuture<'_, Result<(), Error>> {
        self.ask(|reply| Job::Take(part, reply))
    }
}

/// Reads the file beside the writer.
struct Reader {
    feed: Arc<Feed>,
    file: Arc<OpenFile>,
}

impl Log for Reader {
    fn read_after(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>, Error> {
        self.file.read(|read| read_log(read, after, limit))
    }
}

fn read_log(read: &ReadTransaction, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>, Failure> {
    let Some(log) = existing(read.open_table(LOG))? else { return Ok(Vec::new()) };
    let mut batches = Vec::new();
    for row in log.range((Bound::Excluded(after.0), Bound::Unbounded))?.take(limit) {
        let (revision, row) = row?;
        batches.push(Arc::new(decode_batch(revision.value(), row.value())?));
    }
    Ok(batches)
}

fn newest_of(read: &ReadTransaction) -> Result<Revision, Failure> {
    let Some(log) = existing(read.open_table(LOG))? else { return Ok(Revision(0)) };
    Ok(Revision(log.last()?.map_or(0, |(revision, _)| revision.value())))
}

/// A table that was never written to is empty.
fn existing<T>(table: Result<T, TableError>) -> Result<Option<T>, Failure> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

struct Pages {
    file: Arc<OpenFile>,
    prefix: Bytes,
    revision: Revision,
    range: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
}

impl Pages {
    fn page(&mut self, limit: usize) -> Result<Vec<(Bytes, Record)>, Error> {
        let Some(range) = &mut self.range else { return Ok(Vec::new()) };
        let mut page = Vec::new();
        self.file.guarded(|| {
            for row in range.take(limit) {
                let (key, row) = row?;
                if !key.value().starts_with(&self.prefix) {
                    break;
                }
                page.push((Bytes::copy_from_slice(key.value()), decode_record(key.value(), row.value())?));
            }
            Ok(())
        })?;
        if page.len() < limit {
            self.range = None;
        }
        Ok(page)
    }
}

impl Snapshot for Pages {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<(Bytes, Record)>, Error>> {
        futures::future::ready(self.page(limit)).boxed()
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Job {
    Commit(Commit, Reply<Revision>),
    Compact(Revision, Reply<()>),
    Take(Part, Reply<()>),
    Grant { ttl_ms: u64, now: Timestamp, reply: Reply<LeaseId> },
    KeepAlive { lease: LeaseId, now: Timestamp, reply: Reply<()> },
    Revoke { lease: LeaseId, meta: Bytes, reply: Reply<()> },
    Expire { now: Timestamp, meta: Bytes, reply: Reply<Vec<LeaseId>> },
}

enum Answer {
    Revision(Result<Revision, Error>),
    Done(Result<(), Error>),
    Granted(LeaseId),
    Ended(Vec<LeaseId>),
}

impl Job {
    /// Whoever asked may have gone away meanwhile, which is no matter.
    fn answer(self, answer: Result<Answer, Error>) {
        match (self, answer) {
            (Job::Commit(_, reply), Ok(Answer::Revision(result))) => drop(reply.send(result)),
            (Job::Commit(_, reply), Err(error)) => drop(reply.send(Err(error))),
            (Job::Grant { reply, .. }, Ok(Answer::Granted(lease))) => drop(reply.send(Ok(lease))),
            (Job::Grant { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
            (Job::Expire { reply, .. }, Ok(Answer::Ended(leases))) => drop(reply.send(Ok(leases))),
            (Job::Expire { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
            (
                Job::Compact(_, reply)
                | Job::Take(_, reply)
                | Job::KeepAlive { reply, .. }
                | Job::Revoke { reply, .. },
                Ok(Answer::Done(result)),
            ) => drop(reply.send(result)),
            (
                Job::Compact(_, reply)
                | Job::Take(_, reply)
                | Job::KeepAlive { reply, .. }
                | Job::Revoke { reply, .. },
                Err(error),
            ) => drop(reply.send(Err(error))),
            // Dropping the reply says that there was none.
            (_, Ok(_)) => {}
        }
    }
}

/// What the writer thread knows. It runs ahead of the disk within a group, and is loaded anew when a group failed.
struct Journal {
    feed: Arc<Feed>,
    started: bool,
    newest: Revision,
    /// The oldest revision that may be read.
    oldest: Revision,
    /// The oldest revision that still takes space.
    stored: u64,
    fences: HashMap<Arc<str>, Epoch>,
    leases: BTreeMap<LeaseId, Lease>,
    /// When this process began a lease that it found in the file; the first look at a clock says.
    adopted: Vec<LeaseId>,
    committed: Vec<Arc<Batch>>,
}

struct Lease {
    ttl_ms: u64,
    ends: Timestamp,
}

impl Journal {
    fn new(feed: Arc<Feed>) -> Self {
        Self {
            feed,
            started: false,
            newest: Revision(0),
            oldest: Revision(1),
            stored: 1,
            fences: HashMap::new(),
            leases: BTreeMap::new(),
            adopted: Vec::new(),
            committed: Vec::new(),
        }
    }

    fn commit(&mut self, tables: &mut Tables<'_>, commit: &Commit) -> Result<Revision, Refused> {
        if let Some(fence) = &commit.fence {
            let epoch = self.fences.get(&fence.scope).copied().unwrap_or_default();
            if fence.epoch < epoch {
                return Err(Error::FenceStale { scope: fence.scope.clone(), epoch }.into());
            }
        }
        let changes = judge(&Pending { main: &tables.main, leases: &self.leases }, commit, self.newest)?;
        if let Some(fence) = &commit.fence
            && self.fences.insert(fence.scope.clone(), fence.epoch) != Some(fence.epoch)
        {
            let row = [FENCE, fence.scope.as_bytes()].concat();
            tables.meta.insert(&*row, &fence.epoch.0.to_le_bytes()[..])?;
            tables.changed = true;
        }
        if changes.is_empty() {
            return Ok(self.newest);
        }
        for Change { key, before, after } in &changes {
            if let Some(lease) = before.as_ref().and_then(|record| record.lease) {
                tables.meta.remove(&*held_row(lease, key))?;
            }
            if let Some(lease) = after.as_ref().and_then(|record| record.lease) {
                tables.meta.insert(&*held_row(lease, key), &[][..])?;
            }
            match after {
                Some(record) => tables.main.insert(&**key, &*encode_record(key, record))?,
                None => tables.main.remove(&**key)?,
            };
        }
        let revision = Revision(self.newest.0 + 1);
        let batch = Batch { revision, meta: commit.meta.clone(), changes };
        tables.log.insert(revision.0, &*encode_batch(&batch))?;
        tables.changed = true;
        self.newest = revision;
        self.committed.push(Arc::new(batch));
        Ok(revision)
    }

    fn end_lease(&mut self, tables: &mut Tables<'_>, lease: LeaseId, meta: &Bytes) -> Result<(), Refused> {
        if self.leases.remove(&lease).is_none() {
            return Err(Error::LeaseUnknown(lease).into());
        }
        tables.meta.remove(&*lease_row(LEASE, lease))?;
        tables.changed = true;
        let prefix = lease_row(HELD, lease);
        let mut keys = Vec::new();
        for row in tables.meta.range(&*prefix..)? {
            let (row, _) = row?;
            let Some(key) = row.value().strip_prefix(&*prefix) else { break };
            keys.push(Bytes::copy_from_slice(key));
        }
        for keys in keys.chunks(OPERATIONS_MAX) {
            let operations = keys.iter().map(|key| Operation::delete(key.clone(), Expect::Any)).collect();
            self.commit(tables, &Commit { fence: None, meta: meta.clone(), operations })?;
        }
        Ok(())
    }

    fn job(&mut self, tables: &mut Tables<'_>, job: &Job) -> Result<Answer, Failure> {
        Ok(match job {
            Job::Commit(commit, _) => Answer::Revision(refused(self.commit(tables, commit))?),
            Job::Compact(keep_from, _) => {
                let keep_from = (*keep_from).min(self.newest);
                if keep_from > self.oldest {
                    self.oldest = keep_from;
                    tables.meta.insert(OLDEST, &keep_from.0.to_le_bytes()[..])?;
                    tables.changed = true;
                }
                Answer::Done(Ok(()))
            }
            Job::Take(part, _) => {
                take(tables, part)?;
                Answer::Done(Ok(()))
            }
            Job::Grant { ttl_ms, now, .. } => {
                let last = self.leases.last_key_value().map_or(0, |(lease, _)| lease.0);
                // Ids never come back, not even when the newest lease ended before a restart.
                let id = LeaseId(last.max(self.newest.0).max(now.0) + 1);
                let ends = Timestamp(now.0.saturating_add(*ttl_ms));
                self.leases.insert(id, Lease { ttl_ms: *ttl_ms, ends });
                tables.meta.insert(&*lease_row(LEASE, id), &ttl_ms.to_le_bytes()[..])?;
                tables.changed = true;
                Answer::Granted(id)
            }
            Job::KeepAlive { lease, now, .. } => {
                self.adopt(*now);
                Answer::Done(match self.leases.get_mut(lease) {
                    Some(lease) => {
                        lease.ends = Timestamp(now.0.saturating_add(lease.ttl_ms));
                        Ok(())
                    }
                    None => Err(Error::LeaseUnknown(*lease)),
                })
            }
            Job::Revoke { lease, meta, .. } => Answer::Done(refused(self.end_lease(tables, *lease, meta))?),
            Job::Expire { now, meta, .. } => {
                self.adopt(*now);
                let over = |(id, lease): (&LeaseId, &Lease)| (lease.ends <= *now).then_some(*id);
                let over: Vec<LeaseId> = self.leases.iter().filter_map(over).collect();
                for lease in &over {
                    // They are all known, so none is refused.
                    drop(refused(self.end_lease(tables, *lease, meta))?);
                }
                Answer::Ended(over)
            }
        })
    }

    /// Leases that were found in the file live once more for their whole time.
    fn adopt(&mut self, now: Timestamp) {
        for id in self.adopted.drain(..) {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.ends = Timestamp(now.0.saturating_add(lease.ttl_ms));
            }
        }
    }

    fn compact_step(&mut self, tables: &mut Tables<'_>) -> Result<(), Failure> {
        let until = self.oldest.0.min(self.stored + COMPACT_STEP);
        if self.stored < until {
            tables.log.retain_in(self.stored..until, |_, _| false)?;
            tables.changed = true;
            self.stored = until;
        }
        Ok(())
    }
}

impl Apply for Journal {
    type Job = Job;
    type Answer = Answer;

    fn weight(job: &Job) -> usize {
        match job {
            Job::Commit(commit, _) => commit.operations.len().max(1),
            _ => 1,
        }
    }

    fn load(&mut self, read: &ReadTransaction) -> Result<(), Failure> {
        let feed = self.feed.clone();
        let (started, told) = (self.started, feed.revisions().newest);
        *self = Self::new(feed);
        if let Some(log) = existing(read.open_table(LOG))? {
            self.newest = Revision(log.last()?.map_or(0, |(revision, _)| revision.value()));
            self.stored = log.first()?.map_or(1, |(revision, _)| revision.value());
        }
        if let Some(meta) = existing(read.open_table(META))? {
            for row in meta.iter()? {
                let (key, row) = row?;
                let (key, row) = (key.value(), row.value());
                if key == OLDEST {
                    self.oldest = Revision(number(row)?);
                } else if let Some(scope) = key.strip_prefix(FENCE) {
                    self.fences.insert(fence_scope(scope)?, Epoch(number(row)?));
                } else if let Some(id) = key.strip_prefix(LEASE) {
                    let id = lease_id(id)?;
                    self.leases.insert(id, Lease { ttl_ms: number(row)?, ends: Timestamp(u64::MAX) });
                    self.adopted.push(id);
                }
            }
        }
        if started {
            // A commit whose answer was an error may have become durable all the same.
            let missed = (self.newest.0 - told.0.min(self.newest.0)) as usize;
            self.feed.publish(read_log(read, told, missed)?);
        } else {
            self.feed.start(Revisions { newest: self.newest, oldest: self.oldest });
        }
        self.started = true;
        Ok(())
    }

    fn apply(&mut self, write: &WriteTransaction, jobs: &[Job]) -> Result<(Vec<Answer>, bool), Failure> {
        let mut tables = Tables {
            main: write.open_table(MAIN)?,
            log: write.open_table(LOG)?,
            meta: write.open_table(META)?,
            changed: false,
        };
        let answers =
            jobs.iter().map(|job| self.job(&mut tables, job)).collect::<Result<Vec<_>, Failure>>()?;
        self.compact_step(&mut tables)?;
        Ok((answers, tables.changed))
    }

    fn settle(&mut self, jobs: Vec<Job>, result: Result<Vec<Answer>, Error>) {
        let committed = std::mem::take(&mut self.committed);
        match result {
            Ok(answers) => {
                self.feed.forget_before(self.oldest);
                if !committed.is_empty() {
                    self.feed.publish(committed);
                }
                for (job, answer) in jobs.into_iter().zip(answers) {
                    job.answer(Ok(answer));
                }
            }
            Err(error) => jobs.into_iter().for_each(|job| job.answer(Err(error.clone()))),
        }
    }

    fn has_chores(&self) -> bool {
        self.stored < self.oldest.0
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.feed.close();
    }
}

struct Tables<'a> {
    main: Table<'a, &'static [u8], &'static [u8]>,
    log: Table<'a, u64, &'static [u8]>,
    meta: Table<'a, &'static [u8], &'static [u8]>,
    changed: bool,
}

/// The main table with what is written to it before the sync.
struct Pending<'a, 'b> {
    main: &'a Table<'b, &'static [u8], &'static [u8]>,
    leases: &'a BTreeMap<LeaseId, Lease>,
}

impl Rows for Pending<'_, '_> {
    type Error = Refused;

    fn get(&self, key: &[u8]) -> Result<Option<Record>, Refused> {
        match self.main.get(key)? {
            Some(row) => Ok(Some(decode_record(key, row.value()).map_err(Failure::from)?)),
            None => Ok(None),
        }
    }

    fn newest_below(&self, key: &[u8]) -> Result<Option<Revision>, Refused> {
        let mut newest = None;
        for row in self.main.range::<&[u8]>((Bound::Excluded(key), Bound::Unbounded))? {
            let (below, row) = row?;
            if !below.value().starts_with(key) {
                break;
            }
            let record = decode_record(below.value(), row.value()).map_err(Failure::from)?;
            newest = newest.max(Some(record.modified));
        }
        Ok(newest)
    }

    fn lease_lives(&self, lease: LeaseId) -> Result<bool, Refused> {
        Ok(self.leases.contains_key(&lease))
    }
}

/// A job that was refused for itself, or that found the file broken for all.
enum Refused {
    Job(Error),
    Group(Failure),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Job(error)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::Group(failure)
    }
}

impl From<redb::StorageError> for Refused {
    fn from(error: redb::StorageError) -> Self {
        Refused::Group(error.into())
    }
}

fn refused<T>(result: Result<T, Refused>) -> Result<Result<T, Error>, Failure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Refused::Job(error)) => Ok(Err(error)),
        Err(Refused::Group(failure)) => Err(failure),
    }
}

impl From<Damaged> for Failure {
    fn from(damaged: Damaged) -> Self {
        Failure::Damaged(damaged.0)
    }
}

fn number(row: &[u8]) -> Result<u64, Damaged> {
    row.try_into().map(u64::from_le_bytes).map_err(|_| Damaged("a number has the wrong length"))
}

fn fence_scope(row: &[u8]) -> Result<Arc<str>, Damaged> {
    std::str::from_utf8(row).map(Arc::from).map_err(|_| Damaged("a fence is no text"))
}

fn lease_id(row: &[u8]) -> Result<LeaseId, Damaged> {
    let id = row.try_into().map_err(|_| Damaged("a lease has no number"))?;
    Ok(LeaseId(u64::from_be_bytes(id)))
}

/// Writes a part of another store as it is; what the writer knows is loaded when the file is opened anew.
fn take(tables: &mut Tables<'_>, part: &Part) -> Result<(), Failure> {
    tables.changed = true;
    match part {
        Part::Aside(aside) => {
            for (scope, epoch) in &aside.fences {
                tables.meta.insert(&*[FENCE, scope.as_bytes()].concat(), &epoch.0.to_le_bytes()[..])?;
            }
            for (lease, ttl_ms) in &aside.leases {
                tables.meta.insert(&*lease_row(LEASE, *lease), &ttl_ms.to_le_bytes()[..])?;
            }
        }
        Part::Records(records) => {
            for (key, record) in records {
                if let Some(lease) = record.lease {
                    tables.meta.insert(&*held_row(lease, key), &[][..])?;
                }
                tables.main.insert(&**key, &*encode_record(key, record))?;
            }
        }
        Part::History(batches) => {
            for batch in batches {
                tables.log.insert(batch.revision.0, &*encode_batch(batch))?;
            }
        }
        Part::End(revisions) => {
            tables.meta.insert(OLDEST, &revisions.oldest.0.to_le_bytes()[..])?;
        }
    }
    Ok(())
}

fn lease_row(table: &[u8], lease: LeaseId) -> Vec<u8> {
    [table, &lease.0.to_be_bytes()].concat()
}

fn held_row(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    [HELD, &lease.0.to_be_bytes(), key].concat()
}
