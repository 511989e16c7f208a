//! What only a store in etcd has to stand: others who write, a way that loses answers, an etcd that stops and forgets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use parking_lot::Mutex;
use starlane_core::{Epoch, Point};

use super::server::Etcd;
use super::*;
use crate::store::{Action, Event, Expect, OPERATIONS_MAX, Operation};

/// An empty store on a server that others use too; `None` where there is no etcd.
pub(in crate::store) fn fresh() -> Option<(EtcdStore, Arc<Etcd>)> {
    let etcd = Etcd::shared()?;
    Some((EtcdStore::open(config(&etcd)).unwrap(), etcd))
}

/// Under a prefix that nobody else uses.
fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig::at(&etcd.address(&format!("test-{:016x}", getrandom::u64().unwrap()))).unwrap()
}

/// Short waits.
fn quick(config: &EtcdConfig) -> EtcdConfig {
    let ms = Duration::from_millis;
    EtcdConfig { try_timeout: ms(250), commit_timeout: ms(1_500), read_timeout: ms(800), ..config.clone() }
}

fn commit(operations: Vec<Operation>) -> Commit {
    Commit { operations, ..Commit::default() }
}

fn put(key: &str, expect: Expect, value: &str) -> Commit {
    commit(vec![Operation::put(key.to_owned(), expect, value.to_owned())])
}

async fn read(store: &EtcdStore, key: &str) -> Option<Record> {
    store.read(vec![Bytes::from(key.to_owned())], ReadAt::Latest).await.unwrap().records.remove(0)
}

async fn next(watch: &mut dyn Watch) -> Arc<Batch> {
    loop {
        match watch.next().await.unwrap() {
            Event::Batch(batch) => return batch,
            Event::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// How many keys are in a table.
async fn rows(store: &EtcdStore, table: &str) -> usize {
    let from = Bytes::from(format!("{}{table}/", store.inner.config.prefix));
    let range = RangeRequest { keys_only: true, ..RangeRequest::range(from.clone(), end_of(&from)) };
    let until = Instant::now() + Duration::from_secs(5);
    store.inner.reader.client.range(range, until).await.unwrap().kvs.len()
}

/// Hands bytes on between a store and an etcd, or keeps the answers to itself.
struct Way {
    address: String,
    swallows: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(member: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (swallows, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (member, swallowing, opened) = (member.to_owned(), swallows.clone(), open.clone());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                // The etcd may not be there yet, or be gone.
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(&member)) else { continue };
                opened.lock().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let swallowing = swallowing.clone();
                std::thread::spawn(move || hand_on(near, far, || false));
                std::thread::spawn(move || hand_on(far_too, near_too, || swallowing.load(Ordering::SeqCst)));
            }
        });
        Self { address, swallows, open }
    }

    fn config(&self, config: &EtcdConfig) -> EtcdConfig {
        EtcdConfig { members: vec![self.address.clone()], ..quick(config) }
    }

    /// From now on no answer arrives.
    fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// New connections are whole again; of the old ones nobody knows what they are good for.
    fn heal(&self) {
        self.swallows.store(false, Ordering::SeqCst);
        for stream in self.open.lock().drain(..) {
            _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, swallows: impl Fn() -> bool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !swallows() && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Both);
}

#[tokio::test]
async fn several_stores_have_one_history() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let stores: Vec<EtcdStore> = (0..3).map(|_| EtcdStore::open(config.clone()).unwrap()).collect();
    stores[0].commit(put("sum", Expect::Absent, "0")).await.unwrap();
    let add = |store: EtcdStore| async move {
        let mut raced = 0;
        for _ in 0..20 {
            loop {
                let now = read(&store, "sum").await.unwrap();
                let sum: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                match store.commit(put("sum", Expect::At(now.modified), &(sum + 1).to_string())).await {
                    Ok(_) => break,
                    Err(Error::Conflict { .. }) => raced += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        raced
    };
    let raced: u64 = join_all(stores.iter().map(|store| add(store.clone()))).await.into_iter().sum();
    assert!(raced > 0, "nobody met anybody");
    for store in &stores {
        let sum = read(store, "sum").await.unwrap();
        assert_eq!((&sum.value[..], sum.modified, sum.version), (&b"60"[..], Revision(61), 61));
        let mut watch = store.watch(Bytes::new(), Revision(0));
        for revision in 1..=61 {
            let batch = next(&mut *watch).await;
            assert_eq!(batch.revision, Revision(revision));
            assert_eq!(batch.changes[0].after.as_ref().unwrap().value, (revision - 1).to_string());
        }
    }
}

#[tokio::test]
async fn what_is_only_supposed_is_found_out() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let first = EtcdStore::open(config.clone()).unwrap();
    let revision = first.commit(put("a", Expect::Absent, "1")).await.unwrap();
    let second = EtcdStore::open(config).unwrap();
    let refused = second.commit(put("a", Expect::Absent, "2")).await;
    assert!(matches!(refused, Err(Error::Conflict { found: Some(found), .. }) if found == revision));
    // A refusal that comes from what this store remembers is looked after too.
    first.commit(commit(vec![Operation::delete("a", Expect::Any)])).await.unwrap();
    assert_eq!(second.commit(put("a", Expect::Absent, "2")).await, Ok(Revision(3)));
    assert_eq!(first.commit(put("a", Expect::Present, "3")).await, Ok(Revision(4)));
    // An empty commit tells the newest revision, whoever made it.
    assert_eq!(second.commit(commit(Vec::new())).await, Ok(Revision(4)));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_happened_once() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let way = Way::to(etcd.member(0));
    let patient = EtcdConfig { commit_timeout: Duration::from_secs(5), ..way.config(&config) };
    let store = EtcdStore::open(patient).unwrap();
    let beside = EtcdStore::open(config).unwrap();
    let mut watch = beside.watch(Bytes::new(), Revision(0));
    let (mut found, mut tries) = (0, 0);
    while found < 5 {
        tries += 1;
        assert!(tries < 20, "hardly anything arrives");
        // Whoever does not know where he is sends nothing: so he looks first.
        while store.commit(commit(Vec::new())).await.is_err() {}
        way.swallow();
        let mut sent = store.commit(put(&format!("k{tries}"), Expect::Absent, "v"));
        tokio::select! {
            batch = next(&mut *watch) => {
                found += 1;
                assert_eq!(batch.revision, Revision(found));
                way.heal();
                assert_eq!(sent.await, Ok(Revision(found)), "it is found though its answer is lost");
            }
            // The store was just looking for what others wrote, and that was lost: so it did not send anything.
            result = &mut sent => {
                assert!(matches!(result, Err(Error::Unreachable { .. })), "{result:?}");
                way.heal();
            }
        }
    }
    assert_eq!(beside.newest().await, Ok(Revision(5)));
}

#[tokio::test]
async fn nobody_waits_for_ever_and_nobody_is_told_what_is_not_so() {
    let Some(mut etcd) = Etcd::start(1) else { return };
    let store = EtcdStore::open(quick(&config(&etcd))).unwrap();
    store.commit(put("a", Expect::Absent, "1")).await.unwrap();
    assert_eq!(store.contact().unwrap().lost, None);
    let begun = Instant::now();
    etcd.pause(0);
    let sent = store.commit(put("a", Expect::Any, "2")).await;
    assert!(matches!(sent, Err(Error::Unknown { .. })), "{sent:?}");
    assert!(matches!(store.newest().await, Err(Error::Unreachable { .. })));
    let found = store.read(vec![Bytes::from("a")], ReadAt::Latest).await;
    assert!(matches!(found, Err(Error::Unreachable { .. })));
    assert!(store.contact().unwrap().lost.is_some() && store.writable().is_err());
    // Nothing was sent of what is asked now, since it is not known yet what became of the last.
    let refused = store.commit(put("b", Expect::Any, "1")).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    etcd.resume(0);
    let last = loop {
        match store.commit(put("c", Expect::Any, "1")).await {
            Ok(revision) => break revision,
            Err(Error::Unreachable { .. } | Error::Unknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    };
    assert!(store.writable().is_ok());
    assert_eq!(read(&store, "b").await, None, "it was said that nothing happened");
    let mut watch = store.watch(Bytes::new(), Revision(0));
    for revision in 1..=last.0 {
        assert_eq!(next(&mut *watch).await.revision, Revision(revision));
    }
    etcd.kill(0);
    // At first the connection may look as if it were there.
    while !matches!(store.commit(put("d", Expect::Any, "1")).await, Err(Error::Unreachable { .. })) {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    etcd.restart(0);
    while store.commit(put("e", Expect::Any, "1")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    assert!(matches!(
        EtcdStore::open(EtcdConfig {
            members: vec!["127.0.0.1:1".into()],
            open_timeout: Duration::from_millis(200),
            ..quick(&config(&etcd))
        }),
        Err(Error::Unreachable { .. })
    ));
}

#[tokio::test]
async fn large_values_are_given_back_when_nobody_can_read_them() {
    let Some((store, _etcd)) = fresh() else { return };
    let large = |byte: u8| {
        let put = |n: usize| Operation::put(format!("k{n:02}"), Expect::Any, vec![byte; 200 * 1024]);
        commit((0..10).map(put).collect())
    };
    store.commit(large(1)).await.unwrap();
    assert_eq!(rows(&store, "b").await, 10);
    store.commit(large(2)).await.unwrap();
    assert_eq!(rows(&store, "b").await, 20);
    let last = store.commit(put("k00", Expect::Any, "small")).await.unwrap();
    let tidy =
        |oldest| chores::tidy(&store.inner.reader.client, &store.inner.reader.layout, oldest, Duration::ZERO);
    store.compact(Revision(2)).await.unwrap();
    tidy(Revision(2)).await.unwrap();
    assert_eq!((rows(&store, "l").await, rows(&store, "b").await), (2, 20), "the history still has them");
    store.compact(last).await.unwrap();
    tidy(last).await.unwrap();
    assert_eq!((rows(&store, "l").await, rows(&store, "b").await), (1, 10));
    let mut watch = store.watch(Bytes::new(), Revision(2));
    assert_eq!(next(&mut *watch).await.changes[0].before.as_ref().unwrap().value, vec![2; 200 * 1024]);
    assert_eq!(read(&store, "k01").await.unwrap().value, vec![2; 200 * 1024]);
    assert_eq!((rows(&store, "s").await, rows(&store, "d").await), (0, 1));
}

#[tokio::test]
async fn values_of_a_commit_that_never_came_are_swept_away() {
    let Some((store, _etcd)) = fresh() else { return };
    let Reader { client, layout, .. } = &*store.inner.reader;
    let blobs = [layout::BlobId(1), layout::BlobId(2)];
    let mut left = vec![rpc::RequestOp::put(layout.staged(7), layout::encode(&blobs.to_vec()))];
    left.extend(blobs.map(|blob| rpc::RequestOp::put(layout.blob(blob), Bytes::from("v"))));
    client.txn(rpc::TxnRequest { success: left, ..rpc::TxnRequest::default() }).await.unwrap();
    chores::tidy(client, layout, Revision(1), Duration::ZERO).await.unwrap();
    assert_eq!((rows(&store, "s").await, rows(&store, "b").await), (0, 0));
}

#[tokio::test]
async fn a_lease_takes_along_however_much_hangs_on_it() {
    let Some((store, _etcd)) = fresh() else { return };
    let lease = store.grant(1_000, Timestamp(0)).await.unwrap();
    let hang = |n: usize, lease| Operation {
        key: format!("k{n:03}").into(),
        expect: Expect::Any,
        action: Action::Put { value: "v".into(), lease },
    };
    let leases: Vec<LeaseId> = join_all((0..30).map(|_| store.grant(9_000, Timestamp(0))))
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    // On more leases than one transaction has room to note.
    let many = (0..100).map(|n| hang(n, Some(leases[n % 30]))).collect();
    store.commit(commit(many)).await.unwrap();
    for from in [0, 100, 200] {
        store.commit(commit((from..from + 100).map(|n| hang(n, Some(lease))).collect())).await.unwrap();
    }
    store.commit(commit(vec![hang(7, None), hang(8, Some(leases[0]))])).await.unwrap();
    let before = store.revisions().newest;
    assert_eq!(store.expire(Timestamp(1_000), Bytes::from("over")).await, Ok(vec![lease]));
    let mut watch = store.watch(Bytes::new(), before);
    let mut deleted = 0;
    while deleted < 298 {
        let batch = next(&mut *watch).await;
        assert!(batch.changes.len() <= OPERATIONS_MAX && batch.meta == "over");
        assert!(batch.changes.iter().all(|change| change.after.is_none()));
        deleted += batch.changes.len();
    }
    assert_eq!((deleted, rows(&store, "k").await), (298, 2));
    assert_eq!(
        (rows(&store, "t").await, store.revoke(lease, Bytes::new()).await),
        (30, Err(Error::LeaseUnknown(lease)))
    );
    store.revoke(leases[0], Bytes::new()).await.unwrap();
    assert_eq!(rows(&store, "k").await, 1);
}

#[tokio::test]
async fn a_lease_goes_on_whoever_is_told_of_it() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let [a, b] = [0, 1].map(|_| EtcdStore::open(config.clone()).unwrap());
    let lease = a.grant(1_000, Timestamp(0)).await.unwrap();
    // The clock of the other is another one.
    let expire = |store: &EtcdStore, now| store.expire(Timestamp(now), Bytes::new());
    assert_eq!(expire(&b, 77_000).await, Ok(vec![]));
    b.keep_alive(lease, Timestamp(77_900)).await.unwrap();
    assert_eq!(expire(&a, 1_000).await, Ok(vec![]), "it is seen for the first time since it began anew");
    assert_eq!(expire(&b, 78_899).await, Ok(vec![]));
    a.keep_alive(lease, Timestamp(1_500)).await.unwrap();
    assert_eq!(expire(&b, 78_900).await, Ok(vec![]), "another was told of it");
    assert_eq!(expire(&b, 79_900).await, Ok(vec![lease]));
    assert_eq!(a.keep_alive(lease, Timestamp(1_600)).await, Err(Error::LeaseUnknown(lease)));
}

#[tokio::test]
async fn epochs_hold_for_all() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let [a, b] = [0, 1].map(|_| EtcdStore::open(config.clone()).unwrap());
    let under = |epoch, operations| Commit {
        fence: Some(crate::store::Fence { scope: "shop".into(), epoch: starlane_core::Epoch(epoch) }),
        ..commit(operations)
    };
    let write = || vec![Operation::put("k", Expect::Any, "v")];
    a.commit(under(3, write())).await.unwrap();
    b.commit(under(3, write())).await.unwrap();
    // Without a change there is no revision, but the epoch holds.
    a.commit(under(4, Vec::new())).await.unwrap();
    assert!(matches!(b.commit(under(3, write())).await, Err(Error::FenceStale { .. })));
    assert_eq!(a.revisions().newest, Revision(2));
}

#[tokio::test]
async fn what_etcd_forgets_is_not_missed() {
    let Some((store, _etcd)) = fresh() else { return };
    for n in 0..5 {
        store.commit(put(&format!("k{n}"), Expect::Absent, "v")).await.unwrap();
    }
    let mut old = store.snapshot(Bytes::new()).await.unwrap();
    let mut watch = store.watch(Bytes::new(), Revision(0));
    store.commit(put("k0", Expect::Present, "w")).await.unwrap();
    let client = &store.inner.reader.client;
    let (_, at) = client.get(Bytes::from("any"), Instant::now() + Duration::from_secs(5)).await.unwrap();
    client.compact(at).await.unwrap();
    assert!(
        matches!(old.next(10).await, Err(Error::Unreachable { .. })),
        "its pages would not be of one revision"
    );
    assert_eq!(store.snapshot(Bytes::new()).await.unwrap().next(10).await.unwrap().len(), 5);
    let again = EtcdStore::open(store.inner.config.clone()).unwrap();
    assert_eq!(again.commit(put("k1", Expect::Present, "w")).await, Ok(Revision(7)));
    for revision in 1..=7 {
        assert_eq!(next(&mut *watch).await.revision, Revision(revision));
    }
}

#[tokio::test]
async fn whoever_was_away_for_longer_than_the_history_is_told() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let way = Way::to(etcd.member(0));
    let away = EtcdStore::open(way.config(&config)).unwrap();
    let home = EtcdStore::open(config).unwrap();
    away.commit(put("a", Expect::Absent, "1")).await.unwrap();
    let mut watch = away.watch(Bytes::new(), Revision(1));
    way.swallow();
    for n in 0..20 {
        home.commit(put("a", Expect::Any, &n.to_string())).await.unwrap();
    }
    home.compact(Revision(15)).await.unwrap();
    way.heal();
    let until = Instant::now() + Duration::from_secs(30);
    while away.newest().await != Ok(Revision(21)) {
        assert!(Instant::now() < until);
    }
    assert_eq!(watch.next().await, Ok(Event::Compacted { oldest: Revision(15) }));
    let mut late = away.watch(Bytes::new(), Revision(14));
    for revision in 15..=21 {
        assert_eq!(next(&mut *late).await.revision, Revision(revision));
    }
    assert_eq!(away.commit(put("a", Expect::At(Revision(21)), "2")).await, Ok(Revision(22)));
}

#[tokio::test]
async fn what_is_none_of_ours_or_too_new_is_refused() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let store = EtcdStore::open(config.clone()).unwrap();
    let head = |value: &'static [u8]| {
        let put = rpc::RequestOp::put(store.inner.reader.layout.head(), Bytes::from_static(value));
        let txn = rpc::TxnRequest { success: vec![put], ..rpc::TxnRequest::default() };
        store.inner.reader.client.txn(txn)
    };
    head(&[2, 0, 0, 0]).await.unwrap();
    let name: Arc<str> = config.to_string().into();
    assert_eq!(
        EtcdStore::open(config.clone()).err(),
        Some(Error::FormatNewer { file: name, found: 2, known: 1 })
    );
    head(b"").await.unwrap();
    assert!(matches!(EtcdStore::open(config.clone()), Err(Error::Corrupt { .. })));
    assert!(matches!(store.commit(put("a", Expect::Any, "1")).await, Err(Error::Corrupt { .. })));
}

/// A view that is fed by one store goes on with another, which may not have heard of the newest commits yet.
#[tokio::test]
async fn whoever_goes_on_elsewhere_is_never_told_that_history_is_gone() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let [one, two] = [0, 1].map(|_| EtcdStore::open(config.clone()).unwrap());
    let served = crate::store::away::served(Arc::new(two.clone()), Arc::new(|| Timestamp(0)));
    let upstream = crate::flaky::Flaky::new(served, 1, crate::flaky::Faults::default());
    let remote = crate::store::RemoteStore::new(upstream, crate::store::away::quick());
    let mut behind = 0;
    for number in 0..50 {
        let seen = one.commit(put("a", Expect::Any, &number.to_string())).await.unwrap();
        behind += u64::from(two.revisions().newest < seen);
        let mut watch = remote.watch(Bytes::new(), seen);
        let after = one.commit(put("b", Expect::Any, &number.to_string())).await.unwrap();
        assert_eq!(next(&mut *watch).await.revision, after);
    }
    println!("{behind} times it was behind");
    assert!(behind > 0, "nothing was proved");
}

fn at(text: &str) -> Point {
    text.parse().unwrap()
}

#[tokio::test]
async fn states_are_guarded_by_epochs_whoever_writes() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let [one, two] = [0, 1].map(|_| EtcdStore::open(config.clone()).unwrap().states());
    let (cart, other) = (at("shop:cart"), at("shop:other"));
    assert_eq!(one.get(&cart).await.unwrap(), None);
    assert_eq!(one.claim(&cart, Epoch(3)).await.unwrap(), None);
    assert_eq!(one.get(&cart).await.unwrap(), None, "a claim is no state");
    one.commit(&cart, Epoch(3), "three".into()).await.unwrap();
    one.commit(&cart, Epoch(3), "again".into()).await.unwrap();
    assert_eq!(two.get(&cart).await.unwrap(), Some((Epoch(3), "again".into())));
    assert_eq!(two.claim(&cart, Epoch(4)).await.unwrap(), Some("again".into()));
    // The one before does not know yet that it is over.
    let stale = Error::FenceStale { scope: "shop:cart".into(), epoch: Epoch(4) };
    assert_eq!(one.commit(&cart, Epoch(3), "late".into()).await, Err(stale.clone()));
    assert_eq!(one.claim(&cart, Epoch(3)).await, Err(stale));
    assert_eq!(two.claim(&cart, Epoch(4)).await.unwrap(), Some("again".into()), "claimed again");
    two.commit(&cart, Epoch(4), "four".into()).await.unwrap();
    one.commit(&other, Epoch(1), "other".into()).await.unwrap();
    assert_eq!(one.list(None, 10).await.unwrap(), [cart.clone(), other.clone()]);
    assert_eq!(one.list(Some(&cart), 10).await.unwrap(), std::slice::from_ref(&other));
    let large = vec![7; ETCD_STATE_BYTES_MAX];
    one.commit(&other, Epoch(1), large.clone().into()).await.unwrap();
    assert!(two.get(&other).await.unwrap() == Some((Epoch(1), large.clone().into())));
    let too_large = one.commit(&other, Epoch(1), [&large[..], b"x"].concat().into()).await.unwrap_err();
    assert!(
        matches!(&too_large, Error::TooLarge(reason) if reason.contains("durability=mesh")),
        "{too_large}"
    );
    // Who is late to forget what is gone does not forget what came after it.
    one.delete_until(&cart, Epoch(3)).await.unwrap();
    assert_eq!(one.get(&cart).await.unwrap(), Some((Epoch(4), "four".into())));
    one.delete_until(&cart, Epoch(4)).await.unwrap();
    one.delete(&other).await.unwrap();
    one.delete(&other).await.unwrap();
    assert_eq!(two.list(None, 10).await.unwrap(), []);
    // Nothing of it is a record.
    two.commit(&cart, Epoch(1), "new".into()).await.unwrap();
    assert_eq!(EtcdStore::open(config).unwrap().revisions().newest, Revision(0));
}

#[tokio::test]
async fn a_state_whose_answer_was_lost_is_found_and_written_once() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let way = Way::to(etcd.member(0));
    let far = EtcdStore::open(way.config(&config)).unwrap().states();
    let store = EtcdStore::open(config).unwrap();
    let near = store.states();
    let cart = at("shop:cart");
    for round in 1..=5_u64 {
        let state = Bytes::from(round.to_string());
        way.swallow();
        let written = tokio::spawn({
            let (far, cart, state) = (far.clone(), cart.clone(), state.clone());
            async move { far.commit(&cart, Epoch(7), state).await }
        });
        while near.get(&cart).await.unwrap() != Some((Epoch(7), state.clone())) {
            tokio::task::yield_now().await;
        }
        way.heal();
        written.await.unwrap().unwrap();
        let Reader { client, layout, .. } = &*store.inner.reader;
        let until = Instant::now() + Duration::from_secs(5);
        let (row, _) = client.get(layout.state("shop:cart"), until).await.unwrap();
        assert_eq!(row.unwrap().version as u64, round, "it was written again");
    }
}

#[tokio::test]
async fn what_is_made_after_a_delete_whose_answer_was_lost_stays() {
    let Some(etcd) = Etcd::shared() else { return };
    let config = config(&etcd);
    let way = Way::to(etcd.member(0));
    let far = EtcdStore::open(way.config(&config)).unwrap().states();
    let near = EtcdStore::open(config).unwrap().states();
    let cart = at("shop:cart");
    for round in 1..=5_u64 {
        // Whoever wrote it need not look before he takes it away.
        far.commit(&cart, Epoch(round), "old".into()).await.unwrap();
        way.swallow();
        let forgotten = tokio::spawn({
            let (far, cart) = (far.clone(), cart.clone());
            async move { far.delete(&cart).await }
        });
        while near.get(&cart).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        near.commit(&cart, Epoch(1), "new".into()).await.unwrap();
        way.heal();
        forgotten.await.unwrap().unwrap();
        assert_eq!(near.get(&cart).await.unwrap(), Some((Epoch(1), "new".into())), "round {round}");
        near.delete(&cart).await.unwrap();
    }
}

#[tokio::test]
async fn a_user_of_etcd_is_let_in_again_when_his_token_is_gone_and_nothing_is_done_twice() {
    let Some(mut etcd) = Etcd::start(1) else { return };
    let open = config(&etcd);
    drop(EtcdStore::open(open.clone()).unwrap());
    etcd.admit("mesh", "the-secret", &open.prefix);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let as_user = |config: &EtcdConfig| {
        let user = EtcdUser { name: "mesh".to_owned(), password: file.clone() };
        EtcdStore::open(EtcdConfig { user: Some(user), ..config.clone() })
    };
    let denied = |opened: Result<EtcdStore, Error>| match opened {
        Err(error @ Error::Denied { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };

    let told = denied(EtcdStore::open(open.clone()));
    assert!(told.contains("user name is empty"), "{told}");
    let told = denied(as_user(&open));
    assert!(told.contains("password: No such file"), "{told}");
    write("the-wrong-one");
    let told = denied(as_user(&open));
    assert!(told.contains("user `mesh`") && told.contains("invalid user ID or password"), "{told}");
    assert!(told.contains(&*file.to_string_lossy()) && !told.contains("the-wrong-one"), "{told}");
    write("the-secret\n");
    let told = denied(as_user(&config(&etcd)));
    assert!(told.contains("permission denied"), "{told}");

    let store = as_user(&open).unwrap();
    let mut watch = store.watch(Bytes::new(), Revision(0));
    let mut written = 0;
    let mut again = async |store: &EtcdStore| {
        store.commit(put("k", Expect::Any, "v")).await.unwrap();
        written += 1;
        written
    };
    again(&store).await;
    // Who starts anew knows no token.
    etcd.kill(0);
    etcd.restart(0);
    again(&store).await;
    // Nor are they of any use once something of the users is another.
    let root = etcd.root();
    etcd.administer(&root, "role/add", "{\"name\":\"another\"}");
    etcd.administer(&root, "user/grant", "{\"user\":\"mesh\",\"role\":\"another\"}");
    again(&store).await;

    // Another password: refused until it is in the file, and then as before, without a restart.
    etcd.administer(&root, "user/changepw", "{\"name\":\"mesh\",\"password\":\"the-next\"}");
    let error = store.commit(put("k", Expect::Any, "v")).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    write("the-next");
    let begun = Instant::now();
    while let Err(error) = store.commit(put("k", Expect::Any, "v")).await {
        let waits = begun.elapsed() < Duration::from_secs(20);
        assert!(waits && matches!(error, Error::Denied { .. }), "{error:?}");
    }
    assert_eq!(read(&store, "k").await.unwrap().version, written + 1);
    for revision in 1..=written + 1 {
        assert_eq!(next(&mut *watch).await.revision, Revision(revision));
    }
}
