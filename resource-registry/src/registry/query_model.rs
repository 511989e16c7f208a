//! Watches of what is counted and ranked, against the same question asked of a copy of everything after each commit.

use std::time::Duration;

use proptest::prelude::*;
use starlane_core::{Code, Event, Query, Resource, ResumeToken};

use super::model::{Act, perform, single};
use super::tests::{ann, clock, code, make, point, registry, set};
use super::*;

const QUERIES: [&str; 7] = [
    "count(**)",
    "count(a:**)",
    "count(**[x = 1])",
    "first 1 by x of **",
    "first 2 by x desc of **",
    "first 3 by x of a+:**<App>",
    "first 1 by x desc of a:**[exists(x)]",
];

#[derive(Debug, Clone)]
enum Step {
    Act(Act),
    /// Reads so many steps of a watch, and then perhaps begins a new one where it was.
    Read(usize, usize, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => single().prop_map(Step::Act),
        2 => (0..QUERIES.len(), 1usize..4, any::<bool>()).prop_map(|(n, times, again)| Step::Read(n, times, again)),
    ]
}

/// The answer, obviously right.
fn answer(query: &Query, state: &[Arc<Resource>]) -> String {
    let meant = state.iter().filter(|resource| query.selector().matches(resource));
    match query {
        Query::Select(_) => unreachable!("it is no aggregate"),
        Query::Count(_) => meant.count().to_string(),
        Query::First(first) => {
            let number = |resource: &&Arc<Resource>| resource.property("x").and_then(|x| x.as_number());
            let mut ranked: Vec<_> = meant.filter(|resource| number(resource).is_some()).collect();
            ranked.sort_by(|a, b| {
                let order = number(a).partial_cmp(&number(b)).unwrap();
                let order = if first.descending { order.reverse() } else { order };
                order.then(a.point.cmp(&b.point))
            });
            shown(ranked.into_iter().take(first.limit))
        }
    }
}

fn shown<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> String {
    resources.map(|resource| format!("{resource} {};", resource.modified)).collect()
}

struct Watcher {
    query: Query,
    watch: QueryWatch,
    /// What was told last, and up to where.
    told: Option<String>,
    at: usize,
}

impl Watcher {
    /// Reads one step, or finds that there is none to come.
    async fn read(&mut self, states: &[Vec<Arc<Resource>>]) -> bool {
        let (revision, now) = match self.watch.next().await.expect("it goes on") {
            Event::Counted { revision, count } => (revision, Some(count.to_string())),
            Event::Ranked { revision, resources } => (revision, Some(shown(resources.iter()))),
            Event::Bookmark { revision } => (revision, None),
            other => panic!("{other:?}"),
        };
        let until = revision.0 as usize;
        let of = |at: usize| answer(&self.query, &states[at]);
        if let Some(told) = &self.told {
            // Nothing was left out between, and nothing was told that was so already.
            let quiet = self.at..if now.is_some() { until } else { until + 1 };
            for at in quiet {
                assert_eq!(of(at), *told, "{} at {at}", self.query);
            }
        }
        if let Some(now) = now {
            assert_eq!(now, of(until), "{} at {until}", self.query);
            assert_ne!(Some(&now), self.told.as_ref(), "{} told it twice", self.query);
            self.told = Some(now);
        }
        self.at = until;
        assert_eq!(self.watch.token(), ResumeToken::new(revision, &self.query.to_string()));
        until + 1 < states.len()
    }
}

async fn run(steps: Vec<Step>) {
    let config = Config { bookmark_every: Duration::from_millis(1), ..Config::in_memory(clock()) };
    let registry = Registry::open(config).unwrap();
    let everything: starlane_core::Selector = "ROOT+**".parse().unwrap();
    let now = || registry.select(&everything, usize::MAX, None).unwrap().resources;
    let mut states = vec![now()];
    let mut watchers = Vec::new();
    for text in QUERIES {
        let query: Query = text.parse().unwrap();
        let watch = registry.watch_query(&query, None).await.unwrap();
        watchers.push(Watcher { query, watch, told: None, at: 0 });
    }
    for step in steps {
        match step {
            Step::Act(act) => {
                drop(perform(&registry, &ann(), &act).await);
                while states.len() as u64 <= registry.revision().0 {
                    states.push(now());
                }
            }
            Step::Read(n, times, again) => {
                let watcher = &mut watchers[n];
                for _ in 0..times {
                    if !watcher.read(&states).await {
                        break;
                    }
                }
                if again {
                    let token = watcher.watch.token();
                    if token.revision == Revision(0) {
                        // It begins anew.
                        watcher.told = None;
                    }
                    watcher.watch = registry.watch_query(&watcher.query, Some(token)).await.unwrap();
                }
            }
        }
    }
    for watcher in &mut watchers {
        while watcher.read(&states).await {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn each_answer_is_that_of_a_commit(steps in prop::collection::vec(steps(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(run(steps));
    }
}

#[tokio::test]
async fn a_token_is_that_of_its_query_and_one_too_old_is_gone() {
    let registry = registry().await;
    let query: Query = "count(shop:*)".parse().unwrap();
    let mut watch = registry.watch_query(&query, None).await.unwrap();
    assert_eq!(watch.token().revision, Revision(0), "nothing was told yet");
    assert!(matches!(watch.next().await, Some(Event::Counted { count: 0, .. })));
    let token = watch.token();
    let other: Query = "first 1 by n of shop:*".parse().unwrap();
    let mixed = registry.watch_query(&other, Some(token)).await.err().unwrap();
    assert_eq!(code(mixed), Code::WatchMismatch);
    for n in 0..3 {
        registry.create(&ann(), make(&format!("shop:n{n}"), "Base")).await.unwrap();
    }
    registry.compact(registry.revision()).await.unwrap();
    let mut late = registry.watch_query(&query, Some(token)).await.unwrap();
    assert!(matches!(late.next().await, Some(Event::Gone { .. })));
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn the_first_are_found_again_when_many_of_them_leave() {
    let registry = registry().await;
    for n in 0..20u64 {
        let create =
            Create { changes: vec![set("n", &*n.to_string())], ..make(&format!("shop:n{n}"), "Base") };
        registry.create(&ann(), create).await.unwrap();
    }
    let query: Query = "first 3 by n of shop:*".parse().unwrap();
    let mut watch = registry.watch_query(&query, None).await.unwrap();
    watch.next().await.unwrap();
    for n in 0..18u64 {
        registry.delete(&ann(), Delete::point(point(&format!("shop:n{n}")), false)).await.unwrap();
        let Some(Event::Ranked { revision, resources }) = watch.next().await else { panic!("not told") };
        assert_eq!(revision, registry.revision());
        let points: Vec<_> = resources.iter().map(|resource| resource.point.to_string()).collect();
        let expected: Vec<_> = (n + 1..20).take(3).map(|n| format!("shop:n{n}")).collect();
        assert_eq!(points, expected);
    }
}
