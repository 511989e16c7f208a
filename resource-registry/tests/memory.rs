//! Content streams: its length does not show in the memory of the process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "only the bombs are of interest here")]
mod support;

use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt, stream};
use resource_registry::archive::{Archive, Limits};
use resource_registry::{BlobService, BlobStore, CacheConfig, Unanswered, Upstream};
use starlane_core::{Point, Problem};

const MIB: u64 = 1 << 20;

/// A figure of the process, in bytes: what it holds, or the most that it held since it was last asked to forget.
fn memory(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How much more than before the process held at most while it did something.
fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let result = work();
    (result, memory("VmHWM:").saturating_sub(before))
}

/// Puts content of some length and reads it back; pieces differ, and none is held longer than needed.
fn in_and_out(bytes: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let piece = |number: u64| {
        let mut piece = vec![0_u8; 64 * 1024];
        piece.chunks_exact_mut(8).enumerate().for_each(|(at, word)| {
            word.copy_from_slice(&(number << 20 | at as u64).to_le_bytes());
        });
        Ok::<_, Problem>(Bytes::from(piece))
    };
    let ((), peak) = peak(|| {
        runtime.block_on(async {
            let store = BlobStore::open(folder.path()).await.unwrap();
            let started = Instant::now();
            let pieces = stream::iter((0..bytes / (64 * 1024)).map(piece));
            let blob = store.put(pieces, bytes).await.unwrap();
            assert_eq!(blob.bytes, bytes);
            let put = started.elapsed();
            let started = Instant::now();
            let (content, _) = store.get(&blob, None).await.unwrap();
            let read = content.try_fold(0, |sum, piece| async move { Ok(sum + piece.len() as u64) }).await;
            assert_eq!(read.unwrap(), bytes);
            let rate = |elapsed: std::time::Duration| bytes as f64 / MIB as f64 / elapsed.as_secs_f64();
            println!(
                "{} MiB: in {:.0} MiB/s, out {:.0} MiB/s",
                bytes / MIB,
                rate(put),
                rate(started.elapsed())
            );
        });
    });
    println!("peak: {:.1} MiB above the start", peak as f64 / MIB as f64);
    peak
}

/// A node beside the registry's, in the same process.
struct Beside(BlobService);

impl Upstream for Beside {
    fn call(&self, request: Bytes, _timeout: Duration) -> BoxFuture<'static, Result<Bytes, Unanswered>> {
        let edge = "edge-1".parse().unwrap();
        self.0.handle(edge, request).map(|answer| answer.map_err(Unanswered::from)).boxed()
    }
}

/// Fetches content of some length from another node, and sends as much there: the peak of both nodes together.
fn across(bytes: u64) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pieces = |salt: u64| {
        let piece = move |number: u64| {
            let mut piece = vec![0_u8; 64 * 1024];
            piece.chunks_exact_mut(8).enumerate().for_each(|(at, word)| {
                word.copy_from_slice(&((number << 20 | at as u64) ^ salt).to_le_bytes());
            });
            Ok::<_, Problem>(Bytes::from(piece))
        };
        stream::iter((0..bytes / (64 * 1024)).map(piece))
    };
    let ((), peak) = peak(|| {
        runtime.block_on(async {
            let home = BlobStore::open(folder.path().join("home")).await.unwrap();
            let upstream = Arc::new(Beside(BlobService::new(home.clone())));
            let config = CacheConfig { bytes_max: u64::MAX, ..CacheConfig::default() };
            let edge = BlobStore::open_cache(folder.path().join("edge"), upstream, config).await.unwrap();
            let blob = home.put(pieces(1 << 60), bytes).await.unwrap();
            let started = Instant::now();
            let (content, _) = edge.get(&blob, Some(0..1)).await.unwrap();
            assert_eq!(content.try_collect::<Vec<_>>().await.unwrap().concat().len(), 1);
            let fetched = started.elapsed();
            let started = Instant::now();
            let sent = edge.put(pieces(1 << 61), bytes).await.unwrap();
            assert!(home.contains(&sent.digest).await.unwrap());
            let rate = |elapsed: Duration| bytes as f64 / MIB as f64 / elapsed.as_secs_f64();
            println!(
                "{} MiB: fetched at {:.0} MiB/s, stored and sent at {:.0} MiB/s",
                bytes / MIB,
                rate(fetched),
                rate(started.elapsed())
            );
        });
    });
    println!("peak: {:.1} MiB above the start", peak as f64 / MIB as f64);
    peak
}

/// One test, because the peak is that of the whole process.
#[test]
fn memory_stays_small_whatever_comes() {
    let peak_of_content = in_and_out(128 * MIB);
    assert!(peak_of_content < 32 * MIB, "{peak_of_content}");
    let peak_of_transfers = across(128 * MIB);
    assert!(peak_of_transfers < 48 * MIB, "{peak_of_transfers}");

    let holder: Point = "shop:repo:site:1.0.0".parse().unwrap();
    for (what, bytes) in support::bombs() {
        let started = Instant::now();
        let (refused, peak) = peak(|| {
            let mut archive = Archive::open(Cursor::new(&bytes), &holder, &Limits::default()).ok()?;
            let mut piece = vec![0; 64 * 1024];
            for file in archive.files().to_vec() {
                let mut unpacking = archive.unpack(&file).ok()?;
                while unpacking.read(&mut piece).ok()? > 0 {}
            }
            Some(())
        });
        assert!(refused.is_none(), "{what}");
        println!("{what}: refused in {:?}, {} KiB", started.elapsed(), peak / 1024);
        assert!(peak < 32 * MIB, "{what}: {peak}");
    }
}

/// The full form: `cargo test --release -p resource-registry --test memory -- --ignored --nocapture`.
#[test]
#[ignore = "writes 10 GiB"]
fn two_gibibytes_go_in_and_out() {
    assert!(in_and_out(2048 * MIB) < 64 * MIB);
    assert!(across(2048 * MIB) < 64 * MIB);
}
