//! What a store is: every engine passes these.

use bytes::Bytes;
use starlane_core::{Epoch, Revision, Timestamp};

use super::{
    Action, Batch, Commit, Error, Event, Expect, Fence, LeaseId, Operation, ReadAt, Record, Store, Watch,
};

/// Runs the whole suite on fresh stores. `$fresh` makes one and whatever must live as long as it, or `None` where that cannot
/// be had; with seeds, from each.
macro_rules! conformance_tests {
    ($fresh:expr) => {
        conformance_tests! { 1, |_| $fresh }
    };
    ($seeds:expr, $fresh:expr) => {
        conformance_tests! { @each $seeds, $fresh;
            commits_are_read_back revisions_and_versions_grow expectations_are_checked
            who_made_a_key_is_told_from_who_changed_it numbers_only_grow a_refused_commit_changes_nothing
            quiet_trees_are_told_from_others deletes_and_guards_alone_make_no_noise bounds_hold
            older_epochs_are_refused a_snapshot_shows_one_revision a_watch_tells_every_commit_whole
            a_large_commit_is_one_commit a_watch_tells_where_it_is history_can_be_forgotten leases_end
            watches_and_commits_side_by_side
        }
    };
    (@each $seeds:expr, $fresh:expr; $($name:ident)+) => {
        $(#[tokio::test]
        async fn $name() {
            for seed in 0..$seeds {
                let fresh: fn(u64) -> _ = $fresh;
                let Some((store, _kept)) = fresh(seed) else { return };
                crate::store::conformance::$name(&store).await;
            }
        })+
    };
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(name: &str, expect: Expect, value: &str) -> Operation {
    Operation::put(key(name), expect, key(value))
}

fn commit(operations: Vec<Operation>) -> Commit {
    Commit { fence: None, meta: Bytes::from_static(b"who and when"), operations }
}

async fn write(store: &impl Store, name: &str, value: &str) -> Revision {
    store.commit(commit(vec![put(name, Expect::Any, value)])).await.unwrap()
}

async fn read(store: &impl Store, name: &str) -> Option<Record> {
    store.read(vec![key(name)], ReadAt::Latest).await.unwrap().records.remove(0)
}

async fn next_batch(watch: &mut dyn Watch) -> std::sync::Arc<Batch> {
    loop {
        match watch.next().await.unwrap() {
            Event::Batch(batch) => return batch,
            Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn is_conflict(result: Result<Revision, Error>, name: &str) -> bool {
    matches!(result, Err(Error::Conflict { key: found, .. }) if found == name.as_bytes())
}

pub(super) async fn commits_are_read_back(store: &impl Store) {
    assert_eq!(read(store, "a").await, None);
    let revision =
        store.commit(commit(vec![put("a", Expect::Absent, "1"), put("b", Expect::Any, "")])).await.unwrap();
    let reading = store.read(vec![key("b"), key("none"), key("a")], ReadAt::AtLeast(revision)).await.unwrap();
    assert_eq!(reading.revision, revision);
    let values: Vec<_> = reading.records.iter().map(|record| record.as_ref().map(|r| &r.value[..])).collect();
    assert_eq!(values, [Some(&b""[..]), None, Some(&b"1"[..])]);
}

pub(super) async fn revisions_and_versions_grow(store: &impl Store) {
    let first = write(store, "a", "1").await;
    let other = write(store, "b", "1").await;
    let second = write(store, "a", "2").await;
    assert!(first < other && other < second);
    let record = read(store, "a").await.unwrap();
    assert_eq!((record.created, record.modified, record.version), (first, second, 2));
    store.commit(commit(vec![Operation::delete(key("a"), Expect::Any)])).await.unwrap();
    let again = write(store, "a", "3").await;
    let record = read(store, "a").await.unwrap();
    assert_eq!((record.created, record.modified, record.version), (again, again, 1));
    assert_eq!(store.revisions().newest, again);
}

pub(super) async fn expectations_are_checked(store: &impl Store) {
    let first = write(store, "a", "1").await;
    for (name, expect, holds) in [
        ("a", Expect::Absent, false),
        ("b", Expect::Absent, true),
        ("a", Expect::Present, true),
        ("c", Expect::Present, false),
        ("c", Expect::MadeBy(first), false),
        ("c", Expect::At(first), false),
    ] {
        let result = store.commit(commit(vec![put(name, expect, "x")])).await;
        assert_eq!(result.is_ok(), holds, "{name} {expect:?}");
        assert_eq!(is_conflict(result, name), !holds);
    }
    let now = read(store, "a").await.unwrap().modified;
    assert!(is_conflict(store.commit(commit(vec![put("a", Expect::At(first), "y")])).await, "a"));
    assert!(store.commit(commit(vec![put("a", Expect::At(now), "y")])).await.is_ok());
}

pub(super) async fn who_made_a_key_is_told_from_who_changed_it(store: &impl Store) {
    let first = write(store, "a", "1").await;
    let second = write(store, "a", "2").await;
    let guard = |revision| commit(vec![Operation::guard(key("a"), Expect::MadeBy(revision))]);
    assert_eq!(store.commit(guard(first)).await, Ok(second));
    assert!(is_conflict(store.commit(guard(second)).await, "a"));
    store.commit(commit(vec![Operation::delete(key("a"), Expect::Any)])).await.unwrap();
    assert!(is_conflict(store.commit(guard(first)).await, "a"), "it is gone");
    let again = write(store, "a", "3").await;
    assert!(is_conflict(store.commit(guard(first)).await, "a"), "it is another");
    assert_eq!(store.commit(guard(again)).await, Ok(again));
}

pub(super) async fn numbers_only_grow(store: &impl Store) {
    let count =
        |number: u64| commit(vec![Operation::put(key("n"), Expect::Grows, number.to_le_bytes().to_vec())]);
    store.commit(count(1)).await.unwrap();
    store.commit(count(300)).await.unwrap();
    for less in [0, 1, 255, 256, 300] {
        assert!(is_conflict(store.commit(count(less)).await, "n"), "{less}");
    }
    store.commit(count(301)).await.unwrap();
    assert_eq!(read(store, "n").await.unwrap().value, 301u64.to_le_bytes()[..]);
    // What is no number, or not put, does not grow.
    write(store, "text", "no number").await;
    let text = commit(vec![Operation::put(key("text"), Expect::Grows, 5u64.to_le_bytes().to_vec())]);
    assert!(is_conflict(store.commit(text).await, "text"));
    let delete = commit(vec![Operation::delete(key("n"), Expect::Grows)]);
    assert!(is_conflict(store.commit(delete).await, "n"));
}

pub(super) async fn a_refused_commit_changes_nothing(store: &impl Store) {
    write(store, "a", "1").await;
    let before = store.revisions();
    let result = store
        .commit(commit(vec![
            put("b", Expect::Any, "1"),
            Operation::delete(key("a"), Expect::Any),
            put("c", Expect::Present, "1"),
        ]))
        .await;
    assert!(is_conflict(result, "c"));
    assert_eq!(store.revisions(), before);
    assert_eq!(read(store, "b").await, None);
    assert!(read(store, "a").await.is_some());
}

pub(super) async fn quiet_trees_are_told_from_others(store: &impl Store) {
    write(store, "tree", "").await;
    let seen = write(store, "tree:a", "").await;
    write(store, "tree-b", "").await;
    let guard = |since| {
        commit(vec![
            Operation::guard(key("tree:"), Expect::QuietBelow(since)),
            Operation::delete(key("tree"), Expect::Present),
        ])
    };
    write(store, "tree:a:b", "").await;
    assert!(is_conflict(store.commit(guard(seen)).await, "tree:"));
    assert!(store.commit(guard(store.revisions().newest)).await.is_ok());
}

pub(super) async fn deletes_and_guards_alone_make_no_noise(store: &impl Store) {
    let revision = write(store, "a", "1").await;
    let nothing = commit(vec![
        Operation::guard(key("a"), Expect::Present),
        Operation::delete(key("none"), Expect::Any),
    ]);
    assert_eq!(store.commit(nothing).await, Ok(revision));
}

pub(super) async fn bounds_hold(store: &impl Store) {
    let many = |count: usize| commit((0..count).map(|n| put(&format!("k{n}"), Expect::Any, "v")).collect());
    assert!(matches!(store.commit(many(101)).await, Err(Error::TooLarge(_))));
    assert!(store.commit(many(100)).await.is_ok());
    let twice = commit(vec![put("a", Expect::Any, "1"), Operation::delete(key("a"), Expect::Any)]);
    assert!(matches!(store.commit(twice).await, Err(Error::TooLarge(_))));
    let long = commit(vec![put(&"k".repeat(4_201), Expect::Any, "v")]);
    assert!(matches!(store.commit(long).await, Err(Error::TooLarge(_))));
    let large = commit(vec![put("a", Expect::Any, &"v".repeat(256 * 1024 + 1))]);
    assert!(matches!(store.commit(large).await, Err(Error::TooLarge(_))));
}

pub(super) async fn older_epochs_are_refused(store: &impl Store) {
    let under = |scope: &str, epoch| Commit {
        fence: Some(Fence { scope: scope.into(), epoch: Epoch(epoch) }),
        ..commit(vec![put("a", Expect::Any, "1")])
    };
    store.commit(under("shop", 3)).await.unwrap();
    store.commit(under("shop", 3)).await.unwrap();
    store.commit(under("other", 1)).await.unwrap();
    let stale = store.commit(under("shop", 2)).await;
    assert_eq!(stale, Err(Error::FenceStale { scope: "shop".into(), epoch: Epoch(3) }));
    store.commit(under("shop", 4)).await.unwrap();
    assert!(store.commit(under("shop", 3)).await.is_err());
}

pub(super) async fn a_snapshot_shows_one_revision(store: &impl Store) {
    for n in 0..5 {
        write(store, &format!("p:{n}"), "old").await;
    }
    let last = write(store, "q", "old").await;
    let mut snapshot = store.snapshot(key("p:")).await.unwrap();
    assert_eq!(snapshot.revision(), last);
    let mut all = snapshot.next(2).await.unwrap();
    write(store, "p:3", "new").await;
    write(store, "p:9", "new").await;
    loop {
        let page = snapshot.next(2).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    let names: Vec<_> = all.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, [&b"p:0"[..], b"p:1", b"p:2", b"p:3", b"p:4"]);
    assert!(all.iter().all(|(_, record)| record.value == "old"));
}

pub(super) async fn a_watch_tells_every_commit_whole(store: &impl Store) {
    let before = write(store, "p:a", "1").await;
    let revision = store
        .commit(commit(vec![
            put("p:b", Expect::Any, "1"),
            put("q", Expect::Any, "1"),
            Operation::delete(key("p:a"), Expect::Any),
        ]))
        .await
        .unwrap();
    let mut watch = store.watch(key("p:"), before);
    let batch = next_batch(&mut *watch).await;
    assert_eq!((batch.revision, &batch.meta[..]), (revision, &b"who and when"[..]));
    let names: Vec<_> = batch.changes.iter().map(|change| &change.key[..]).collect();
    assert_eq!(names, [&b"p:b"[..], b"p:a"]);
    assert_eq!(batch.changes[0].before, None);
    assert_eq!(batch.changes[1].before.as_ref().unwrap().value, "1");
    assert_eq!(batch.changes[1].after, None);
    let mut from_the_start = store.watch(key(""), Revision(0));
    assert_eq!(next_batch(&mut *from_the_start).await.revision, before);
    assert_eq!(next_batch(&mut *from_the_start).await.changes.len(), 3);
}

pub(super) async fn a_large_commit_is_one_commit(store: &impl Store) {
    let value = |byte: u8| Bytes::from(vec![byte; 200 * 1024]);
    let large = |byte: u8| {
        let puts = (0..20).map(|n| Operation::put(key(&format!("k{n:02}")), Expect::Any, value(byte)));
        commit(puts.collect())
    };
    let first = store.commit(large(1)).await.unwrap();
    let second = store.commit(large(2)).await.unwrap();
    let mut watch = store.watch(key("k"), Revision(0));
    assert_eq!(next_batch(&mut *watch).await.revision, first);
    let batch = next_batch(&mut *watch).await;
    assert_eq!((batch.revision, batch.changes.len()), (second, 20));
    for change in &batch.changes {
        assert!(change.before.as_ref().unwrap().value == value(1));
        assert!(change.after.as_ref().unwrap().value == value(2));
    }
    let keys = (0..20).map(|n| key(&format!("k{n:02}"))).collect();
    let reading = store.read(keys, ReadAt::Latest).await.unwrap();
    assert!(reading.records.iter().all(|record| record.as_ref().unwrap().value == value(2)));
    let mut snapshot = store.snapshot(key("k")).await.unwrap();
    let (mut count, mut page) = (0, snapshot.next(7).await.unwrap());
    while !page.is_empty() {
        assert!(page.len() <= 7 && page.iter().all(|(_, record)| record.value == value(2)));
        count += page.len();
        page = snapshot.next(7).await.unwrap();
    }
    assert_eq!(count, 20);
}

pub(super) async fn a_watch_tells_where_it_is(store: &impl Store) {
    let seen = write(store, "p:a", "1").await;
    let mut watch = store.watch(key("p:"), seen);
    let other = write(store, "q", "1").await;
    assert_eq!(watch.next().await, Ok(Event::Progress(other)));
    let mut waiting = Box::pin(watch.next());
    assert!(futures::poll!(&mut waiting).is_pending());
    let next = write(store, "p:b", "1").await;
    match waiting.await {
        Ok(Event::Batch(batch)) => assert_eq!(batch.revision, next),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn history_can_be_forgotten(store: &impl Store) {
    for n in 0..20 {
        write(store, "a", &n.to_string()).await;
    }
    let newest = store.revisions().newest;
    let keep_from = Revision(newest.0 - 4);
    let mut behind = store.watch(key(""), Revision(0));
    store.compact(keep_from).await.unwrap();
    assert_eq!(store.revisions().oldest, keep_from);
    assert_eq!(behind.next().await, Ok(Event::Compacted { oldest: keep_from }));
    let mut inside = store.watch(key(""), Revision(keep_from.0 - 1));
    for n in keep_from.0..=newest.0 {
        assert_eq!(next_batch(&mut *inside).await.revision, Revision(n));
    }
    assert_eq!(read(store, "a").await.unwrap().value, "19");
    store.compact(Revision(u64::MAX)).await.unwrap();
    assert_eq!(store.revisions().oldest, newest, "the newest commit stays");
    write(store, "a", "more").await;
    assert_eq!(next_batch(&mut *inside).await.revision, Revision(newest.0 + 1));
}

pub(super) async fn leases_end(store: &impl Store) {
    let hang = |name: &str, lease| Operation {
        key: key(name),
        expect: Expect::Any,
        action: Action::Put { value: key("v"), lease },
    };
    let lease = store.grant(1_000, Timestamp(0)).await.unwrap();
    let other = store.grant(5_000, Timestamp(0)).await.unwrap();
    assert_ne!(lease, other);
    store
        .commit(commit(vec![hang("a", Some(lease)), hang("b", Some(lease)), hang("c", Some(other))]))
        .await
        .unwrap();
    store.commit(commit(vec![hang("b", None)])).await.unwrap();
    store.keep_alive(lease, Timestamp(500)).await.unwrap();
    assert_eq!(store.expire(Timestamp(1_400), Bytes::new()).await, Ok(vec![]));
    assert_eq!(store.expire(Timestamp(1_500), Bytes::new()).await, Ok(vec![lease]));
    assert_eq!(read(store, "a").await, None);
    assert!(read(store, "b").await.is_some(), "it was let go of");
    assert!(read(store, "c").await.is_some());
    assert_eq!(store.keep_alive(lease, Timestamp(0)).await, Err(Error::LeaseUnknown(lease)));
    let late = store.commit(commit(vec![hang("d", Some(lease))])).await;
    assert_eq!(late, Err(Error::LeaseUnknown(lease)));
    store.revoke(other, Bytes::new()).await.unwrap();
    assert_eq!(read(store, "c").await, None);
    assert_eq!(
        store.revoke(LeaseId(u64::MAX), Bytes::new()).await,
        Err(Error::LeaseUnknown(LeaseId(u64::MAX)))
    );
}

pub(super) async fn watches_and_commits_side_by_side(store: &impl Store) {
    let mut watch = store.watch(key(""), Revision(0));
    let writers = (0..8).map(|writer| async move {
        for n in 0..40 {
            write(store, &format!("w{writer}"), &n.to_string()).await;
        }
    });
    let reader = async {
        let mut last = Revision(0);
        let mut counts = [0; 8];
        while counts.iter().sum::<usize>() < 320 {
            let batch = next_batch(&mut *watch).await;
            assert_eq!(batch.revision.0, last.0 + 1);
            last = batch.revision;
            let writer = usize::from(batch.changes[0].key[1] - b'0');
            let value = &batch.changes[0].after.as_ref().unwrap().value;
            assert_eq!(
                value,
                counts[writer].to_string().as_bytes(),
                "each writer's commits keep their order"
            );
            counts[writer] += 1;
        }
    };
    futures::future::join(futures::future::join_all(writers), reader).await;
}

mod memory {
    conformance_tests!(Some((crate::store::MemoryStore::new(), ())));
}

mod redb {
    use crate::store::{RedbConfig, RedbStore};

    conformance_tests!({
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store.redb"), &RedbConfig::default()).unwrap();
        Some((store, folder))
    });
}

mod etcd {
    conformance_tests!(crate::store::etcd::tests::fresh());
}

mod remote {
    use crate::flaky::Faults;
    use crate::store::remote::away::Away;

    conformance_tests!(Some((Away::new(1, Faults::default()), ())));
}

mod remote_that_loses_things {
    use crate::flaky::Faults;
    use crate::store::remote::away::Away;

    conformance_tests!(12, |seed| {
        let faults = Faults { rejected: 15, request_lost: 10, answer_lost: 10, repeated: 10, yields: 4 };
        Some((Away::new(seed, faults), ()))
    });
}
