//! A world in virtual time: a registry that compares revisions, a leader that runs placement, and nodes that act for the
//! mechtrons they believe to be theirs. Everything random comes from a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use starlane_core::placement::{Action, Config, Handle, Life, Lives, Load, Placement, Ticket, epoch_of};
use starlane_core::{
    Assignment, Epoch, Generation, NodeName, Point, Properties, Property, PropertyChange, Resource, Revision,
    Status, Value,
};

pub(crate) const HOME: &str = "cloud";
/// How long a call waits for its answer before its caller is told that nobody knows, in milliseconds.
const CALL_MS: u64 = 4_000;
const ADOPT_MS: u64 = 2_000;
const BEAT_MS: u64 = 2_000;

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn point(text: &str) -> Point {
    text.parse().unwrap()
}

/// A small generator of random numbers (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// A life of a node that acts under an epoch.
type Writer = (NodeName, u64, Epoch);

/// What the registry keeps, and what it is asked to promise.
pub(crate) struct Registry {
    revision: u64,
    pub(crate) resources: BTreeMap<Point, Arc<Resource>>,
    /// The states with `mesh` durability, each with who wrote it.
    states: BTreeMap<Point, (Option<Writer>, u64)>,
    /// Which leader may write.
    term: u64,
}

impl Registry {
    pub(crate) fn put(&mut self, at: &Point, kind: &str, changes: Vec<PropertyChange>, status: Status) {
        self.revision += 1;
        let before = self.resources.get(at);
        let mut properties = before.map_or_else(Properties::new, |known| known.properties.clone());
        for change in changes {
            match change {
                PropertyChange::Set { key, value, lock } => {
                    properties.insert(key, Property { value, locked: lock });
                }
                PropertyChange::Unset(key) => {
                    properties.remove(&key);
                }
            }
        }
        let resource = Resource {
            point: at.clone(),
            kind: kind.parse().unwrap(),
            properties,
            status,
            created: before.map_or(Revision(self.revision), |known| known.created),
            modified: Revision(self.revision),
            version: before.map_or(1, |known| known.version + 1),
        };
        self.resources.insert(at.clone(), Arc::new(resource));
    }

    fn set(&mut self, at: &Point, changes: Vec<PropertyChange>, status: Option<Status>) {
        if let Some(before) = self.resources.get(at).cloned() {
            let status = status.unwrap_or_else(|| before.status.clone());
            self.put(at, &before.kind.to_string(), changes, status);
        }
    }
}

pub(crate) fn set(key: &str, value: &str) -> PropertyChange {
    PropertyChange::Set { key: key.parse().unwrap(), value: value.into(), lock: false }
}

pub(crate) fn unset(key: &str) -> PropertyChange {
    PropertyChange::Unset(key.parse().unwrap())
}

/// A node's process.
pub(crate) struct Node {
    pub(crate) up: bool,
    generation: u64,
    paused_until: u64,
    /// What it says reaches the leader and the registry.
    pub(crate) can_say: bool,
    /// What they say reaches it.
    pub(crate) can_hear: bool,
    /// What it knows of the registry.
    view: BTreeMap<Point, Arc<Resource>>,
    /// What it let go of, and under which epoch it had it.
    released: BTreeMap<Point, Epoch>,
    /// What it runs, with what it knows of the state.
    active: BTreeMap<Point, (Epoch, u64)>,
    /// The states with `node` durability, on its disk.
    disk: BTreeMap<Point, u64>,
    /// When it said last, and the time before, that it is alive.
    said_at: [u64; 2],
}

/// What goes on between the leader and the world.
struct Leader {
    placement: Placement,
    paused_until: u64,
    /// The states that it carries from node to node.
    handles: HashMap<Handle, u64>,
    next_handle: u64,
    waits: BTreeSet<Ticket>,
    /// Who it takes for dead.
    dead: BTreeSet<NodeName>,
    /// The newest revisions that it was told.
    told: BTreeMap<Point, Revision>,
}

#[derive(Clone)]
enum Event {
    Beat(NodeName, u64),
    Heard {
        term: u64,
        node: NodeName,
        generation: u64,
        load: Load,
        held: Vec<Point>,
    },
    Sync(NodeName, u64),
    Work(NodeName, u64),
    /// A state with `mesh` durability is to be written.
    Commit {
        node: NodeName,
        generation: u64,
        point: Point,
        epoch: Epoch,
        value: u64,
    },
    Release {
        term: u64,
        ticket: Ticket,
        point: Point,
        node: NodeName,
        epoch: Epoch,
    },
    Released {
        term: u64,
        ticket: Ticket,
        point: Point,
        state: Result<Option<u64>, String>,
    },
    Adopt {
        term: u64,
        ticket: Ticket,
        point: Point,
        node: NodeName,
        epoch: Epoch,
        state: Option<u64>,
    },
    Adopted {
        term: u64,
        ticket: Ticket,
        point: Point,
        result: Result<(), String>,
    },
    Write {
        term: u64,
        ticket: Ticket,
        point: Point,
        action: Action,
    },
    NodeStatus {
        term: u64,
        node: NodeName,
        status: Status,
    },
    Watch(u64),
    Timer(u64),
    /// What the script of the run does.
    Script,
}

/// What happened, to show that a run was worth something.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) commits: u64,
    pub(crate) refused_stale: u64,
    pub(crate) assigns: u64,
    pub(crate) handed_over: u64,
    pub(crate) conflicts: u64,
    pub(crate) deaths: u64,
    pub(crate) drains: u64,
    pub(crate) moves: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u64,
    began: Instant,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) registry: Registry,
    leader: Leader,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) counts: Counts,
    /// Whether commits fail now and then for no reason.
    pub(crate) rough: bool,
    /// Whether no state with `node` durability may be lost.
    pub(crate) calm: bool,
    /// How often each state with `node` durability was changed.
    truth: BTreeMap<Point, u64>,
    pub(crate) assigned_at: BTreeMap<Point, Vec<u64>>,
    pub(crate) drained: BTreeSet<NodeName>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let began = Instant::now();
        let registry = Registry { revision: 0, resources: BTreeMap::new(), states: BTreeMap::new(), term: 1 };
        let placement = Placement::new(Config::default(), name(HOME), began);
        let leader = Leader {
            placement,
            paused_until: 0,
            handles: HashMap::new(),
            next_handle: 0,
            waits: BTreeSet::new(),
            dead: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        let mut world = Self {
            random: Random::new(seed),
            now: 0,
            began,
            queue: BTreeMap::new(),
            sequence: 0,
            registry,
            leader,
            nodes: BTreeMap::new(),
            counts: Counts::default(),
            rough: false,
            calm: false,
            truth: BTreeMap::new(),
            assigned_at: BTreeMap::new(),
            drained: BTreeSet::new(),
        };
        world.add_node(&name(HOME), &[("tier", "cloud")]);
        world
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay_ms, self.sequence), event);
    }

    fn delay(&mut self) -> u64 {
        1 + self.random.below(50)
    }

    pub(crate) fn why(&self, at: &Point) -> Option<starlane_core::placement::Why> {
        self.leader.placement.why(at, self.instant())
    }

    // ---- what people do ----

    pub(crate) fn add_node(&mut self, node: &NodeName, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| set(key, value)).collect();
        self.registry.put(&node.point().unwrap(), "Node", labels, Status::ready());
        self.nodes.insert(
            node.clone(),
            Node {
                up: false,
                generation: 0,
                paused_until: 0,
                can_say: true,
                can_hear: true,
                view: BTreeMap::new(),
                released: BTreeMap::new(),
                active: BTreeMap::new(),
                disk: BTreeMap::new(),
                said_at: [0; 2],
            },
        );
        self.start(node);
        self.watch();
    }

    pub(crate) fn create(&mut self, at: &Point, properties: &[(&str, &str)]) {
        let code = ("wasm.src", "a:b:c:1.0.0:/x.wasm");
        let changes = properties.iter().chain([&code]).map(|(key, value)| set(key, value)).collect();
        self.registry.put(at, "Mechtron", changes, Status::ready());
        self.watch();
    }

    pub(crate) fn change(&mut self, at: &Point, changes: Vec<PropertyChange>) {
        self.registry.set(at, changes, None);
        self.watch();
    }

    pub(crate) fn delete(&mut self, at: &Point) {
        self.registry.revision += 1;
        self.registry.resources.remove(at);
        self.registry.states.remove(at);
        self.truth.remove(at);
        self.nodes.values_mut().for_each(|node| {
            node.disk.remove(at);
        });
        self.watch();
    }

    pub(crate) fn move_to(&mut self, at: &Point, node: &NodeName) {
        let now = self.instant();
        // That it is refused is as good.
        let _ = self.leader.placement.move_to(at, node, now);
        self.act();
    }

    // ---- faults ----

    /// Routing tells the leader that there is no way to a node.
    pub(crate) fn no_route(&mut self, node: &NodeName) {
        let now = self.instant();
        self.leader.placement.handle_unreachable(node, now);
        self.act();
    }

    pub(crate) fn start(&mut self, node: &NodeName) {
        let process = self.nodes.get_mut(node).unwrap();
        process.up = true;
        process.generation += 1;
        process.paused_until = 0;
        process.view.clear();
        process.released.clear();
        process.active.clear();
        let generation = process.generation;
        for (delay, event) in [
            (1, Event::Sync(node.clone(), generation)),
            (2, Event::Beat(node.clone(), generation)),
            (3, Event::Work(node.clone(), generation)),
        ] {
            self.after(delay, event);
        }
    }

    pub(crate) fn kill(&mut self, node: &NodeName) {
        self.nodes.get_mut(node).unwrap().up = false;
    }

    pub(crate) fn pause(&mut self, node: &NodeName, for_ms: u64) {
        self.nodes.get_mut(node).unwrap().paused_until = self.now + for_ms;
    }

    pub(crate) fn pause_leader(&mut self, for_ms: u64) {
        self.leader.paused_until = self.now + for_ms;
    }

    /// When everybody who stands still goes on again.
    pub(crate) fn all_go_on(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| node.paused_until)
            .chain([self.leader.paused_until, self.now])
            .max()
            .unwrap()
    }

    /// The leader ends, and another begins from what the registry says. The states that it carried are lost.
    pub(crate) fn restart_leader(&mut self) {
        self.registry.term += 1;
        let term = self.registry.term;
        let placement = Placement::new(Config::default(), name(HOME), self.instant());
        self.leader = Leader {
            placement,
            paused_until: 0,
            handles: HashMap::new(),
            next_handle: 0,
            waits: BTreeSet::new(),
            dead: BTreeSet::new(),
            told: BTreeMap::new(),
        };
        self.start(&name(HOME));
        self.after(1, Event::Watch(term));
        self.after(1, Event::Timer(term));
    }

    /// Plans a call of the run's script.
    pub(crate) fn plan(&mut self, at_ms: u64) {
        let delay = at_ms.saturating_sub(self.now);
        self.after(delay, Event::Script);
    }

    // ---- time ----

    /// Runs up to a moment; `script` is called whenever it was planned.
    pub(crate) fn run_until(&mut self, end: u64, mut script: impl FnMut(&mut World)) {
        if self.now == 0 {
            self.after(1, Event::Watch(1));
            self.after(1, Event::Timer(1));
        }
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = self.now.max(at);
            match event {
                Event::Script => script(self),
                other => self.handle(other),
            }
        }
        self.now = end;
    }

    fn node_waits(&mut self, node: &NodeName, event: &Event) -> bool {
        let until = self.nodes.get(node).map_or(0, |node| node.paused_until);
        let waits = until > self.now;
        if waits {
            self.after(until - self.now, event.clone());
        }
        waits
    }

    fn leader_waits(&mut self, event: &Event) -> bool {
        let until = self.leader.paused_until;
        let waits = until > self.now;
        if waits {
            self.after(until - self.now, event.clone());
        }
        waits
    }

    fn handle(&mut self, event: Event) {
        let again = event.clone();
        match event {
            Event::Beat(node, generation) => {
                if self.lives(&node, generation) && !self.node_waits(&node, &again) {
                    self.beat(&node, generation);
                }
            }
            Event::Sync(node, generation) => {
                if self.lives(&node, generation) && !self.node_waits(&node, &again) {
                    self.sync(&node, generation);
                }
            }
            Event::Work(node, generation) => {
                if self.lives(&node, generation) && !self.node_waits(&node, &again) {
                    self.work(&node, generation);
                }
            }
            Event::Heard { term, node, generation, load, held } => {
                if term != self.registry.term || self.leader_waits(&again) {
                    return;
                }
                let now = self.instant();
                if self.leader.placement.handle_heard(&node, Generation(generation), load, now) {
                    for point in held {
                        self.leader.placement.handle_held(&node, &point, now);
                    }
                }
                self.act();
            }
            Event::Commit { node, generation, point, epoch, value } => {
                self.commit(&node, generation, &point, epoch, value);
            }
            Event::Release { term, ticket, point, node, epoch } => {
                if !self.nodes[&node].up || self.node_waits(&node, &again) {
                    return;
                }
                let state = self.release(&node, &point, epoch);
                // Its handlers end first.
                let delay = self.delay() + if self.random.one_in(3) { self.random.below(2_500) } else { 0 };
                if self.nodes[&node].can_say {
                    self.after(delay, Event::Released { term, ticket, point, state });
                }
            }
            Event::Adopt { term, ticket, point, node, epoch, state } => {
                if !self.nodes[&node].up || self.node_waits(&node, &again) {
                    return;
                }
                let result = if self.rough && self.random.one_in(10) {
                    Err("its disk is full".to_owned())
                } else {
                    let process = self.nodes.get_mut(&node).unwrap();
                    match state {
                        Some(state) => process.disk.insert(point.clone(), state),
                        None => process.disk.remove(&point),
                    };
                    let _ = epoch;
                    Ok(())
                };
                let delay = self.delay();
                if self.nodes[&node].can_say {
                    self.after(delay, Event::Adopted { term, ticket, point, result });
                }
            }
            Event::Released { term, ticket, point, state } => {
                if term != self.registry.term
                    || self.leader_waits(&again)
                    || !self.leader.waits.remove(&ticket)
                {
                    return;
                }
                let result = state.map(|state| {
                    state.map(|state| {
                        self.leader.next_handle += 1;
                        let handle = Handle(self.leader.next_handle);
                        self.leader.handles.insert(handle, state);
                        handle
                    })
                });
                let now = self.instant();
                self.leader.placement.handle_released(&point, ticket, result, now);
                self.act();
            }
            Event::Adopted { term, ticket, point, result } => {
                if term != self.registry.term
                    || self.leader_waits(&again)
                    || !self.leader.waits.remove(&ticket)
                {
                    return;
                }
                let now = self.instant();
                self.leader.placement.handle_adopted(&point, ticket, result, now);
                self.act();
            }
            Event::Write { term, ticket, point, action } => {
                if term == self.registry.term && !self.leader_waits(&again) {
                    self.write(ticket, &point, action);
                }
            }
            Event::NodeStatus { term, node, status } => {
                if term != self.registry.term || self.leader_waits(&again) {
                    return;
                }
                if self.rough && self.random.one_in(10) {
                    let now = self.instant();
                    self.leader.placement.handle_node_not_written(&node, now);
                    return self.act();
                }
                self.registry.set(&node.point().unwrap(), Vec::new(), Some(status));
                self.watch();
            }
            Event::Watch(term) => {
                if term == self.registry.term && !self.leader_waits(&again) {
                    self.tell_leader();
                }
            }
            Event::Timer(term) => {
                if term != self.registry.term || self.leader_waits(&again) {
                    return;
                }
                let now = self.instant();
                if self.leader.placement.poll_timeout().is_some_and(|timeout| timeout <= now) {
                    self.leader.placement.handle_timeout(now);
                    self.check_deaths();
                    self.act();
                }
                self.after(20, Event::Timer(term));
            }
            Event::Script => {}
        }
    }

    fn lives(&self, node: &NodeName, generation: u64) -> bool {
        self.nodes.get(node).is_some_and(|node| node.up && node.generation == generation)
    }

    /// Whether a node runs at this moment.
    pub(crate) fn runs(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| node.up && node.paused_until <= self.now)
    }

    /// Whether a node runs, and belongs to the mesh.
    pub(crate) fn serves(&self, node: &NodeName) -> bool {
        let resource = &self.registry.resources[&node.point().unwrap()];
        self.runs(node) && resource.property("revoked").is_none()
    }

    // ---- nodes ----

    fn beat(&mut self, node: &NodeName, generation: u64) {
        let process = self.nodes.get_mut(node).unwrap();
        if process.can_say {
            process.said_at = [self.now, process.said_at[0]];
        }
        let held = process.released.keys().cloned().collect();
        let load = Load { live: process.active.len() as u64, queue: 0, mechtrons_max: 1_000 };
        let heard = Event::Heard { term: self.registry.term, node: node.clone(), generation, load, held };
        if process.can_say {
            let delay = self.delay();
            self.after(delay, heard);
        }
        self.after(BEAT_MS, Event::Beat(node.clone(), generation));
    }

    /// A node learns what the registry says by now.
    fn sync(&mut self, node: &NodeName, generation: u64) {
        let registry = &self.registry;
        let process = self.nodes.get_mut(node).unwrap();
        if process.can_hear && process.can_say {
            process.view = registry.resources.clone();
            let view = &process.view;
            let epoch = |point: &Point| view.get(point).map(|resource| epoch_of(resource));
            process.released.retain(|point, released| epoch(point) == Some(*released));
            let released = &process.released;
            process
                .active
                .retain(|point, (active, _)| epoch(point) == Some(*active) && !released.contains_key(point));
            for (point, resource) in view {
                let mine = acts(resource, node) && !released.contains_key(point);
                if !mine || process.active.contains_key(point) {
                    continue;
                }
                let value = if durability(resource) == "mesh" {
                    registry.states.get(point).map_or(0, |(_, value)| *value)
                } else {
                    let value = process.disk.get(point).copied().unwrap_or_default();
                    let truth = self.truth.get(point).copied().unwrap_or_default();
                    let alone = matches!(Lives::of(resource), Lives::On(nodes) if nodes.len() == 1);
                    assert!(!self.calm || !alone || value == truth, "{point} on {node}: {value} of {truth}");
                    value
                };
                process.active.insert(point.clone(), (epoch_of(resource), value));
            }
        }
        let delay = 50 + self.random.below(400);
        self.after(delay, Event::Sync(node.clone(), generation));
    }

    /// A node changes the state of what it runs.
    fn work(&mut self, node: &NodeName, generation: u64) {
        let process = self.nodes.get_mut(node).unwrap();
        let mut commits = Vec::new();
        for (point, (epoch, value)) in &mut process.active {
            let Some(resource) = process.view.get(point) else { continue };
            if process.released.contains_key(point) {
                continue;
            }
            if durability(resource) == "mesh" {
                commits.push((point.clone(), *epoch, *value + 1));
            } else {
                *value += 1;
                process.disk.insert(point.clone(), *value);
                *self.truth.entry(point.clone()).or_default() += 1;
            }
        }
        let can_say = process.can_say;
        for (point, epoch, value) in commits {
            let delay = self.delay();
            if can_say {
                let node = node.clone();
                self.after(delay, Event::Commit { node, generation, point, epoch, value });
            }
        }
        let delay = 300 + self.random.below(400);
        self.after(delay, Event::Work(node.clone(), generation));
    }

    /// The registry refuses a state that an older epoch writes. What it takes must be of the one who acts for the
    /// mechtron, and follow what was there.
    fn commit(&mut self, node: &NodeName, generation: u64, at: &Point, epoch: Epoch, value: u64) {
        let Some(resource) = self.registry.resources.get(at) else { return };
        // A later life of a node ended the link of the earlier one.
        if self.nodes[node].generation != generation {
            return;
        }
        let (writer, known) = self.registry.states.get(at).cloned().unwrap_or_default();
        let taken = epoch == epoch_of(resource);
        if taken {
            assert!(
                acts(resource, node),
                "{node} commits for {at}, which lives on {:?}",
                Lives::of(resource)
            );
            let by = Some((node.clone(), generation, epoch));
            let alone = !matches!(Lives::of(resource), Lives::On(nodes) if nodes.len() > 1);
            // Who did not hear that it was written says it again.
            let again = writer == by && value <= known;
            assert!(
                !alone || again || value == known + 1,
                "{node} overwrote a state of {at}: {value}, {known}"
            );
            self.registry.states.insert(at.clone(), (by, value.max(known)));
            self.counts.commits += 1;
        } else {
            self.counts.refused_stale += 1;
        }
        let process = self.nodes.get_mut(node).unwrap();
        if process.up && process.generation == generation && process.can_hear {
            match process.active.get_mut(at) {
                Some((active, own)) if *active == epoch && taken => *own = (*own).max(value),
                Some((active, _)) if *active == epoch => {
                    process.active.remove(at);
                }
                _ => {}
            }
        }
    }

    fn release(&mut self, node: &NodeName, at: &Point, epoch: Epoch) -> Result<Option<u64>, String> {
        let process = self.nodes.get_mut(node).unwrap();
        let Some(resource) = process.view.get(at) else { return Err("it does not know it".to_owned()) };
        let known = epoch_of(resource);
        if known != epoch {
            return Err(format!("it is at epoch {}, not {}", known.0, epoch.0));
        }
        process.released.insert(at.clone(), epoch);
        process.active.remove(at);
        Ok(process.disk.get(at).copied())
    }

    // ---- the leader ----

    /// Lets the leader know of what changed in the registry.
    fn watch(&mut self) {
        let term = self.registry.term;
        self.after(1, Event::Watch(term));
    }

    fn tell_leader(&mut self) {
        let now = self.instant();
        let first = self.leader.told.is_empty();
        let leader = &mut self.leader;
        let gone: Vec<_> = leader
            .told
            .keys()
            .filter(|point| !self.registry.resources.contains_key(*point))
            .cloned()
            .collect();
        for point in gone {
            leader.told.remove(&point);
            match NodeName::of_point(&point) {
                Some(node) => leader.placement.handle_node_removed(&node, now),
                None => leader.placement.handle_removed(&point, now),
            }
        }
        for (point, resource) in &self.registry.resources {
            if leader.told.get(point) == Some(&resource.modified) {
                continue;
            }
            leader.told.insert(point.clone(), resource.modified);
            if NodeName::of_point(point).is_some() {
                leader.placement.handle_node(resource, now);
            } else {
                leader.placement.handle_mechtron(resource, now);
            }
        }
        if first {
            leader.placement.handle_listed(now);
        }
        self.act();
    }

    /// Does what the leader wants.
    pub(crate) fn act(&mut self) {
        let term = self.registry.term;
        while let Some(action) = self.leader.placement.poll_action() {
            let delay = self.delay();
            match action.clone() {
                Action::SetNodeStatus { node, status } => {
                    self.after(delay, Event::NodeStatus { term, node, status });
                }
                Action::Release { ticket, point, from, epoch, .. } => {
                    self.leader.waits.insert(ticket);
                    let state = Err("no answer".to_owned());
                    self.after(CALL_MS, Event::Released { term, ticket, point: point.clone(), state });
                    if self.nodes[&from].can_hear {
                        self.after(delay, Event::Release { term, ticket, point, node: from, epoch });
                    }
                }
                Action::Adopt { ticket, point, to, epoch, handle, .. } => {
                    self.leader.waits.insert(ticket);
                    self.counts.handed_over += 1;
                    let result = Err("no answer".to_owned());
                    self.after(ADOPT_MS, Event::Adopted { term, ticket, point: point.clone(), result });
                    let state = handle.map(|handle| self.leader.handles[&handle]);
                    if self.nodes[&to].can_hear {
                        self.after(delay, Event::Adopt { term, ticket, point, node: to, epoch, state });
                    }
                }
                Action::Assign { ticket, point, .. } | Action::SetStatus { ticket, point, .. } => {
                    self.after(delay, Event::Write { term, ticket, point, action });
                }
                Action::MoveDone { .. } => self.counts.moves += 1,
                Action::DrainDone(node) => {
                    self.counts.drains += 1;
                    self.drained.insert(node.clone());
                    let left = self.registry.resources.values().find(
                        |resource| matches!(Lives::of(resource), Lives::On(nodes) if nodes.contains(&node)),
                    );
                    assert!(left.is_none(), "{node} is drained and has {left:?}");
                }
            }
        }
    }

    /// Who is taken for dead was silent for that long.
    fn check_deaths(&mut self) {
        for (name, node) in &self.nodes {
            let dead = matches!(self.leader.placement.life(name), Some(Life::Dead { .. }));
            if !dead {
                self.leader.dead.remove(name);
            } else if self.leader.dead.insert(name.clone()) {
                // What it said while the leader stood still for a moment is not heard yet.
                let [last, before] = node.said_at;
                let silent = self.now - if self.now - last < 2_100 { before } else { last };
                let revoked = self.registry.resources[&name.point().unwrap()].property("revoked").is_some();
                assert!(revoked || silent >= 7_900, "{name} is taken for dead after {silent} ms of silence");
                self.counts.deaths += 1;
            }
        }
    }

    fn write(&mut self, ticket: Ticket, at: &Point, action: Action) {
        let now = self.instant();
        let (changes, status, expected) = match action {
            Action::Assign { nodes, epoch, expect, status, .. } => (Some((nodes, epoch)), status, expect),
            Action::SetStatus { status, expect, .. } => (None, Some(status), expect),
            other => panic!("{other:?}"),
        };
        let before = self.registry.resources.get(at).cloned();
        let fits = before.as_ref().is_some_and(|resource| resource.modified == expected);
        if !fits || self.rough && self.random.one_in(15) {
            self.counts.conflicts += 1;
            self.leader.placement.handle_written(at, ticket, None, now);
            return self.act();
        }
        let mut properties = Vec::new();
        if let (Some((nodes, epoch)), Some(before)) = (&changes, &before) {
            assert!(*epoch > epoch_of(before) && epoch.0 > before.created.0, "{at}: {epoch:?}");
            let distinct: BTreeSet<_> = nodes.iter().collect();
            assert!(!nodes.is_empty() && distinct.len() == nodes.len(), "{at}: {nodes:?}");
            properties = Assignment { nodes: nodes.clone(), epoch: *epoch }.changes();
            self.counts.assigns += 1;
            self.assigned_at.entry(at.clone()).or_default().push(self.now);
        }
        self.registry.set(at, properties, status);
        // Sometimes nobody hears that it was written.
        let resource = self.registry.resources[at].clone();
        let answer = (!self.rough || !self.random.one_in(15)).then_some(&*resource);
        self.leader.placement.handle_written(at, ticket, answer, now);
        self.act();
        self.watch();
    }
}

/// Whether a node acts for a mechtron, by what a resource says.
fn acts(resource: &Resource, node: &NodeName) -> bool {
    if resource.property("wasm.src").is_none() {
        return false;
    }
    match Lives::of(resource) {
        Lives::On(nodes) => nodes.contains(node),
        Lives::AtHome => node.as_str() == HOME,
        // Until it is assigned, what ran at home may still be ending there.
        Lives::Nowhere => node.as_str() == HOME,
    }
}

fn durability(resource: &Resource) -> &str {
    resource.property("durability").and_then(Value::as_text).unwrap_or("node")
}

impl World {
    /// Whether a mechtron runs where it lives, and nowhere else.
    pub(crate) fn runs_where_it_lives(&self, at: &Point) -> bool {
        let resource = &self.registry.resources[at];
        self.nodes.iter().filter(|(node, _)| self.runs(node)).all(|(name, node)| {
            let lives = !matches!(Lives::of(resource), Lives::Nowhere) && acts(resource, name);
            let active = node.active.get(at).is_some_and(|(epoch, _)| *epoch == epoch_of(resource));
            lives == active || matches!(Lives::of(resource), Lives::Nowhere)
        })
    }
}
