//! Hands each commit to the watches that it concerns. A commit costs what matches it, not what watches.
//!
//! Watches are found by where their selectors begin, by the kind, and by one property whose value the filter names
//! (`owner = "ann"`). Those that want more of a resource are asked whether they match.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use starlane_core::{Base, Change, Point, Resource, Revision, Selector};
use tokio::sync::Notify;

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

type Numbers = BTreeSet<u32>;

/// The groups of one scope. Each stands in one place: under a property that all it wants must have, or with the others.
#[derive(Default)]
struct Slot {
    others: Numbers,
    /// By the hash of a property and its value.
    by_property: HashMap<u64, Numbers>,
}

/// Watches of the same selector: what changes for them is found out once.
struct Group {
    selector: Selector,
    text: u64,
    /// Under which property it stands.
    property: Option<u64>,
    /// By where they are in memory.
    members: HashMap<usize, Arc<Mailbox>>,
}

fn place_of(mailbox: &Arc<Mailbox>) -> usize {
    Arc::as_ptr(mailbox).addr()
}

impl State {
    fn find(&self, text: u64, selector: &Selector) -> Option<u32> {
        let same = |number: &&u32| self.group(**number).is_some_and(|group| group.selector == *selector);
        self.by_text.get(&text)?.iter().find(same).copied()
    }

    fn group(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)?.as_ref()
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.groups.iter().flatten().flat_map(|group| group.members.values())
    }

    fn insert(&mut self, text: u64, selector: &Selector, member: Arc<Mailbox>) {
        let number = self.free.pop().unwrap_or(self.groups.len() as u32);
        let scope = selector.scope();
        let slot = self.by_scope.entry((scope.base, scope.kind)).or_default();
        // Of several properties the one that fewest others wait for.
        let property = scope
            .equals
            .iter()
            .filter_map(|(key, value)| property_hash(key, value))
            .min_by_key(|hash| slot.by_property.get(hash).map_or(0, Numbers::len));
        match property {
            Some(hash) => slot.by_property.entry(hash).or_default().insert(number),
            None => slot.others.insert(number),
        };
        self.by_text.entry(text).or_default().insert(number);
        let group = Group {
            selector: selector.clone(),
            text,
            property,
            members: [(place_of(&member), member)].into(),
        };
        match self.groups.get_mut(number as usize) {
            Some(place) => *place = Some(group),
            None => self.groups.push(Some(group)),
        }
    }

    fn remove(&mut self, number: u32) {
        let Some(group) = self.groups.get_mut(number as usize).and_then(Option::take) else { return };
        self.free.push(number);
        take(&mut self.by_text, &group.text, number);
        let scope = group.selector.scope();
        let key = (scope.base, scope.kind);
        let Some(slot) = self.by_scope.get_mut(&key) else { return };
        match group.property {
            Some(hash) => take(&mut slot.by_property, &hash, number),
            None => drop(slot.others.remove(&number)),
        }
        if slot.others.is_empty() && slot.by_property.is_empty() {
            self.by_scope.remove(&key);
        }
    }

    /// The groups that a commit may concern, each with the steps that it may.
    fn concerned<'a>(&self, steps: &'a [Step]) -> BTreeMap<u32, Vec<&'a Step>> {
        let mut concerned: BTreeMap<u32, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            let Some(resource) = step.resource() else { continue };
            let sides = || step.before.iter().chain(&step.after);
            let mut properties = None;
            let mut note = |numbers: &Numbers| {
                for number in numbers {
                    let steps = concerned.entry(*number).or_default();
                    // It may be found by what was and by what is.
                    if steps.last().is_none_or(|last| !std::ptr::eq(*last, step)) {
                        steps.push(step);
                    }
                }
            };
            for point in std::iter::once(resource.point.clone()).chain(resource.point.ancestors()) {
                let mut key = (point, None);
                for kind in std::iter::once(None).chain(kinds(step).map(Some)) {
                    key.1 = kind;
                    let Some(slot) = self.by_scope.get(&key) else { continue };
                    note(&slot.others);
                    if slot.by_property.is_empty() {
                        continue;
                    }
                    let properties = properties.get_or_insert_with(|| {
                        sides().flat_map(|side| hashes(side)).collect::<BTreeSet<u64>>()
                    });
                    for numbers in properties.iter().filter_map(|hash| slot.by_property.get(hash)) {
                        note(numbers);
                    }
                }
            }
        }
        concerned
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
fn take(sets: &mut HashMap<u64, Numbers>, key: &u64, number: u32) {
    if let Some(numbers) = sets.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            sets.remove(key);
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
        let waiting = Waiting { lagging, closed: state.closed, ..Waiting::default() };
        let mailbox = Arc::new(Mailbox { waiting: Mutex::new(waiting), told: Notify::new() });
        let known = state.find(text, selector);
        match known.and_then(|number| state.groups[number as usize].as_mut()) {
            Some(group) => drop(group.members.insert(place_of(&mailbox), mailbox.clone())),
            None => state.insert(text, selector, mailbox.clone()),
        }
        Some(mailbox)
    }

    pub(crate) fn leave(&self, selector: &Selector, mailbox: &Arc<Mailbox>) {
        let text = text_hash(selector);
        let mut state = self.state.lock();
        let Some(number) = state.find(text, selector) else { return };
        let Some(group) = state.groups[number as usize].as_mut() else { return };
        if group.members.remove(&place_of(mailbox)).is_none() {
            return;
        }
        if group.members.is_empty() {
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
                for member in group.members.values() {
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
        hub.join(&selector("shop:**[total > 3]"), false, usize::MAX).unwrap();
        let step = |before, after| vec![Step { before, after, bytes: 1 }];
        let app = |owner: &str| resource("shop:x", "App", owner);
        assert_eq!(asked(&hub, &step(None, app("nobody"))), 2, "the kind, and the filter without a name");
        assert_eq!(asked(&hub, &step(None, app("owner-17"))), 3);
        assert_eq!(asked(&hub, &step(app("owner-17"), app("owner-18"))), 4, "what was, and what is");
        assert_eq!(asked(&hub, &step(None, app("17"))), 3, "a text that reads as the number");
        assert_eq!(asked(&hub, &step(None, resource("shop:b7:x", "Base", "nobody"))), 2);
        assert_eq!(asked(&hub, &step(None, resource("desk:x", "App", "owner-17"))), 0);
    }

    #[test]
    fn who_leaves_leaves_nothing() {
        let hub = Hub::new(Revision(0));
        let texts: Vec<String> = (0..100)
            .flat_map(|n| {
                [format!("shop:**[owner = \"o{}\"]", n % 10), format!("a{n}:*<App>"), "**".to_owned()]
            })
            .collect();
        for _ in 0..2 {
            let mut open = Vec::new();
            for text in &texts {
                open.push((selector(text), hub.join(&selector(text), false, 300).unwrap()));
            }
            assert!(hub.join(&selector("**"), false, 300).is_none(), "no more than the bound");
            for (selector, mailbox) in &open {
                hub.leave(selector, mailbox);
                hub.leave(selector, mailbox);
            }
            let state = hub.state.lock();
            assert_eq!((state.watches, state.by_text.len(), state.by_scope.len()), (0, 0, 0));
            assert_eq!(state.groups.len(), state.free.len());
            assert_eq!(state.groups.len(), 10 + 100 + 1, "numbers are given again");
        }
    }
}
