//! Content goes in and comes out as it was, or not at all.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use resource_registry::blob::{BlobStore, Error};
use sha2::{Digest as _, Sha256};
use starlane_core::{Blob, Code, Digest, Problem};

const CHUNK: usize = 128 * 1024;
const PART: usize = 1024 * 1024;

/// Content whose every stretch differs from the others.
fn content(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect::<Vec<_>>().into()
}

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

fn pieces(content: &Bytes, length: usize) -> Vec<Result<Bytes, Problem>> {
    content.chunks(length).map(|piece| Ok(content.slice_ref(piece))).collect()
}

async fn put(store: &BlobStore, content: &Bytes) -> Blob {
    store.put(stream::iter(pieces(content, 50_000)), u64::MAX).await.unwrap()
}

async fn get(store: &BlobStore, blob: &Blob, range: Option<Range<u64>>) -> Result<Bytes, Problem> {
    let (stream, bytes) = store.get(blob, range).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    let content = Bytes::from(pieces.concat());
    assert_eq!(content.len() as u64, bytes);
    Ok(content)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

fn file_of(folder: &Path, branch: &str, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    folder.join(branch).join(&name[..2]).join(&name[2..])
}

#[tokio::test]
async fn content_of_every_length_comes_out_as_it_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    for bytes in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + CHUNK + 7]
    {
        let content = content(bytes);
        let blob = put(&store, &content).await;
        assert_eq!(blob, Blob { digest: digest(&content), bytes: bytes as u64 });
        assert_eq!(get(&store, &blob, None).await.unwrap(), content, "{bytes}");
        assert_eq!(store.read(&blob, bytes as u64).await.unwrap(), content);
        assert!(store.contains(&blob.digest).await.unwrap());
        // An operator can check it by hand.
        assert_eq!(std::fs::read(file_of(folder.path(), "sha256", &blob.digest)).unwrap(), content);
    }
    let staged =
        files(folder.path()).into_iter().filter(|file| file.starts_with(folder.path().join("incoming")));
    assert_eq!(staged.count(), 0);
}

#[tokio::test]
async fn the_end_of_a_stream_that_may_be_asked_once_is_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    let content = content(2 * 8 * PART + 5);
    let pieces = pieces(&content, 50_000).into_iter();
    // An unfolded stream panics when it is polled after its end.
    let once = stream::unfold(pieces, |mut pieces| async move { pieces.next().map(|piece| (piece, pieces)) });
    let blob = store.put(once, u64::MAX).await.unwrap();
    assert_eq!(blob.digest, digest(&content));
}

#[tokio::test]
async fn a_store_opened_again_has_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let content = content(2 * PART);
    let blob = put(&BlobStore::open(folder.path().join("a/b")).await.unwrap(), &content).await;
    let store = BlobStore::open(folder.path().join("a/b")).await.unwrap();
    assert_eq!(get(&store, &blob, None).await.unwrap(), content);
}

#[tokio::test]
async fn a_range_is_cut_at_the_end_and_refused_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    for bytes in [10, 300_000] {
        let content = content(bytes);
        let blob = put(&store, &content).await;
        let total = bytes as u64;
        assert_eq!(get(&store, &blob, Some(5..u64::MAX)).await.unwrap(), content.slice(5..));
        assert_eq!(get(&store, &blob, Some(7..7)).await.unwrap(), Bytes::new());
        for start in [total, total + 1] {
            let refused = store.get(&blob, Some(start..u64::MAX)).await.map(|_| ()).unwrap_err();
            assert!(matches!(refused, Error::OutOfRange { total: at } if at == total), "{refused}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_is_the_same_stretch_of_the_content(
        bytes in 0usize..3 * CHUNK,
        piece in 1usize..2 * CHUNK,
        a in 0usize..3 * CHUNK,
        b in 0usize..3 * CHUNK,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let store = BlobStore::open(folder.path()).await.unwrap();
            let content = content(bytes);
            let blob = store.put(stream::iter(pieces(&content, piece)), bytes as u64).await.unwrap();
            let (start, end) = (a.min(b).min(bytes.saturating_sub(1)), a.max(b));
            let read = get(&store, &blob, Some(start as u64..end as u64)).await.unwrap();
            assert_eq!(read, content.slice(start..end.clamp(start, bytes)));
        });
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_told_and_never_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    let mut detected = 0;
    for bytes in [1_000, 2 * CHUNK + 500] {
        let content = content(bytes);
        let blob = put(&store, &content).await;
        for branch in ["sha256", "sums"] {
            let file = file_of(folder.path(), branch, &blob.digest);
            let Ok(right) = std::fs::read(&file) else { continue };
            for at in (0..right.len()).step_by(right.len() / 40 + 1) {
                let mut wrong = right.clone();
                wrong[at] ^= 1 << (at % 8);
                std::fs::write(&file, &wrong).unwrap();
                let error = get(&store, &blob, None).await.unwrap_err();
                assert_eq!(error.code, Code::Corrupt, "{branch} {at}: {error}");
                // A range is right, or the damage is told; the byte itself is never handed out.
                let range = at as u64..at as u64 + 1;
                if branch == "sha256" {
                    get(&store, &blob, Some(range)).await.unwrap_err();
                } else if let Ok(read) = get(&store, &blob, Some(range)).await {
                    assert_eq!(read, content.slice(at..=at));
                }
                detected += 1;
            }
            for length in [0, 1, right.len() / 2, right.len() - 1] {
                std::fs::write(&file, &right[..length]).unwrap();
                let error = get(&store, &blob, None).await.unwrap_err();
                assert_eq!(error.code, Code::Corrupt, "{branch} cut to {length}: {error}");
                detected += 1;
            }
            std::fs::write(&file, right).unwrap();
        }
        assert_eq!(get(&store, &blob, None).await.unwrap(), content);
    }
    assert!(detected > 100, "{detected}");
}

#[tokio::test]
async fn content_swapped_for_other_content_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    let one = put(&store, &content(300_000)).await;
    let other = put(&store, &Bytes::from(vec![7; 300_000])).await;
    for branch in ["sha256", "sums"] {
        std::fs::copy(
            file_of(folder.path(), branch, &other.digest),
            file_of(folder.path(), branch, &one.digest),
        )
        .unwrap();
    }
    assert_eq!(get(&store, &one, None).await.unwrap_err().code, Code::Corrupt);
    // Storing it again heals it.
    put(&store, &content(300_000)).await;
    assert_eq!(get(&store, &one, None).await.unwrap(), content(300_000));
}

#[tokio::test]
async fn content_over_the_limit_or_broken_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    for bytes in [1_000, 3 * PART] {
        let content = content(bytes);
        let refused = store.put(stream::iter(pieces(&content, 10_000)), bytes as u64 - 1).await;
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        let broken =
            stream::iter([Ok(content.clone()), Err(Problem::new(Code::Timeout, "the body stopped"))]);
        let Err(Error::Source(problem)) = store.put(broken, u64::MAX).await else { panic!("stored") };
        assert_eq!(problem.code, Code::Timeout);
        // A caller that goes away in the midst of it.
        let endless = stream::iter(pieces(&content, 10_000)).chain(stream::pending());
        let mut giving_up = Box::pin(store.put(endless, u64::MAX));
        for _ in 0..50 {
            assert!(futures::poll!(&mut giving_up).is_pending());
            tokio::task::yield_now().await;
        }
        drop(giving_up);
    }
    // What was staged is removed by the runtime's blocking threads; the last of it by the sweep.
    store.sweep(|_| true, Duration::ZERO).await.unwrap();
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_sweep_removes_only_what_is_old_and_unwanted() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    let (wanted, unwanted) = (put(&store, &content(200_000)).await, put(&store, &content(200_001)).await);
    std::fs::create_dir_all(folder.path().join("incoming")).unwrap();
    for leftover in ["incoming/x-0#1", "incoming/x-1"] {
        std::fs::write(folder.path().join(leftover), "cut off").unwrap();
    }
    let keep = |digest: &Digest| *digest == wanted.digest;
    assert_eq!(store.sweep(keep, Duration::from_secs(3_600)).await.unwrap().blobs, 0);
    assert_eq!(files(folder.path()).len(), 6);
    let swept = store.sweep(keep, Duration::ZERO).await.unwrap();
    assert_eq!((swept.blobs, swept.bytes), (1, 200_001));
    assert!(matches!(store.get(&unwanted, None).await.map(|_| ()), Err(Error::NotFound(_))));
    assert_eq!(get(&store, &wanted, None).await.unwrap(), content(200_000));
    assert_eq!(files(folder.path()).len(), 2);
}

#[tokio::test]
async fn deleted_content_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    let blob = put(&store, &content(200_000)).await;
    assert!(store.delete(&blob.digest).await.unwrap());
    assert!(!store.delete(&blob.digest).await.unwrap());
    assert!(!store.contains(&blob.digest).await.unwrap());
    assert!(matches!(store.read(&blob, u64::MAX).await, Err(Error::NotFound(_))));
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn many_writers_of_the_same_content_agree() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).await.unwrap();
    for bytes in [100_000, 3 * PART] {
        let content = content(bytes);
        let blobs = futures::future::join_all((0..8).map(|_| put(&store, &content))).await;
        assert!(blobs.iter().all(|blob| blob.digest == digest(&content)));
        assert_eq!(get(&store, &blobs[0], None).await.unwrap(), content);
    }
    assert_eq!(files(folder.path()).len(), 3);
}
