//! The registry against a model that is obviously right: a sorted map, and all that was committed to it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use starlane_core::{
    Agent, Change, CreateMode, Event, Point, PropertyChange, Resource, ResumeToken, Selector, Value,
};

use super::records::root;
use super::*;
use crate::watch::Watch;

const POINTS: [&str; 9] = ["a", "a:b", "a:b:c", "a:b:d", "a-b", "d", "d:e", "d:e:f", "d:b"];
const KINDS: [&str; 2] = ["Base", "App"];
const SELECTORS: [&str; 8] =
    ["ROOT+**", "a:**", "a+:**", "*", "a:*", "**<App>", "**[x = \"1\"]", "a:**<Base>[not exists(x)]"];

#[derive(Debug, Clone)]
pub(super) enum Act {
    Create { point: usize, kind: usize, mode: CreateMode, x: Option<u8> },
    Set { point: usize, x: Option<u8> },
    Delete { point: usize, recursive: bool },
    DeleteSelected { selector: usize, recursive: bool },
    Batch(Vec<Act>),
    Watch(usize),
    Resume(usize),
    Read(usize),
    Reopen,
}

pub(super) fn single() -> impl Strategy<Value = Act> {
    let modes = prop::sample::select(vec![CreateMode::New, CreateMode::Ensure, CreateMode::Override]);
    let x = || prop::option::of(0u8..3);
    prop_oneof![
        6 => (0..POINTS.len(), 0..KINDS.len(), modes, x())
            .prop_map(|(point, kind, mode, x)| Act::Create { point, kind, mode, x }),
        4 => (0..POINTS.len(), x()).prop_map(|(point, x)| Act::Set { point, x }),
        2 => (0..POINTS.len(), any::<bool>()).prop_map(|(point, recursive)| Act::Delete { point, recursive }),
    ]
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => single(),
        1 => (1..SELECTORS.len(), any::<bool>())
            .prop_map(|(selector, recursive)| Act::DeleteSelected { selector, recursive }),
        2 => prop::collection::vec(single().prop_filter("no trees", |act| !matches!(act, Act::Delete { recursive: true, .. })), 1..4)
            .prop_map(Act::Batch),
        2 => (0..SELECTORS.len()).prop_map(Act::Watch),
        2 => any::<usize>().prop_map(Act::Resume),
        2 => any::<usize>().prop_map(Act::Read),
        1 => Just(Act::Reopen),
    ]
}

#[derive(Clone, PartialEq)]
pub(super) struct Thing {
    kind: usize,
    x: Option<u8>,
}

pub(super) type Things = BTreeMap<&'static str, Thing>;

fn parent(point: &str) -> Option<&str> {
    point.rsplit_once(':').map(|(parent, _)| parent)
}

fn below<'a>(things: &'a Things, point: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let prefix = format!("{point}:");
    things.keys().copied().filter(move |known| known.starts_with(&prefix))
}

/// What an act makes of the model; `None` when it is refused.
pub(super) fn after(things: &Things, act: &Act) -> Option<Things> {
    let mut next = things.clone();
    match act {
        Act::Create { point, kind, mode, x } => {
            let point = POINTS[*point];
            match things.get(point) {
                Some(_) if *mode == CreateMode::New => return None,
                Some(known) if known.kind != *kind => return None,
                Some(_) if *mode == CreateMode::Ensure => {}
                None if parent(point).is_some_and(|parent| !things.contains_key(parent)) => return None,
                _ => drop(next.insert(point, Thing { kind: *kind, x: *x })),
            }
        }
        Act::Set { point, x } => next.get_mut(POINTS[*point])?.x = *x,
        Act::Delete { point, recursive } => {
            let point = POINTS[*point];
            things.get(point)?;
            let children: Vec<_> = below(things, point).collect();
            if !children.is_empty() && !recursive {
                return None;
            }
            next.retain(|known, _| *known != point && !children.contains(known));
        }
        Act::DeleteSelected { selector, recursive } => {
            let mut gone: Vec<&'static str> = Vec::new();
            for (point, thing) in things {
                if matches(&SELECTORS[*selector].parse().unwrap(), point, thing) {
                    gone.push(*point);
                }
            }
            for point in gone.clone() {
                for child in below(things, point) {
                    if !gone.contains(&child) {
                        if !recursive {
                            return None;
                        }
                        gone.push(child);
                    }
                }
            }
            next.retain(|known, _| !gone.contains(known));
        }
        Act::Batch(acts) => {
            for act in acts {
                next = after(&next, act)?;
            }
        }
        _ => {}
    }
    Some(next)
}

/// A thing as the resource that it would be, as far as selectors look at it.
fn resource(point: &str, thing: &Thing) -> Resource {
    let mut resource = Resource { point: point.parse().unwrap(), ..root() };
    resource.kind = KINDS[thing.kind].parse().unwrap();
    if let Some(x) = thing.x {
        let value = Value::text(x.to_string());
        resource.properties.insert("x".parse().unwrap(), starlane_core::Property { value, locked: false });
    }
    resource
}

fn matches(selector: &Selector, point: &str, thing: &Thing) -> bool {
    selector.matches(&resource(point, thing))
}

/// What is compared of a resource: its point, its kind, its property.
fn essence(resource: &Resource) -> String {
    format!("{resource} {:?}", resource.property("x").map(Value::to_string))
}

/// What a watch should have told of each commit, and what it told.
struct Watcher {
    selector: Selector,
    watch: Option<Watch>,
    token: ResumeToken,
    expected: std::collections::VecDeque<(Revision, Vec<String>)>,
    list: Option<Vec<String>>,
}

impl Watcher {
    fn expect(&mut self, revision: Revision, before: &Things, after: &Things) {
        let seen = |things: &Things, point: &str| {
            let thing = things.get(point)?;
            matches(&self.selector, point, thing).then(|| resource(point, thing))
        };
        let mut changes = Vec::new();
        for point in POINTS {
            if before.get(point) == after.get(point) {
                continue;
            }
            match (seen(before, point), seen(after, point)) {
                (None, None) => {}
                (None, Some(now)) => changes.push(format!("entered {}", essence(&now))),
                (Some(_), Some(now)) => changes.push(format!("updated {}", essence(&now))),
                (Some(last), None) => changes.push(format!("left {}", essence(&last))),
            }
        }
        if !changes.is_empty() {
            changes.sort();
            self.expected.push_back((revision, changes));
        }
    }

    /// Reads until everything up to a revision was told.
    async fn read(&mut self, until: Revision) {
        let Some(watch) = &mut self.watch else { return };
        while self.list.is_some() || !self.expected.is_empty() || watch.token().revision < until {
            match watch.next().await.expect("the watch goes on") {
                Event::Listed { resources, last, .. } => {
                    assert!(last);
                    let told: Vec<_> = resources.iter().map(|resource| essence(resource)).collect();
                    assert_eq!(Some(told), self.list.take(), "{}", self.selector);
                }
                Event::Changed { revision, changes } => {
                    let mut told: Vec<_> = changes
                        .iter()
                        .map(|change| match change {
                            Change::Entered(now) => format!("entered {}", essence(now)),
                            Change::Updated(now) => format!("updated {}", essence(now)),
                            Change::Left(last) => format!("left {}", essence(last)),
                        })
                        .collect();
                    told.sort();
                    assert_eq!(Some((revision, told)), self.expected.pop_front(), "{}", self.selector);
                }
                Event::Bookmark { revision } => {
                    let missed = self.expected.front().filter(|(at, _)| *at <= revision);
                    assert!(missed.is_none(), "{} was not told {missed:?}", self.selector);
                }
                Event::Gone { .. } => panic!("nothing was compacted"),
                other => panic!("{other:?} of a selector"),
            }
            self.token = watch.token();
        }
    }
}

async fn run(acts: Vec<Act>) {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let config = Config::at(folder.path().join("registry.redb"), Arc::new(|| Timestamp(1)));
        Registry::open(Config { bookmark_every: Duration::from_millis(1), ..config }).unwrap()
    };
    let by = Agent(Point::root());
    let mut registry = open();
    let mut things = Things::new();
    let mut watchers: Vec<Watcher> = Vec::new();
    for act in acts {
        match &act {
            Act::Watch(selector) => {
                let selector: Selector = SELECTORS[*selector].parse().unwrap();
                let watch = registry.watch(&selector, None).unwrap();
                let listed = things.iter().filter(|(point, thing)| matches(&selector, point, thing));
                let mut list: Vec<_> =
                    listed.map(|(point, thing)| essence(&resource(point, thing))).collect();
                if selector.matches(&root()) {
                    list.insert(0, essence(&root()));
                }
                let token = watch.token();
                let expected = Default::default();
                watchers.push(Watcher { selector, watch: Some(watch), token, expected, list: Some(list) });
            }
            Act::Read(n) if !watchers.is_empty() => {
                let n = n % watchers.len();
                watchers[n].read(registry.revision()).await;
            }
            Act::Resume(n) if !watchers.is_empty() => {
                let n = n % watchers.len();
                resume(&registry, &mut watchers[n], &things);
            }
            Act::Read(_) | Act::Resume(_) => {}
            Act::Reopen => {
                for watcher in &mut watchers {
                    watcher.watch = None;
                }
                drop(registry);
                registry = open();
                for watcher in &mut watchers {
                    resume(&registry, watcher, &things);
                }
            }
            act => {
                let before = registry.revision();
                let expected = after(&things, act);
                let done = perform(&registry, &by, act).await;
                assert_eq!(done.is_ok(), expected.is_some(), "{act:?}: {done:?}");
                let next = expected.unwrap_or_else(|| things.clone());
                let now = registry.revision();
                assert_eq!(now.0 - before.0, u64::from(next != things), "{act:?}");
                for watcher in &mut watchers {
                    watcher.expect(now, &things, &next);
                }
                things = next;
            }
        }
        check(&registry, &things);
    }
    for watcher in &mut watchers {
        watcher.read(registry.revision()).await;
    }
}

fn resume(registry: &Registry, watcher: &mut Watcher, things: &Things) {
    watcher.watch = None;
    let watch = registry.watch(&watcher.selector, Some(watcher.token)).unwrap();
    if watcher.token.revision.0 == 0 {
        // It was not listed before, so it lists what is there now.
        watcher.expected.clear();
        let listed = things.iter().filter(|(point, thing)| matches(&watcher.selector, point, thing));
        let mut list: Vec<_> = listed.map(|(point, thing)| essence(&resource(point, thing))).collect();
        if watcher.selector.matches(&root()) {
            list.insert(0, essence(&root()));
        }
        watcher.list = Some(list);
    }
    watcher.watch = Some(watch);
}

pub(super) async fn perform(registry: &Registry, by: &Agent, act: &Act) -> Result<(), Error> {
    match act {
        Act::Delete { point, recursive } => {
            let delete = Delete::point(POINTS[*point].parse().unwrap(), *recursive);
            registry.delete(by, delete).await.map(drop)
        }
        Act::DeleteSelected { selector, recursive } => {
            let delete = Delete::selector(SELECTORS[*selector].parse().unwrap(), *recursive);
            registry.delete(by, delete).await.map(drop)
        }
        Act::Batch(acts) => registry.batch(by, acts.iter().map(op).collect()).await.map(drop),
        act => registry.batch(by, vec![op(act)]).await.map(drop),
    }
}

fn op(act: &Act) -> Op {
    let change = |x: Option<u8>| {
        let key = "x".parse().unwrap();
        match x {
            Some(x) => PropertyChange::Set { key, value: Value::text(x.to_string()), lock: false },
            None => PropertyChange::Unset(key),
        }
    };
    match act {
        Act::Create { point, kind, mode, x } => Op::Create(Create {
            mode: *mode,
            changes: vec![change(*x)],
            ..Create::new(POINTS[*point].parse().unwrap(), KINDS[*kind].parse().unwrap())
        }),
        Act::Set { point, x } => {
            Op::Set { point: POINTS[*point].parse().unwrap(), changes: vec![change(*x)], expect: None }
        }
        Act::Delete { point, .. } => Op::Delete { point: POINTS[*point].parse().unwrap(), expect: None },
        other => panic!("{other:?} is no part of a batch"),
    }
}

/// All resources of a registry, as far as they are compared.
pub(super) fn contents(registry: &Registry) -> Vec<String> {
    let found = registry.select(&"**".parse().unwrap(), 100, None).unwrap().resources;
    found.iter().map(|found| essence(found)).collect()
}

/// What the registry should show.
pub(super) fn described(things: &Things) -> Vec<String> {
    things.iter().map(|(point, thing)| essence(&resource(point, thing))).collect()
}

fn check(registry: &Registry, things: &Things) {
    for text in SELECTORS {
        let selector: Selector = text.parse().unwrap();
        let found = registry.select(&selector, 100, None).unwrap().resources;
        let found: Vec<_> =
            found.iter().filter(|found| !found.point.is_root()).map(|found| essence(found)).collect();
        let expected = things.iter().filter(|(point, thing)| matches(&selector, point, thing));
        let expected: Vec<_> = expected.map(|(point, thing)| essence(&resource(point, thing))).collect();
        assert_eq!(found, expected, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_is_its_model(acts in prop::collection::vec(acts(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(run(acts));
    }
}
