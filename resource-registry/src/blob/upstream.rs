//! Content of another node: what is missing here is fetched from there, and what is stored here is sent there.
//!
//! The folder of this node is a cache then. What is fetched is verified by its digest before anybody reads it; what came
//! of it when a link breaks is kept, and the transfer goes on from there, also in the next life of this process.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parking_lot::Mutex;
use starlane_core::{Blob, Code, Digest};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::partial::{PARTIAL, Partial};
use super::wire::{self, Answer, PIECE_BYTES, Request};
use super::{BlobStore, Error, Swept, content_path, digest_of, ignore_missing};
use crate::backoff::{Backoff, jitter};
use crate::upstream::{Unanswered, Upstream};

/// How many pieces of one transfer are under way at a time.
const IN_FLIGHT: usize = 4;
/// How many blobs are fetched or sent at a time; others wait for their turn.
const TRANSFERS_MAX: usize = 4;
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transfer that has begun waits for the other side to come back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a transfer begins anew whose content turned out to be another.
const ATTEMPTS_MAX: usize = 2;
/// How long content stays that was used, even if there is more than there may be. Also how often its use is written down.
const USED_LATELY: Duration = Duration::from_secs(600);
/// How long what was not fetched or sent to its end is kept.
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How much content a node keeps that is another node's.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The most bytes of content. What was not used for the longest time goes first; what was used in the last ten minutes
    /// stays even if there is more.
    pub bytes_max: u64,
    /// Whether what is stored here is to be on the other node too before it is acknowledged.
    pub pushes: bool,
}

impl CacheConfig {
    /// For one of several nodes that keep the same content: what is stored here is acknowledged when it is here, what is
    /// missing is fetched, and nothing ever gives way.
    pub const BESIDE: Self = Self { bytes_max: u64::MAX, pushes: false };
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { bytes_max: 10 << 30, pushes: true }
    }
}

/// What makes a store the cache of another one.
pub(super) struct Cache {
    upstream: Arc<dyn Upstream>,
    config: CacheConfig,
    folder: PathBuf,
    /// What is being fetched, so that many who want the same wait for one transfer.
    fetches: Mutex<HashMap<Digest, Fetch>>,
    transfers: Semaphore,
    /// About how many bytes of content are here.
    bytes: AtomicU64,
    trimming: tokio::sync::Mutex<()>,
}

type Fetch = Shared<BoxFuture<'static, Result<(), Failed>>>;

/// Why content was not fetched or sent.
#[derive(Debug, Clone)]
enum Failed {
    /// The other side is out of reach.
    Unreachable(Arc<str>),
    /// The other side has too much to do.
    Busy(Arc<str>),
    Missing,
    Damaged(&'static str),
    /// The other side could not do it.
    There(Arc<str>),
    Here(Arc<str>),
}

impl Failed {
    fn at(self, digest: Digest) -> Error {
        match self {
            Failed::Unreachable(reason) | Failed::Busy(reason) => Error::Unreachable { digest, reason },
            Failed::Missing => Error::NotFound(digest),
            Failed::Damaged(what) => Error::Corrupt { digest, what },
            Failed::There(reason) | Failed::Here(reason) => {
                Error::Folder(std::io::Error::other(reason.to_string()))
            }
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Here(error.to_string().into())
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Cache {
    /// Whether what is stored goes to the other node before it is acknowledged.
    pub(super) fn pushes(&self) -> bool {
        self.config.pushes
    }

    pub(super) fn new(upstream: Arc<dyn Upstream>, config: CacheConfig, folder: PathBuf) -> Self {
        Self {
            upstream,
            config,
            folder,
            fetches: Mutex::default(),
            transfers: Semaphore::new(TRANSFERS_MAX),
            bytes: AtomicU64::new(0),
            trimming: tokio::sync::Mutex::new(()),
        }
    }

    /// Sends a call when called, and hands the answer to `take` with the frame that it is in.
    fn ask<T>(
        &self,
        request: &Request<'_>,
        take: impl FnOnce(&Bytes, Answer<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failed>>
    where
        T: Send + 'static,
    {
        let call = self.upstream.call(wire::encode(request), CALL_TIMEOUT);
        async move {
            let lost = |unanswered: Unanswered| {
                let refusal = unanswered.refusal();
                match refusal.code {
                    Code::Busy => Failed::Busy(refusal.detail.clone()),
                    Code::Unsupported => Failed::There(refusal.detail.clone()),
                    _ => Failed::Unreachable(refusal.detail.clone()),
                }
            };
            let frame = call.await.map_err(lost)?;
            let answer = wire::decode(&frame).map_err(|refusal| Failed::There(refusal.detail))?;
            match answer {
                Answer::Missing => Err(Failed::Missing),
                Answer::Damaged => Err(Failed::Damaged("the registry's node has it damaged")),
                Answer::Failed(reason) => Err(Failed::There(reason.into())),
                answer => take(&frame, answer),
            }
        }
        .boxed()
    }
}

fn unexpected() -> Failed {
    Failed::There("the registry's node answered something unexpected".into())
}

/// A transfer that goes on after failures, as long as it gets anywhere.
struct Patience {
    since: Instant,
    moved: bool,
    backoff: Backoff,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), moved: false, backoff: Backoff::default() }
    }

    fn moved(&mut self) {
        self.since = Instant::now();
        self.moved = true;
        self.backoff.reset();
    }

    /// Waits before the next attempt. Gives up when nothing moved for too long, and at once when nothing ever did.
    async fn wait(&mut self, failed: Failed) -> Result<(), Failed> {
        let passes = match failed {
            Failed::Busy(_) => true,
            Failed::Unreachable(_) | Failed::There(_) => self.moved,
            Failed::Missing | Failed::Damaged(_) | Failed::Here(_) => false,
        };
        if !passes || self.since.elapsed() > PATIENCE {
            return Err(failed);
        }
        tokio::time::sleep(self.backoff.next(jitter())).await;
        Ok(())
    }
}

impl BlobStore {
    /// Brings content here; many who want the same share one transfer, which goes on when they go away.
    pub(super) async fn fetch(&self, cache: &Arc<Cache>, blob: &Blob) -> Result<(), Error> {
        let fetch = {
            let mut fetches = cache.fetches.lock();
            fetches.entry(blob.digest).or_insert_with(|| self.start_fetch(cache, *blob)).clone()
        };
        fetch.await.map_err(|failed| failed.at(blob.digest))
    }

    fn start_fetch(&self, cache: &Arc<Cache>, blob: Blob) -> Fetch {
        let (store, cache) = (self.clone(), cache.clone());
        let fetching = tokio::spawn(async move {
            let result = store.transfer_here(&cache, blob).await;
            cache.fetches.lock().remove(&blob.digest);
            if result.is_ok() {
                store.added(&cache, blob.bytes).await;
            }
            result
        });
        let ended = |ended: Result<_, tokio::task::JoinError>| match ended {
            Ok(result) => result,
            Err(error) => Err(Failed::Here(error.to_string().into())),
        };
        fetching.map(ended).boxed().shared()
    }

    async fn transfer_here(&self, cache: &Arc<Cache>, blob: Blob) -> Result<(), Failed> {
        let closed = |_| Failed::Here("the store is closed".into());
        let _turn = cache.transfers.acquire().await.map_err(closed)?;
        if self.contains(&blob.digest).await? {
            return Ok(());
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut partial = Partial::open(&cache.folder, blob).await?;
            let mut patience = Patience::new();
            while partial.have() < blob.bytes {
                let Err(failed) = take_pieces(cache, blob, &mut partial, &mut patience).await else { break };
                if matches!(failed, Failed::Missing | Failed::Damaged(_)) && cache.upstream.turn() {
                    continue;
                }
                if let Err(failed) = patience.wait(failed).await {
                    if partial.have() == 0 {
                        partial.discard(self).await?;
                    }
                    return Err(failed);
                }
            }
            if partial.finish(self).await? {
                return Ok(());
            }
            tracing::warn!(digest = %blob.digest, "content came damaged; it is fetched anew");
        }
        Err(Failed::Damaged("it came as something else from the registry's node"))
    }

    /// Sends content to the registry's node, unless it is there.
    pub(super) async fn push(&self, cache: &Arc<Cache>, blob: &Blob) -> Result<(), Error> {
        let closed = |_| std::io::Error::other("the store is closed");
        let _turn = cache.transfers.acquire().await.map_err(closed)?;
        self.transfer_there(cache, *blob).await.map_err(|failed| failed.at(blob.digest))
    }

    async fn transfer_there(&self, cache: &Arc<Cache>, blob: Blob) -> Result<(), Failed> {
        let mut patience = Patience::new();
        for _ in 0..ATTEMPTS_MAX {
            loop {
                match self.give_pieces(cache, blob, &mut patience).await {
                    Ok(Sent::Whole) => return Ok(()),
                    Ok(Sent::Again) => {}
                    Ok(Sent::Mismatch) => break,
                    Err(failed) => patience.wait(failed).await?,
                }
            }
            tracing::warn!(digest = %blob.digest, "content arrived damaged; it is sent anew");
        }
        Err(Failed::Damaged("it arrived as something else at the registry's node"))
    }

    /// Sends piece after piece, several at a time, from where the other side is.
    async fn give_pieces(
        &self,
        cache: &Arc<Cache>,
        blob: Blob,
        patience: &mut Patience,
    ) -> Result<Sent, Failed> {
        let position = |_: &Bytes, answer: Answer<'_>| match answer {
            Answer::Whole => Ok(None),
            Answer::Have(have) => Ok(Some(have)),
            _ => Err(unexpected()),
        };
        let from = match cache.ask(&Request::Begin { blob: blob.into() }, position).await? {
            None => return Ok(Sent::Whole),
            Some(from) => from,
        };
        let starts = stream::iter((from..blob.bytes).step_by(PIECE_BYTES as usize));
        let pieces = starts.map(|offset| async move {
            let range = offset..blob.bytes.min(offset + PIECE_BYTES);
            let end = range.end;
            let piece = self.piece(&blob, range).await?;
            let request = Request::Write { blob: blob.into(), offset, piece: &piece };
            let sent = cache.ask(&request, move |_, answer| match answer {
                Answer::Whole => Ok(Sent::Whole),
                Answer::Mismatch => Ok(Sent::Mismatch),
                Answer::Have(have) => Ok(if have >= end { Sent::Again } else { return Err(gap()) }),
                _ => Err(unexpected()),
            });
            sent.await
        });
        let mut pieces = pieces.buffered(IN_FLIGHT).boxed();
        while let Some(sent) = pieces.try_next().await? {
            patience.moved();
            match sent {
                Sent::Again => {}
                settled => return Ok(settled),
            }
        }
        // The one that would have said so was lost: the other side is asked again.
        Ok(Sent::Again)
    }

    async fn piece(&self, blob: &Blob, range: std::ops::Range<u64>) -> Result<Bytes, Failed> {
        let (mut pieces, bytes) = self.get_here(blob, Some(range)).await?;
        let mut content = BytesMut::with_capacity(bytes as usize);
        let damaged = |_| Failed::Damaged("it is damaged here");
        while let Some(piece) = pieces.try_next().await.map_err(damaged)? {
            content.extend_from_slice(&piece);
        }
        Ok(content.freeze())
    }

    /// More content is here; some of it goes when it is too much.
    pub(super) async fn added(&self, cache: &Cache, bytes: u64) {
        let before = cache.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > cache.config.bytes_max
            && let Err(error) = self.trim().await
        {
            tracing::warn!(%error, "the cache of content could not be trimmed");
        }
    }

    /// Removes what was not used for the longest time until what is left is nine tenths of what a cache may hold, and
    /// transfers that were given up. Does nothing to a store that is no cache.
    ///
    /// # Errors
    /// When the folder cannot be listed or changed.
    pub async fn trim(&self) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let Some(cache) = &self.inner.cache else { return Ok(swept) };
        let _trimming = cache.trimming.lock().await;
        let now = SystemTime::now();
        let age = |object: &ObjectMeta| {
            now.duration_since(SystemTime::from(object.last_modified)).unwrap_or_default()
        };
        let store = &self.inner.store;
        let mut content: Vec<(Duration, u64, Digest)> = store
            .list(Some(&Path::from("sha256")))
            .try_filter_map(async |object| {
                Ok(digest_of(&object.location).map(|digest| (age(&object), object.size, digest)))
            })
            .try_collect()
            .await?;
        content.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes: u64 = content.iter().map(|(_, bytes, _)| bytes).sum();
        let enough = cache.config.bytes_max / 10 * 9;
        if bytes > cache.config.bytes_max {
            for (age, size, digest) in content {
                if bytes <= enough || age < USED_LATELY {
                    break;
                }
                if self.delete(&digest).await? {
                    bytes -= size;
                    swept.blobs += 1;
                    swept.bytes += size;
                }
            }
        }
        cache.bytes.store(bytes, Ordering::Relaxed);
        let mut partial = store.list(Some(&Path::from(PARTIAL)));
        while let Some(object) = partial.try_next().await? {
            if age(&object) > PARTIAL_KEPT {
                ignore_missing(store.delete(&object.location).await)?;
            }
        }
        Ok(swept)
    }

    /// Writes down that content of a cache is used, now and then.
    pub(super) async fn used(&self, blob: &Blob, object: &ObjectMeta) {
        let age = SystemTime::now().duration_since(SystemTime::from(object.last_modified));
        if self.inner.cache.is_some()
            && age.is_ok_and(|age| age > USED_LATELY)
            && let Err(error) = self.renew(blob).await
        {
            tracing::debug!(%error, "the use of content could not be written down");
        }
    }

    /// Makes content as young as if it were stored now; tells whether it is there.
    pub(super) async fn renew(&self, blob: &Blob) -> Result<bool, Error> {
        let Some(folder) = self.inner.folder.clone() else { return Ok(false) };
        let _naming = self.inner.naming.read().await;
        let file = folder.join(content_path(&blob.digest).as_ref());
        let bytes = blob.bytes;
        let renew = move || match std::fs::File::options().append(true).open(file) {
            Ok(file) if file.metadata()?.len() == bytes => {
                file.set_modified(SystemTime::now())?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        Ok(tokio::task::spawn_blocking(renew).await.map_err(std::io::Error::other)??)
    }
}

/// What became of sending.
enum Sent {
    Whole,
    /// The other side has this much; there is more.
    Again,
    /// What arrived was something else, and was thrown away.
    Mismatch,
}

/// A piece before this one was lost.
fn gap() -> Failed {
    Failed::There("a piece before was lost".into())
}

/// Fetches piece after piece, several at a time, from where the content is.
async fn take_pieces(
    cache: &Arc<Cache>,
    blob: Blob,
    partial: &mut Partial,
    patience: &mut Patience,
) -> Result<(), Failed> {
    let starts = stream::iter((partial.have()..blob.bytes).step_by(PIECE_BYTES as usize));
    let pieces = starts.map(|offset| {
        let length = PIECE_BYTES.min(blob.bytes - offset);
        let request = Request::Read { blob: blob.into(), offset, length };
        cache.ask(&request, move |frame, answer| match answer {
            Answer::Piece(piece) if piece.len() as u64 == length => Ok(frame.slice_ref(piece)),
            _ => Err(unexpected()),
        })
    });
    let mut pieces = pieces.buffered(IN_FLIGHT).boxed();
    while let Some(piece) = pieces.try_next().await? {
        partial.append(piece).await?;
        patience.moved();
    }
    Ok(())
}
