//! Hands each commit to the watches that it concerns. A commit costs what matches it, not what watches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use starlane_core::{Base, Change, Point, Resource, Revision, Selector};
use tokio::sync::Notify;

/// The most commits that wait for one watch in memory; it reads the rest from the log when it comes to it.
const WAITING_MAX: usize = 256;
/// The most bytes of resources that wait for one watch.
const WAITING_BYTES_MAX: usize = 512 * 1024;

/// What one commit did to one resource.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) before: Option<Arc<Resource>>,
    pub(crate) after: Option<Arc<Resource>>,
    /// About how large it is.
    pub(crate) bytes: usize,
}

impl Step {
    fn resource(&self) -> Option<&Arc<Resource>> {
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
    groups: HashMap<Arc<str>, Group>,
    /// The groups by where their selectors begin, and by the kind that they want.
    by_scope: HashMap<(Point, Option<Base>), Vec<Arc<str>>>,
    watches: usize,
    dispatched: Revision,
    closed: bool,
}

/// Watches of the same selector: what changes for them is found out once.
struct Group {
    selector: Selector,
    scope: (Point, Option<Base>),
    members: Vec<Arc<Mailbox>>,
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
        let mut state = self.state.lock();
        if state.watches >= watches_max {
            return None;
        }
        state.watches += 1;
        let mailbox = Arc::new(Mailbox::default());
        mailbox.waiting.lock().lagging = lagging;
        mailbox.waiting.lock().closed = state.closed;
        let name: Arc<str> = selector.to_string().into();
        if let Some(group) = state.groups.get_mut(&name) {
            group.members.push(mailbox.clone());
            return Some(mailbox);
        }
        let scope = selector.scope();
        let scope = (scope.base, scope.kind);
        state.by_scope.entry(scope.clone()).or_default().push(name.clone());
        let group = Group { selector: selector.clone(), scope, members: vec![mailbox.clone()] };
        state.groups.insert(name, group);
        Some(mailbox)
    }

    pub(crate) fn leave(&self, selector: &Selector, mailbox: &Arc<Mailbox>) {
        let mut state = self.state.lock();
        let name = selector.to_string();
        let Some(group) = state.groups.get_mut(name.as_str()) else { return };
        let before = group.members.len();
        group.members.retain(|member| !Arc::ptr_eq(member, mailbox));
        let (left, empty, scope) =
            (before - group.members.len(), group.members.is_empty(), group.scope.clone());
        state.watches -= left;
        if empty {
            state.groups.remove(name.as_str());
            if let Some(names) = state.by_scope.get_mut(&scope) {
                names.retain(|known| **known != *name);
                if names.is_empty() {
                    state.by_scope.remove(&scope);
                }
            }
        }
    }

    /// How many watches there are.
    pub(crate) fn watches(&self) -> usize {
        self.state.lock().watches
    }

    pub(crate) fn dispatch(&self, revision: Revision, steps: &[Step]) {
        let mut state = self.state.lock();
        state.dispatched = revision;
        if state.groups.is_empty() {
            return;
        }
        let mut concerned: BTreeMap<&Arc<str>, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            let Some(resource) = step.resource() else { continue };
            let kind = &resource.kind.base;
            let other = step.before.as_ref().map(|before| &before.kind.base).filter(|before| *before != kind);
            let kinds = [None, Some(kind), other];
            for point in std::iter::once(resource.point.clone()).chain(resource.point.ancestors()) {
                for kind in &kinds[..if other.is_some() { 3 } else { 2 }] {
                    for name in state.by_scope.get(&(point.clone(), kind.cloned())).into_iter().flatten() {
                        concerned.entry(name).or_default().push(step);
                    }
                }
            }
        }
        for (name, steps) in concerned {
            let Some(group) = state.groups.get(name) else { continue };
            let bytes = steps.iter().map(|step| step.bytes).sum();
            let changes: Arc<[Change]> = relative(&group.selector, steps).into();
            if !changes.is_empty() {
                for member in &group.members {
                    member.push(Commit { revision, changes: changes.clone(), bytes });
                }
            }
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
        for member in state.groups.values().flat_map(|group| &group.members) {
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
#[derive(Default)]
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
