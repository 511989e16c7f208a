//! Content, served to other nodes: read in pieces, and taken in in pieces.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt, stream};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use starlane_core::{Blob, Code, Digest, NodeName, Refusal};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::partial::Partial;
use super::wire::{self, Answer, PIECE_BYTES, Request};
use super::{BlobStore, CHUNK_BYTES, Error};

/// The most pieces that are read at a time; others wait for their turn.
const READS_MAX: usize = 16;
/// The most reads that wait for their turn or have it; one more is refused as busy.
const READS_WAITING_MAX: usize = 1_024;
/// The most pieces that are being taken in or wait for those before them; one more is refused as busy.
const WRITES_MAX: usize = 32;
/// The most content that is being taken in at a time; more is refused as busy.
const UPLOADS_MAX: usize = 64;
/// How long content that comes no further stays open. What came of it is kept, and taken up when it goes on.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a piece waits for those before it, which may still be on their way.
const GAP_MAX: Duration = Duration::from_secs(2);

/// Answers the calls of [`BlobStore`]s on other nodes. Cloning is cheap.
#[derive(Clone)]
pub struct BlobService {
    shared: Arc<Shared>,
}

struct Shared {
    blobs: BlobStore,
    /// Whether what is missing is not looked for elsewhere.
    alone: bool,
    reading: Semaphore,
    reads: Semaphore,
    writes: Semaphore,
    uploads: Mutex<HashMap<Digest, Upload>>,
}

#[derive(Clone)]
struct Upload {
    blob: Blob,
    /// Nothing until it is open, and when it failed.
    partial: Arc<tokio::sync::Mutex<Option<Partial>>>,
    have: watch::Sender<u64>,
    touched: Instant,
}

impl BlobService {
    /// A service for a store whose folder is on this node.
    pub fn new(blobs: BlobStore) -> Self {
        Self::of(blobs, false)
    }

    /// A service for what is on this node alone: for others that keep the same content, so that two never ask each other for
    /// what both lack.
    pub fn beside(blobs: BlobStore) -> Self {
        Self::of(blobs, true)
    }

    fn of(blobs: BlobStore, alone: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                blobs,
                alone,
                reading: Semaphore::new(READS_MAX),
                reads: Semaphore::new(READS_WAITING_MAX),
                writes: Semaphore::new(WRITES_MAX),
                uploads: Mutex::default(),
            }),
        }
    }

    /// Answers a call of a node.
    ///
    /// # Errors
    /// When the call is none that is known, or too much is under way. Nothing was done then.
    pub fn handle(&self, _from: NodeName, request: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let shared = self.shared.clone();
        async move { shared.answer(request).await }.boxed()
    }
}

impl fmt::Debug for BlobService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobService")
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, frame: Bytes) -> Result<Bytes, Refusal> {
        let busy = || Refusal::new(Code::Busy, "too much content is under way");
        let usage = |what: &'static str| Refusal::new(Code::Usage, what);
        if frame.len() > crate::CALL_BYTES_MAX {
            return Err(Refusal::new(Code::TooLarge, "a call for content is too long"));
        }
        let request: Request<'_> = wire::decode(&frame)?;
        match request {
            Request::Read { blob, offset, length } => {
                if length > PIECE_BYTES {
                    return Err(usage("a piece of content is too long"));
                }
                let _one = self.reads.try_acquire().map_err(|_| busy())?;
                let _turn = self.reading.acquire().await.map_err(|_| busy())?;
                Ok(match self.read(&blob.into(), offset, length).await {
                    Ok(piece) => wire::encode(&Answer::Piece(&piece)),
                    Err(error) => told(&error),
                })
            }
            Request::Begin { blob } => self.begin(blob.into()).await.ok_or_else(busy),
            Request::Write { blob, offset, piece } => {
                let (blob, piece) = (Blob::from(blob), frame.slice_ref(piece));
                let end = offset.checked_add(piece.len() as u64).filter(|end| *end <= blob.bytes);
                let whole_chunks = offset % CHUNK_BYTES == 0
                    && ((piece.len() as u64).is_multiple_of(CHUNK_BYTES) || end == Some(blob.bytes));
                if end.is_none() || !whole_chunks || piece.is_empty() {
                    return Err(usage("a piece of content is none"));
                }
                let _turn = self.writes.try_acquire().map_err(|_| busy())?;
                self.write(blob, offset, piece).await.ok_or_else(busy)
            }
        }
    }

    async fn read(&self, blob: &Blob, offset: u64, length: u64) -> Result<Bytes, Error> {
        let range = Some(offset..offset.saturating_add(length));
        let (mut pieces, bytes) = match self.alone {
            true => self.blobs.get_here(blob, range).await?,
            false => self.blobs.get(blob, range).await?,
        };
        let mut content = BytesMut::with_capacity(bytes as usize);
        let damaged = |_| Error::Corrupt { digest: blob.digest, what: "a part of it is damaged" };
        while let Some(piece) = pieces.try_next().await.map_err(damaged)? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// How much is there; `None` when too much is under way.
    async fn begin(self: &Arc<Self>, blob: Blob) -> Option<Bytes> {
        match self.is_there(&blob).await {
            Ok(true) => return Some(wire::encode(&Answer::Whole)),
            Ok(false) => {}
            Err(error) => return Some(told(&error)),
        }
        if blob.bytes <= PIECE_BYTES {
            // It comes with one call.
            return Some(wire::encode(&Answer::Have(0)));
        }
        let upload = self.upload(blob)?;
        let answer = match &*upload.partial.lock().await {
            Some(partial) => Answer::Have(partial.have()),
            None => match self.is_there(&blob).await {
                // Another piece was the last meanwhile.
                Ok(true) => Answer::Whole,
                Ok(false) => Answer::Failed("what was there could not be taken up"),
                Err(error) => return Some(told(&error)),
            },
        };
        Some(wire::encode(&answer))
    }

    async fn write(self: &Arc<Self>, blob: Blob, offset: u64, piece: Bytes) -> Option<Bytes> {
        if piece.len() as u64 == blob.bytes {
            return Some(self.write_whole(blob, piece).await.unwrap_or_else(|error| told(&error)));
        }
        let upload = match self.is_there(&blob).await {
            Ok(true) => return Some(wire::encode(&Answer::Whole)),
            Ok(false) => self.upload(blob)?,
            Err(error) => return Some(told(&error)),
        };
        let mut have = upload.have.subscribe();
        let in_order = have.wait_for(|have| *have >= offset);
        // Whether they came or not, what is there now is told.
        drop(tokio::time::timeout(GAP_MAX, in_order).await);
        let shared = self.clone();
        // Whoever sent it may go away in the midst of it.
        let written = tokio::spawn(async move { shared.append(&upload, offset, piece).await });
        let answer = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
        Some(answer.unwrap_or_else(|error| told(&error)))
    }

    async fn write_whole(&self, blob: Blob, content: Bytes) -> Result<Bytes, Error> {
        if Digest(Sha256::digest(&content).into()) != blob.digest {
            return Ok(wire::encode(&Answer::Mismatch));
        }
        self.blobs.put_here(stream::iter([Ok(content)]), blob.bytes).await?;
        Ok(wire::encode(&Answer::Whole))
    }

    async fn append(&self, upload: &Upload, offset: u64, piece: Bytes) -> Result<Bytes, Error> {
        let blob = upload.blob;
        let mut slot = upload.partial.lock().await;
        let Some(partial) = &mut *slot else {
            drop(slot);
            // Another piece was the last, or failed.
            let answer = if self.is_there(&blob).await? { Answer::Whole } else { Answer::Have(0) };
            return Ok(wire::encode(&answer));
        };
        let have = partial.have();
        let known = have.saturating_sub(offset).min(piece.len() as u64);
        if offset > have || known == piece.len() as u64 {
            return Ok(wire::encode(&Answer::Have(have)));
        }
        let appended = partial.append(piece.slice(known as usize..)).await;
        let have = partial.have();
        if appended.is_ok() && have < blob.bytes {
            upload.have.send_replace(have);
            return Ok(wire::encode(&Answer::Have(have)));
        }
        // It is whole, or will be opened anew.
        let partial = slot.take();
        let finished = match (appended, partial) {
            (Ok(()), Some(partial)) => partial.finish(&self.blobs).await,
            (Ok(()), None) => Ok(false),
            (Err(error), _) => Err(error),
        };
        // Not before: who came in between would open the same file, which has its last name by now.
        self.uploads.lock().remove(&blob.digest);
        let whole = finished?;
        upload.have.send_replace(blob.bytes);
        Ok(wire::encode(&if whole { Answer::Whole } else { Answer::Mismatch }))
    }

    /// Whether content is there; then it is as good as new, and not swept for a while.
    async fn is_there(&self, blob: &Blob) -> Result<bool, Error> {
        self.blobs.renew(blob).await
    }

    /// The content as it is being taken in; `None` when too much is.
    fn upload(&self, blob: Blob) -> Option<Upload> {
        let now = Instant::now();
        let mut uploads = self.uploads.lock();
        uploads.retain(|_, upload| now.duration_since(upload.touched) < IDLE_MAX);
        if let Some(known) = uploads.get_mut(&blob.digest).filter(|known| known.blob == blob) {
            known.touched = now;
            return Some(known.clone());
        }
        if uploads.len() >= UPLOADS_MAX || uploads.contains_key(&blob.digest) {
            return None;
        }
        let partial = Arc::new(tokio::sync::Mutex::new(None));
        let upload = Upload { blob, partial: partial.clone(), have: watch::Sender::new(0), touched: now };
        uploads.insert(blob.digest, upload.clone());
        // Nobody else has it yet, so it is locked at once; whoever asks waits until it is open.
        let opening = partial.try_lock_owned();
        let (blobs, have) = (self.blobs.clone(), upload.have.clone());
        tokio::spawn(async move {
            let Ok(mut slot) = opening else { return };
            let Some(folder) = blobs.folder() else { return };
            match Partial::open(&folder, blob).await {
                Ok(partial) => {
                    have.send_replace(partial.have());
                    *slot = Some(partial);
                }
                Err(error) => tracing::warn!(%error, "content cannot be taken in"),
            }
        });
        Some(upload)
    }
}

fn told(error: &Error) -> Bytes {
    match error {
        Error::NotFound(_) => wire::encode(&Answer::Missing),
        Error::Corrupt { .. } => wire::encode(&Answer::Damaged),
        other => wire::encode(&Answer::Failed(&other.to_string())),
    }
}
