//! A redb file that is opened with care, over its log, and the one thread that writes to it: many jobs, one sync.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, Durability, ReadTransaction, ReadableDatabase, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::Error;
use super::wal::Logged;

/// Small rows that describe the file itself; its format is one of them.
pub(crate) const META: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("meta");
const FORMAT: &[u8] = b"format";

/// The most weight of one group of jobs.
const GROUP_MAX: usize = 256;
/// How long a group waits for the jobs that the last one leads to expect.
const GATHER: Duration = Duration::from_millis(1);
/// How long the log of a file may become, unless something else is said.
pub(crate) const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// How long a disk that took no writes is left alone before the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// What a file holds and where its bytes are.
pub(crate) struct EngineConfig {
    /// Names the file in errors.
    pub(crate) file: Arc<str>,
    /// What it holds.
    pub(crate) format: &'static str,
    /// The newest version of that format that is understood.
    pub(crate) format_version: u64,
    /// The most jobs that wait; the next is refused.
    pub(crate) queue_max: usize,
    /// Memory for pages of the file.
    pub(crate) cache_bytes: usize,
    /// Opens the bytes; again after the disk refused to write.
    pub(crate) disk: Opener,
    /// How long the log may become before what it holds goes to the file.
    pub(crate) log_bytes: u64,
    /// The file to make first when it is missing.
    pub(crate) path: Option<PathBuf>,
}

pub(crate) type Opener = Box<dyn Fn() -> std::io::Result<Files> + Send>;

/// Where the bytes of a file are, and those of its log.
pub(crate) struct Files {
    pub(crate) file: Box<dyn StorageBackend>,
    pub(crate) log: Box<dyn StorageBackend>,
}

/// Opens, and makes when it is not there, a file and its log beside it, `FILE.wal`; its folder must exist.
pub(crate) fn file_opener(path: &Path) -> Opener {
    let path: PathBuf = path.to_owned();
    Box::new(move || {
        let file = open_file(&path)?;
        // By whichever name it is opened, there is one log.
        let path = path.canonicalize()?;
        let log = open_file(&log_of(&path))?;
        sync_folder(&path)?;
        Ok(Files { file, log })
    })
}

fn open_file(path: &Path) -> std::io::Result<Box<dyn StorageBackend>> {
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(Box::new(FileBackend::new(file).map_err(std::io::Error::other)?))
}

fn log_of(path: &Path) -> PathBuf {
    let mut log = path.to_owned().into_os_string();
    log.push(".wal");
    log.into()
}

/// The log of a file, when it holds anything: commits of a file that was not closed, which are not in the file yet.
///
/// # Errors
/// What the system says.
pub fn log_left(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let log = log_of(path);
    match std::fs::metadata(&log) {
        Ok(known) => Ok((known.len() > 0).then_some(log)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file and its log, if they are there.
///
/// # Errors
/// What the system says.
pub fn remove_file(path: &Path) -> std::io::Result<()> {
    for path in [path, &log_of(path)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes durable that a file is where it is.
///
/// # Errors
/// What the system says.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a file that is ready for use, unless there is one: first under another name, since a power cut while it is made
/// leaves a file that nobody can open.
fn make_file(path: &Path, format: &str, version: u64) -> Result<(), Failure> {
    let io = |error: std::io::Error| Failure::Redb(redb::Error::Io(error));
    if std::fs::metadata(path).is_ok_and(|known| known.len() > 0) {
        return Ok(());
    }
    let new = path.with_extension("new");
    remove_file(&new).map_err(io)?;
    let database = Database::create(&new)?;
    write_format(&database, format, version)?;
    database.close()?;
    std::fs::File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)?;
    sync_folder(path).map_err(io)
}

pub(super) fn write_format(database: &Database, format: &str, version: u64) -> Result<(), Failure> {
    let mut write = database.begin_write()?;
    set_durable(&mut write)?;
    // There may be no log under it.
    write.set_two_phase_commit(true);
    write.open_table(META)?.insert(FORMAT, format!("{format} {version}").as_bytes())?;
    write.commit()?;
    Ok(())
}

/// What the writer thread does with jobs. Its methods run on that thread alone.
pub(crate) trait Apply: Send + 'static {
    /// What is asked.
    type Job: Send + 'static;
    /// What will be answered when the group is durable.
    type Answer;

    /// How much of a group a job takes up.
    fn weight(job: &Self::Job) -> usize;

    /// Reads what must be known to go on from what is durable: at first, and after a failure.
    fn load(&mut self, read: &ReadTransaction) -> Result<(), Failure>;

    /// Does the jobs, in order, each seeing those before it; tells whether anything is to be committed.
    fn apply(
        &mut self,
        write: &WriteTransaction,
        jobs: &[Self::Job],
    ) -> Result<(Vec<Self::Answer>, bool), Failure>;

    /// The group is durable, or it failed.
    fn settle(&mut self, jobs: Vec<Self::Job>, result: Result<Vec<Self::Answer>, Error>);

    /// Whether there is something to do in small steps even without jobs.
    fn has_chores(&self) -> bool {
        false
    }
}

/// Why work on the file stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    Redb(redb::Error),
    Damaged(&'static str),
    Newer { found: u64, known: u64 },
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Redb(error.into())
    }
}

pub(crate) struct Engine<A: Apply> {
    jobs: Option<SyncSender<A::Job>>,
    file: Arc<OpenFile>,
    writer: Option<JoinHandle<()>>,
}

impl<A: Apply> Engine<A> {
    /// Opens the file, checks it, and starts the writer.
    pub(crate) fn open(config: EngineConfig, mut apply: A) -> Result<Self, Error> {
        let (jobs, queue) = sync_channel(config.queue_max);
        let file = Arc::new(OpenFile {
            name: config.file.clone(),
            database: RwLock::new(None),
            health: Arc::default(),
            config: Mutex::new(config),
        });
        file.make()?;
        file.open()?;
        file.guarded(|| {
            let database = file.database.read();
            let database = database.as_ref().ok_or(Failure::Damaged("the file is not open"))?;
            apply.load(&database.begin_read()?)
        })?;
        let writer = Writer {
            queue,
            file: file.clone(),
            apply,
            waiting: Vec::new(),
            last_group: 1,
            last_took: Duration::ZERO,
            failed_at: None,
        };
        let writer = std::thread::Builder::new()
            .name("registry-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| file.unavailable(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), file, writer: Some(writer) })
    }

    /// Queues a job. When the queue is full, it is handed back with [`Error::Busy`].
    pub(crate) fn push(&self, job: A::Job) -> Result<(), (A::Job, Error)> {
        let Some(jobs) = &self.jobs else { return Err((job, Error::Closed)) };
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) => (job, Error::Busy),
            TrySendError::Disconnected(job) => (job, Error::Closed),
        })
    }

    pub(crate) fn file(&self) -> &Arc<OpenFile> {
        &self.file
    }
}

impl<A: Apply> Drop for Engine<A> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // A panic of the writer was reported to whoever waited for it.
            let _ = writer.join();
        }
        // Closing may touch the file once more, which may fail; there is nobody left to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| self.file.database.write().take()));
    }
}

/// The file while it is open.
pub(crate) struct OpenFile {
    name: Arc<str>,
    database: RwLock<Option<Database>>,
    health: Arc<Health>,
    config: Mutex<EngineConfig>,
}

/// What the disk has done to us.
#[derive(Debug, Default)]
struct Health {
    /// A sync failed. Nothing is written after that.
    halted: AtomicBool,
    /// Why the last group failed, if it did.
    failed: Mutex<Option<Error>>,
}

impl OpenFile {
    /// Whether the last group was written.
    pub(crate) fn writable(&self) -> Result<(), Error> {
        self.health.failed.lock().clone().map_or(Ok(()), Err)
    }

    /// Reads what is durable.
    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.guarded(|| {
            let read = match self.database.read().as_ref() {
                Some(database) => database.begin_read()?,
                None => return Err(Failure::Redb(redb::Error::DatabaseClosed)),
            };
            look(&read)
        })
    }

    /// Runs what touches the file, and turns whatever happens into an error: redb may panic on a damaged file.
    pub(crate) fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Error> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(self.explain(failure)),
            Err(panic) => Err(self.corrupt(panic_text(&*panic))),
        }
    }

    fn make(&self) -> Result<(), Error> {
        let config = self.config.lock();
        let Some(path) = &config.path else { return Ok(()) };
        self.guarded(|| make_file(path, config.format, config.format_version))
    }

    /// Opens or opens anew: the old handle is let go of first, since it holds the lock of the file.
    fn open(&self) -> Result<(), Error> {
        let config = self.config.lock();
        let mut slot = self.database.write();
        let database = self.guarded(|| {
            *slot = None;
            let disk = (config.disk)().map_err(redb::StorageError::Io)?;
            let watched = |inner| Box::new(WatchedBackend { inner, health: self.health.clone() });
            let promises = Arc::new(AtomicBool::new(false));
            let (disk, log) = (watched(disk.file), watched(disk.log));
            let logged = Logged::new(disk, log, config.log_bytes, promises.clone());
            let database = Builder::new()
                .set_cache_size(config.cache_bytes)
                .set_check_integrity_on_open(true)
                .create_with_backend(logged)?;
            check_format(&database, &config)?;
            promises.store(true, Ordering::Release);
            Ok(database)
        })?;
        *slot = Some(database);
        Ok(())
    }

    fn explain(&self, failure: Failure) -> Error {
        use redb::Error as E;
        if self.health.halted.load(Ordering::Acquire) {
            return Error::Halted { file: self.name.clone(), reason: "a sync failed".into() };
        }
        match failure {
            Failure::Damaged(reason) => self.corrupt(reason),
            Failure::Newer { found, known } => Error::FormatNewer { file: self.name.clone(), found, known },
            Failure::Redb(E::DatabaseAlreadyOpen | E::LockProtocolMismatch) => {
                Error::InUse { file: self.name.clone() }
            }
            Failure::Redb(E::Io(error)) => match error.kind() {
                // What redb says of a file that is none of its own, and of one that ends too early.
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                    self.corrupt(error.to_string())
                }
                _ => self.unavailable(error.to_string()),
            },
            Failure::Redb(error @ (E::Backend(_) | E::PreviousIo | E::DatabaseClosed)) => {
                self.unavailable(error.to_string())
            }
            Failure::Redb(error) => self.corrupt(error.to_string()),
        }
    }

    fn corrupt(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::Corrupt { file: self.name.clone(), reason: reason.into() }
    }

    fn unavailable(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::Unavailable { file: self.name.clone(), reason: reason.into() }
    }
}

/// Writes the format into a new file; refuses another format, and a newer version of ours.
fn check_format(database: &Database, config: &EngineConfig) -> Result<(), Failure> {
    let read = database.begin_read()?;
    if read.list_tables()?.next().is_none() {
        drop(read);
        return write_format(database, config.format, config.format_version);
    }
    let wrong = || Failure::Damaged("it holds something else");
    let meta = read.open_table(META).map_err(|_| wrong())?;
    let row = meta.get(FORMAT)?.ok_or_else(wrong)?;
    let row = std::str::from_utf8(row.value()).map_err(|_| wrong())?;
    let (format, version) = row.split_once(' ').ok_or_else(wrong)?;
    let found: u64 = version.parse().map_err(|_| wrong())?;
    if format != config.format {
        return Err(wrong());
    }
    if found > config.format_version {
        return Err(Failure::Newer { found, known: config.format_version });
    }
    Ok(())
}

fn set_durable(write: &mut WriteTransaction) -> Result<(), Failure> {
    write.set_durability(Durability::Immediate).map_err(|_| Failure::Damaged("a savepoint is in the way"))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("reading it failed: {}", text.unwrap_or("for an unknown reason"))
}

/// The writer thread.
struct Writer<A: Apply> {
    queue: Receiver<A::Job>,
    file: Arc<OpenFile>,
    apply: A,
    /// What came while the last group was written.
    waiting: Vec<A::Job>,
    /// The weight of the last group: who waited for it may well be back in a moment.
    last_group: usize,
    /// How long the last group took: waiting for the next is not worth more.
    last_took: Duration,
    failed_at: Option<Instant>,
}

impl<A: Apply> Writer<A> {
    fn run(mut self) {
        while let Some(jobs) = self.gather() {
            let start = Instant::now();
            let result = self.write(&jobs);
            if let Err(error) = &result {
                tracing::warn!(%error, "a group of commits failed");
            }
            self.last_took = start.elapsed();
            self.last_group = jobs.iter().map(A::weight).sum();
            self.take_waiting();
            self.apply.settle(jobs, result);
        }
    }

    fn take_waiting(&mut self) {
        let mut weight = 0;
        while weight < GROUP_MAX
            && let Ok(job) = self.queue.try_recv()
        {
            weight += A::weight(&job);
            self.waiting.push(job);
        }
    }

    /// The next group; `None` when nobody can send any more. It is complete when all are back that waited for the last
    /// one, so that callers who come one after the other share a sync, and nobody waits who is alone.
    fn gather(&mut self) -> Option<Vec<A::Job>> {
        let mut jobs = std::mem::take(&mut self.waiting);
        let waited: usize = jobs.iter().map(A::weight).sum();
        if jobs.is_empty() {
            jobs.push(match self.queue.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Empty) if self.apply.has_chores() && self.failed_at.is_none() => {
                    return Some(jobs);
                }
                Err(_) => self.queue.recv().ok()?,
            });
        }
        let mut weight: usize = jobs.iter().map(A::weight).sum();
        let complete = GROUP_MAX.min(waited + self.last_group);
        let until = Instant::now() + GATHER.min(self.last_took);
        while weight < GROUP_MAX {
            let next = match self.queue.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if weight >= complete => break,
                Err(TryRecvError::Empty) => {
                    match self.queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        Ok(job) => job,
                        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                    }
                }
            };
            weight += A::weight(&next);
            jobs.push(next);
        }
        Some(jobs)
    }

    fn write(&mut self, jobs: &[A::Job]) -> Result<Vec<A::Answer>, Error> {
        self.recover()?;
        let (file, apply) = (&self.file, &mut self.apply);
        let result = file.guarded(|| {
            let database = file.database.read();
            let Some(database) = database.as_ref() else {
                return Err(Failure::Redb(redb::Error::DatabaseClosed));
            };
            let mut write = database.begin_write()?;
            // In one phase: the log keeps what is written until the sync in one piece.
            set_durable(&mut write)?;
            let (answers, changed) = apply.apply(&write, jobs)?;
            if changed {
                write.commit()?
            } else {
                write.abort()?
            }
            Ok(answers)
        });
        if let Err(error) = &result {
            self.failed_at = Some(Instant::now());
            *self.file.health.failed.lock() = Some(error.clone());
        }
        result
    }

    /// After a failed write, opens the file anew, but not more often than every [`RETRY`]. A file whose sync failed stays
    /// shut: what it holds is for the next start to find out.
    fn recover(&mut self) -> Result<(), Error> {
        let Some(failed_at) = self.failed_at else { return Ok(()) };
        if self.file.health.halted.load(Ordering::Acquire) {
            return Err(self.file.explain(Failure::Redb(redb::Error::PreviousIo)));
        }
        if failed_at.elapsed() < RETRY {
            return Err(self.file.unavailable("the last write failed"));
        }
        self.failed_at = Some(Instant::now());
        self.file.open()?;
        let apply = &mut self.apply;
        self.file.read(|read| apply.load(read))?;
        self.failed_at = None;
        *self.file.health.failed.lock() = None;
        Ok(())
    }
}

/// Notices failed syncs, and lets nothing reach the disk after one.
#[derive(Debug)]
struct WatchedBackend {
    inner: Box<dyn StorageBackend>,
    health: Arc<Health>,
}

impl WatchedBackend {
    fn writable(&self) -> std::io::Result<()> {
        if self.health.halted.load(Ordering::Acquire) {
            return Err(std::io::Error::other("a sync failed before"));
        }
        Ok(())
    }
}

type Bound = std::ops::Bound<u64>;

impl StorageBackend for WatchedBackend {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.writable()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.writable()?;
        self.inner.sync_data().inspect_err(|_| self.health.halted.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.writable()?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), std::io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound, end: Bound) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound, end: Bound) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound, end: Bound) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound, end: Bound) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound, end: Bound) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound, end: Bound) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
