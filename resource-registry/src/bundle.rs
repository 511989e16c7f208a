//! Publishing a bundle: an archive becomes immutable resources, each with content of its own.
//!
//! All content is unpacked into the blob store before any resource is made, so an archive that turns out to be wrong
//! leaves nothing behind. Then the Bundle is made as `Pending`, its Artifacts follow in atomic batches, and the Bundle
//! becomes `Ready` last: whoever sees it ready sees all of it. A crash in between leaves a pending bundle, which serves
//! nothing and is replaced when the version is published again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use sha2::{Digest as _, Sha256};
use starlane_core::{Agent, Base, Blob, Code, Digest, Kind, Phase, Point, Problem, Resource, Status};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::archive::{Archive, ArchiveFault, Entry, Error, Limits};
use crate::blob::BlobStore;
use crate::content::{self, written};
use crate::error::Error as RegistryError;
use crate::registry::{Delete, Provided, RESERVED_BATCH_MAX, Registry, Reserved};

/// How many files are put away at a time while the next is unpacked.
const PUTS_MAX: usize = 8;
/// How much of a file is unpacked at a time, and how many such pieces wait to be put away.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 4;

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The bundle, ready.
    pub bundle: Arc<Resource>,
    /// How many files and directories it holds.
    pub artifacts: u64,
    /// How many bytes its files have together.
    pub bytes: u64,
}

/// Publishes an archive as the bundle at `point`, whose last segment is its version.
///
/// The bundle has the locked properties `digest`, `artifacts`, `size` and `written`. Its digest is the SHA-256 of what
/// `sha256sum` prints of its files in the order of their paths, so it tells the content and not how it was packed.
///
/// # Errors
/// `E-EXISTS` when the version is published already, `E-NOT-FOUND` when its series is missing, `E-ARCHIVE-INVALID` or
/// `E-TOO-LARGE` when the archive is refused. Nothing changes then. When the registry fails half-way, a pending bundle
/// stays, and publishing again replaces it.
pub async fn publish(
    registry: &Registry,
    blobs: &BlobStore,
    by: &Agent,
    point: &Point,
    archive: impl Stream<Item = Result<Bytes, Problem>> + Send,
    limits: &Limits,
) -> Result<Published, Problem> {
    registry.fresh().await?;
    check_place(registry, point)?;
    let Some(_publishing) = blobs.claim(point) else {
        return Err(taken(point));
    };
    let left_over = check_unpublished(registry, point)?;
    let spooled = spool(blobs, archive, limits).await.map_err(|problem| problem.at(point))?;
    let (holder, limits) = (point.clone(), *limits);
    let opened = tokio::task::spawn_blocking(move || Archive::open(spooled, &holder, &limits));
    let archive = opened.await.map_err(interrupted)?.map_err(|error| Problem::from(error).at(point))?;
    let (directories, bytes) = (archive.directories().to_vec(), archive.total_bytes());
    let mut files = unpack(blobs, archive).await.map_err(|problem| problem.at(point))?;
    files.sort_by(|(a, _), (b, _)| a.cmp(b));

    if left_over {
        registry.delete_reserved(by, Delete::point(point.clone(), true)).await?;
    }
    let bundle = |changes, status| Reserved::new(point.clone(), Kind::of(Base::Bundle), changes, status);
    let pending = bundle(Vec::new(), Status::because(Phase::Pending, "its artifacts are being registered"));
    let artifact =
        |point: Point, changes| Reserved::new(point, Kind::of(Base::Artifact), changes, Status::ready());
    let mut reserved = vec![pending];
    reserved.extend(directories.iter().map(|directory| artifact(directory.clone(), Vec::new())));
    let described = |point: &Point, blob: &Blob| content::properties(point, blob, true).collect::<Vec<_>>();
    reserved.extend(files.iter().map(|(point, blob)| artifact(point.clone(), described(point, blob))));
    let artifacts = reserved.len() as u64 - 1;
    // Another node may publish the same version: then one of the two bundles is made to its end, and never a mixture.
    let overtaken = |error: RegistryError| match error {
        RegistryError::Exists { .. } | RegistryError::NotFound(_) => taken(point),
        error => error.into(),
    };
    let mut provided = Provided::Absent(point.clone());
    while !reserved.is_empty() {
        let rest = reserved.split_off(reserved.len().min(RESERVED_BATCH_MAX));
        let made = registry.put_all_reserved_if(by, reserved, Some(&provided)).await.map_err(overtaken)?;
        if let (Provided::Absent(_), Some(pending)) = (&provided, made.first()) {
            provided = Provided::MadeBy(point.clone(), pending.resource.created);
        }
        reserved = rest;
    }

    let changes = content::locked([
        ("digest", digest_of(&files).to_string().as_str().into()),
        ("artifacts", content::number(artifacts)),
        ("size", content::number(bytes)),
        ("written", written(registry.now())),
    ]);
    let ready = vec![bundle(changes.collect(), Status::ready())];
    let ready = registry.put_all_reserved_if(by, ready, Some(&provided)).await.map_err(overtaken)?;
    match ready.into_iter().next() {
        Some(bundle) => Ok(Published { bundle: bundle.resource, artifacts, bytes }),
        None => Err(taken(point)),
    }
}

fn taken(point: &Point) -> Problem {
    Problem::new(Code::Busy, format!("`{point}` is being published right now"))
        .at(point)
        .help("wait until that is done")
}

/// Checks that a bundle can stand at a point, and tells what to make first when it cannot.
fn check_place(registry: &Registry, point: &Point) -> Result<(), Problem> {
    let missing = |missing: &Point, help: String| {
        Problem::new(Code::NotFound, format!("`{point}` cannot be published: nothing is at `{missing}`"))
            .at(missing)
            .help(help)
    };
    let wrong = |resource: &Resource, right: &str| {
        let detail = format!("`{point}` cannot be published under `{resource}`, which is not a `{right}`");
        Problem::new(Code::KindParent, detail).at(point).help(
            "a bundle is published like `shop:repo:site:1.0.0`: its Repo, its BundleSeries, its version",
        )
    };
    if point.version().is_none() || point.path().is_some() {
        return Err(Problem::new(Code::KindParent, format!("`{point}` is not the point of a bundle"))
            .at(point)
            .help("its last segment is a version: `shop:repo:site:1.0.0`"));
    }
    let Some(series) = point.parent() else { return Ok(()) };
    let Some(repo) = series.parent() else { return Ok(()) };
    match registry.get(&repo) {
        None => {
            let help = format!(
                "make it and its series first: `starlane create '{repo}<Repo>'`, then `starlane create \
                 '{series}<BundleSeries>'`"
            );
            return Err(missing(&repo, help));
        }
        Some(repo) if repo.kind.base != Base::Repo => return Err(wrong(&repo, "Repo")),
        Some(_) => {}
    }
    match registry.get(&series) {
        None => {
            let help = format!("make its series first: `starlane create '{series}<BundleSeries>'`");
            Err(missing(&series, help))
        }
        Some(series) if series.kind.base != Base::BundleSeries => Err(wrong(&series, "BundleSeries")),
        Some(_) => Ok(()),
    }
}

/// Whether an interrupted publishing left something at the point.
fn check_unpublished(registry: &Registry, point: &Point) -> Result<bool, Problem> {
    match registry.get(point) {
        None => Ok(false),
        Some(bundle) if bundle.status.phase == Phase::Pending => Ok(true),
        Some(_) => {
            Err(Problem::new(Code::Exists, format!("`{point}` is published already, and never changes"))
                .at(point)
                .help("publish the next version, or delete this one first: `starlane delete -r POINT`"))
        }
    }
}

/// Writes the archive to a file without a name, which goes when it is closed, whatever happens.
async fn spool(
    blobs: &BlobStore,
    archive: impl Stream<Item = Result<Bytes, Problem>> + Send,
    limits: &Limits,
) -> Result<std::fs::File, Problem> {
    let failed = |error: io::Error| Problem::from(Error::Io(error));
    let file = blobs.temporary_file().await.map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut left = limits.archive_bytes_max;
    let mut archive = std::pin::pin!(archive);
    while let Some(piece) = archive.try_next().await? {
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or(Error::Archive(ArchiveFault::Bytes(limits.archive_bytes_max)))?;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(file.into_std().await)
}

/// Unpacks every file into a blob of its own. One thread unpacks; what it unpacked is put away meanwhile, since
/// putting away mostly waits for the disk.
async fn unpack(
    blobs: &BlobStore,
    mut archive: Archive<std::fs::File>,
) -> Result<Vec<(Point, Blob)>, Problem> {
    let (hand_out, handed) = mpsc::channel(1);
    let unpacking = tokio::task::spawn_blocking(move || {
        for file in archive.files().to_vec() {
            let (give, given) = mpsc::channel(PIECES_MAX);
            // Nobody listens when another file failed.
            if hand_out.blocking_send((file.point.clone(), file.bytes, given)).is_err() {
                return;
            }
            if let Err(error) = unpack_one(&mut archive, &file, &give) {
                drop(give.blocking_send(Err(Problem::from(error))));
                return;
            }
        }
    });
    let put = |(point, bytes, given): (Point, u64, mpsc::Receiver<Result<Bytes, Problem>>)| async move {
        let blob = blobs.put(received(given), bytes).await.map_err(Problem::from)?;
        Ok::<_, Problem>((point, blob))
    };
    let unpacked = received(handed).map(put).buffer_unordered(PUTS_MAX).try_collect().await?;
    unpacking.await.map_err(interrupted)?;
    Ok(unpacked)
}

fn unpack_one(
    archive: &mut Archive<std::fs::File>,
    file: &Entry,
    give: &mpsc::Sender<Result<Bytes, Problem>>,
) -> Result<(), Error> {
    let mut unpacking = archive.unpack(file)?;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let read = unpacking.read(&mut piece)?;
        piece.truncate(read);
        if read == 0 || give.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
}

fn received<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

fn digest_of(files: &[(Point, Blob)]) -> Digest {
    let mut hasher = Sha256::new();
    for (point, blob) in files {
        let path = point.path().unwrap_or_default().trim_start_matches('/');
        hasher.update(format!("{}  {path}\n", blob.digest));
    }
    Digest(hasher.finalize().into())
}

fn interrupted(error: tokio::task::JoinError) -> Problem {
    Problem::new(Code::Internal, format!("publishing stopped unexpectedly: {error}")).help("publish again")
}
