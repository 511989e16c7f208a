//! Content, addressed by what it hashes to.
//!
//! Each blob is one object, `sha256/ab/cdef…`, that holds the plain content: `sha256sum` of it prints its name. A blob
//! of more than one chunk (128 KiB) has a second object, `sums/ab/cdef…`, with the SHA-256 of every chunk, bound to
//! the blob by its digest and length. Whatever is read, whole or in part, is read in whole chunks, and a chunk
//! leaves the store only after its sum was right: damage is an error in place of the damaged bytes, for a range as
//! for the whole, and a blob is never read twice to be sure.
//!
//! A blob is on disk before it is acknowledged: content is staged under `incoming/` while it is hashed, synced, then
//! renamed to its name, and the folder is synced too (object_store does both, when asked).
//!
//! On a node that is not the registry's the store is a cache of that node's: see `upstream.rs`. Where several nodes have
//! the registry each keeps all content, and fetches what it lacks from the others in the same way.

mod partial;
mod service;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use starlane_core::{Blob, Code, Digest, Point, Problem};
use tokio::sync::RwLock;

use crate::upstream::Upstream;
pub use service::BlobService;
use upstream::Cache;
pub use upstream::CacheConfig;

/// How much is checked, and at most held by a reader, at a time.
const CHUNK_BYTES: u64 = 128 * 1024;
/// How much is gathered before it is written; what S3 takes at least is 5 MiB.
const LOCAL_PART_BYTES: usize = 1024 * 1024;
const SUM_BYTES: u64 = 32;
/// How many sums a reader holds at a time: 32 KiB, for 128 MiB of content.
const SUMS_WINDOW: u64 = 1024;
const SUMS_MAGIC: &[u8; 8] = b"slsums1\n";
/// The magic, the digest of the content, and its length.
const SUMS_HEADER_BYTES: u64 = 8 + 32 + 8;

/// A store of content, shared by its clones.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    /// The folder, when it is one: only there can an interrupted write leave files that the store does not list.
    folder: Option<PathBuf>,
    part_bytes: usize,
    /// Distinguishes the staged objects of this process from those of any other.
    session: String,
    staged: AtomicU64,
    /// Held shared while a blob gets its name and alone while one loses it, so that a blob that is put again at the
    /// moment it is swept is not lost.
    naming: RwLock<()>,
    /// The bundles that are being published.
    claims: Mutex<HashSet<Point>>,
    /// What makes it the cache of another node's.
    cache: Option<Arc<Cache>>,
}

/// The sole right to publish a bundle, until it is dropped.
pub(crate) struct Claim<'a> {
    store: &'a BlobStore,
    point: Point,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.inner.claims.lock().remove(&self.point);
    }
}

/// Content as it is read: pieces of at most 128 KiB, each checked before it is handed out.
pub type ContentStream = BoxStream<'static, Result<Bytes, Problem>>;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many blobs.
    pub blobs: u64,
    /// How many bytes of content they had.
    pub bytes: u64,
}

/// Why content was not stored or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such content is stored.
    #[error("no content is stored under {0}")]
    NotFound(Digest),
    /// What is stored is not what was put there.
    #[error("the stored content {digest} is damaged: {what}")]
    Corrupt {
        /// Which content.
        digest: Digest,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The content is larger than the caller takes.
    #[error("the content has more than {max} bytes")]
    TooLarge {
        /// How many it may have.
        max: u64,
    },
    /// The range begins after the end.
    #[error("the range begins after the end: the content has {total} bytes")]
    OutOfRange {
        /// How many it has.
        total: u64,
    },
    /// Reading what was to be stored failed; nothing was stored.
    #[error("{0}")]
    Source(Box<Problem>),
    /// The node that has the content is out of reach.
    #[error("the content {digest} is on the registry's node, which cannot be reached: {reason}")]
    Unreachable {
        /// Which content.
        digest: Digest,
        /// What the mesh said.
        reason: Arc<str>,
    },
    /// The store below failed.
    #[error("the content store failed: {0}")]
    Unavailable(#[from] object_store::Error),
    /// The content store's folder failed.
    #[error("the content store's folder failed: {0}")]
    Folder(#[from] std::io::Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotFound(_) | Error::Corrupt { .. } => Problem::new(Code::Corrupt, detail)
                .help("restore the content from a backup, or publish or write it again"),
            Error::TooLarge { .. } => Problem::new(Code::TooLarge, detail)
                .help("split the content, or let the node's operator raise the limit"),
            Error::OutOfRange { .. } => {
                Problem::new(Code::Usage, detail).help("ask for a range within the content")
            }
            Error::Source(problem) => *problem,
            Error::Unreachable { .. } => {
                let mut problem = Problem::new(Code::Unreachable, detail)
                    .help("try again; what was transferred so far is kept, and it goes on from there");
                problem.retry_after = Some(1);
                problem
            }
            Error::Unavailable(_) | Error::Folder(_) => Problem::new(Code::StoreUnavailable, detail)
                .help("check the disk of the data folder: free space, permissions, health; then try again"),
        }
    }
}

impl BlobStore {
    /// Opens the store in a folder, which is made when it is missing. One process may have it open at a time.
    ///
    /// # Errors
    /// When the folder cannot be made or opened.
    pub async fn open(folder: impl AsRef<FilePath>) -> Result<Self, Error> {
        Self::open_with(folder.as_ref().to_owned(), None).await
    }

    /// Opens the store in a folder as the cache of the registry's node: what is missing here is fetched from there when it
    /// is read, and what is put here is there before it is acknowledged.
    ///
    /// # Errors
    /// As [`BlobStore::open`]. The other node is not asked yet.
    pub async fn open_cache(
        folder: impl AsRef<FilePath>,
        upstream: Arc<dyn Upstream>,
        config: CacheConfig,
    ) -> Result<Self, Error> {
        let folder = folder.as_ref().to_owned();
        let cache = Arc::new(Cache::new(upstream, config, folder.clone()));
        let store = Self::open_with(folder, Some(cache)).await?;
        store.trim().await?;
        Ok(store)
    }

    async fn open_with(folder: PathBuf, cache: Option<Arc<Cache>>) -> Result<Self, Error> {
        let open = move || {
            if !folder.is_dir() {
                std::fs::create_dir_all(&folder)?;
                #[cfg(unix)]
                if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                    std::fs::File::open(parent)?.sync_all()?;
                }
            }
            let store = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
            Self::new(Arc::new(store), LOCAL_PART_BYTES, Some(folder), cache)
        };
        tokio::task::spawn_blocking(open).await.map_err(std::io::Error::other)?
    }

    /// A store over any object store that acknowledges only what is durable. `part_bytes` is how much is sent at a
    /// time: 5 MiB or more for S3.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn over(store: Arc<dyn ObjectStore>, part_bytes: usize) -> Result<Self, Error> {
        Self::new(store, part_bytes, None, None)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        part_bytes: usize,
        folder: Option<PathBuf>,
        cache: Option<Arc<Cache>>,
    ) -> Result<Self, Error> {
        // Parts are whole chunks, so that a chunk never straddles two.
        let part_bytes = part_bytes.next_multiple_of(CHUNK_BYTES as usize);
        let mut session = [0; 8];
        getrandom::fill(&mut session).map_err(|error| std::io::Error::other(error.to_string()))?;
        let session = hex::encode(session);
        let staged = AtomicU64::new(0);
        let inner = Inner {
            store,
            folder,
            part_bytes,
            session,
            staged,
            naming: RwLock::new(()),
            claims: Mutex::default(),
            cache,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Stores content and tells its name. Holds at most a few parts in memory whatever the length; content that is
    /// there already is stored once. When this answers, the content is on disk; that of a cache also on the disk of
    /// the registry's node.
    ///
    /// # Errors
    /// [`Error::Source`] when the stream failed, [`Error::TooLarge`] when it has more than `bytes_max`, else when the
    /// store cannot take it. Nothing is stored then, except in a cache: after [`Error::Unreachable`] the content is
    /// here, and putting it again sends what is not there yet.
    pub async fn put(
        &self,
        content: impl Stream<Item = Result<Bytes, Problem>> + Send,
        bytes_max: u64,
    ) -> Result<Blob, Error> {
        let blob = self.put_here(content, bytes_max).await?;
        if let Some(cache) = &self.inner.cache
            && cache.pushes()
        {
            self.push(cache, &blob).await?;
            self.added(cache, blob.bytes).await;
        }
        Ok(blob)
    }

    /// Stores content in this store alone.
    async fn put_here(
        &self,
        content: impl Stream<Item = Result<Bytes, Problem>> + Send,
        bytes_max: u64,
    ) -> Result<Blob, Error> {
        let mut parts = Parts {
            // A part may end where the content does, and then the end is asked for twice.
            content: content.fuse().boxed(),
            waiting: Bytes::new(),
            part_bytes: self.inner.part_bytes,
            left: bytes_max,
            bytes_max,
        };
        let first = parts.next().await?;
        if first.len() < self.inner.part_bytes {
            let (sums, first) = Sums::default().add_part(first).await?;
            return self.put_small(first, sums).await;
        }
        let staged = self.stage();
        let mut upload = self.inner.store.put_multipart(&staged).await?;
        match self.put_parts(&mut *upload, first, parts).await {
            Ok(sums) => self.name(&staged, sums).await,
            Err(error) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%staged, %error, "could not remove content that was given up; the sweep will");
                }
                Err(error)
            }
        }
    }

    /// Writes part by part to a staged object until the content ends.
    async fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        first: Bytes,
        mut parts: Parts<'_>,
    ) -> Result<Sums, Error> {
        let mut sums = Sums::default();
        let mut part = first;
        while !part.is_empty() {
            let written = upload.put_part(part.clone().into());
            let (hashed, ()) = futures::try_join!(sums.add_part(part), async { Ok(written.await?) })?;
            sums = hashed.0;
            part = parts.next().await?;
        }
        upload.complete().await?;
        Ok(sums)
    }

    /// Stores content of less than one part, which needs no staging: one object is written as a whole or not at all.
    async fn put_small(&self, content: Bytes, sums: Sums) -> Result<Blob, Error> {
        let (blob, sums) = sums.finish();
        let _naming = self.inner.naming.read().await;
        if let Some(sums) = sums {
            self.inner.store.put(&sums_path(&blob.digest), sums.into()).await?;
        }
        self.inner.store.put(&content_path(&blob.digest), content.into()).await?;
        Ok(blob)
    }

    /// Gives staged content its name. Content of that name is replaced: that heals a damaged one, and renews its age.
    async fn name(&self, staged: &Path, sums: Sums) -> Result<Blob, Error> {
        let (blob, sums) = sums.finish();
        let _naming = self.inner.naming.read().await;
        if let Some(sums) = sums {
            self.inner.store.put(&sums_path(&blob.digest), sums.into()).await?;
        }
        self.inner.store.rename(staged, &content_path(&blob.digest)).await?;
        Ok(blob)
    }

    fn stage(&self) -> Path {
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        Path::from(format!("incoming/{}-{number}", self.inner.session))
    }

    /// Opens content to be read, all of it or a range, and tells how many bytes will come; a range that ends after the
    /// end is cut there. What is missing in a cache is fetched first, as a whole.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`], [`Error::Unreachable`], or [`Error::Corrupt`] when the damage shows
    /// at once. Damage further on ends the stream with that error in place of the damaged bytes.
    pub async fn get(&self, blob: &Blob, range: Option<Range<u64>>) -> Result<(ContentStream, u64), Error> {
        let found = self.get_here(blob, range.clone()).await;
        let Some(cache) = &self.inner.cache else { return found };
        match found {
            Err(Error::NotFound(_)) => {}
            Err(Error::Corrupt { digest, what }) => {
                tracing::warn!(%digest, what, "cached content is damaged; it is fetched anew");
                self.delete(&digest).await?;
            }
            found => return found,
        }
        self.fetch(cache, blob).await?;
        self.get_here(blob, range).await
    }

    /// Brings content here that is missing.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nobody has it, [`Error::Unreachable`].
    pub async fn bring(&self, blob: &Blob) -> Result<(), Error> {
        match &self.inner.cache {
            _ if self.contains(&blob.digest).await? => Ok(()),
            Some(cache) => self.fetch(cache, blob).await,
            None => Err(Error::NotFound(blob.digest)),
        }
    }

    /// Opens content of this store alone.
    async fn get_here(&self, blob: &Blob, range: Option<Range<u64>>) -> Result<(ContentStream, u64), Error> {
        let Blob { digest, bytes: total } = *blob;
        let range = range.unwrap_or(0..total);
        if range.start > total || (range.start == total && total > 0) {
            return Err(Error::OutOfRange { total });
        }
        let range = range.start..range.end.clamp(range.start, total);
        let path = content_path(&digest);
        let stored = self.inner.store.head(&path).await.map_err(|error| or_not_found(error, &digest))?;
        let corrupt = |what| Error::Corrupt { digest, what };
        if stored.size != total {
            return Err(corrupt("its length is another"));
        }
        self.used(blob, &stored).await;
        if total <= CHUNK_BYTES {
            let object = self.inner.store.get(&path).await.map_err(|error| or_not_found(error, &digest))?;
            let content = object.bytes().await?;
            if content.len() as u64 != total || Digest(Sha256::digest(&content).into()) != digest {
                return Err(corrupt("its digest is another"));
            }
            let piece = content.slice(range.start as usize..range.end as usize);
            let bytes = piece.len() as u64;
            return Ok((stream::iter((!piece.is_empty()).then_some(Ok(piece))).boxed(), bytes));
        }
        let mut chunks = Chunks {
            store: self.clone(),
            digest,
            total,
            next: range.start,
            end: range.end,
            sums: Bytes::new(),
            sums_from: 0,
        };
        chunks.check_header().await?;
        let stream = stream::try_unfold(chunks, Chunks::next).map_err(Problem::from);
        Ok((stream.boxed(), range.end - range.start))
    }

    /// All of some content, when it has no more than `bytes_max`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`] (before anything is read), [`Error::Corrupt`].
    pub async fn read(&self, blob: &Blob, bytes_max: u64) -> Result<Bytes, Error> {
        if blob.bytes > bytes_max {
            return Err(Error::TooLarge { max: bytes_max });
        }
        let from_stream = |problem| Error::Source(Box::new(problem));
        let (mut pieces, bytes) = self.get(blob, None).await?;
        let Some(first) = pieces.try_next().await.map_err(from_stream)? else { return Ok(Bytes::new()) };
        if first.len() as u64 == bytes {
            return Ok(first);
        }
        let mut content = BytesMut::from(first);
        while let Some(piece) = pieces.try_next().await.map_err(from_stream)? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// Whether content of this name is stored here; it is not read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn contains(&self, digest: &Digest) -> Result<bool, Error> {
        match self.inner.store.head(&content_path(digest)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes content from here; tells whether there was any. Who refers to it is the caller's concern.
    ///
    /// # Errors
    /// When the store cannot remove it.
    pub async fn delete(&self, digest: &Digest) -> Result<bool, Error> {
        let _naming = self.inner.naming.write().await;
        self.remove(digest).await
    }

    /// Removes what `keep` does not want and what was last stored longer than `grace` ago, and what interrupted writes
    /// left behind before that. `grace` must be longer than any publishing or writing takes, since content is stored
    /// before it is referred to. A cache that pushes needs no sweep: it keeps to its bound by itself, see [`CacheConfig`].
    ///
    /// # Errors
    /// When the store cannot be listed or changed. What was removed until then is removed.
    pub async fn sweep(&self, keep: impl Fn(&Digest) -> bool, grace: Duration) -> Result<Swept, Error> {
        let before = SystemTime::now().checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let store = &self.inner.store;
        let mut swept = Swept::default();
        let mut content = store.list(Some(&Path::from("sha256")));
        while let Some(object) = content.try_next().await? {
            let Some(digest) = digest_of(&object.location) else { continue };
            if SystemTime::from(object.last_modified) >= before || keep(&digest) {
                continue;
            }
            let _naming = self.inner.naming.write().await;
            // It may have been put again since it was listed.
            let object = match store.head(&object.location).await {
                Ok(object) => object,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if SystemTime::from(object.last_modified) < before && self.remove(&digest).await? {
                swept.blobs += 1;
                swept.bytes += object.size;
            }
        }
        let mut sums = store.list(Some(&Path::from("sums")));
        while let Some(object) = sums.try_next().await? {
            let Some(digest) = digest_of(&object.location) else { continue };
            let _naming = self.inner.naming.write().await;
            if SystemTime::from(object.last_modified) < before && !self.contains(&digest).await? {
                ignore_missing(store.delete(&object.location).await)?;
            }
        }
        for unfinished in ["incoming", partial::PARTIAL] {
            let mut staged = store.list(Some(&Path::from(unfinished)));
            while let Some(object) = staged.try_next().await? {
                if SystemTime::from(object.last_modified) < before {
                    ignore_missing(store.delete(&object.location).await)?;
                }
            }
        }
        if let Some(folder) = self.inner.folder.clone() {
            tokio::task::spawn_blocking(move || remove_leftovers(&folder, before))
                .await
                .map_err(std::io::Error::other)??;
        }
        Ok(swept)
    }

    /// The sole right to publish a bundle; `None` while another has it.
    pub(crate) fn claim(&self, point: &Point) -> Option<Claim<'_>> {
        let first = self.inner.claims.lock().insert(point.clone());
        first.then(|| Claim { store: self, point: point.clone() })
    }

    /// A file without a name on the disk of the store, which goes when it is closed.
    pub(crate) async fn temporary_file(&self) -> std::io::Result<std::fs::File> {
        let folder = self.inner.folder.clone();
        let make = move || match folder {
            Some(folder) => tempfile::tempfile_in(folder),
            None => tempfile::tempfile(),
        };
        tokio::task::spawn_blocking(make).await.map_err(std::io::Error::other)?
    }

    /// The folder, when it is one.
    fn folder(&self) -> Option<PathBuf> {
        self.inner.folder.clone()
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        let there = ignore_missing(self.inner.store.delete(&content_path(digest)).await)?;
        ignore_missing(self.inner.store.delete(&sums_path(digest)).await)?;
        Ok(there)
    }
}

/// Cuts a stream into parts of one length, the last one shorter or empty.
struct Parts<'a> {
    content: BoxStream<'a, Result<Bytes, Problem>>,
    /// What was given and did not fit into the part before.
    waiting: Bytes,
    part_bytes: usize,
    /// How many bytes may still come.
    left: u64,
    bytes_max: u64,
}

impl Parts<'_> {
    async fn next(&mut self) -> Result<Bytes, Error> {
        let mut part = BytesMut::new();
        loop {
            let piece = self.waiting.split_to(self.waiting.len().min(self.part_bytes - part.len()));
            if part.is_empty() && piece.len() == self.part_bytes {
                return Ok(piece);
            }
            part.extend_from_slice(&piece);
            if part.len() == self.part_bytes {
                return Ok(part.freeze());
            }
            match self.content.try_next().await.map_err(|problem| Error::Source(Box::new(problem)))? {
                None => return Ok(part.freeze()),
                Some(piece) => {
                    self.left = self
                        .left
                        .checked_sub(piece.len() as u64)
                        .ok_or(Error::TooLarge { max: self.bytes_max })?;
                    self.waiting = piece;
                }
            }
        }
    }
}

/// The digest of content and those of its chunks, as the content comes.
#[derive(Default)]
struct Sums {
    whole: Sha256,
    bytes: u64,
    chunks: BytesMut,
}

impl Sums {
    /// Takes a part in, away from the threads that serve requests; gives the part back. All parts but the last are
    /// whole chunks.
    async fn add_part(mut self, part: Bytes) -> Result<(Self, Bytes), Error> {
        let hash = move || {
            self.whole.update(&part);
            self.bytes += part.len() as u64;
            for chunk in part.chunks(CHUNK_BYTES as usize) {
                self.chunks.extend_from_slice(&Sha256::digest(chunk));
            }
            (self, part)
        };
        tokio::task::spawn_blocking(hash).await.map_err(|error| std::io::Error::other(error).into())
    }

    /// What the content hashes to so far.
    fn digest(&self) -> Digest {
        Digest(self.whole.clone().finalize().into())
    }

    /// The name of the content, and its sums when it has more than one chunk.
    fn finish(self) -> (Blob, Option<Bytes>) {
        let blob = Blob { digest: Digest(self.whole.finalize().into()), bytes: self.bytes };
        let sums = (self.bytes > CHUNK_BYTES).then(|| {
            let mut sums = BytesMut::from(&sums_header(&blob)[..]);
            sums.extend_from_slice(&self.chunks);
            sums.freeze()
        });
        (blob, sums)
    }
}

fn sums_header(blob: &Blob) -> [u8; SUMS_HEADER_BYTES as usize] {
    let mut header = [0; SUMS_HEADER_BYTES as usize];
    header[..8].copy_from_slice(SUMS_MAGIC);
    header[8..40].copy_from_slice(&blob.digest.0);
    header[40..].copy_from_slice(&blob.bytes.to_le_bytes());
    header
}

/// Reads content of more than one chunk, chunk by chunk.
struct Chunks {
    store: BlobStore,
    digest: Digest,
    total: u64,
    /// The next byte to hand out, and the first not to.
    next: u64,
    end: u64,
    /// Some of the sums, and the number of the chunk that the first one is for.
    sums: Bytes,
    sums_from: u64,
}

impl Chunks {
    /// Checks that the sums are those of this content at its whole length.
    async fn check_header(&mut self) -> Result<(), Error> {
        let header = sums_header(&Blob { digest: self.digest, bytes: self.total });
        let stored = self.range(&sums_path(&self.digest), 0..SUMS_HEADER_BYTES).await?;
        if stored[..] == header { Ok(()) } else { Err(self.corrupt("its length or its sums are another's")) }
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.next >= self.end {
            return Ok(None);
        }
        let number = self.next / CHUNK_BYTES;
        let start = number * CHUNK_BYTES;
        let stop = (start + CHUNK_BYTES).min(self.total);
        let sum = self.sum(number).await?;
        let chunk = self.range(&content_path(&self.digest), start..stop).await?;
        if Sha256::digest(&chunk)[..] != sum[..] {
            if self.store.inner.cache.is_some() {
                // The next reader fetches it anew.
                self.store.delete(&self.digest).await?;
            }
            return Err(self.corrupt("a part of it does not match its sum"));
        }
        let piece = chunk.slice((self.next - start) as usize..(self.end.min(stop) - start) as usize);
        self.next = stop;
        Ok(Some((piece, self)))
    }

    async fn sum(&mut self, number: u64) -> Result<Bytes, Error> {
        if number < self.sums_from || (number - self.sums_from) * SUM_BYTES >= self.sums.len() as u64 {
            let count = self.total.div_ceil(CHUNK_BYTES);
            let until = (number + SUMS_WINDOW).min(count).min(self.end.div_ceil(CHUNK_BYTES));
            let range = SUMS_HEADER_BYTES + number * SUM_BYTES..SUMS_HEADER_BYTES + until * SUM_BYTES;
            self.sums = self.range(&sums_path(&self.digest), range).await?;
            self.sums_from = number;
        }
        let at = ((number - self.sums_from) * SUM_BYTES) as usize;
        Ok(self.sums.slice(at..at + SUM_BYTES as usize))
    }

    /// A range of an object, all of it.
    async fn range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, Error> {
        let store = &self.store.inner.store;
        match store.get_range(path, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(_) => Err(self.corrupt("it is cut short")),
            Err(object_store::Error::NotFound { .. }) => Err(self.corrupt("a part of it is missing")),
            // Stores tell of a range beyond the end each in their own way.
            Err(error) => match store.head(path).await {
                Ok(object) if object.size < range.end => Err(self.corrupt("it is cut short")),
                _ => Err(error.into()),
            },
        }
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { digest: self.digest, what }
    }
}

fn content_path(digest: &Digest) -> Path {
    object_path("sha256", digest)
}

fn sums_path(digest: &Digest) -> Path {
    object_path("sums", digest)
}

fn object_path(branch: &str, digest: &Digest) -> Path {
    let name = digest.to_string();
    Path::from(format!("{branch}/{}/{}", &name[..2], &name[2..]))
}

/// The digest that an object is named by.
fn digest_of(location: &Path) -> Option<Digest> {
    let mut parts = location.parts().skip(1);
    let (front, back) = (parts.next()?, parts.next()?);
    format!("{}{}", front.as_ref(), back.as_ref()).parse().ok()
}

fn or_not_found(error: object_store::Error, digest: &Digest) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::NotFound(*digest),
        error => error.into(),
    }
}

/// Whether there was something to delete.
fn ignore_missing(deleted: object_store::Result<()>) -> Result<bool, Error> {
    match deleted {
        Ok(()) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the temporary files (`NAME#1`) that a write leaves in the folder when the process dies in its midst, and
/// that an object store over a folder does not list.
fn remove_leftovers(folder: &FilePath, before: SystemTime) -> std::io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_string_lossy().contains('#') {
                match entry.metadata().and_then(|metadata| metadata.modified()) {
                    Ok(modified) if modified < before => std::fs::remove_file(entry.path())?,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}
