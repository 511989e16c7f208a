//! Hands each commit to the watches that it concerns. A commit costs what matches it, not what watches.
//!
//! Watches are found by where their selectors begin, by the kind, and by one property whose value the filter names
//! (`owner = "ann"`) or which it asks to be a number of a range (`total >= 100`). Those that want more of a resource are asked
//! whether they match.

mod bands;
mod numbers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;
use starlane_core::{Base, Change, Key, Point, Range, Resource, Revision, Scope, Selector};
use tokio::sync::Notify;

use self::bands::Bands;
use self::numbers::Numbers;
use crate::view::{hashes, property_hash};

/// The most commits that wait for one watch in memory; it reads the rest from the log when it comes to it.
const WAITING_MAX: usize = 256;
/// The most bytes of resources that wait for one watch.
const WAITING_BYTES_MAX: usize = 512 * 1024;

/// For how many commits an empty mailbox keeps room.
const KEPT_MAX: usize = 4;

/// What one commit did to one resource.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) before: Option<Arc<Resource>>,
    pub(crate) after: Option<Arc<Resource>>,
    /// About how large it is.
    pub(crate) bytes: usize,
}

impl Step {
    /// As it is after the commit, or was before when it is gone.
    pub(crate) fn resource(&self) -> Option<&Arc<Resource>> {
        self.after.as_ref().or(self.before.as_ref())
    }

    /// As it was before and as it is after.
    fn sides(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.before.iter().chain(&self.after)
    }
}

/// What a commit changed in a selector's answer.
pub(crate) fn relative<'a>(selector: &Selector, steps: impl IntoIterator<Item = &'a Step>) -> Vec<Change> {
    let matching =
        |resource: &'a Option<Arc<Resource>>| resource.as_ref().filter(|resource| selector.matches(resource));
    let change = |step: &'a Step| match (matching(&step.before), matching(&step.after)) {
        (None, None) => None,
        (None, Some(after)) => Some(Change::Entered(after.clone())),
        (Some(_), Some(after)) => Some(Change::Updated(after.clone())),
        (Some(before), None) => Some(Change::Left(before.clone())),
    };
    steps.into_iter().filter_map(change).collect()
}

pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Watches of the same selector, by a number that is given again when they are gone.
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    /// The groups by the hash of their selectors' text.
    by_text: HashMap<u64, Numbers>,
    /// The groups by where their selectors begin, and by the kind that they want.
    by_scope: HashMap<(Point, Option<Base>), Slot>,
    watches: usize,
    dispatched: Revision,
    closed: bool,
}

/// The groups of one scope. Each stands in one place: under a property that all it wants must have, or with the others.
#[derive(Default)]
struct Slot {
    others: Numbers,
    /// By the hash of a property and its value.
    by_property: HashMap<u64, Numbers>,
    /// By a property that must be a number of a range.
    by_range: HashMap<Key, Bands>,
}

/// Where in its slot a group stands.
enum Place {
    Others,
    Property(u64),
    Range(Box<Range<f64>>),
}

/// Watches of the same selector: what changes for them is found out once.
struct Group {
    selector: Selector,
    text: u64,
    place: Place,
    members: Members,
}

/// Most groups have one member.
#[expect(clippy::box_collection, reason = "a set of one, which most are, is to be small")]
enum Members {
    One(Arc<Mailbox>),
    /// By where they are in memory.
    Many(Box<HashMap<usize, Arc<Mailbox>>>),
}

impl Members {
    fn insert(&mut self, mailbox: Arc<Mailbox>) {
        match self {
            Members::One(known) => {
                let known = known.clone();
                *self = Members::Many(Box::new([known, mailbox].map(|it| (place_of(&it), it)).into()));
            }
            Members::Many(known) => drop(known.insert(place_of(&mailbox), mailbox)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        let (one, many) = match self {
            Members::One(known) => (Some(known), None),
            Members::Many(known) => (None, Some(known.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

fn place_of(mailbox: &Arc<Mailbox>) -> usize {
    Arc::as_ptr(mailbox).addr()
}

impl Slot {
    /// The place for a group: that where it is asked least.
    fn place(&self, scope: Scope) -> Place {
        let property = scope
            .equals
            .iter()
            .filter_map(|(key, value)| property_hash(key, value))
            .min_by_key(|hash| self.by_property.get(hash).map_or(0, Numbers::len));
        if let Some(hash) = property {
            return Place::Property(hash);
        }
        let is_open = |range: &Range<f64>| [&range.from, &range.to].contains(&&Bound::Unbounded);
        match scope.numbers.into_iter().min_by_key(is_open) {
            Some(range) => Place::Range(Box::new(range)),
            None => Place::Others,
        }
    }

    fn insert(&mut self, place: &Place, number: u32) {
        match place {
            Place::Others => self.others.insert(number),
            Place::Property(hash) => self.by_property.entry(*hash).or_default().insert(number),
            Place::Range(range) => self.by_range.entry(range.key.clone()).or_default().insert(range, number),
        }
    }

    fn remove(&mut self, place: &Place, number: u32) {
        match place {
            Place::Others => self.others.remove(number),
            Place::Property(hash) => take(&mut self.by_property, *hash, number),
            Place::Range(range) => {
                let Some(bands) = self.by_range.get_mut(&range.key) else { return };
                bands.remove(range, number);
                if bands.is_empty() {
                    self.by_range.remove(&range.key);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.others.is_empty() && self.by_property.is_empty() && self.by_range.is_empty()
    }
}

impl State {
    fn find(&self, text: u64, selector: &Selector) -> Option<u32> {
        let same = |number: &u32| self.group(*number).is_some_and(|group| group.selector == *selector);
        self.by_text.get(&text)?.iter().find(same)
    }

    fn group(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)?.as_ref()
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.groups.iter().flatten().flat_map(|group| group.members.iter())
    }

    fn insert(&mut self, text: u64, selector: &Selector) -> Arc<Mailbox> {
        let number = self.free.pop().unwrap_or(self.groups.len() as u32);
        let scope = selector.scope();
        let slot = self.by_scope.entry((scope.base.clone(), scope.kind.clone())).or_default();
        let place = slot.place(scope);
        slot.insert(&place, number);
        self.by_text.entry(text).or_default().insert(number);
        let mailbox = Arc::new(Mailbox::of(selector));
        let group = Group { selector: selector.clone(), text, place, members: Members::One(mailbox.clone()) };
        match self.groups.get_mut(number as usize) {
            Some(place) => *place = Some(group),
            None => self.groups.push(Some(group)),
        }
        mailbox
    }

    fn remove(&mut self, number: u32) {
        let Some(group) = self.groups.get_mut(number as usize).and_then(Option::take) else { return };
        self.free.push(number);
        take(&mut self.by_text, group.text, number);
        let scope = group.selector.scope();
        let key = (scope.base, scope.kind);
        let Some(slot) = self.by_scope.get_mut(&key) else { return };
        slot.remove(&group.place, number);
        if slot.is_empty() {
            self.by_scope.remove(&key);
        }
    }

    /// The groups that a commit may concern, each with the steps that it may.
    fn concerned<'a>(&self, steps: &'a [Step]) -> BTreeMap<u32, Vec<&'a Step>> {
        let mut concerned: BTreeMap<u32, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            let Some(resource) = step.resource() else { continue };
            let mut properties = None;
            let mut note = |number: u32| {
                let steps = concerned.entry(number).or_default();
                // It may be found by what was and by what is.
                if steps.last().is_none_or(|last| !std::ptr::eq(*last, step)) {
                    steps.push(step);
                }
            };
            for point in std::iter::once(resource.point.clone()).chain(resource.point.ancestors()) {
                let mut key = (point, None);
                for kind in std::iter::once(None).chain(kinds(step).map(Some)) {
                    key.1 = kind;
                    let Some(slot) = self.by_scope.get(&key) else { continue };
                    slot.others.iter().for_each(&mut note);
                    if !slot.by_property.is_empty() {
                        let properties = properties.get_or_insert_with(|| {
                            step.sides().flat_map(|side| hashes(side)).collect::<BTreeSet<u64>>()
                        });
                        let found = properties.iter().filter_map(|hash| slot.by_property.get(hash));
                        found.flat_map(Numbers::iter).for_each(&mut note);
                    }
                    if !slot.by_range.is_empty() {
                        self.in_range(slot, step).for_each(&mut note);
                    }
                }
            }
        }
        concerned
    }

    /// The groups of a slot that ask for a range in which a step's resource has a number, before or after.
    fn in_range<'a>(&'a self, slot: &'a Slot, step: &'a Step) -> impl Iterator<Item = u32> + 'a {
        let properties = step.sides().flat_map(|side| &side.properties);
        let numbers = properties.filter_map(|(key, property)| {
            let bands = slot.by_range.get(key)?;
            Some((bands, property.value.as_number()?))
        });
        numbers.flat_map(move |(bands, value)| {
            let is_in = move |number: &u32| match self.group(*number).map(|group| &group.place) {
                Some(Place::Range(range)) => range.contains(&value),
                _ => false,
            };
            bands.near(value).flat_map(Numbers::iter).filter(is_in)
        })
    }
}

/// The kind of what a step is about; two when it changed.
fn kinds(step: &Step) -> impl Iterator<Item = Base> {
    let kind = |side: &Option<Arc<Resource>>| side.as_ref().map(|resource| resource.kind.base.clone());
    let (before, after) = (kind(&step.before), kind(&step.after));
    let other = before.filter(|before| Some(before) != after.as_ref());
    after.into_iter().chain(other)
}

/// Takes a number out of one of many sets, and the set when it was the last.
fn take(sets: &mut HashMap<u64, Numbers>, key: u64, number: u32) {
    if let Some(numbers) = sets.get_mut(&key) {
        numbers.remove(number);
        if numbers.is_empty() {
            sets.remove(&key);
        }
    }
}

fn text_hash(selector: &Selector) -> u64 {
    let mut hasher = DefaultHasher::new();
    selector.to_string().hash(&mut hasher);
    hasher.finish()
}

impl Hub {
    /// A hub for a view that is at a revision: what came before is in the log.
    pub(crate) fn new(revision: Revision) -> Self {
        Self { state: Mutex::new(State { dispatched: revision, ..State::default() }) }
    }

    /// Begins to collect for a watch what is committed from now on; `None` when there are `watches_max` already.
    pub(crate) fn join(
        &self,
        selector: &Selector,
        lagging: bool,
        watches_max: usize,
    ) -> Option<Arc<Mailbox>> {
        let text = text_hash(selector);
        let mut state = self.state.lock();
        if state.watches >= watches_max {
            return None;
        }
        state.watches += 1;
        let known = state.find(text, selector);
        let mailbox = match known.and_then(|number| state.groups[number as usize].as_mut()) {
            Some(group) => {
                let mailbox = Arc::new(Mailbox::of(&group.selector));
                group.members.insert(mailbox.clone());
                mailbox
            }
            None => state.insert(text, selector),
        };
        let mut waiting = mailbox.waiting.lock();
        (waiting.lagging, waiting.closed) = (lagging, state.closed);
        drop(waiting);
        Some(mailbox)
    }

    pub(crate) fn leave(&self, mailbox: &Arc<Mailbox>) {
        let selector = &mailbox.selector;
        let text = text_hash(selector);
        let mut state = self.state.lock();
        let Some(number) = state.find(text, selector) else { return };
        let Some(group) = state.groups[number as usize].as_mut() else { return };
        let is_last = match &mut group.members {
            Members::One(known) if Arc::ptr_eq(known, mailbox) => true,
            Members::One(_) => return,
            Members::Many(known) => {
                if known.remove(&place_of(mailbox)).is_none() {
                    return;
                }
                known.is_empty()
            }
        };
        if is_last {
            state.remove(number);
        }
        state.watches -= 1;
    }

    /// How many watches there are.
    pub(crate) fn watches(&self) -> usize {
        self.state.lock().watches
    }

    pub(crate) fn dispatch(&self, revision: Revision, steps: &[Step]) {
        let mut state = self.state.lock();
        state.dispatched = revision;
        for (number, steps) in state.concerned(steps) {
            let Some(group) = state.group(number) else { continue };
            let bytes = steps.iter().map(|step| step.bytes).sum();
            let changes: Arc<[Change]> = relative(&group.selector, steps).into();
            if !changes.is_empty() {
                for member in group.members.iter() {
                    member.push(Commit { revision, changes: changes.clone(), bytes });
                }
            }
        }
    }

    /// What was committed up to a revision is to be looked for in the log by all watches.
    pub(crate) fn leap(&self, revision: Revision) {
        let mut state = self.state.lock();
        state.dispatched = revision;
        for member in state.members() {
            member.waiting.lock().lagging = true;
            member.told.notify_one();
        }
    }

    /// Lets a watch that read the log up to `seen` be handed commits again, when that is all there is.
    pub(crate) fn rejoin(&self, mailbox: &Mailbox, seen: Revision) -> bool {
        let state = self.state.lock();
        if state.dispatched > seen {
            return false;
        }
        let mut waiting = mailbox.waiting.lock();
        waiting.lagging = false;
        true
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for member in state.members() {
            member.waiting.lock().closed = true;
            member.told.notify_one();
        }
    }
}

/// A commit as far as a selector is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Arc<[Change]>,
    bytes: usize,
}

/// What waits for one watch.
pub(crate) struct Mailbox {
    /// That of its group, so that watches of one selector keep it once.
    pub(crate) selector: Selector,
    waiting: Mutex<Waiting>,
    told: Notify,
}

#[derive(Default)]
struct Waiting {
    commits: VecDeque<Commit>,
    bytes: usize,
    /// More was committed than could wait: the rest is in the log.
    lagging: bool,
    closed: bool,
}

/// What a watch finds in its mailbox.
pub(crate) enum Mail {
    Commit(Commit),
    Nothing,
    InLog,
    Closed,
}

impl Mailbox {
    fn of(selector: &Selector) -> Self {
        Self { selector: selector.clone(), waiting: Mutex::default(), told: Notify::new() }
    }

    fn push(&self, commit: Commit) {
        let mut waiting = self.waiting.lock();
        if waiting.lagging {
            return;
        }
        if waiting.commits.len() >= WAITING_MAX || waiting.bytes + commit.bytes > WAITING_BYTES_MAX {
            waiting.lagging = true;
        } else {
            waiting.bytes += commit.bytes;
            waiting.commits.push_back(commit);
        }
        self.told.notify_one();
    }

    pub(crate) fn take(&self) -> Mail {
        let mut waiting = self.waiting.lock();
        match waiting.commits.pop_front() {
            Some(commit) => {
                waiting.bytes -= commit.bytes;
                if waiting.commits.is_empty() && waiting.commits.capacity() > KEPT_MAX {
                    // What a burst needed is given back.
                    waiting.commits = VecDeque::new();
                }
                Mail::Commit(commit)
            }
            None if waiting.closed => Mail::Closed,
            None if waiting.lagging => Mail::InLog,
            None => Mail::Nothing,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.commits.is_empty() && !waiting.lagging && !waiting.closed
    }

    /// Waits until something is pushed; at once when something was since the last wait.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use starlane_core::{Kind, Property, Status, Value};

    use super::*;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap()
    }

    fn resource(point: &str, kind: &str, owner: &str) -> Option<Arc<Resource>> {
        let owner = Property { value: Value::text(owner), locked: false };
        Some(Arc::new(Resource {
            point: point.parse().unwrap(),
            kind: kind.parse::<Kind>().unwrap(),
            properties: [("owner".parse().unwrap(), owner)].into(),
            status: Status::ready(),
            created: Revision(1),
            modified: Revision(1),
            version: 1,
        }))
    }

    fn asked(hub: &Hub, steps: &[Step]) -> usize {
        hub.state.lock().concerned(steps).len()
    }

    #[test]
    fn a_change_asks_those_alone_who_want_its_place_its_kind_and_its_property() {
        let hub = Hub::new(Revision(0));
        for n in 0..1_000 {
            for text in [
                format!("shop:**[owner = \"owner-{n}\"]"),
                format!("shop:**<App>[owner = {n} and total > 3]"),
                format!("shop:b{n}:**"),
                // All have the first property, and none has the second of another.
                format!("shop:**[shared = \"x\" and owner = \"other-{n}\"]"),
            ] {
                hub.join(&selector(&text), false, usize::MAX).unwrap();
            }
        }
        hub.join(&selector("shop:**<App>"), false, usize::MAX).unwrap();
        hub.join(&selector("shop:**[exists(owner)]"), false, usize::MAX).unwrap();
        let step = |before, after| vec![Step { before, after, bytes: 1 }];
        let app = |owner: &str| resource("shop:x", "App", owner);
        assert_eq!(asked(&hub, &step(None, app("nobody"))), 2, "the kind, and the filter without a name");
        assert_eq!(asked(&hub, &step(None, app("owner-17"))), 3);
        assert_eq!(asked(&hub, &step(app("owner-17"), app("owner-18"))), 4, "what was, and what is");
        assert_eq!(asked(&hub, &step(None, app("17"))), 3, "a text that reads as the number");
        assert_eq!(asked(&hub, &step(None, resource("shop:b7:x", "Base", "nobody"))), 2);
        assert_eq!(asked(&hub, &step(None, resource("desk:x", "App", "owner-17"))), 0);
    }

    fn total(total: impl Into<Value>) -> Option<Arc<Resource>> {
        let mut resource = (*resource("shop:o-1", "Order", "ann")?).clone();
        let total = Property { value: total.into(), locked: false };
        resource.properties.insert("total".parse().unwrap(), total);
        Some(Arc::new(resource))
    }

    fn number(number: i64) -> Value {
        Value::Number(number.into())
    }

    #[test]
    fn a_change_asks_those_alone_whose_range_it_is_in() {
        let hub = Hub::new(Revision(0));
        for n in 0..2_000 {
            let n = n * 1_000;
            let (middle, end) = (n + 500, n + 600);
            for text in [
                format!("shop:*<Order>[total >= {n}]"),
                format!("shop:*<Order>[total < {} and exists(total)]", -1 - n),
                format!("shop:*<Order>[total > {n} and total <= {middle}]"),
                // With one end the other is known too.
                format!("shop:*<Order>[not total > {end} and total >= {middle}]"),
                format!("shop:*<Order>[total >= {n} and owner = \"bob\"]"),
            ] {
                hub.join(&selector(&text), false, usize::MAX).unwrap();
            }
        }
        let step = |before, after| vec![Step { before, after, bytes: 1 }];
        assert_eq!(asked(&hub, &step(None, resource("shop:o-1", "Order", "ann"))), 0, "it has no total");
        assert_eq!(asked(&hub, &step(None, total("many"))), 0, "it is no number");
        assert_eq!(asked(&hub, &step(None, total(Value::Bool(true)))), 0);
        assert_eq!(asked(&hub, &step(None, total(number(0)))), 1);
        assert_eq!(asked(&hub, &step(None, total(number(3_400)))), 4 + 1, "0 to 3, and its own band");
        assert_eq!(asked(&hub, &step(None, total("3400"))), 4 + 1, "a text that reads as the number");
        assert_eq!(asked(&hub, &step(None, total(number(3_000)))), 4, "a band that begins behind 3000");
        assert_eq!(
            asked(&hub, &step(None, total(number(3_500)))),
            4 + 2,
            "the end and the beginning of bands"
        );
        assert_eq!(asked(&hub, &step(None, total(number(3_900)))), 4);
        assert_eq!(asked(&hub, &step(total(number(3_400)), total(number(1_400)))), 4 + 2, "what was, and is");
        assert_eq!(asked(&hub, &step(None, total(number(-3_000)))), 3, "-1, -1001 and -2001");
    }

    #[test]
    fn what_a_watch_that_waits_needs_besides_its_selector_is_small() {
        let bytes = [size_of::<crate::Watch>(), size_of::<Mailbox>(), size_of::<Option<Group>>()];
        assert!(bytes.iter().sum::<usize>() <= 256, "{bytes:?}");
    }

    #[test]
    fn who_leaves_leaves_nothing() {
        let hub = Hub::new(Revision(0));
        let texts: Vec<String> = (0..100)
            .flat_map(|n| {
                [
                    format!("shop:**[owner = \"o{}\"]", n % 10),
                    format!("a{n}:*<App>"),
                    "**".to_owned(),
                    format!("shop:**[total > {}]", n % 10),
                    format!("b:**[total < {n} and total > -{n}]"),
                ]
            })
            .collect();
        for _ in 0..2 {
            let mut open = Vec::new();
            for text in &texts {
                open.push(hub.join(&selector(text), false, 500).unwrap());
            }
            assert!(hub.join(&selector("**"), false, 500).is_none(), "no more than the bound");
            for mailbox in &open {
                hub.leave(mailbox);
                hub.leave(mailbox);
            }
            let state = hub.state.lock();
            assert_eq!((state.watches, state.by_text.len(), state.by_scope.len()), (0, 0, 0));
            assert_eq!(state.groups.len(), state.free.len());
            assert_eq!(state.groups.len(), 10 + 100 + 1 + 10 + 100, "numbers are given again");
        }
    }

    fn value() -> impl Strategy<Value = Option<Value>> {
        let numbers = (-3i64..4).prop_map(|n| Some(number(n)));
        let texts = ["-1", "0", "2", "2.0", "1e0", "-0", "many", "true", "nan", ""].map(Value::from);
        let others = [serde_json::json!(null), serde_json::json!(1.5), serde_json::json!(-0.0), true.into()];
        let others: Vec<_> =
            texts.into_iter().chain(others.map(Value::from)).map(Some).chain([None]).collect();
        prop_oneof![2 => numbers, 2 => prop::sample::select(others)]
    }

    fn condition() -> impl Strategy<Value = String> {
        let value = ["-1", "0", "-0.0", "1", "2", "1.5", "\"1\"", "\"many\"", "true", "\"true\""];
        let sign = ["=", "!=", "<", "<=", ">", ">=", ">=", "<"];
        (
            any::<bool>(),
            prop::bool::weighted(0.2),
            prop::sample::select(sign.to_vec()),
            prop::sample::select(value.to_vec()),
        )
            .prop_map(|(a, not, sign, value)| {
                let not = if not { "not " } else { "" };
                format!("{not}{} {sign} {value}", if a { "a" } else { "b" })
            })
    }

    proptest! {
        #[test]
        fn whoever_matches_is_asked(
            filters in prop::collection::vec(prop::collection::vec(condition(), 1..5), 1..40),
            changes in prop::collection::vec((value(), value(), value(), value()), 1..20),
        ) {
            let hub = Hub::new(Revision(0));
            for (n, filter) in filters.iter().enumerate() {
                let join = if n % 5 == 4 { " or " } else { " and " };
                hub.join(&selector(&format!("shop:*[{}]", filter.join(join))), false, usize::MAX).unwrap();
            }
            let side = |a: Option<Value>, b: Option<Value>| {
                let mut side = (*resource("shop:x", "App", "ann").unwrap()).clone();
                for (key, value) in [("a", a), ("b", b)] {
                    let property = value.map(|value| Property { value, locked: false });
                    side.properties.extend(property.map(|property| (key.parse().unwrap(), property)));
                }
                Some(Arc::new(side))
            };
            let steps: Vec<Step> = changes
                .into_iter()
                .map(|(a, b, c, d)| Step { before: side(a, b), after: side(c, d), bytes: 1 })
                .collect();
            let state = hub.state.lock();
            let asked = state.concerned(&steps);
            for (number, group) in (0..).zip(state.groups.iter().flatten()) {
                let found = asked.get(&number).map(|steps| relative(&group.selector, steps.iter().copied()));
                prop_assert_eq!(found.unwrap_or_default(), relative(&group.selector, &steps), "{}", &group.selector);
            }
        }
    }
}
