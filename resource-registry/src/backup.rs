//! Backups: everything that a registry holds at one revision, in one file that tells when it is damaged.
//!
//! A backup begins with a line that names its format and a head; then come pages of records in the order of their keys, an
//! empty page, the count of the records and a SHA-256 of all before. What hangs on leases is not in it, since it speaks of
//! nodes that run; neither is the history, nor the content of files and bundles.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use starlane_core::{Code, Problem, Revision, Timestamp};

use crate::error::Error;
use crate::registry::Registry;
use crate::store::{self, Record, RedbStore, Snapshot};

/// The line that a backup begins with.
const MAGIC: &[u8] = b"starlane-backup 1\n";
/// What the line of every version of the format begins with.
const FAMILY: &[u8] = b"starlane-backup ";
/// How many records stand in one page.
const PAGE: usize = 500;
/// The longest page that is read, in bytes: as many of the largest records.
const PAGE_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// How far the revisions of a restored registry leap ahead: what a watch or a cursor saw after the backup is never taken
/// for something of the restored registry.
const LEAP: u64 = 1_000_000;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The revision that it shows.
    pub revision: Revision,
    /// When it was made.
    pub time: Timestamp,
    /// How many records it has: resources, and counters of sequences.
    pub records: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    revision: Revision,
    time: Timestamp,
}

impl Registry {
    /// Everything at one revision, as the bytes of a backup. Writers go on meanwhile.
    ///
    /// # Errors
    /// Only the store's, here and in the stream, which then ends without the end of a backup.
    pub async fn backup(&self) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        self.fresh().await?;
        let snapshot = self.store().snapshot(Bytes::new()).await?;
        let head = Head { revision: snapshot.revision(), time: self.now() };
        let mut writer =
            Writer { snapshot, hasher: Sha256::new(), records: 0, passing: HashSet::new(), ended: false };
        let mut first = MAGIC.to_vec();
        first.extend(page_of(&postcard::to_allocvec(&head).map_err(unwritable)?));
        writer.hasher.update(&first);
        let rest = stream::unfold(Some(writer), |writer| async move {
            let mut writer = writer?;
            match writer.next().await {
                Ok(bytes) => Some((Ok(bytes), (!writer.ended).then_some(writer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(stream::once(std::future::ready(Ok(first.into()))).chain(rest).boxed())
    }
}

struct Writer {
    snapshot: Box<dyn Snapshot>,
    hasher: Sha256,
    records: u64,
    /// The keys that hang on leases.
    passing: HashSet<Vec<u8>>,
    ended: bool,
}

impl Writer {
    async fn next(&mut self) -> Result<Bytes, Error> {
        let page = self.snapshot.next(PAGE).await?;
        self.ended = page.is_empty();
        let lasting: Vec<(Bytes, Record)> = page.into_iter().filter(|row| self.lasts(row)).collect();
        self.records += lasting.len() as u64;
        let mut bytes = Vec::new();
        if !lasting.is_empty() {
            bytes = page_of(&postcard::to_allocvec(&lasting).map_err(unwritable)?);
        }
        if self.ended {
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(self.records.to_le_bytes());
            self.hasher.update(&bytes);
            bytes.extend(self.hasher.finalize_reset());
        } else {
            self.hasher.update(&bytes);
        }
        Ok(bytes.into())
    }
}

impl Writer {
    /// Whether a record neither hangs on a lease nor stands below one that does.
    fn lasts(&mut self, (key, record): &(Bytes, Record)) -> bool {
        let ends = |(at, byte): (usize, &u8)| matches!(byte, b':' | b'/').then_some(at);
        let above = key.iter().enumerate().filter_map(ends);
        if record.lease.is_none() && !above.into_iter().any(|at| self.passing.contains(&key[..at])) {
            return true;
        }
        self.passing.insert(key.to_vec());
        false
    }
}

fn page_of(bytes: &[u8]) -> Vec<u8> {
    // A page has 500 records of 260 KiB at most.
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn unwritable(error: postcard::Error) -> Error {
    store::Error::Corrupt { file: "the registry".into(), reason: error.to_string().into() }.into()
}

/// Why a backup was not restored. Nothing was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is no backup, or not one that this version reads.
    #[error("{} is not a backup that this version can read: {reason}", file.display())]
    Foreign {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is a backup, and damaged or cut off.
    #[error("the backup {} is damaged: {reason}", file.display())]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A registry is there already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{} cannot be used: {error}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The new registry cannot be written.
    #[error("{0}")]
    Store(store::Error),
}

impl From<RestoreError> for Problem {
    fn from(error: RestoreError) -> Self {
        let detail = error.to_string();
        let problem = |code| Problem::new(code, detail.clone());
        match error {
            RestoreError::Foreign { .. } => problem(Code::Usage)
                .help("name a file that `starlane backup` wrote, with the same version or an older one"),
            RestoreError::Damaged { .. } => {
                problem(Code::Corrupt).help("take another backup; nothing of this one was restored")
            }
            RestoreError::Exists(_) => problem(Code::Exists)
                .help("restore into another data folder, or move this registry away first"),
            RestoreError::Io { .. } => problem(Code::StoreUnavailable).help("nothing was restored"),
            RestoreError::Store(error) => Error::Store(error).into(),
        }
    }
}

/// Reads a backup to its end and checks all of it, without restoring anything.
///
/// # Errors
/// [`RestoreError::Foreign`], [`RestoreError::Damaged`], [`RestoreError::Io`]
pub fn check(file: &Path) -> Result<Summary, RestoreError> {
    let mut backup = Reader::open(file)?;
    while backup.page()?.is_some() {}
    backup.summary()
}

/// Makes a registry's file of a backup. It appears under its name when the whole backup was read and found intact, and not
/// before.
///
/// # Errors
/// Nothing was restored then.
pub fn restore(file: &Path, registry: &Path) -> Result<Summary, RestoreError> {
    let io = |error| RestoreError::Io { file: registry.to_owned(), error };
    if registry.try_exists().map_err(io)? {
        return Err(RestoreError::Exists(registry.to_owned()));
    }
    if let Some(log) = store::log_left(registry).map_err(io)? {
        return Err(RestoreError::Exists(log));
    }
    let mut backup = Reader::open(file)?;
    let new = registry.with_extension("restored");
    store::remove_file(&new).map_err(io)?;
    let written = write(&mut backup, &new);
    if written.is_err() {
        // What was wrong is more than that it cannot be cleared away.
        drop(store::remove_file(&new));
    }
    let summary = written?;
    // Unlike renaming, this never takes the place of a file that appeared meanwhile.
    std::fs::hard_link(&new, registry).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => RestoreError::Exists(registry.to_owned()),
        _ => io(error),
    })?;
    store::remove_file(&new).map_err(io)?;
    store::sync_folder(registry).map_err(io)?;
    Ok(summary)
}

fn write(backup: &mut Reader, new: &Path) -> Result<Summary, RestoreError> {
    let newest = Revision(backup.head.revision.0.saturating_add(LEAP));
    let mut import = RedbStore::import(new).map_err(RestoreError::Store)?;
    while let Some(page) = backup.page()? {
        import.put(&page).map_err(RestoreError::Store)?;
    }
    let summary = backup.summary()?;
    import.finish(newest).map_err(RestoreError::Store)?;
    File::open(new)
        .and_then(|file| file.sync_all())
        .map_err(|error| RestoreError::Io { file: new.to_owned(), error })?;
    Ok(summary)
}

/// A backup that is read, and checked as it is.
struct Reader {
    file: PathBuf,
    bytes: BufReader<File>,
    hasher: Sha256,
    head: Head,
    records: u64,
    /// The last key, since they only grow.
    last: Option<Bytes>,
    ended: bool,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        let io = |error| RestoreError::Io { file: path.to_owned(), error };
        let mut reader = Self {
            file: path.to_owned(),
            bytes: BufReader::new(File::open(path).map_err(io)?),
            hasher: Sha256::new(),
            head: Head { revision: Revision(0), time: Timestamp(0) },
            records: 0,
            last: None,
            ended: false,
        };
        let mut magic = [0; MAGIC.len()];
        let foreign =
            |reason: &str| RestoreError::Foreign { file: path.to_owned(), reason: reason.to_owned() };
        match reader.bytes.read_exact(&mut magic) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(foreign("it is too short"));
            }
            Err(error) => return Err(io(error)),
            Ok(()) if magic == MAGIC => {}
            Ok(()) if magic.starts_with(FAMILY) => return Err(foreign("its format is newer")),
            Ok(()) => return Err(foreign("it begins like none")),
        }
        reader.hasher.update(magic);
        let head = reader.frame()?;
        reader.head = postcard::from_bytes(&head).map_err(|_| reader.damaged("its head cannot be read"))?;
        Ok(reader)
    }

    /// The next page; `None` at the end, when all that was read is as it was written.
    fn page(&mut self) -> Result<Option<Vec<(Bytes, Record)>>, RestoreError> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.frame()?;
        if frame.is_empty() {
            self.check_end()?;
            self.ended = true;
            return Ok(None);
        }
        let page: Vec<(Bytes, Record)> = postcard::from_bytes(&frame)
            .map_err(|_| self.damaged(&format!("the page after record {} cannot be read", self.records)))?;
        for (key, _) in &page {
            if self.last.as_ref().is_some_and(|last| last >= key) {
                return Err(self.damaged(&format!("record {} is not in its order", self.records)));
            }
            self.last = Some(key.clone());
            self.records += 1;
        }
        Ok(Some(page))
    }

    fn summary(&self) -> Result<Summary, RestoreError> {
        match self.ended {
            true => Ok(Summary { revision: self.head.revision, time: self.head.time, records: self.records }),
            false => Err(self.damaged("it was not read to its end")),
        }
    }

    fn check_end(&mut self) -> Result<(), RestoreError> {
        let mut count = [0; 8];
        self.read(&mut count)?;
        let ours = self.hasher.finalize_reset();
        let mut written = [0; 32];
        self.read(&mut written)?;
        if ours[..] != written {
            return Err(self.damaged("its checksum does not match"));
        }
        if u64::from_le_bytes(count) != self.records {
            return Err(self.damaged("records are missing"));
        }
        if self.bytes.read(&mut [0]).map_err(|error| self.io(error))? != 0 {
            return Err(self.damaged("something follows its end"));
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Vec<u8>, RestoreError> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > PAGE_BYTES_MAX {
            return Err(self.damaged("a page is too long"));
        }
        // Room is made for what is there, whatever the length says.
        let mut frame = Vec::new();
        let read = (&mut self.bytes).take(u64::from(length)).read_to_end(&mut frame);
        if read.map_err(|error| self.io(error))? as u64 != u64::from(length) {
            return Err(self.damaged("it ends too early"));
        }
        self.hasher.update(&frame);
        Ok(frame)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), RestoreError> {
        self.bytes.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            _ => self.io(error),
        })?;
        self.hasher.update(&*into);
        Ok(())
    }

    fn damaged(&self, reason: &str) -> RestoreError {
        RestoreError::Damaged { file: self.file.clone(), reason: reason.to_owned() }
    }

    fn io(&self, error: io::Error) -> RestoreError {
        RestoreError::Io { file: self.file.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use starlane_core::{Agent, Kind, Resource, Sequence, Status, Target};

    use super::*;
    use crate::registry::{Backing, Config, Create, Reserved};

    fn ann() -> Agent {
        Agent("mesh:users:ann".parse().unwrap())
    }

    fn config(backing: Backing) -> Config {
        Config::on(backing, Arc::new(|| Timestamp(1_700_000_000_000)))
    }

    async fn filled() -> Registry {
        let registry = Registry::open(config(Backing::Store(Arc::new(store::MemoryStore::new())))).unwrap();
        let make = |point: &str, kind: &str| Create::new(point.parse().unwrap(), kind.parse().unwrap());
        registry.create(&ann(), make("shop", "Space")).await.unwrap();
        let lease = registry.grant(Duration::from_secs(60)).await.unwrap();
        let passing = |point: &str, lease| {
            let kind: Kind = "Base".parse().unwrap();
            Reserved { lease, ..Reserved::new(point.parse().unwrap(), kind, Vec::new(), Status::ready()) }
        };
        registry.put_reserved(&ann(), passing("shop:here", Some(lease))).await.unwrap();
        registry.put_reserved(&ann(), passing("shop:here:below", None)).await.unwrap();
        registry.put_reserved(&ann(), passing("shop:here-too", None)).await.unwrap();
        let sequence =
            Sequence { parent: "shop".parse().unwrap(), prefix: "o-".into(), suffix: String::new() };
        for _ in 0..1_100 {
            let target = Target::Sequence(sequence.clone());
            registry.create(&ann(), Create { target, ..make("shop", "Base") }).await.unwrap();
        }
        registry
    }

    fn contents(registry: &Registry) -> Vec<Arc<Resource>> {
        registry.select(&"ROOT+**".parse().unwrap(), usize::MAX, None).unwrap().resources
    }

    async fn bytes_of(registry: &Registry) -> Vec<u8> {
        let chunks: Vec<Result<Bytes, Error>> = registry.backup().await.unwrap().collect().await;
        chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_restored_is_what_was_and_goes_on() {
        let registry = filled().await;
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("backup"), folder.path().join("registry.redb"));
        let at = registry.revision();
        let mut stream = registry.backup().await.unwrap();
        let mut bytes = stream.next().await.unwrap().unwrap().to_vec();
        // What is written while it is read is not in it.
        let late = Create::new("shop:late".parse().unwrap(), "Base".parse().unwrap());
        registry.create(&ann(), late.clone()).await.unwrap();
        while let Some(chunk) = stream.next().await {
            bytes.extend(chunk.unwrap());
        }
        std::fs::write(&file, &bytes).unwrap();
        let summary = restore(&file, &new).unwrap();
        // Three resources of which one hangs on a lease and one below it, 1,100 of the sequence, and its counter.
        assert_eq!((summary.revision, summary.records), (at, 1 + 1 + 1_100 + 1));
        assert_eq!(check(&file).unwrap(), summary);
        let restored = Registry::open(config(Backing::File(new.clone()))).unwrap();
        let passing = ["shop:here", "shop:here:below", "shop:late"];
        let mut expected = contents(&registry);
        expected.retain(|resource| !passing.contains(&resource.point.as_str()));
        assert_eq!(contents(&restored), expected);
        assert_eq!(restored.revision(), Revision(at.0 + LEAP));
        let gone = restored.select_at(&"**".parse().unwrap(), at, 10, None).await.unwrap_err();
        assert!(matches!(gone, Error::Gone { .. }), "{gone}");
        let token = registry.watch(&"**".parse().unwrap(), None).unwrap().token();
        let token = starlane_core::ResumeToken { revision: registry.revision(), ..token };
        let mut watch = restored.watch(&"**".parse().unwrap(), Some(token)).unwrap();
        assert!(matches!(watch.next().await, Some(starlane_core::Event::Gone { .. })));
        restored.create(&ann(), late).await.unwrap();
        let target = Target::Sequence(Sequence {
            parent: "shop".parse().unwrap(),
            prefix: "o-".into(),
            suffix: String::new(),
        });
        let next = Create { target, ..Create::new("shop".parse().unwrap(), "Base".parse().unwrap()) };
        let next = restored.create(&ann(), next).await.unwrap();
        assert_eq!(next.resource.point.as_str(), "shop:o-1101", "its sequences go on");
        let again = restore(&file, &new).unwrap_err();
        assert!(matches!(again, RestoreError::Exists(_)), "{again}");
        // Nor beside the log of one that was moved away alone: it holds commits of that one.
        let other = folder.path().join("other.redb");
        let log = folder.path().join("other.redb.wal");
        std::fs::write(&log, "commits").unwrap();
        let left = restore(&file, &other).unwrap_err();
        assert!(matches!(&left, RestoreError::Exists(path) if *path == log), "{left}");
        assert!(!other.exists());
    }

    #[tokio::test]
    async fn a_damaged_backup_is_named_and_nothing_is_restored() {
        let intact = bytes_of(&filled().await).await;
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("backup"), folder.path().join("registry.redb"));
        let refused = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            let error = restore(&file, &new).unwrap_err();
            assert!(error.to_string().contains("backup"), "{error}");
            assert!(check(&file).is_err());
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 1, "only the backup is there");
            error
        };
        let mut seed = 7u64;
        let mut random = |bound: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        for round in 0..60 {
            let mut bytes = intact.clone();
            match round % 4 {
                0 => bytes.truncate(random(intact.len())),
                1 => bytes.push(0),
                2 => bytes[MAGIC.len() + random(intact.len() - MAGIC.len())] ^= 1 << random(8),
                _ => {
                    let at = MAGIC.len() + random(intact.len() - MAGIC.len() - 64);
                    bytes.drain(at..at + 1 + random(63));
                }
            }
            let error = refused(&bytes);
            let cut_in_the_name = bytes.len() < MAGIC.len();
            assert!(matches!(error, RestoreError::Damaged { .. }) || cut_in_the_name, "{round}: {error}");
        }
        let newer = [b"starlane-backup 2\n", &intact[MAGIC.len()..]].concat();
        assert!(matches!(refused(&newer), RestoreError::Foreign { reason, .. } if reason.contains("newer")));
        assert!(matches!(refused(b"this is no backup at all"), RestoreError::Foreign { .. }));
        std::fs::write(&file, &intact).unwrap();
        restore(&file, &new).unwrap();
    }
}
