//! Promises 1 and 2 of a registry in an etcd of three members, one of which is killed or paused at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use resource_registry::store::{
    Commit, Error, EtcdConfig, EtcdStore, Event, Expect, Operation, Store, Watch,
};
use starlane_core::Revision;
use tokio::sync::watch;

use super::Report;
use crate::etcd::Etcd;

/// How many processes have the store open, and how many clients each has.
const STORES: usize = 2;
const CLIENTS: usize = 3;
/// A fault is held, and the time after it is given, until so many more commits were acknowledged.
const PROGRESS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(120);

/// What one client was told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<Bytes, Revision>,
    /// Nobody knew; the next try found out.
    unknown: usize,
    /// It was told that nothing happened, and it was so.
    unreachable: usize,
    /// It was told that nothing happened, and something had.
    wrong: usize,
}

/// Kills and pauses members in turn, while clients of several stores create and watch.
///
/// # Panics
/// When nothing goes on any more, or there is no etcd.
pub fn members_killed_and_paused(rounds: usize) -> Option<Report> {
    let mut etcd = Etcd::start(3)?;
    let config = EtcdConfig::at(&etcd.address("faults")).expect("an address");
    let open = || EtcdStore::open(config.clone()).expect("etcd answers");
    let stores: Vec<EtcdStore> = (0..STORES).map(|_| open()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.expect("a runtime");
    let over = AtomicBool::new(false);
    let (end, until) = watch::channel(None);
    // One watch of each store is there all the time.
    let live: Vec<_> = stores
        .iter()
        .map(|store| runtime.spawn(follow(store.watch(Bytes::new(), Revision(0)), until.clone())))
        .collect();
    let acknowledged = AtomicUsize::new(0);
    let (told, slowest) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..STORES * CLIENTS)
            .map(|client| {
                let (store, over, acknowledged) = (&stores[client % STORES], &over, &acknowledged);
                let runtime = runtime.handle();
                scope.spawn(move || runtime.block_on(create(store, client, over, acknowledged)))
            })
            .collect();
        let mut slowest = Duration::ZERO;
        let mut progress = || {
            let goal = acknowledged.load(Ordering::Relaxed) + PROGRESS;
            let begun = Instant::now();
            while acknowledged.load(Ordering::Relaxed) < goal {
                assert!(begun.elapsed() < PATIENCE, "nothing is acknowledged any more");
                std::thread::park_timeout(Duration::from_millis(5));
            }
            slowest = slowest.max(begun.elapsed());
        };
        progress();
        for round in 0..rounds {
            let member = round % etcd.count();
            if round % 2 == 0 {
                etcd.pause(member);
                progress();
                etcd.resume(member);
            } else {
                etcd.kill(member);
                progress();
                etcd.restart(member);
            }
            progress();
        }
        over.store(true, Ordering::Relaxed);
        let told: Vec<Told> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        let newest = runtime.block_on(stores[0].newest()).expect("etcd answers");
        end.send_replace(Some(newest));
        (told, slowest)
    });
    // And one is of a store that is new.
    let late = open();
    let mut seen = vec![runtime.block_on(follow(late.watch(Bytes::new(), Revision(0)), until))];
    seen.extend(live.into_iter().map(|live| runtime.block_on(live).expect("the watch went on")));
    let mut report = Report::of("P01 P02");
    let first = &seen[0].changes;
    let all: BTreeMap<Bytes, Revision> = told.iter().flat_map(|told| told.acknowledged.clone()).collect();
    report.at_least("rounds", rounds, 1);
    report.at_least("acknowledged", all.len(), rounds * PROGRESS);
    report.figure("unknown", told.iter().map(|told| told.unknown).sum::<usize>());
    report.figure("unreachable", told.iter().map(|told| told.unreachable).sum::<usize>());
    report.none("lost", all.iter().filter(|(key, revision)| first.get(*key) != Some(revision)).count());
    report.none("invented", first.keys().filter(|key| !all.contains_key(*key)).count());
    report.none("done_though_refused", told.iter().map(|told| told.wrong).sum());
    report.none("missed_or_repeated", seen.iter().map(|seen| seen.gaps).sum());
    report.none("watches_that_differ", seen.iter().filter(|seen| seen.changes != *first).count());
    report.within("slowest", slowest, Duration::from_secs(15));
    Some(report)
}

/// Creates one key after the other. Each is tried until it is there, and it is checked that what was said of it was so.
async fn create(store: &EtcdStore, client: usize, over: &AtomicBool, acknowledged: &AtomicUsize) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let key = Bytes::from(format!("c{client}:{number}"));
        let operations = vec![Operation::put(key.clone(), Expect::Absent, number.to_string())];
        let (mut unknown, begun) = (false, Instant::now());
        let revision = loop {
            assert!(begun.elapsed() < PATIENCE, "a commit does not come to an end");
            match store.commit(Commit { operations: operations.clone(), ..Commit::default() }).await {
                Ok(revision) => break revision,
                Err(Error::Unknown { .. }) => {
                    told.unknown += 1;
                    unknown = true;
                }
                Err(Error::Unreachable { .. } | Error::Unavailable { .. } | Error::Busy) => {
                    told.unreachable += 1
                }
                Err(Error::Conflict { found: Some(revision), .. }) => {
                    told.wrong += usize::from(!unknown);
                    break revision;
                }
                Err(error) => panic!("{error}"),
            }
        };
        told.acknowledged.insert(key, revision);
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// What a watch told.
struct Seen {
    changes: BTreeMap<Bytes, Revision>,
    /// Revisions that did not follow the one before.
    gaps: usize,
}

/// Follows a watch until it reached what is told to be the end.
async fn follow(mut commits: Box<dyn Watch>, mut end: watch::Receiver<Option<Revision>>) -> Seen {
    let mut seen = Seen { changes: BTreeMap::new(), gaps: 0 };
    let mut last = Revision(0);
    loop {
        let ended = |end: &Option<Revision>| end.is_some_and(|end| last >= end);
        let event = tokio::select! {
            event = commits.next() => event.expect("the watch goes on"),
            _ = end.wait_for(ended) => return seen,
        };
        match event {
            Event::Batch(batch) => {
                seen.gaps += usize::from(batch.revision.0 != last.0 + 1);
                last = batch.revision;
                for change in &batch.changes {
                    seen.gaps += usize::from(seen.changes.insert(change.key.clone(), last).is_some());
                }
            }
            Event::Progress(revision) => last = revision,
            Event::Compacted { .. } => panic!("nothing was forgotten"),
        }
    }
}
