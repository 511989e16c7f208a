//! A mesh in virtual time: nodes, links that fail in all the ways links do, and a model to compare with. Everything
//! comes from a seed.

#![expect(
    unreachable_pub,
    reason = "the test and the benchmark that hold this module are crates of their own"
)]

mod model;
mod random;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::Model;
use random::Random;
use starlane_core::routing::{
    Action, Advert, Config, Cost, Counters, Identity, LinkState, Own, PACKETS_IN_FLIGHT_MAX, Packet, Sign,
    Verify,
};
use starlane_core::{Generation, Moment, NodeId, NodeName, Role};

/// QUIC gives up a link that was silent for so long.
const IDLE_MS: u64 = 6_000;
/// A broken link is dialled again after a pause that doubles from the first to the last of these.
const REDIAL_MS: (u64, u64) = (200, 5_000);
/// Hops a frame has.
const HOPS_MAX: u32 = 16;
/// What links may cost, in microseconds: far enough apart that each change is news.
const COSTS_US: [u64; 4] = [300, 2_000, 11_000, 60_000];

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// As links really carry them: in order and complete. What is lost, in percent, comes late, and what follows waits.
    Streams { lost: u64 },
    /// Worse than any link: what is lost is gone, some come twice, and most out of order.
    Datagrams { lost: u64 },
}

pub struct Shape {
    pub relays: usize,
    pub leaves: usize,
    pub traffic: Traffic,
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub nodes: Vec<Node>,
    pub links: Vec<Wire>,
    traffic: Traffic,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// The events themselves, by the last number of their key; those that happened are `None`.
    details: Vec<Option<Event>>,
    vacant: Vec<usize>,
    order: u64,
    trace: u64,
    /// When routes changed last, anywhere.
    changed: u64,
    pub walks: Walks,
    ended: Counters,
}

pub struct Node {
    pub name: NodeName,
    pub id: NodeId,
    pub role: Role,
    pub own: Own,
    generation: u64,
    machine: Option<LinkState>,
    timer: u64,
    /// Links by the neighbour's id.
    links: BTreeMap<NodeId, usize>,
    /// Packets of each link that are not written yet.
    unwritten: BTreeMap<NodeId, usize>,
    pub replaced: bool,
    /// Who joined and did not leave, as it was told.
    members: BTreeMap<NodeName, Generation>,
}

/// Two nodes that may have a link, which the first of them dials.
pub struct Wire {
    pub ends: [usize; 2],
    cost_us: [u64; 2],
    delay: u64,
    /// Whether what one end sends is lost, by end.
    cut: [bool; 2],
    /// Which connection this is, and whether it lives.
    epoch: u64,
    connected: bool,
    /// Since when nothing comes through in at least one direction.
    broken: Option<u64>,
    /// The last connection that each end lost by stopping.
    gone: [u64; 2],
    /// Whether each end was told that the link is up, and of which connection.
    up: [Option<u64>; 2],
    /// Nothing may arrive before what was sent before it, by sender.
    floor: [u64; 2],
    /// What waits for the end of a cut, by sender.
    held: [Vec<Packet>; 2],
    dialling: bool,
    pause: u64,
}

enum Event {
    Timer { node: usize },
    Start { node: usize, same_generation: bool },
    Dial { link: usize },
    Up { link: usize, end: usize, epoch: u64 },
    Down { link: usize, end: usize, epoch: u64 },
    Idle { link: usize, epoch: u64, since: u64 },
    Packet { link: usize, from: usize, epoch: u64, packet: Packet },
    Written { link: usize, end: usize, epoch: u64 },
}

/// How frames fared that were sent while the mesh was in disorder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walks {
    pub arrived: u64,
    pub without_route: u64,
    /// Refused, since the next hop is where the frame came from.
    pub sent_back: u64,
    pub out_of_hops: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    Arrived { micros: u64 },
    WithoutRoute,
    SentBack,
    OutOfHops,
}

/// A signature is a hash with a secret: enough to see that each advert is signed and verified as it was made.
struct Keyed;

fn keyed_hash(bytes: &[u8]) -> Bytes {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64 ^ 0x5ec7e7, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Bytes::copy_from_slice(&hash.to_le_bytes())
}

impl Sign for Keyed {
    fn chain(&self) -> Bytes {
        Bytes::from_static(b"a chain")
    }

    fn sign(&self, bytes: &[u8]) -> Bytes {
        keyed_hash(bytes)
    }
}

impl Verify for Keyed {
    fn verify(&self, advert: &Advert) -> bool {
        advert.signature == keyed_hash(&advert.signed_bytes())
    }
}

impl World {
    /// Nodes that do not run yet. Up to five relays are all linked with each other, more form a ring with chords;
    /// a leaf dials two of them.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let Shape { relays, leaves, traffic } = shape;
        let mut world = Self {
            now: 0,
            random: Random(seed),
            nodes: Vec::new(),
            links: Vec::new(),
            traffic,
            events: BinaryHeap::new(),
            details: Vec::new(),
            vacant: Vec::new(),
            order: 0,
            trace: seed,
            changed: 0,
            walks: Walks::default(),
            ended: Counters::default(),
        };
        for at in 0..relays + leaves {
            let role = if at < relays { Role::Relay } else { Role::Leaf };
            world.add_node(&format!("{role}-{at}"), role);
        }
        for at in 0..relays {
            if relays <= 5 {
                (at + 1..relays).for_each(|other| world.add_link(at, other));
                continue;
            }
            world.add_link(at, (at + 1) % relays);
            for _ in 0..2 {
                let other = world.random.index(relays);
                world.add_link(at, other);
            }
        }
        for leaf in relays..relays + leaves {
            let first = world.random.index(relays);
            let second = (first + 1 + world.random.index(relays - 1)) % relays;
            world.add_link(leaf, first);
            world.add_link(leaf, second);
        }
        world
    }

    fn add_node(&mut self, name: &str, role: Role) {
        let name: NodeName = name.parse().unwrap();
        let tier = if role == Role::Leaf { "edge" } else { "cloud" };
        let labels = BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
        self.nodes.push(Node {
            id: name.id(),
            name,
            role,
            own: Own { labels, registry: self.nodes.is_empty(), draining: false },
            generation: 0,
            machine: None,
            timer: u64::MAX,
            links: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            replaced: false,
            members: BTreeMap::new(),
        });
    }

    fn add_link(&mut self, one: usize, two: usize) {
        let (first, second) = (self.nodes[one].id, self.nodes[two].id);
        if one == two || self.nodes[one].links.contains_key(&second) {
            return;
        }
        let link = self.links.len();
        self.nodes[one].links.insert(second, link);
        self.nodes[two].links.insert(first, link);
        let cost_us = [self.any_cost(), self.any_cost()];
        self.links.push(Wire {
            ends: [one, two],
            cost_us,
            delay: 1 + self.random.below(30),
            cut: [false; 2],
            epoch: 0,
            connected: false,
            broken: None,
            gone: [0; 2],
            up: [None; 2],
            floor: [0; 2],
            held: [Vec::new(), Vec::new()],
            dialling: false,
            pause: REDIAL_MS.0,
        });
    }

    fn any_cost(&mut self) -> u64 {
        COSTS_US[self.random.index(COSTS_US.len())]
    }

    // What happens to the mesh.

    /// All that do not run start within a time.
    pub fn start_all(&mut self, within_ms: u64) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].machine.is_none() {
                let at = self.now + self.random.below(within_ms);
                self.at(at, Event::Start { node, same_generation: false });
            }
        }
    }

    /// Ends a node's process; its neighbours hear of it only if it says so.
    pub fn stop(&mut self, node: usize, says_so: bool) {
        let Some(machine) = self.nodes[node].machine.take() else { return };
        add(&mut self.ended, machine.counters());
        self.nodes[node].timer = u64::MAX;
        self.mix(&[1, node as u64, u64::from(says_so)]);
        for link in self.nodes[node].links.clone().into_values() {
            let end = self.end_of(link, node);
            let wire = &mut self.links[link];
            wire.up[end] = None;
            wire.gone[end] = wire.epoch;
            if wire.connected && says_so {
                wire.connected = false;
                let (epoch, at) = (wire.epoch, self.now + wire.delay);
                self.at(at, Event::Down { link, end: 1 - end, epoch });
            } else {
                self.break_link(link);
            }
        }
    }

    pub fn start(&mut self, node: usize, after_ms: u64, same_generation: bool) {
        self.at(self.now + after_ms, Event::Start { node, same_generation });
    }

    /// What the end sends is lost from now on.
    pub fn cut(&mut self, link: usize, end: usize) {
        self.mix(&[2, link as u64, end as u64]);
        self.links[link].cut[end] = true;
        self.break_link(link);
    }

    /// Cuts all links between nodes on one side and nodes on the other.
    pub fn split(&mut self, is_left: impl Fn(usize) -> bool) {
        for link in 0..self.links.len() {
            let [one, two] = self.links[link].ends;
            if is_left(one) != is_left(two) {
                self.cut(link, 0);
                self.cut(link, 1);
            }
        }
    }

    pub fn heal_link(&mut self, link: usize) {
        self.mix(&[3, link as u64]);
        let wire = &mut self.links[link];
        wire.cut = [false; 2];
        // What was cut comes through again; what lost an end does not.
        if !wire.gone.contains(&wire.epoch) {
            wire.broken = None;
        }
        let epoch = wire.epoch;
        for from in 0..2 {
            for packet in std::mem::take(&mut self.links[link].held[from]) {
                let late = self.random.below(1_000);
                self.deliver(link, from, epoch, packet, late);
            }
        }
    }

    /// Ends all cuts, starts all nodes that are down, and lets nothing be lost any more.
    pub fn heal(&mut self) {
        (0..self.links.len()).for_each(|link| self.heal_link(link));
        self.start_all(500);
        self.traffic = Traffic::Streams { lost: 0 };
    }

    pub fn set_own(&mut self, node: usize, change: impl FnOnce(&mut Own)) {
        change(&mut self.nodes[node].own);
        let (own, now) = (self.nodes[node].own.clone(), Moment(self.now));
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.set_own(own, now).unwrap();
            self.perform(node);
        }
    }

    pub fn set_cost(&mut self, link: usize, end: usize, micros: u64) {
        self.links[link].cost_us[end] = micros;
        let wire = &self.links[link];
        let (node, peer) = (wire.ends[end], self.nodes[wire.ends[1 - end]].id);
        if wire.up[end].is_some()
            && let Some(machine) = &mut self.nodes[node].machine
        {
            machine.handle_link_cost(peer, cost(micros), Moment(self.now));
            self.perform(node);
        }
    }

    /// One thing that goes wrong, or right again.
    pub fn chaos(&mut self) {
        let link = self.random.index(self.links.len());
        let node = self.random.index(self.nodes.len());
        match self.random.below(20) {
            0..4 => self.cut(link, 0),
            4..6 => (0..2).for_each(|end| self.cut(link, end)),
            6 => {
                let side = self.random.next();
                self.split(|node| side >> (node % 64) & 1 == 1);
            }
            7..12 => {
                for link in 0..self.links.len() {
                    if self.random.percent(50) {
                        self.heal_link(link);
                    }
                }
            }
            12..14 => {
                let says_so = self.random.percent(50);
                self.stop(node, says_so);
                let (after, same) = (self.random.below(20_000), self.random.percent(20));
                self.start(node, after, same);
            }
            14..16 => {
                let (end, cost) = (self.random.index(2), self.any_cost());
                self.set_cost(link, end, cost);
            }
            16..18 => {
                let value = self.random.below(5).to_string();
                self.set_own(node, |own| {
                    own.labels.insert("zone".into(), value);
                });
            }
            _ => self.set_own(node, |own| own.draining = !own.draining),
        }
    }

    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(Reverse((at, ..))) = self.events.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, detail))) = self.events.pop() else { break };
            self.now = at;
            self.vacant.push(detail);
            let Some(event) = self.details[detail].take() else { continue };
            self.handle(event);
        }
        self.now = end;
    }

    // What is seen of it.

    /// How long after a moment routes changed last.
    pub fn changed_after(&self, since: u64) -> u64 {
        self.changed.saturating_sub(since)
    }

    /// A hash over all that happened.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Of all nodes, those that ended too.
    pub fn counters(&self) -> Counters {
        let mut sum = self.ended;
        self.nodes
            .iter()
            .filter_map(|node| node.machine.as_ref())
            .for_each(|it| add(&mut sum, it.counters()));
        sum
    }

    /// Sends frames between nodes, wherever they get.
    pub fn walk_some(&mut self, count: usize) {
        for _ in 0..count {
            let (from, to) = (self.random.index(self.nodes.len()), self.random.index(self.nodes.len()));
            match self.walk(from, to) {
                Walk::Arrived { .. } => self.walks.arrived += 1,
                Walk::WithoutRoute => self.walks.without_route += 1,
                Walk::SentBack => self.walks.sent_back += 1,
                Walk::OutOfHops => self.walks.out_of_hops += 1,
            }
        }
    }

    /// Follows the tables, as frames do.
    fn walk(&self, from: usize, to: usize) -> Walk {
        let (mut at, mut came_from, mut micros) = (from, None, 0);
        for _ in 0..=HOPS_MAX {
            if at == to {
                return Walk::Arrived { micros };
            }
            let node = &self.nodes[at];
            assert!(at == from || node.role == Role::Relay, "{} carries for others", node.name);
            let next = node.machine.as_ref().and_then(|machine| machine.routes().next_hop(self.nodes[to].id));
            let Some(next) = next else { return Walk::WithoutRoute };
            if came_from == Some(next) {
                return Walk::SentBack;
            }
            let link = node.links[&next];
            let wire = &self.links[link];
            assert!(wire.up[self.end_of(link, at)].is_some(), "{} sends into a link that is down", node.name);
            micros += wire.cost_us[0].max(wire.cost_us[1]);
            came_from = Some(node.id);
            at = wire.ends[1 - self.end_of(link, at)];
        }
        Walk::OutOfHops
    }

    /// Whether each node's view and routes are what they must be, after the mesh was left alone for long enough.
    pub fn check(&self) {
        let is_up =
            |wire: &&Wire| wire.connected && wire.broken.is_none() && wire.up == [Some(wire.epoch); 2];
        let model = Model {
            roles: self.nodes.iter().map(|node| node.role).collect(),
            draining: self.nodes.iter().map(|node| node.own.draining).collect(),
            links: self
                .links
                .iter()
                .filter(is_up)
                .map(|wire| (wire.ends[0], wire.ends[1], wire.cost_us[0].max(wire.cost_us[1])))
                .collect(),
        };
        for (from, node) in self.nodes.iter().enumerate() {
            let Some(machine) = &node.machine else { continue };
            let routes = machine.routes();
            assert_eq!(routes.members().len(), self.nodes.len(), "{} knows all", node.name);
            for ((to, other), right) in self.nodes.iter().enumerate().zip(model.distances(from)) {
                let member = routes.member(other.id).unwrap();
                let found = member.route.map(|route| (route.cost, route.hops));
                let way = format!("from {} to {}", node.name, other.name);
                assert_eq!(found, right.map(|(_, micros, hops)| (micros, hops)), "{way}");
                let advert = &member.advert;
                assert_eq!((&advert.name, advert.role), (&other.name, other.role));
                assert_eq!(advert.edition.generation.0, other.generation, "{way}");
                let own = (&advert.labels, advert.registry, advert.draining);
                assert_eq!(own, (&other.own.labels, other.own.registry, other.own.draining), "{way}");
                let life = (from != to && right.is_some()).then_some(Generation(other.generation));
                assert_eq!(node.members.get(&other.name).copied(), life, "{way}");
                let Some((_, micros, hops)) = right else { continue };
                assert_eq!(routes.path(other.id).map(|path| path.len()), Some(hops as usize + 1), "{way}");
                let walk = self.walk(from, to);
                // The links that frames take are those of an equally good path, if not of the same.
                assert!(
                    matches!(walk, Walk::Arrived { micros: walked } if walked == micros),
                    "{way}: {walk:?}"
                );
            }
        }
    }

    // How it goes on.

    fn at(&mut self, time: u64, event: Event) {
        let detail = self.vacant.pop().unwrap_or_else(|| {
            self.details.push(None);
            self.details.len() - 1
        });
        self.details[detail] = Some(event);
        self.order += 1;
        self.events.push(Reverse((time.max(self.now), self.order, detail)));
    }

    fn mix(&mut self, what: &[u64]) {
        for word in std::iter::once(&self.now).chain(what) {
            self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn end_of(&self, link: usize, node: usize) -> usize {
        usize::from(self.links[link].ends[1] == node)
    }

    /// Something is lost from now on: if that lasts, the link ends.
    fn break_link(&mut self, link: usize) {
        let now = self.now;
        let wire = &mut self.links[link];
        if wire.connected && wire.broken.is_none() {
            wire.broken = Some(now);
            let epoch = wire.epoch;
            self.at(now + IDLE_MS, Event::Idle { link, epoch, since: now });
        }
    }

    fn dial_after(&mut self, link: usize, ms: u64) {
        if !std::mem::replace(&mut self.links[link].dialling, true) {
            self.at(self.now + ms, Event::Dial { link });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Timer { node } => {
                if self.nodes[node].timer != self.now {
                    return;
                }
                self.nodes[node].timer = u64::MAX;
                if let Some(machine) = &mut self.nodes[node].machine {
                    machine.handle_timeout(Moment(self.now));
                    self.perform(node);
                }
            }
            Event::Start { node, same_generation } => self.handle_start(node, same_generation),
            Event::Dial { link } => self.handle_dial(link),
            Event::Up { link, end, epoch } => self.handle_up(link, end, epoch),
            Event::Down { link, end, epoch } => {
                if self.links[link].up[end] == Some(epoch) {
                    self.tell_down(link, end);
                }
            }
            Event::Idle { link, epoch, since } => {
                let wire = &mut self.links[link];
                if wire.epoch == epoch && wire.connected && wire.broken == Some(since) {
                    wire.connected = false;
                    for end in 0..2 {
                        let at = self.now + self.random.below(200);
                        self.at(at, Event::Down { link, end, epoch });
                    }
                }
            }
            Event::Packet { link, from, epoch, packet } => self.handle_packet(link, from, epoch, packet),
            Event::Written { link, end, epoch } => {
                if self.links[link].up[end] == Some(epoch) {
                    self.written(link, end);
                    self.perform(self.links[link].ends[end]);
                }
            }
        }
    }

    fn handle_start(&mut self, node: usize, same_generation: bool) {
        let now = self.now;
        let it = &mut self.nodes[node];
        if it.machine.is_some() {
            return;
        }
        it.generation += u64::from(!same_generation || it.generation == 0);
        it.unwritten.clear();
        it.members.clear();
        let config = Config { first_sequence: now + 1, ..Config::default() };
        let identity =
            Identity { name: it.name.clone(), generation: Generation(it.generation), role: it.role };
        let keys = Arc::new(Keyed);
        let machine = LinkState::new(config, identity, it.own.clone(), keys.clone(), keys, Moment(now));
        it.machine = Some(machine.unwrap());
        self.mix(&[4, node as u64]);
        self.perform(node);
        for link in self.nodes[node].links.clone().into_values() {
            if self.links[link].ends[0] == node {
                self.links[link].pause = REDIAL_MS.0;
                let after = self.random.below(50);
                self.dial_after(link, after);
            }
        }
    }

    fn handle_dial(&mut self, link: usize) {
        let wire = &mut self.links[link];
        wire.dialling = false;
        let runs = wire.ends.map(|node| self.nodes[node].machine.is_some());
        if !runs[0] || wire.up[0].is_some() {
            return;
        }
        if !runs[1] || wire.cut != [false; 2] {
            let pause = wire.pause;
            wire.pause = (pause * 2).min(REDIAL_MS.1);
            let after = pause / 2 + self.random.below(pause / 2);
            return self.dial_after(link, after);
        }
        wire.pause = REDIAL_MS.0;
        wire.epoch += 1;
        wire.connected = true;
        wire.broken = None;
        wire.held = [Vec::new(), Vec::new()];
        let (epoch, delay, now) = (wire.epoch, wire.delay, self.now);
        wire.floor = [now + 3 * delay; 2];
        self.at(now + 2 * delay, Event::Up { link, end: 0, epoch });
        self.at(now + 3 * delay, Event::Up { link, end: 1, epoch });
    }

    fn handle_up(&mut self, link: usize, end: usize, epoch: u64) {
        let (node, other) = (self.links[link].ends[end], self.links[link].ends[1 - end]);
        let wire = &self.links[link];
        let is_there = wire.epoch == epoch && wire.connected && wire.gone[end] != epoch;
        if !is_there || self.nodes[node].machine.is_none() {
            return;
        }
        // Whether the end of the connection before this one is told first depends on who notices what.
        if self.links[link].up[end].is_some() && self.random.percent(50) {
            self.tell_down(link, end);
        }
        self.links[link].up[end] = Some(epoch);
        let (peer, cost) = (self.nodes[other].id, cost(self.links[link].cost_us[end]));
        self.mix(&[5, link as u64, end as u64]);
        self.nodes[node].unwritten.remove(&peer);
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle_link_up(peer, cost, Moment(self.now)).unwrap();
            self.perform(node);
        }
    }

    fn tell_down(&mut self, link: usize, end: usize) {
        let (node, other) = (self.links[link].ends[end], self.links[link].ends[1 - end]);
        self.links[link].up[end] = None;
        self.mix(&[6, link as u64, end as u64]);
        let peer = self.nodes[other].id;
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle_link_down(peer, Moment(self.now));
            self.perform(node);
        }
        if end == 0 {
            let after = self.random.below(self.links[link].pause);
            self.dial_after(link, after);
        }
    }

    fn handle_packet(&mut self, link: usize, from: usize, epoch: u64, packet: Packet) {
        let wire = &mut self.links[link];
        if wire.epoch != epoch || !wire.connected || wire.gone[1 - from] == epoch {
            return;
        }
        if wire.cut[from] {
            if matches!(self.traffic, Traffic::Streams { .. }) {
                wire.held[from].push(packet);
            }
            return;
        }
        let (node, peer) = (wire.ends[1 - from], self.nodes[wire.ends[from]].id);
        let (kind, size) = match &packet {
            Packet::Digest(digest) => (7, digest.seen.len()),
            Packet::Adverts(adverts) => {
                let last = adverts.last().unwrap();
                self.mix(&[last.advert.id().0, last.advert.edition.sequence, u64::from(last.age_ms)]);
                (8, adverts.len())
            }
        };
        self.mix(&[kind, link as u64, from as u64, size as u64]);
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle_packet(peer, packet, Moment(self.now)).unwrap();
            self.perform(node);
        }
    }

    /// Does what a node wants done.
    fn perform(&mut self, node: usize) {
        let mut written = Vec::new();
        loop {
            while let Some(action) = self.nodes[node].machine.as_mut().and_then(LinkState::poll_action) {
                match action {
                    Action::Send { to, packet } => written.extend(self.send(node, to, packet)),
                    Action::Routes(routes) => {
                        let current = self.nodes[node].machine.as_ref().map(LinkState::routes);
                        assert!(current.is_some_and(|current| Arc::ptr_eq(current, &routes)));
                        self.changed = self.now;
                        self.mix(&[9, node as u64]);
                    }
                    Action::Joined(name, generation) => {
                        self.mix(&[10, node as u64, name.id().0, generation.0]);
                        assert_eq!(self.nodes[node].members.insert(name, generation), None);
                    }
                    Action::Left(name) => {
                        self.mix(&[11, node as u64, name.id().0]);
                        assert!(self.nodes[node].members.remove(&name).is_some());
                    }
                    Action::Replaced => self.nodes[node].replaced = true,
                }
            }
            if written.is_empty() {
                break;
            }
            written.drain(..).for_each(|(link, end)| self.written(link, end));
        }
        self.check_next_hops(node);
        let now = self.now;
        let it = &mut self.nodes[node];
        if let Some(due) = it.machine.as_ref().and_then(LinkState::poll_timeout) {
            assert!(due.0 > now, "{} wants at {now} what was due at {}", it.name, due.0);
            if due.0 < it.timer {
                it.timer = due.0;
                self.at(due.0, Event::Timer { node });
            }
        }
    }

    /// At no moment a table leads into a link that is down.
    fn check_next_hops(&self, node: usize) {
        let it = &self.nodes[node];
        let Some(machine) = it.machine.as_ref().filter(|_| self.nodes.len() <= 40) else { return };
        for member in machine.routes().members() {
            if let Some(next) = machine.routes().next_hop(member.id) {
                let link = it.links[&next];
                let is_up = self.links[link].up[self.end_of(link, node)].is_some();
                assert!(is_up, "{} would send to {} into a link that is down", it.name, member.advert.name);
            }
        }
    }

    /// Sends a packet, and answers the link when it is written at once.
    fn send(&mut self, node: usize, to: NodeId, packet: Packet) -> Option<(usize, usize)> {
        let link = self.nodes[node].links[&to];
        let end = self.end_of(link, node);
        let Some(epoch) = self.links[link].up[end] else {
            panic!("{} sends a packet into a link that is down", self.nodes[node].name);
        };
        let unwritten = self.nodes[node].unwritten.entry(to).or_default();
        *unwritten += 1;
        assert!(*unwritten <= PACKETS_IN_FLIGHT_MAX, "more packets than may wait for one link");
        match self.traffic {
            Traffic::Streams { lost } => {
                let mut late = 0;
                while self.random.percent(lost) {
                    late += 2 * self.links[link].delay + 25;
                }
                self.deliver(link, end, epoch, packet, late);
            }
            Traffic::Datagrams { lost } => {
                for _ in 0..1 + u32::from(self.random.percent(10)) {
                    if !self.random.percent(lost) {
                        let at = self.now + self.random.below(100);
                        let packet = packet.clone();
                        self.at(at, Event::Packet { link, from: end, epoch, packet });
                    }
                }
            }
        }
        let is_slow = self.random.percent(10);
        if is_slow {
            let at = self.now + self.random.below(20);
            self.at(at, Event::Written { link, end, epoch });
        }
        (!is_slow).then_some((link, end))
    }

    /// Brings a packet to the other end, after all that was sent before it.
    fn deliver(&mut self, link: usize, from: usize, epoch: u64, packet: Packet, late: u64) {
        let wire = &mut self.links[link];
        let at = (self.now + wire.delay + late).max(wire.floor[from]);
        wire.floor[from] = at;
        self.at(at, Event::Packet { link, from, epoch, packet });
    }

    fn written(&mut self, link: usize, end: usize) {
        let (node, other) = (self.links[link].ends[end], self.links[link].ends[1 - end]);
        let peer = self.nodes[other].id;
        if let Some(unwritten) = self.nodes[node].unwritten.get_mut(&peer) {
            *unwritten -= 1;
        }
        let now = Moment(self.now);
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle_sent(peer, now);
        }
    }
}

fn cost(micros: u64) -> Cost {
    Cost::from_rtt(Duration::from_micros(micros))
}

fn add(sum: &mut Counters, more: Counters) {
    sum.advertised += more.advertised;
    sum.accepted += more.accepted;
    sum.known += more.known;
    sum.expired += more.expired;
    sum.unverified += more.unverified;
    sum.beyond_nodes_max += more.beyond_nodes_max;
    sum.clashes += more.clashes;
    sum.malformed += more.malformed;
    sum.unlinked += more.unlinked;
    sum.sent += more.sent;
    sum.routes += more.routes;
    sum.unsendable += more.unsendable;
}
