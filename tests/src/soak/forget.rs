//! Promise 2 where the history is short: a watch that is too slow for it is told so, lists again, and is right in the end;
//! the others miss, repeat, reorder and split nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use resource_registry::store::{EtcdConfig, EtcdStore};
use resource_registry::{Backing, Clock, Config, Create, Op, Registry};
use starlane_core::{Agent, Change, Event, Point, PropertyChange, Revision, Selector, Timestamp, Value};

use super::Report;
use super::linear::Store;
use super::told::{Commits, Told};
use crate::etcd::Etcd;
use crate::seeded::Random;

const WRITERS: usize = 4;
/// How many revisions are kept when the history is forgotten.
const KEPT: u64 = 200;
/// Each how many steps a watch stops for a while, and how far behind the slow ones are then.
const STEPS: usize = 100;
const BEHIND: u64 = 3 * KEPT;
/// How often a watch that stopped looks how far behind it is.
const LOOK: Duration = Duration::from_millis(5);
const END: &str = "watched:end";

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Forgetting {
    /// Where the registry is.
    pub store: Store,
    /// How many watch. Each fifth stops now and then for longer than the history is kept, the others go on with their token.
    pub watches: usize,
    /// How many commits there are, each of several changes.
    pub commits: usize,
    /// How often the history is forgotten.
    pub every: Duration,
}

/// Watches a registry of this process. `None` when there is no etcd and one is asked for.
///
/// # Panics
/// When the store fails.
pub fn watches_while_the_history_is_forgotten(asked: Forgetting) -> Option<Report> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let etcd = match asked.store {
        Store::Embedded => None,
        Store::Etcd => Some(Etcd::start(1)?),
    };
    let backing = match &etcd {
        None => Backing::File(folder.path().join("registry.redb")),
        Some(etcd) => {
            let config = EtcdConfig::at(&etcd.address("forget")).expect("an address");
            Backing::Store(Arc::new(EtcdStore::open(config).expect("etcd answers")))
        }
    };
    let registry = Registry::open(Config::on(backing, clock())).expect("the registry opens");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let report = runtime.expect("a runtime").block_on(run(registry, asked));
    Some(report)
}

fn clock() -> Clock {
    Arc::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(now.as_millis()).unwrap_or_default())
    })
}

async fn run(registry: Registry, asked: Forgetting) -> Report {
    registry.create(&by(), Create::new(point("watched"), kind("Space"))).await.expect("it is made");
    let (commits, left) = (Arc::new(Commits::default()), Arc::new(AtomicUsize::new(asked.commits)));
    let (over, resumed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watches: Vec<_> = (0..asked.watches)
        .map(|number| {
            let (registry, commits) = (registry.clone(), commits.clone());
            let (over, resumed) = (over.clone(), resumed.clone());
            tokio::spawn(async move { watch(&registry, number % 5 == 0, &commits, &over, &resumed).await })
        })
        .collect();
    let forgets = {
        let (registry, over) = (registry.clone(), over.clone());
        tokio::spawn(async move { forget(&registry, asked.every, &over).await })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let (registry, left) = (registry.clone(), left.clone());
            tokio::spawn(async move { write(&registry, number, &left).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    over.store(true, Ordering::Relaxed);
    let forgotten = forgets.await.expect("it forgets");
    registry.create(&by(), Create::new(point(END), kind("Base"))).await.expect("it is made");
    let mut told = Vec::new();
    for watch in watches {
        told.push(watch.await.expect("a watch"));
    }
    let all = Arc::into_inner(commits).expect("all watches ended").all();
    let there = registry.select(&selector(), usize::MAX, None).expect("it can be read").resources;
    let there = there.iter().map(|resource| (resource.point.to_string(), resource.modified.0)).collect();
    let sum = |count: fn(&Told) -> usize| told.iter().map(count).sum::<usize>();
    let mut report = Report::of("P02");
    report.figure("store", asked.store);
    report.figure("watches", told.len());
    report.at_least("commits", all.len(), asked.commits);
    report.at_least("forgotten", forgotten, 5);
    report.at_least("gone", sum(|told| told.gone), 1);
    report.at_least("resumed", resumed.load(Ordering::Relaxed), asked.watches);
    report.none("missed", told.iter().map(|told| told.missed(&all)).sum());
    report.none("repeated", sum(|told| told.repeated));
    report.none("reordered", sum(|told| told.reordered));
    report
        .none("split", sum(|told| told.split) + all.values().filter(|commit| commit.len() == 1).count() - 1);
    report.none("not_as_in_the_store", told.iter().filter(|told| told.there != there).count());
    report
}

fn by() -> Agent {
    Agent(Point::root())
}

fn point(text: &str) -> Point {
    text.parse().expect("a point")
}

fn kind(text: &str) -> starlane_core::Kind {
    text.parse().expect("a kind")
}

fn selector() -> Selector {
    "watched:**".parse().expect("a selector")
}

/// Forgets all but the newest revisions until it is over; answers how often there was something to forget.
async fn forget(registry: &Registry, every: Duration, over: &AtomicBool) -> usize {
    let (mut times, mut forgotten) = (tokio::time::interval(every), 0);
    while !over.load(Ordering::Relaxed) {
        times.tick().await;
        let before = registry.revision().0.saturating_sub(KEPT);
        if before > registry.revisions().oldest.0 {
            registry.compact(Revision(before)).await.expect("it can forget");
            forgotten += 1;
        }
    }
    forgotten
}

/// Makes two resources at once, changes both at once, and takes both away at once, or leaves them.
async fn write(registry: &Registry, by_number: usize, left: &AtomicUsize) {
    let mut random = Random::new(by_number as u64);
    for number in 0.. {
        let points = ["a", "b"].map(|name| point(&format!("watched:{name}{by_number}-{number}")));
        let create = |point: &Point| Op::Create(Create::new(point.clone(), kind("Base")));
        let mut batches = vec![points.iter().map(create).collect::<Vec<_>>()];
        for step in 0..random.below(4) {
            let value = Value::Number(step.into());
            let key = "step".parse().expect("a key");
            let change = PropertyChange::Set { key, value, lock: false };
            let set =
                |point: &Point| Op::Set { point: point.clone(), changes: vec![change.clone()], expect: None };
            batches.push(points.iter().map(set).collect());
        }
        if random.chance(0.8) {
            let delete = |point: &Point| Op::Delete { point: point.clone(), expect: None };
            batches.push(points.iter().map(delete).collect());
        }
        for batch in batches {
            let enough = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if enough.is_err() {
                return;
            }
            registry.batch(&by(), batch).await.expect("it is done");
        }
    }
}

/// Watches until the last is made.
async fn watch(
    registry: &Registry,
    slow: bool,
    commits: &Commits,
    over: &AtomicBool,
    resumed: &AtomicUsize,
) -> Told {
    let (mut told, mut token) = (Told::default(), None);
    loop {
        told.opened();
        resumed.fetch_add(usize::from(token.is_some()), Ordering::Relaxed);
        let mut watch = registry.watch(&selector(), token).expect("there is room for it");
        let mut seen = 0;
        for step in 1.. {
            let Some(event) = watch.next().await else {
                token = None;
                break;
            };
            match event {
                Event::Listed { resources, revision, last } => {
                    seen = revision.0;
                    let page = resources.iter().map(|one| (one.point.to_string(), one.modified.0));
                    told.listed(revision.0, page, last);
                }
                Event::Changed { revision, changes } => {
                    seen = revision.0;
                    told.changed(revision.0, changes.iter().map(change).collect(), commits);
                }
                Event::Gone { .. } => told.gone(),
                Event::Bookmark { .. } | Event::Counted { .. } | Event::Ranked { .. } => {}
            }
            if told.there.contains_key(END) {
                return told;
            }
            if step % STEPS == 0 && slow {
                let mut looks = tokio::time::interval(LOOK);
                while registry.revision().0 < seen + BEHIND && !over.load(Ordering::Relaxed) {
                    looks.tick().await;
                }
            } else if step % STEPS == 0 {
                token = Some(watch.token());
                break;
            }
        }
    }
}

fn change(change: &Change) -> (String, char, u64) {
    let kind = match change {
        Change::Entered(_) => 'e',
        Change::Updated(_) => 'u',
        Change::Left(_) => 'l',
    };
    let resource = change.resource();
    (resource.point.to_string(), kind, resource.modified.0)
}
