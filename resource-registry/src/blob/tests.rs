//! Content across the mesh: it arrives as it was, or not at all, whatever is lost on the way.

use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use starlane_core::NodeName;

use super::wire::{self, Answer, PIECE_BYTES, Request};
use super::*;
use crate::flaky::{Faults, Flaky, Handler, Random};

const PIECE: usize = PIECE_BYTES as usize;

/// Content whose every stretch differs from the others.
fn content(seed: u64, bytes: usize) -> Bytes {
    let mut random = Random(seed);
    (0..bytes.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(bytes).collect::<Vec<_>>().into()
}

fn blob_of(content: &Bytes) -> Blob {
    Blob { digest: Digest(Sha256::digest(content).into()), bytes: content.len() as u64 }
}

async fn put(store: &BlobStore, content: &Bytes) -> Result<Blob, Error> {
    let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(content.slice_ref(piece))).collect();
    store.put(stream::iter(pieces), u64::MAX).await
}

async fn get(store: &BlobStore, blob: &Blob) -> Result<Bytes, Error> {
    let (stream, _) = store.get(blob, None).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    Ok(pieces.concat().into())
}

/// A registry's node with its content, and the folder of another node.
struct World {
    home: BlobStore,
    folders: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folders = tempfile::tempdir().unwrap();
        let home = BlobStore::open(folders.path().join("home")).await.unwrap();
        Self { home, folders }
    }

    fn handler(&self) -> Handler {
        let service = BlobService::new(self.home.clone());
        let from: NodeName = "edge-1".parse().unwrap();
        Arc::new(move |request| service.handle(from.clone(), request))
    }

    fn edge_folder(&self) -> PathBuf {
        self.folders.path().join("edge")
    }

    async fn edge(&self, upstream: Arc<Flaky>) -> BlobStore {
        BlobStore::open_cache(self.edge_folder(), upstream, CacheConfig::default()).await.unwrap()
    }

    async fn reliable(&self) -> (BlobStore, Arc<Flaky>) {
        let flaky = Flaky::new(self.handler(), 1, Faults::default());
        (self.edge(flaky.clone()).await, flaky)
    }
}

fn calls(flaky: &Flaky) -> u64 {
    flaky.calls.load(Ordering::SeqCst)
}

/// Counts the pieces that are read, and does something to the frame of each answer.
fn watched(
    handler: Handler,
    reads: &Arc<AtomicU64>,
    then: impl Fn(u64, Bytes) -> Bytes + Send + Sync + 'static,
) -> Handler {
    let (reads, then) = (reads.clone(), Arc::new(then));
    Arc::new(move |request| {
        let (reads, then, answer) = (reads.clone(), then.clone(), handler(request.clone()));
        Box::pin(async move {
            let answer = answer.await?;
            match wire::decode(&request) {
                Ok(Request::Read { .. }) => Ok(then(reads.fetch_add(1, Ordering::SeqCst), answer)),
                _ => Ok(answer),
            }
        })
    })
}

fn flip(frame: Bytes) -> Bytes {
    let mut frame = frame.to_vec();
    if let Some(last) = frame.last_mut() {
        *last ^= 1;
    }
    frame.into()
}

fn partial_of(folder: &FilePath, blob: &Blob) -> PathBuf {
    folder.join(partial::PARTIAL).join(blob.digest.to_string())
}

#[tokio::test]
async fn what_is_missing_is_fetched_once_and_what_is_put_arrives() {
    let world = World::new().await;
    let (edge, flaky) = world.reliable().await;
    for (seed, bytes) in
        [0, 1, 128 * 1024 + 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7].into_iter().enumerate()
    {
        let there = content(seed as u64, bytes);
        let blob = put(&world.home, &there).await.unwrap();
        assert!(get(&edge, &blob).await.unwrap() == there, "{bytes}");
        let before = calls(&flaky);
        let (range, _) = edge.get(&blob, Some(0..10)).await.unwrap();
        let range: Vec<Bytes> = range.try_collect().await.unwrap();
        assert_eq!(range.concat(), there[..bytes.min(10)]);
        assert_eq!(calls(&flaky), before, "it is here now");
        let here = content(1_000 + seed as u64, bytes);
        let blob = put(&edge, &here).await.unwrap();
        assert!(get(&world.home, &blob).await.unwrap() == here, "{bytes}");
        // Once more costs a question.
        let before = calls(&flaky);
        put(&edge, &here).await.unwrap();
        assert_eq!(calls(&flaky), before + 1);
    }
    let unknown = blob_of(&content(99, 1_000));
    assert!(matches!(get(&edge, &unknown).await, Err(Error::NotFound(digest)) if digest == unknown.digest));
    let left = |folder: &str| std::fs::read_dir(world.folders.path().join(folder).join(partial::PARTIAL));
    assert!(["home", "edge"].iter().all(|folder| left(folder).is_ok_and(|mut left| left.next().is_none())));
}

#[tokio::test]
async fn many_who_want_the_same_share_a_transfer() {
    let world = World::new().await;
    let there = content(1, 6 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let (edge, flaky) = world.reliable().await;
    let readers = futures::future::join_all((0..20).map(|_| get(&edge, &blob))).await;
    assert!(readers.into_iter().all(|read| read.unwrap() == there));
    assert_eq!(calls(&flaky), 6);
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_stop_the_transfer() {
    let world = World::new().await;
    let there = content(1, 4 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let (edge, flaky) = world.reliable().await;
    let mut reading = Box::pin(get(&edge, &blob));
    while calls(&flaky) == 0 {
        assert!(futures::poll!(&mut reading).is_pending());
        tokio::task::yield_now().await;
    }
    drop(reading);
    assert!(get(&edge, &blob).await.unwrap() == there);
    assert_eq!(calls(&flaky), 4);
}

#[tokio::test(start_paused = true)]
async fn a_cable_pulled_in_the_midst_costs_only_what_was_under_way() {
    let world = World::new().await;
    let there = content(1, 20 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    // Cut for a while after the eighth piece; found again by the back-off alone.
    let cut_after = Arc::new(Mutex::new(None::<Arc<Flaky>>));
    let cutter = cut_after.clone();
    let handler = watched(world.handler(), &reads, move |number, answer| {
        if number == 8
            && let Some(flaky) = cutter.lock().take()
        {
            flaky.cut(true);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(10)).await;
                flaky.cut(false);
            });
        }
        answer
    });
    let flaky = Flaky::new(handler, 1, Faults::default());
    *cut_after.lock() = Some(flaky.clone());
    let edge = world.edge(flaky.clone()).await;
    assert!(get(&edge, &blob).await.unwrap() == there);
    assert!(cut_after.lock().is_none(), "the cut happened");
    let reads = reads.load(Ordering::SeqCst);
    assert!((20..=24).contains(&reads), "{reads} pieces for 20");
}

#[tokio::test(start_paused = true)]
async fn a_transfer_goes_on_in_the_next_life_of_the_process() {
    let world = World::new().await;
    let there = content(1, 12 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let flaky = Flaky::new(watched(world.handler(), &reads, |_, answer| answer), 1, Faults::default());
    {
        // One that is lost for good after some pieces.
        let lost = Arc::new(AtomicU64::new(0));
        let ends = Mutex::new(None::<Arc<Flaky>>);
        let ends = Arc::new(ends);
        let ender = ends.clone();
        let handler = watched(world.handler(), &lost, move |number, answer| {
            if number == 6
                && let Some(flaky) = &*ender.lock()
            {
                flaky.cut(true);
            }
            answer
        });
        let dying = Flaky::new(handler, 1, Faults::default());
        *ends.lock() = Some(dying.clone());
        let edge = world.edge(dying.clone()).await;
        let failed = get(&edge, &blob).await.unwrap_err();
        assert!(matches!(failed, Error::Unreachable { .. }), "{failed}");
        assert_eq!(Problem::from(failed).code, Code::Unreachable);
        // Nothing is asked for in vain while nothing moves.
        assert!(matches!(get(&edge, &blob).await, Err(Error::Unreachable { .. })));
        ends.lock().take();
    }
    let partial = partial_of(&world.edge_folder(), &blob);
    let kept = std::fs::metadata(&partial).unwrap().len();
    assert!(kept >= 3 * PIECE_BYTES, "{kept}");
    // The last of it may not have reached the disk.
    std::fs::File::options().write(true).open(&partial).unwrap().set_len(kept - 1).unwrap();
    let edge = world.edge(flaky).await;
    assert!(get(&edge, &blob).await.unwrap() == there);
    let reads = reads.load(Ordering::SeqCst);
    assert!(
        reads * PIECE_BYTES <= 12 * PIECE_BYTES - kept + 2 * PIECE_BYTES,
        "{reads} pieces after {kept} bytes"
    );
    assert!(!partial.exists());
}

#[tokio::test]
async fn damaged_content_is_refused_and_fetched_anew_a_few_times_at_most() {
    let world = World::new().await;
    let there = content(1, 3 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let once =
        watched(world.handler(), &reads, |number, answer| if number == 1 { flip(answer) } else { answer });
    let edge = world.edge(Flaky::new(once, 1, Faults::default())).await;
    assert!(get(&edge, &blob).await.unwrap() == there);
    assert_eq!(reads.load(Ordering::SeqCst), 6);

    let other = content(2, 3 * PIECE);
    let blob = put(&world.home, &other).await.unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let always = watched(
        world.handler(),
        &reads,
        |number, answer| if number % 3 == 1 { flip(answer) } else { answer },
    );
    let edge = world.edge(Flaky::new(always, 1, Faults::default())).await;
    let refused = get(&edge, &blob).await.unwrap_err();
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
    assert_eq!(reads.load(Ordering::SeqCst), 6);
    assert!(!edge.contains(&blob.digest).await.unwrap());

    // Damaged where it comes from: told, and nothing is stored.
    let third = content(3, 3 * PIECE);
    let blob = put(&world.home, &third).await.unwrap();
    let name = blob.digest.to_string();
    let file = world.folders.path().join("home/sha256").join(&name[..2]).join(&name[2..]);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[PIECE + 5] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let (edge, _) = world.reliable().await;
    assert!(matches!(get(&edge, &blob).await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_damaged_cache_heals_itself() {
    let world = World::new().await;
    let (edge, _) = world.reliable().await;
    for bytes in [1_000, 3 * PIECE] {
        let there = content(bytes as u64, bytes);
        let blob = put(&world.home, &there).await.unwrap();
        get(&edge, &blob).await.unwrap();
        let name = blob.digest.to_string();
        let file = world.edge_folder().join("sha256").join(&name[..2]).join(&name[2..]);
        let mut damaged = there.to_vec();
        damaged[bytes - 1] ^= 1;
        std::fs::write(&file, &damaged).unwrap();
        let (pieces, _) = match edge.get(&blob, None).await {
            Ok(read) => read,
            Err(error) => panic!("{error}"),
        };
        // Either it showed at once, and was fetched anew, or it ends the stream, and the next reader has it right.
        if let Ok(read) = pieces.try_collect::<Vec<Bytes>>().await {
            assert!(read.concat() == there);
        }
        assert!(get(&edge, &blob).await.unwrap() == there);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_lost_content_arrives_as_it_was() {
    let (mut arrived, mut failed, mut fired) = (0, 0, 0);
    for seed in 0..12 {
        let world = World::new().await;
        let faults = Faults { rejected: 8, request_lost: 8, answer_lost: 8, repeated: 10, yields: 4 };
        let flaky = Flaky::new(world.handler(), seed, faults);
        let edge = world.edge(flaky.clone()).await;
        for round in 0..4 {
            let bytes = [100, PIECE + 5, 5 * PIECE, 9 * PIECE + 3][round];
            let there = content(seed * 100 + round as u64, bytes);
            let blob = put(&world.home, &there).await.unwrap();
            let here = content(seed * 100 + 50 + round as u64, bytes);
            for _ in 0..100 {
                match get(&edge, &blob).await {
                    Ok(read) => {
                        assert!(read == there, "seed {seed}");
                        arrived += 1;
                        break;
                    }
                    Err(error) => assert!(matches!(error, Error::Unreachable { .. }), "seed {seed}: {error}"),
                }
                failed += 1;
            }
            for _ in 0..100 {
                match put(&edge, &here).await {
                    Ok(blob) => {
                        assert!(get(&world.home, &blob).await.unwrap() == here, "seed {seed}");
                        arrived += 1;
                        break;
                    }
                    Err(error) => assert!(matches!(error, Error::Unreachable { .. }), "seed {seed}: {error}"),
                }
                failed += 1;
            }
        }
        fired += flaky.fired.load(Ordering::SeqCst);
    }
    println!("{arrived} arrived after {failed} failures, {fired} faults");
    assert!(arrived == 96 && fired > 100);
}

#[tokio::test(start_paused = true)]
async fn sending_goes_on_where_the_other_side_is() {
    let world = World::new().await;
    let (edge, flaky) = world.reliable().await;
    let here = content(1, 10 * PIECE);
    let blob = blob_of(&here);
    flaky.cut(true);
    let refused = put(&edge, &here).await.unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. }), "{refused}");
    assert!(edge.contains(&blob.digest).await.unwrap() && !world.home.contains(&blob.digest).await.unwrap());
    flaky.cut(false);
    // Some of it is there from before, all right or not.
    let partial = partial_of(&world.folders.path().join("home"), &blob);
    std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
    std::fs::write(&partial, &here[..6 * PIECE + 77]).unwrap();
    let before = calls(&flaky);
    put(&edge, &here).await.unwrap();
    assert_eq!(calls(&flaky) - before, 1 + 4, "a question and what was missing");
    assert!(get(&world.home, &blob).await.unwrap() == here);

    let other = content(2, 10 * PIECE);
    let blob = blob_of(&other);
    let mut wrong = other[..6 * PIECE].to_vec();
    wrong[PIECE] ^= 1;
    let partial = partial_of(&world.folders.path().join("home"), &blob);
    std::fs::write(&partial, &wrong).unwrap();
    put(&edge, &other).await.unwrap();
    assert!(get(&world.home, &blob).await.unwrap() == other, "it was sent anew from the beginning");
}

#[tokio::test]
async fn a_cache_keeps_to_its_bound_and_what_was_used_lately() {
    let world = World::new().await;
    let flaky = Flaky::new(world.handler(), 1, Faults::default());
    let config = CacheConfig { bytes_max: 10 * 200_000, ..CacheConfig::default() };
    let edge = BlobStore::open_cache(world.edge_folder(), flaky, config).await.unwrap();
    let file = |blob: &Blob| {
        let name = blob.digest.to_string();
        world.edge_folder().join("sha256").join(&name[..2]).join(&name[2..])
    };
    let age = |blob: &Blob, minutes: u64| {
        let then = SystemTime::now() - Duration::from_secs(60 * minutes);
        std::fs::File::options().append(true).open(file(blob)).unwrap().set_modified(then).unwrap();
    };
    let mut blobs = Vec::new();
    for n in 0..10 {
        let there = content(n, 200_000);
        let blob = put(&world.home, &there).await.unwrap();
        get(&edge, &blob).await.unwrap();
        age(&blob, 1_000 - n);
        blobs.push(blob);
    }
    // The oldest was used since, and so stays.
    get(&edge, &blobs[0]).await.unwrap();
    let eleventh = put(&edge, &content(10, 200_000)).await.unwrap();
    let mut here = Vec::new();
    for blob in &blobs {
        here.push(edge.contains(&blob.digest).await.unwrap());
    }
    let expected = [true, false, false, true, true, true, true, true, true, true];
    assert_eq!(here, expected, "nine tenths are left, without those that were not used for the longest time");
    assert!(edge.contains(&eleventh.digest).await.unwrap());
    // Everything was used lately: it stays even if it is too much.
    for n in 20..40 {
        put(&edge, &content(n, 200_000)).await.unwrap();
    }
    let mut kept = 0;
    for n in 20..40 {
        kept += usize::from(edge.contains(&blob_of(&content(n, 200_000)).digest).await.unwrap());
    }
    assert_eq!(kept, 20);
    assert!(!edge.contains(&blobs[3].digest).await.unwrap());
    // What went is fetched again when it is read.
    assert!(get(&edge, &blobs[1]).await.unwrap() == content(1, 200_000));
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_none_are_refused_and_too_many_are_told_so() {
    let world = World::new().await;
    let handler = world.handler();
    let there = content(1, 3 * PIECE);
    let blob = put(&world.home, &there).await.unwrap();
    let missing = blob_of(&content(2, 3 * PIECE));
    let read =
        |blob: Blob, offset, length| wire::encode(&Request::Read { blob: blob.into(), offset, length });
    let write =
        |blob: Blob, offset, piece: &[u8]| wire::encode(&Request::Write { blob: blob.into(), offset, piece });
    let chunk = vec![7; CHUNK_BYTES as usize];
    for wrong in [
        Bytes::new(),
        Bytes::from_static(&[1]),
        Bytes::from_static(&[9, 0, 0]),
        read(blob, 0, PIECE_BYTES + 1),
        write(missing, 0, &[]),
        write(missing, 5, &chunk),
        write(missing, 0, &chunk[1..]),
        write(missing, missing.bytes, &chunk),
        write(missing, u64::MAX - CHUNK_BYTES + 1, &chunk),
        vec![1; crate::CALL_BYTES_MAX + 1].into(),
    ] {
        handler(wrong).await.unwrap_err();
    }
    let answer = handler(read(missing, 0, 10)).await.unwrap();
    assert_eq!(wire::decode::<Answer<'_>>(&answer).unwrap(), Answer::Missing);
    let past = handler(read(blob, u64::MAX, 10)).await.unwrap();
    assert!(matches!(wire::decode::<Answer<'_>>(&past).unwrap(), Answer::Failed(_)));
    let small = content(3, 100);
    let lie = Blob { digest: blob.digest, bytes: 100 };
    let answer = handler(write(lie, 0, &small)).await.unwrap();
    assert_eq!(wire::decode::<Answer<'_>>(&answer).unwrap(), Answer::Mismatch);
    // More content at a time than may be.
    let mut busy = 0;
    for seed in 0..80 {
        let mut name = [seed; 32];
        name[0] = 9;
        let begin = wire::encode(&Request::Begin {
            blob: Blob { digest: Digest(name), bytes: 2 * PIECE_BYTES }.into(),
        });
        match handler(begin).await {
            Ok(answer) => assert_eq!(wire::decode::<Answer<'_>>(&answer).unwrap(), Answer::Have(0)),
            Err(refusal) => {
                assert_eq!(refusal.code, Code::Busy);
                busy += 1;
            }
        }
    }
    assert_eq!(busy, 16);
    tokio::time::advance(Duration::from_secs(61)).await;
    let begin = wire::encode(&Request::Begin { blob: missing.into() });
    handler(begin).await.unwrap();
}
