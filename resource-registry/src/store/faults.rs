//! What the store makes of a disk that fails as disks do.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;
use starlane_core::Revision;

use super::disk::{Disk, Random};
use super::{Commit, Error, Expect, Operation, ReadAt, RedbConfig, RedbStore, Store};

/// How long the log of the store may become: so short that it is often full.
const LOG_BYTES: u64 = 256 * 1024;

fn open(disk: &Disk) -> Result<RedbStore, Error> {
    let disk = disk.clone();
    let config = RedbConfig { cache_bytes: 4 * 1024 * 1024, log_bytes: LOG_BYTES, ..RedbConfig::default() };
    RedbStore::open_on("disk", move || Ok(disk.files()), &config)
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
        let store = open(&whole).unwrap();
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
            if let Ok(store) = open(&disk) {
                drop(script.run(&store, seed, steps));
            }
            let found = disk.0.lock().after_power_cut(&mut Random(seed ^ cut_at.rotate_left(32)));
            let store = open(&Disk::holding(found))
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
        let Ok(store) = open(&disk) else {
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
        script.check(&open(&disk).unwrap());
    }
    assert!(fired >= 40, "only {fired} syncs failed");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let mut script = Script::default();
    script.run(&store, 1, 30).unwrap();
    let room = disk.0.lock().bytes();
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
        let store = open(&disk).unwrap();
        let mut script = Script::default();
        script.run(&store, seed, 30).unwrap();
        let mut random = Random(seed);
        {
            let mut state = disk.0.lock();
            state.room = Some(state.bytes() + random.below(400_000));
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
            if seed % 2 == 0 { state.current() } else { state.after_power_cut(&mut random) }
        };
        drop(store);
        let room = left.iter().map(Vec::len).sum();
        let disk = Disk::holding(left);
        disk.0.lock().room = Some(room);
        let store = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
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

/// Damages a file as disks and people do, in one place or in several.
fn damage(bytes: &mut Vec<u8>, random: &mut Random, places: usize) {
    match random.below(if places > 1 { 4 } else { 3 }) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let page = random.below(bytes.len() / 4096) * 4096;
            bytes[page..page + 4096].fill(0);
        }
        3 => {
            let (a, b) = (random.below(bytes.len() / 4096), random.below(bytes.len() / 4096));
            for n in 0..4096 {
                bytes.swap(a * 4096 + n, b * 4096 + n);
            }
        }
        _ => {
            for _ in 0..=random.below(places) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1u8 << random.below(8);
            }
        }
    }
}

/// Damages one of the two files again and again; how often that was noticed, and how often all was as before.
fn damaged(intact: &[Vec<u8>; 2], which: usize, places: usize, script: &Script) -> (usize, usize) {
    let mut random = Random(17);
    let rounds = if seeds() > 10 { 5_000 } else { 40 };
    let (mut noticed, mut harmless) = (0, 0);
    let hook = std::panic::take_hook();
    // The engine below may panic on damaged bytes; that it is caught is what is tested.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..rounds {
            let mut files = intact.clone();
            damage(&mut files[which], &mut random, places);
            if files[0].is_empty() {
                continue;
            }
            match open(&Disk::holding(files)) {
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
    println!("{rounds} times damaged: noticed {noticed} times, as good as before {harmless} times");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(harmless + noticed > rounds / 2);
    (noticed, rounds)
}

#[test]
fn damage_is_noticed_or_harmless() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let mut script = Script::default();
    script.run(&store, 3, 60).unwrap();
    drop(store);
    let intact = disk.0.lock().current();
    assert!(intact[1].is_empty(), "all that was in the log is in the file");
    let (noticed, rounds) = damaged(&intact, 0, 8, &script);
    assert!(noticed > rounds / 10);
}

/// The last record of a log cannot be told from one that a power cut tore; nothing else is lost unnoticed by damage in one place.
#[test]
fn damage_after_a_kill_is_noticed_or_costs_no_more_than_the_last_commit() {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let mut script = Script::default();
    script.run(&store, 3, 58).unwrap();
    let last = Operation::put("last", Expect::Any, "x");
    futures_block(store.commit(Commit { operations: vec![last], ..Commit::default() })).unwrap();
    script.unknown = vec![("last".to_owned(), Some("x".to_owned()))];
    let intact = disk.0.lock().current();
    drop(store);
    for (which, places) in [(0, 8), (1, 1)] {
        let (noticed, _) = damaged(&intact, which, places, &script);
        assert!(noticed > 0);
    }
}

/// Each kill finds what the one before left, also a log that could not be brought to its file because the disk was full.
#[test]
fn kills_one_after_the_other_on_a_disk_that_is_full_at_times_lose_nothing() {
    let mut disk = Disk::default();
    let mut script = Script::default();
    let mut refused = 0;
    let put = |store: &RedbStore, key: &'static str, value: &str| {
        let operation = Operation::put(key, Expect::Any, value.to_owned());
        futures_block(store.commit(Commit { operations: vec![operation], ..Commit::default() }))
    };
    for number in 0..12 {
        let store = open(&disk).unwrap_or_else(|error| panic!("{number}: {error}"));
        script.check(&store);
        // What became of the commit that nobody was told of.
        let reading = futures_block(store.read(vec![Bytes::from_static(b"big")], ReadAt::Latest)).unwrap();
        let there = reading.records[0].as_ref().map(|there| String::from_utf8(there.value.to_vec()).unwrap());
        script.acknowledged.insert("big".to_owned(), there);
        script.unknown.clear();
        let room = disk.0.lock().bytes();
        disk.0.lock().room = Some(room);
        let big = number.to_string().repeat(120_000);
        if put(&store, "big", &big).is_ok() {
            script.acknowledged.insert("big".to_owned(), Some(big));
        } else {
            script.unknown = vec![("big".to_owned(), Some(big))];
            refused += 1;
        }
        disk.0.lock().room = Some(room + 4_000_000);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let small = number.to_string();
        while put(&store, "small", &small).is_err() {
            assert!(std::time::Instant::now() < until, "writes did not go on");
            std::thread::yield_now();
        }
        script.acknowledged.insert("small".to_owned(), Some(small));
        let left = disk.0.lock().current();
        drop(store);
        disk = Disk::holding(left);
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_file_that_took_the_place_of_another_is_used_and_killed_as_any_other() {
    let closed = |seed| {
        let disk = Disk::default();
        let mut script = Script::default();
        let store = open(&disk).unwrap();
        script.run(&store, seed, 20).unwrap();
        drop(store);
        (disk.0.lock().current(), script)
    };
    // Somebody put another file in its place, and left its log.
    let ([_, log], _) = closed(1);
    let ([file, _], mut script) = closed(2);
    let mut disk = Disk::holding([file, log]);
    for seed in 3..6 {
        let store = open(&disk).unwrap();
        script.check(&store);
        script.run(&store, seed, 3).unwrap();
        let left = disk.0.lock().current();
        drop(store);
        disk = Disk::holding(left);
    }
    script.check(&open(&disk).unwrap());
}

#[test]
fn a_log_that_is_not_that_of_the_file_is_refused() {
    let killed = |seed| {
        let disk = Disk::default();
        let store = open(&disk).unwrap();
        Script::default().run(&store, seed, 20).unwrap();
        let files = disk.0.lock().current();
        drop(store);
        (files, disk.0.lock().current())
    };
    let ((_, [whole, _]), ([_, log], _)) = (killed(1), killed(2));
    let refused = open(&Disk::holding([whole.clone(), log.clone()])).err();
    let Some(Error::Corrupt { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("another file"), "{reason}");
    // One that was closed has all in its file, and needs no log.
    assert!(open(&Disk::holding([whole, Vec::new()])).is_ok());
    // Nor is the log taken for one without its beginning.
    let mut headless = log;
    headless[..8192].fill(0);
    let ([file, _], _) = killed(2);
    let refused = open(&Disk::holding([file, headless])).err();
    assert!(matches!(refused, Some(Error::Corrupt { .. })), "{refused:?}");
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
