//! A disk that fails as disks do, and what the store makes of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use redb::StorageBackend;
use starlane_core::Revision;

use super::{Commit, Error, Expect, Operation, RedbConfig, RedbStore, Store};

const SECTOR: usize = 512;

/// Bytes that are on the disk, and writes that are not yet.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct State {
    durable: Vec<u8>,
    /// What the next sync makes durable, in order.
    unsynced: Vec<Write>,
    current: Vec<u8>,
    syncs: u64,
    /// The power goes at this sync: what was written since the one before is anybody's guess, what comes after is nothing.
    cut_at: Option<u64>,
    off: bool,
    /// This sync fails.
    fail_sync_at: Option<u64>,
    room: Option<usize>,
    writes_after_failure: u64,
    failed: bool,
}

#[derive(Debug, Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// Deterministic and small: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

impl State {
    /// What a start after the power cut finds: each unsynced write is there, or not, or torn between sectors.
    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for write in &self.unsynced {
            match (random.below(3), write) {
                (0, _) => {}
                (1, Write::Bytes(at, data)) => put(&mut bytes, *at, data),
                (_, Write::Bytes(at, data)) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            put(&mut bytes, at + n * SECTOR, sector);
                        }
                    }
                }
                (_, Write::Length(length)) => bytes.resize(*length, 0),
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        *disk.0.lock() = State { durable: bytes.clone(), current: bytes, ..State::default() };
        disk
    }

    fn open(&self) -> Result<RedbStore, Error> {
        let disk = self.clone();
        let config = RedbConfig { cache_bytes: 4 * 1024 * 1024, ..RedbConfig::default() };
        RedbStore::open_on("disk", move || Ok(disk.clone()), &config)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.0.lock();
        let at = offset as usize;
        let bytes = state.current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let mut state = self.0.lock();
        if state.room.is_some_and(|room| length as usize > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !state.off {
            state.current.resize(length as usize, 0);
            state.unsynced.push(Write::Length(length as usize));
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.0.lock();
        if state.fail_sync_at == Some(state.syncs) {
            state.failed = true;
            return Err(io::Error::other("EIO"));
        }
        if state.cut_at == Some(state.syncs) {
            state.off = true;
            return Err(io::Error::other("no power"));
        }
        state.syncs += 1;
        state.durable = state.current.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.0.lock();
        state.writes_after_failure += u64::from(state.failed);
        if !state.off {
            let at = offset as usize;
            put(&mut state.current, at, data);
            state.unsynced.push(Write::Bytes(at, data.to_vec()));
        }
        Ok(())
    }
}

/// A script of commits from a seed, and what was acknowledged of it, key by key.
#[derive(Default)]
struct Script {
    acknowledged: BTreeMap<String, Option<String>>,
    /// The last commit, when its answer was an error: it may or may not have happened.
    unknown: Vec<(String, Option<String>)>,
    newest: Revision,
    steps: usize,
}

impl Script {
    fn run(&mut self, store: &RedbStore, seed: u64, steps: usize) -> Result<(), Error> {
        let mut random = Random(seed);
        for step in 0..steps {
            let mut operations = Vec::new();
            let mut changes: Vec<(String, Option<String>)> = Vec::new();
            for _ in 0..=random.below(3) {
                let key = format!("key-{}", random.below(40));
                if changes.iter().any(|(known, _)| *known == key) {
                    continue;
                }
                let value = (random.below(4) > 0).then(|| "v".repeat(random.below(900)) + &step.to_string());
                let bytes = Bytes::from(key.clone());
                operations.push(match &value {
                    Some(value) => Operation::put(bytes, Expect::Any, value.clone()),
                    None => Operation::delete(bytes, Expect::Any),
                });
                changes.push((key, value));
            }
            let commit = Commit { operations, ..Commit::default() };
            let result = futures_block(store.commit(commit));
            match result {
                Ok(revision) => {
                    self.newest = revision;
                    self.acknowledged.extend(changes);
                    self.steps += 1;
                }
                Err(error) => {
                    self.unknown = changes;
                    return Err(error);
                }
            }
            if step % 50 == 49 {
                futures_block(store.compact(Revision(self.newest.0.saturating_sub(10))))?;
            }
        }
        Ok(())
    }

    /// All that was acknowledged is there; besides it only what nobody knows of, all of it or nothing.
    fn check(&self, store: &RedbStore) {
        let mut snapshot = futures_block(store.snapshot(Bytes::new())).unwrap();
        let found: BTreeMap<String, String> = futures_block(snapshot.next(1_000))
            .unwrap()
            .into_iter()
            .map(|(key, record)| {
                (String::from_utf8(key.to_vec()).unwrap(), String::from_utf8(record.value.to_vec()).unwrap())
            })
            .collect();
        let state = |unknown: bool| {
            let mut state = self.acknowledged.clone();
            if unknown {
                state.extend(self.unknown.iter().cloned());
            }
            state.into_iter().filter_map(|(key, value)| Some((key, value?))).collect::<BTreeMap<_, _>>()
        };
        assert!(
            found == state(false) || found == state(true),
            "an acknowledged write is lost or a commit is split"
        );
        assert!(store.revisions().newest >= self.newest);
    }
}

fn futures_block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// How many seeds a run takes: `POWER_CUT_SEEDS`, or few.
fn seeds() -> u64 {
    std::env::var("POWER_CUT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

#[test]
fn a_power_cut_at_any_sync_loses_nothing_that_was_acknowledged() {
    let full = seeds() > 10;
    let steps = if full { 500 } else { 60 };
    let (mut cuts, mut acknowledged) = (0, 0);
    for seed in 0..seeds() {
        let whole = Disk::default();
        let store = whole.open().unwrap();
        // A new file is made under another name and renamed when it is whole, so its own syncs cannot be cut.
        let made = whole.0.lock().syncs;
        Script::default().run(&store, seed, steps).unwrap();
        drop(store);
        let syncs = whole.0.lock().syncs;
        // With many seeds each takes its own share of the sync points, so that all are cut many times.
        let stride = if full { 37 } else { 5 };
        for cut_at in (made + seed % stride..syncs).step_by(stride as usize) {
            let disk = Disk::default();
            disk.0.lock().cut_at = Some(cut_at);
            let mut script = Script::default();
            if let Ok(store) = disk.open() {
                drop(script.run(&store, seed, steps));
            }
            let found = disk.0.lock().after_power_cut(&mut Random(seed ^ cut_at.rotate_left(32)));
            let store = Disk::holding(found)
                .open()
                .unwrap_or_else(|error| panic!("seed {seed} cut {cut_at}: {error}"));
            script.check(&store);
            cuts += 1;
            acknowledged += script.steps;
        }
    }
    println!("{cuts} power cuts, {acknowledged} acknowledged commits, 0 lost, 0 failed opens");
    assert!(cuts >= 20 && acknowledged > 100, "the run did too little to prove anything");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_opened_anew() {
    let mut fired = 0;
    for fail_at in 0..60 {
        let disk = Disk::default();
        disk.0.lock().fail_sync_at = Some(fail_at);
        let Ok(store) = disk.open() else {
            fired += 1;
            continue;
        };
        let mut script = Script::default();
        let result = script.run(&store, fail_at, 40);
        if result.is_ok() {
            continue;
        }
        fired += 1;
        assert!(matches!(result, Err(Error::Halted { .. })), "{result:?}");
        disk.0.lock().fail_sync_at = None;
        for _ in 0..3 {
            let late =
                Commit { operations: vec![Operation::put("late", Expect::Any, "x")], ..Commit::default() };
            let late = futures_block(store.commit(late));
            assert!(matches!(late, Err(Error::Halted { .. })), "{late:?}");
        }
        assert!(store.writable().is_err());
        assert!(futures_block(store.snapshot(Bytes::new())).is_ok(), "reads go on");
        drop(store);
        assert_eq!(disk.0.lock().writes_after_failure, 0, "the disk is left alone");
        script.check(&disk.open().unwrap());
    }
    assert!(fired >= 40, "only {fired} syncs failed");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    let mut script = Script::default();
    script.run(&store, 1, 30).unwrap();
    let room = disk.0.lock().current.len();
    disk.0.lock().room = Some(room);
    let value = Bytes::from(vec![7; 200_000]);
    let big = |n: usize| Commit {
        operations: vec![Operation::put(format!("big-{n}"), Expect::Any, value.clone())],
        ..Commit::default()
    };
    let refused =
        (0..200).find_map(|n| futures_block(store.commit(big(n))).err()).expect("the disk fills up");
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(store.writable().is_err());
    assert!(futures_block(store.snapshot(Bytes::from_static(b"key-"))).is_ok(), "reads go on");
    disk.0.lock().room = None;
    // The next attempt is made a second after the last at the soonest.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while futures_block(store.commit(big(0))).is_err() {
        assert!(std::time::Instant::now() < until, "writes did not go on");
        std::thread::yield_now();
    }
    assert!(store.writable().is_ok());
    let mut watch = store.watch(Bytes::new(), Revision(store.revisions().newest.0 - 1));
    assert!(matches!(watch.next().now_or_never(), Some(Ok(super::Event::Batch(_)))));
}

#[test]
fn a_process_that_is_killed_on_a_full_disk_opens_again_reads_and_recovers() {
    let rounds = if seeds() > 10 { 500 } else { 12 };
    let mut acknowledged = 0;
    for seed in 0..rounds {
        let disk = Disk::default();
        let store = disk.open().unwrap();
        let mut script = Script::default();
        script.run(&store, seed, 30).unwrap();
        let mut random = Random(seed);
        {
            let mut state = disk.0.lock();
            state.room = Some(state.current.len() + random.below(400_000));
        }
        let refused = (0..200).find_map(|n| {
            let (key, value) = (format!("big-{n}"), "b".repeat(1_000 + random.below(100_000)));
            let operation = Operation::put(key.clone(), Expect::Any, value.clone());
            match futures_block(store.commit(Commit { operations: vec![operation], ..Commit::default() })) {
                Ok(revision) => {
                    script.newest = revision;
                    script.acknowledged.insert(key, Some(value));
                    script.steps += 1;
                    None
                }
                Err(error) => {
                    script.unknown = vec![(key, Some(value))];
                    Some(error)
                }
            }
        });
        assert!(matches!(refused, Some(Error::Unavailable { .. })), "the disk fills up: {refused:?}");
        // What a killed process wrote is still there; after a power cut only what was synced surely is.
        let left = {
            let state = disk.0.lock();
            if seed % 2 == 0 { state.current.clone() } else { state.after_power_cut(&mut random) }
        };
        drop(store);
        let room = left.len();
        let disk = Disk::holding(left);
        disk.0.lock().room = Some(room);
        let store = disk.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        script.check(&store);
        let big = || Commit {
            operations: vec![Operation::put("after", Expect::Any, vec![7; 200_000])],
            ..Commit::default()
        };
        // There may be room in the file itself.
        let full = (0..200).any(|_| futures_block(store.commit(big())).is_err());
        if full {
            assert!(store.writable().is_err());
            assert!(futures_block(store.snapshot(Bytes::from_static(b"key-"))).is_ok(), "reads go on");
        }
        disk.0.lock().room = None;
        // The next attempt is made a second after the last at the soonest.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while futures_block(store.commit(big())).is_err() {
            assert!(std::time::Instant::now() < until, "seed {seed}: writes did not go on");
            std::thread::yield_now();
        }
        acknowledged += script.steps;
    }
    println!("{rounds} kills on a full disk, {acknowledged} acknowledged commits, 0 lost, 0 failed opens");
    assert!(acknowledged > 30 * rounds as usize);
}

#[test]
fn damage_is_noticed_or_harmless() {
    let disk = Disk::default();
    let store = disk.open().unwrap();
    let mut script = Script::default();
    script.run(&store, 3, 60).unwrap();
    drop(store);
    let intact = disk.0.lock().durable.clone();
    let mut random = Random(17);
    let rounds = if seeds() > 10 { 5_000 } else { 40 };
    let (mut noticed, mut harmless) = (0, 0);
    let hook = std::panic::take_hook();
    // The engine below may panic on damaged bytes; that it is caught is what is tested.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..rounds {
            let mut bytes = intact.clone();
            match random.below(4) {
                0 => bytes.truncate(random.below(intact.len())),
                1 => {
                    let page = random.below(intact.len() / 4096) * 4096;
                    bytes[page..page + 4096].fill(0);
                }
                2 => {
                    let (a, b) = (random.below(intact.len() / 4096), random.below(intact.len() / 4096));
                    for n in 0..4096 {
                        bytes.swap(a * 4096 + n, b * 4096 + n);
                    }
                }
                _ => {
                    for _ in 0..=random.below(8) {
                        let at = random.below(intact.len());
                        bytes[at] ^= 1u8 << random.below(8);
                    }
                }
            }
            if bytes.is_empty() {
                continue;
            }
            match Disk::holding(bytes).open() {
                Err(Error::Corrupt { file, .. }) => {
                    assert_eq!(&*file, "disk");
                    noticed += 1;
                }
                Err(Error::Unavailable { .. } | Error::FormatNewer { .. }) => noticed += 1,
                Err(other) => panic!("{other:?}"),
                Ok(store) => {
                    script.check(&store);
                    harmless += 1;
                }
            }
        }
    }));
    std::panic::set_hook(hook);
    println!("{noticed} damaged files were noticed, {harmless} were as good as before");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(noticed > rounds / 10 && harmless + noticed > rounds / 2);
}

#[test]
fn a_newer_format_and_a_foreign_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let config = RedbConfig::default();
    {
        let database = redb::Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(super::engine::META).unwrap().insert(&b"format"[..], &b"registry 9"[..]).unwrap();
        write.commit().unwrap();
    }
    let newer = RedbStore::open(&path, &config).err();
    assert!(matches!(newer, Some(Error::FormatNewer { found: 9, known: 1, .. })), "{newer:?}");
    std::fs::write(&path, "this is no database at all").unwrap();
    let foreign = RedbStore::open(&path, &config).err();
    assert!(matches!(foreign, Some(Error::Corrupt { .. })), "{foreign:?}");
    std::fs::remove_file(&path).unwrap();
    let first = RedbStore::open(&path, &config).unwrap();
    assert!(matches!(RedbStore::open(&path, &config).err(), Some(Error::InUse { .. })));
    drop(first);
    assert!(RedbStore::open(&path, &config).is_ok());
}
