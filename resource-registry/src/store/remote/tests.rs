use std::sync::atomic::Ordering;

use starlane_core::NodeName;

use super::away::{quick, served, writes};
use super::*;
use crate::flaky::{Faults, Flaky, Random};
use crate::store::{Batch, Expect, MemoryStore, Operation, StoreService};

fn remote(home: &MemoryStore, seed: u64, faults: Faults) -> (RemoteStore, Arc<Flaky>) {
    let flaky = Flaky::new(served(Arc::new(home.clone()), Arc::new(|| Timestamp(0))), seed, faults);
    (RemoteStore::new(flaky.clone(), quick()), flaky)
}

fn put(key: &str, value: impl Into<Bytes>) -> Commit {
    Commit {
        operations: vec![Operation::put(key.to_owned(), Expect::Any, value)],
        meta: "who".into(),
        ..Commit::default()
    }
}

/// All that a store's history holds under a prefix.
async fn history(store: &MemoryStore, prefix: &'static str) -> Vec<Arc<Batch>> {
    let mut watch = store.watch(prefix.into(), Revision(0));
    let mut batches = Vec::new();
    while let Some(event) = watch.next().now_or_never() {
        match event.unwrap() {
            Event::Batch(batch) => batches.push(batch),
            Event::Progress(_) => {}
            Event::Compacted { oldest } => panic!("{oldest}"),
        }
    }
    batches
}

/// This node is newer than the registry's, and asks what that does not know.
#[tokio::test]
async fn what_the_other_side_does_not_know_is_said_so_and_it_stays_in_reach() {
    let home = MemoryStore::new();
    let served = served(Arc::new(home.clone()), Arc::new(|| Timestamp(0)));
    let newer: crate::flaky::Handler = Arc::new(move |frame| match writes(&frame) {
        true => served(crate::exchange::framed(&[1, 99])),
        false => served(frame),
    });
    let store = RemoteStore::new(Flaky::new(newer, 1, Faults::default()), quick());
    assert_eq!(store.newest().await, Ok(Revision(0)));
    let error = store.commit(put("p:a", "v")).await.unwrap_err();
    assert!(matches!(&error, Error::Unsupported { reason } if reason.contains("does not know")), "{error}");
    assert_eq!((store.writable(), store.newest().await), (Ok(()), Ok(Revision(0))));
}

#[tokio::test]
async fn watches_over_a_mesh_that_loses_everything_miss_nothing_and_repeat_nothing() {
    let (mut fired, mut told, mut unknown, mut rejected) = (0, 0, 0, 0);
    for seed in 0..30 {
        let home = MemoryStore::new();
        let faults = Faults { rejected: 15, request_lost: 10, answer_lost: 15, repeated: 0, yields: 5 };
        let writers = (0..3).map(|n| remote(&home, seed * 10 + n, faults)).collect::<Vec<_>>();
        let lossy = Faults { repeated: 20, ..faults };
        let (watcher, watched) = remote(&home, seed * 10 + 9, lossy);
        let work = writers.iter().enumerate().map(|(number, (store, _))| async move {
            let mut random = Random(seed ^ number as u64);
            let mut outcomes = (Vec::new(), 0, 0);
            for n in 0..60 {
                let space = ["p", "q"][random.below(2)];
                let value = format!("{number}-{n}");
                match store.commit(put(&format!("{space}:{number}"), value.clone())).await {
                    Ok(revision) => outcomes.0.push((revision, value)),
                    Err(Error::Unreachable { .. }) => outcomes.1 += 1,
                    Err(Error::Unknown { .. }) => outcomes.2 += 1,
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
            outcomes
        });
        let mut following = [watcher.watch("".into(), Revision(0)), watcher.watch("p:".into(), Revision(0))];
        let (done, finished) = tokio::sync::watch::channel(false);
        let follow = following.iter_mut().map(|watch| {
            let mut finished = finished.clone();
            let home = home.clone();
            async move {
                let (mut batches, mut seen) = (Vec::new(), Revision(0));
                // Until all is committed, and all that is committed was told.
                loop {
                    if *finished.borrow_and_update() && seen >= home.revisions().newest {
                        return batches;
                    }
                    let event = tokio::select! {
                        event = watch.next() => event,
                        Ok(()) = finished.changed() => continue,
                    };
                    match event {
                        Ok(Event::Batch(batch)) => {
                            seen = batch.revision;
                            batches.push(batch);
                        }
                        Ok(Event::Progress(revision)) => seen = revision,
                        Ok(Event::Compacted { oldest }) => panic!("{oldest}"),
                        Err(error) => assert!(error.passes(), "{error}"),
                    }
                }
            }
        });
        let work = async {
            let outcomes = futures::future::join_all(work).await;
            done.send(true).unwrap();
            outcomes
        };
        let (outcomes, batches) = futures::future::join(work, futures::future::join_all(follow)).await;
        let log = history(&home, "").await;
        assert_eq!(batches[0], log, "seed {seed}");
        assert_eq!(batches[1], history(&home, "p:").await, "seed {seed}");
        // What was acknowledged happened, once; what was rejected did not; the rest is in doubt.
        let in_log = log.iter().map(|batch| {
            let record = batch.changes[0].after.as_ref().unwrap();
            (batch.revision, String::from_utf8(record.value.to_vec()).unwrap())
        });
        let in_log: Vec<_> = in_log.collect();
        let acknowledged: usize = outcomes.iter().map(|outcome| outcome.0.len()).sum();
        let (no, doubt) = outcomes.iter().fold((0, 0), |sum, outcome| (sum.0 + outcome.1, sum.1 + outcome.2));
        assert!(outcomes.iter().flat_map(|outcome| &outcome.0).all(|done| in_log.contains(done)));
        assert!((acknowledged..=acknowledged + doubt).contains(&in_log.len()), "seed {seed}");
        assert_eq!(acknowledged + no + doubt, 180);
        fired += watched.fired.load(Ordering::SeqCst);
        fired += writers.iter().map(|(_, flaky)| flaky.fired.load(Ordering::SeqCst)).sum::<u64>();
        told += batches[0].len();
        unknown += doubt;
        rejected += no;
    }
    println!("{told} commits told, {unknown} in doubt, {rejected} rejected, {fired} faults");
    assert!(told > 2_000 && unknown > 300 && rejected > 300 && fired > 1_500);
}

#[tokio::test]
async fn out_of_reach_is_told_at_once_and_a_lost_answer_as_unknown() {
    let home = MemoryStore::new();
    let (store, flaky) = remote(&home, 1, Faults::default());
    assert_eq!(store.contact(), Some(Contact { lost: None, watched: None }));
    flaky.cut(true);
    let refused = store.commit(put("a", "1")).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    assert!(matches!(store.newest().await, Err(Error::Unreachable { .. })));
    assert!(matches!(store.snapshot("".into()).await.err(), Some(Error::Unreachable { .. })));
    assert!(store.contact().unwrap().lost.is_some() && store.writable().is_err());
    assert_eq!(home.revisions().newest, Revision(0));
    flaky.cut(false);
    flaky.set(Faults { answer_lost: 100, ..Faults::default() });
    let lost = store.commit(put("a", "1")).await;
    assert!(matches!(lost, Err(Error::Unknown { .. })), "{lost:?}");
    assert_eq!(home.revisions().newest, Revision(1), "it was done all the same");
    assert!(matches!(store.newest().await, Err(Error::Unreachable { .. })), "reading changes nothing");
    flaky.set(Faults::default());
    assert_eq!(store.newest().await, Ok(Revision(1)));
    assert_eq!(store.contact().unwrap().lost, None);
    assert!(store.writable().is_ok());
}

#[tokio::test]
async fn many_who_ask_for_the_newest_share_a_call() {
    let home = MemoryStore::new();
    let (store, flaky) = remote(&home, 1, Faults { yields: 10, ..Faults::default() });
    for round in 1..20 {
        let before = flaky.calls.load(Ordering::SeqCst);
        let mut asking = Vec::new();
        for _ in 0..50 {
            asking.push(tokio::spawn({
                let store = store.clone();
                async move { store.newest().await }
            }));
            tokio::task::yield_now().await;
        }
        let newest = home.commit(put("a", round.to_string())).await.unwrap();
        // Whoever asks after the commit is told of it.
        assert!(store.newest().await.unwrap() >= newest);
        for asked in asking {
            asked.await.unwrap().unwrap();
        }
        let calls = flaky.calls.load(Ordering::SeqCst) - before;
        assert!(calls < 30, "{calls} calls for 51 who asked");
    }
}

#[tokio::test(start_paused = true)]
async fn pinned_snapshots_are_few_and_let_go_of_in_time() {
    let home = MemoryStore::new();
    for n in 0..10 {
        home.commit(put(&format!("k{n}"), vec![n; 250 * 1024])).await.unwrap();
    }
    let service = StoreService::new(Arc::new(home.clone()), Arc::new(|| Timestamp(0)));
    let from: NodeName = "edge-1".parse().unwrap();
    let handle = { service.clone() };
    let flaky =
        Flaky::new(Arc::new(move |request| handle.handle(from.clone(), request)), 1, Faults::default());
    let store = RemoteStore::new(flaky, quick());
    let mut snapshots = Vec::new();
    for _ in 0..64 {
        snapshots.push(store.snapshot("".into()).await.unwrap());
    }
    assert_eq!(store.snapshot("".into()).await.err(), Some(Error::Busy));
    let first = snapshots[0].next(1).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(snapshots[1].next(1).await.unwrap(), first);
    tokio::time::advance(Duration::from_secs(2)).await;
    // Only the one that was read meanwhile is still there; the rest of the others' first page was fetched already.
    for snapshot in &mut snapshots[2..] {
        let gone = snapshot.next(1).await;
        assert!(matches!(gone, Err(Error::Unreachable { .. })), "{gone:?}");
    }
    let mut all = first.len();
    loop {
        let page = snapshots[1].next(100).await.unwrap();
        if page.is_empty() {
            break;
        }
        all += page.len();
    }
    assert_eq!(all, 10);
    assert!(store.snapshot("".into()).await.is_ok());
}

#[tokio::test]
async fn a_history_that_went_back_is_no_longer_followed() {
    let home = MemoryStore::new();
    let newest = home.commit(put("a", "1")).await.unwrap();
    let (store, _) = remote(&home, 1, Faults::default());
    let mut watch = store.watch("".into(), Revision(newest.0 + 5));
    assert_eq!(watch.next().await, Ok(Event::Compacted { oldest: Revision(newest.0 + 1) }));
}

#[tokio::test]
async fn a_poll_that_is_given_up_loses_nothing() {
    let home = MemoryStore::new();
    let (store, _) = remote(&home, 1, Faults { yields: 6, ..Faults::default() });
    let mut watch = store.watch("".into(), Revision(0));
    let mut told = Vec::new();
    for n in 0..200u64 {
        if n % 2 == 0 {
            home.commit(put("a", n.to_string())).await.unwrap();
        }
        // Polled once or twice, then dropped.
        for _ in 0..=n % 3 {
            if let Some(event) = watch.next().now_or_never()
                && let Event::Batch(batch) = event.unwrap()
            {
                told.push(batch.revision.0);
            }
            tokio::task::yield_now().await;
        }
    }
    while told.len() < 100 {
        if let Event::Batch(batch) = watch.next().await.unwrap() {
            told.push(batch.revision.0);
        }
    }
    assert_eq!(told, (1..=100).collect::<Vec<_>>());
}

#[test]
fn calls_that_write_are_told_from_those_that_read() {
    let framed = |request: &Request| crate::exchange::framed(&wire::encode(request));
    assert!(writes(&framed(&Request::Commit(put("a", "1")))));
    assert!(writes(&framed(&Request::Grant { ttl_ms: 1 })));
    assert!(!writes(&framed(&Request::Open { prefix: "".into() })));
}
