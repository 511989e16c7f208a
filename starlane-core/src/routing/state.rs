//! The rules of link state for one node: who is told what, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::advert::{Advert, Cost, Edition, Identity, LINKS_MAX, Own, Sign, Verify};
use super::neighbour::Neighbour;
use super::packet::{Carried, Digest, Malformed, Packet};
use super::routes::Routes;
use crate::{Generation, Moment, NodeId, NodeName};

/// Adverts live this many times the refresh.
const REFRESHES_LIVED: u32 = 3;
/// How much longer the pause between two computations of routes is for each known node: about a hundred times
/// what the computation itself takes.
const ROUTES_PAUSE_PER_NODE: Duration = Duration::from_micros(50);

/// What may be chosen about link state. All nodes of a mesh should agree on `refresh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often a node says again what did not change. An advert that was not refreshed for three times this is dropped.
    pub refresh: Duration,
    /// The least time between two adverts of this node; what changes in between goes out together at its end.
    pub advert_pause: Duration,
    /// The least time between an advert and one that only tells of other costs.
    pub cost_pause: Duration,
    /// The least time between two computations of routes, and 50 µs more for each node that is known. A link of this
    /// node that broke does not wait for it.
    pub routes_pause: Duration,
    /// Nodes that may be known, this one among them. Adverts of more are refused and counted.
    pub nodes_max: usize,
    /// The number of this node's first advert. A node that may start again in the same generation gives the milliseconds
    /// of the wall clock, so that nobody takes its adverts for old ones.
    pub first_sequence: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(15),
            advert_pause: Duration::from_millis(100),
            cost_pause: Duration::from_secs(5),
            routes_pause: Duration::from_millis(10),
            nodes_max: 10_000,
            first_sequence: 1,
        }
    }
}

/// What the caller does for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the packet to the link's control stream, and say so with [`LinkState::handle_sent`]. The caller never
    /// holds more than [`PACKETS_IN_FLIGHT_MAX`](super::PACKETS_IN_FLIGHT_MAX) for one link.
    Send {
        /// The neighbour.
        to: NodeId,
        /// What it is told.
        packet: Packet,
    },
    /// From now on frames go by these.
    Routes(Arc<Routes>),
    /// A node can be reached that could not be, or began a new life. In the routes that were given just before.
    Joined(NodeName, Generation),
    /// A node can no longer be reached, or its life ended.
    Left(NodeName),
    /// A later life of this very node is part of the mesh. Nobody hears this one any more; it should stop.
    Replaced,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Editions that this node made of its own advert.
    pub advertised: u64,
    /// Adverts that were new here.
    pub accepted: u64,
    /// Adverts that were known already, or older than what is known.
    pub known: u64,
    /// Adverts that aged out on their way.
    pub expired: u64,
    /// Adverts whose signature or certificates are not right.
    pub unverified: u64,
    /// Adverts of nodes beyond [`Config::nodes_max`].
    pub beyond_nodes_max: u64,
    /// Adverts of a node whose id belongs to another name.
    pub clashes: u64,
    /// Packets that no node of this mesh would have sent.
    pub malformed: u64,
    /// Packets from a node that there is no link to.
    pub unlinked: u64,
    /// Adverts put into packets.
    pub sent: u64,
    /// Computations of routes.
    pub routes: u64,
    /// Own adverts that were not sent, since their certificates or signature are longer than may be.
    pub unsendable: u64,
}

/// A node has as many links as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node has at most {LINKS_MAX} links")]
pub struct LinksFull;

/// An advert of a node, and since when it is here.
pub(super) struct Known {
    pub(super) advert: Arc<Advert>,
    received: Moment,
    /// How old it was when it came.
    age_ms: u32,
    /// `None` for this node's own.
    expires: Option<Moment>,
}

impl Known {
    pub(super) fn age_ms(&self, now: Moment) -> u32 {
        let here = u32::try_from(now.since(self.received).as_millis()).unwrap_or(u32::MAX);
        self.age_ms.saturating_add(here)
    }
}

/// Link state of one node. After each `handle_…` and each change the caller does all that [`LinkState::poll_action`]
/// answers, and calls [`LinkState::handle_timeout`] at the moment that [`LinkState::poll_timeout`] names.
pub struct LinkState {
    config: Config,
    node: Identity,
    id: NodeId,
    own: Own,
    sign: Arc<dyn Sign>,
    verify: Arc<dyn Verify>,
    /// The last number given to an advert of this node.
    sequence: u64,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Neighbours that may have something to be sent.
    ready: BTreeSet<NodeId>,
    /// Adverts of all nodes, this one's among them.
    known: BTreeMap<NodeId, Known>,
    routes: Arc<Routes>,
    replaced: bool,
    /// When the caller last said what time it is.
    now: Moment,
    /// When this node's last advert was made.
    advertised: Option<Moment>,
    /// When this node last had to raise its number above an advert of its own generation that it had not made.
    raised: Option<Moment>,
    advert_due: Option<Moment>,
    refresh_due: Moment,
    /// No advert ages out before this.
    expiry_due: Option<Moment>,
    routes_due: Option<Moment>,
    computed: Option<Moment>,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl LinkState {
    /// A node without links, which knows only itself.
    ///
    /// # Errors
    /// Its labels, its certificates or its signature are beyond their bounds.
    pub fn new(
        config: Config,
        node: Identity,
        own: Own,
        sign: Arc<dyn Sign>,
        verify: Arc<dyn Verify>,
        now: Moment,
    ) -> Result<Self, Malformed> {
        own.validate()?;
        let id = node.name.id();
        let mut state = Self {
            sequence: config.first_sequence.saturating_sub(1),
            refresh_due: now,
            config,
            node,
            id,
            own,
            sign,
            verify,
            neighbours: BTreeMap::new(),
            ready: BTreeSet::new(),
            known: BTreeMap::new(),
            routes: Arc::new(Routes::compute(id, std::iter::empty(), std::iter::empty())),
            replaced: false,
            now,
            advertised: None,
            raised: None,
            advert_due: None,
            expiry_due: None,
            routes_due: None,
            computed: None,
            actions: VecDeque::new(),
            counters: Counters::default(),
        };
        state.advertise(now)?;
        // Nobody heard this one: the first link is told of at once.
        state.advertised = None;
        state.compute_routes(now);
        Ok(state)
    }

    /// The routes of this moment.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// This node and its neighbour have a link, or a new one in place of an old one: there is one for each neighbour. Both
    /// ends are told of it before any packet that came over it.
    ///
    /// # Errors
    /// [`LinksFull`]: the caller closes the link again.
    pub fn handle_link_up(&mut self, peer: NodeId, cost: Cost, now: Moment) -> Result<(), LinksFull> {
        if peer == self.id {
            return Ok(());
        }
        if self.neighbours.len() >= LINKS_MAX && !self.neighbours.contains_key(&peer) {
            return Err(LinksFull);
        }
        self.neighbours.insert(peer, Neighbour::new(cost));
        self.ready.insert(peer);
        self.advertise_soon(now);
        self.compute_soon(now);
        self.settle(now);
        Ok(())
    }

    /// The link is gone, whoever ended it.
    pub fn handle_link_down(&mut self, peer: NodeId, now: Moment) {
        if self.neighbours.remove(&peer).is_none() {
            return;
        }
        self.ready.remove(&peer);
        self.advertise_soon(now);
        self.routes_due = Some(now);
        self.settle(now);
    }

    /// The link's round trip was measured. Others hear of it when it differs by a quarter from what they know, and no more
    /// often than each [`Config::cost_pause`].
    pub fn handle_link_cost(&mut self, peer: NodeId, cost: Cost, now: Moment) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        if neighbour.measure(cost) {
            let due = self.advertised.map_or(now, |last| last + self.config.cost_pause);
            self.advertise_at(due.max(now));
            self.settle(now);
        }
    }

    /// A packet was written to its link: the next one may follow.
    pub fn handle_sent(&mut self, peer: NodeId, now: Moment) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.sent();
            self.ready.insert(peer);
        }
        self.settle(now);
    }

    /// A neighbour said something. What it may not have known is passed on to the other neighbours.
    ///
    /// # Errors
    /// What is wrong with a packet that no node of this mesh would have sent. Nothing of it was taken over, and the
    /// caller closes the link. An advert that is not its node's own is no error of the neighbour: it is dropped and counted.
    pub fn handle_packet(&mut self, from: NodeId, packet: Packet, now: Moment) -> Result<(), Malformed> {
        if !self.neighbours.contains_key(&from) {
            self.counters.unlinked += 1;
            return Ok(());
        }
        packet.validate().inspect_err(|_| self.counters.malformed += 1)?;
        match packet {
            Packet::Digest(digest) => self.handle_digest(from, &digest),
            Packet::Adverts(adverts) => {
                for carried in adverts {
                    self.handle_advert(from, carried, now);
                }
            }
        }
        self.settle(now);
        Ok(())
    }

    /// This node says something else of itself from now on.
    ///
    /// # Errors
    /// [`Malformed::Labels`]: nothing changed.
    pub fn set_own(&mut self, own: Own, now: Moment) -> Result<(), Malformed> {
        own.validate()?;
        if self.own != own {
            self.own = own;
            self.advertise_soon(now);
            self.settle(now);
        }
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.settle(now);
    }

    /// When [`LinkState::handle_timeout`] is to be called, even if it has passed.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let refresh = (!self.replaced).then_some(self.refresh_due);
        [refresh, self.advert_due, self.expiry_due, self.routes_due].into_iter().flatten().min()
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(to) = self.ready.first().copied() {
            let neighbour = self.neighbours.get_mut(&to);
            if let Some(packet) = neighbour.and_then(|n| n.next_packet(self.id, &self.known, self.now)) {
                if let Packet::Adverts(adverts) = &packet {
                    self.counters.sent += adverts.len() as u64;
                }
                return Some(Action::Send { to, packet });
            }
            self.ready.remove(&to);
        }
        None
    }

    /// Owes a neighbour what it lacks, and nothing that it has. A leaf tells of itself, and of what the neighbour itself
    /// was before, since perhaps nobody else can.
    fn handle_digest(&mut self, from: NodeId, digest: &Digest) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        let mut seen = digest.seen.iter().peekable();
        for (node, known) in self.known.range(digest.first..=digest.last) {
            while seen.next_if(|seen| seen.node < *node).is_some() {}
            if seen.peek().is_some_and(|seen| seen.node == *node && seen.edition >= known.advert.edition) {
                neighbour.has(*node);
            } else if self.node.role.relays() || *node == self.id || *node == from {
                neighbour.owe(*node);
            }
        }
        self.ready.insert(from);
    }

    fn handle_advert(&mut self, from: NodeId, carried: Carried, now: Moment) {
        let Carried { age_ms, advert } = carried;
        let id = advert.id();
        let known = self.known.get(&id);
        if known.is_some_and(|known| known.advert.name != advert.name) {
            self.counters.clashes += 1;
            return;
        }
        let edition = known.map(|known| known.advert.edition);
        if id == self.id && edition <= Some(advert.edition) {
            return self.handle_own_advert(&advert, now);
        }
        if edition >= Some(advert.edition) {
            self.counters.known += 1;
            if edition == Some(advert.edition)
                && let Some(neighbour) = self.neighbours.get_mut(&from)
            {
                neighbour.has(id);
            }
            return;
        }
        let lifetime = self.config.refresh * REFRESHES_LIVED;
        let Some(left) =
            lifetime.checked_sub(Duration::from_millis(age_ms.into())).filter(|left| !left.is_zero())
        else {
            self.counters.expired += 1;
            return;
        };
        if edition.is_none() && self.known.len() >= self.config.nodes_max {
            self.counters.beyond_nodes_max += 1;
            return;
        }
        if !self.verify.verify(&advert) {
            self.counters.unverified += 1;
            return;
        }
        self.counters.accepted += 1;
        let expires = now + left;
        self.expiry_due = Some(self.expiry_due.map_or(expires, |due| due.min(expires)));
        self.learn(id, Known { advert, received: now, age_ms, expires: Some(expires) }, now);
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.has(id);
        }
        if self.node.role.relays() {
            self.owe_all_but(from, id);
        }
    }

    /// Somebody speaks as this node, and not of the past: another life of it, or this one before it forgot.
    fn handle_own_advert(&mut self, advert: &Advert, now: Moment) {
        let Some(own) = self.known.get(&self.id).map(|own| own.advert.clone()) else { return };
        if *own == *advert {
            self.counters.known += 1;
            return;
        }
        if !self.verify.verify(advert) {
            self.counters.unverified += 1;
            return;
        }
        if advert.edition.generation > self.node.generation {
            if !self.replaced {
                self.replaced = true;
                self.advert_due = None;
                self.actions.push_back(Action::Replaced);
            }
            return;
        }
        let is_raised_already = self.sequence > own.edition.sequence;
        self.sequence = self.sequence.max(advert.edition.sequence);
        if is_raised_already {
            return;
        }
        // Two nodes that believe to be the same life must not shout each other down as fast as they can.
        let due = self.raised.map_or(now, |last| last + self.config.cost_pause).max(now);
        self.raised = Some(due);
        self.advertise_at(due);
    }

    /// Does all that is due, in the order in which one leads to the next.
    fn settle(&mut self, now: Moment) {
        self.now = now;
        if self.expiry_due.is_some_and(|due| due <= now) {
            self.expire(now);
        }
        if !self.replaced && (self.refresh_due <= now || self.advert_due.is_some_and(|due| due <= now)) {
            self.counters.unsendable += u64::from(self.advertise(now).is_err());
        }
        if self.routes_due.is_some_and(|due| due <= now) {
            self.compute_routes(now);
        }
    }

    /// This node's advert changed: it goes out at once, or when the pause after the last one ends.
    fn advertise_soon(&mut self, now: Moment) {
        let due = self.advertised.map_or(now, |last| last + self.config.advert_pause);
        self.advertise_at(due.max(now));
    }

    fn advertise_at(&mut self, due: Moment) {
        if !self.replaced {
            self.advert_due = Some(self.advert_due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    fn advertise(&mut self, now: Moment) -> Result<(), Malformed> {
        self.sequence = self.sequence.saturating_add(1);
        self.advert_due = None;
        self.advertised = Some(now);
        // Nodes that started together do not refresh together for ever.
        let spread = u64::try_from(self.config.refresh.as_millis() / 8).unwrap_or(u64::MAX).max(1);
        let early = Duration::from_millis(self.id.0.wrapping_add(self.sequence) % spread);
        self.refresh_due = now + self.config.refresh.saturating_sub(early);

        let mut advert = Advert {
            name: self.node.name.clone(),
            edition: Edition { generation: self.node.generation, sequence: self.sequence },
            role: self.node.role,
            registry: self.own.registry,
            draining: self.own.draining,
            labels: self.own.labels.clone(),
            links: self.neighbours.iter_mut().map(|(peer, neighbour)| neighbour.advertise(*peer)).collect(),
            more: Bytes::new(),
            chain: self.sign.chain(),
            signature: Bytes::new(),
        };
        advert.signature = self.sign.sign(&advert.signed_bytes());
        advert.validate()?;
        self.counters.advertised += 1;
        self.learn(self.id, Known { advert: Arc::new(advert), received: now, age_ms: 0, expires: None }, now);
        self.owe_all_but(self.id, self.id);
        Ok(())
    }

    /// Takes over an advert, and what follows from it for the routes.
    fn learn(&mut self, id: NodeId, known: Known, now: Moment) {
        let new = known.advert.clone();
        let old = self.known.insert(id, known);
        if !old.is_some_and(|old| old.advert.says_the_same_as(&new)) {
            self.compute_soon(now);
        }
    }

    fn owe_all_but(&mut self, from: NodeId, node: NodeId) {
        for (peer, neighbour) in self.neighbours.iter_mut().filter(|(peer, _)| **peer != from) {
            neighbour.owe(node);
            self.ready.insert(*peer);
        }
    }

    fn expire(&mut self, now: Moment) {
        let before = self.known.len();
        self.known.retain(|_, known| known.expires.is_none_or(|expires| expires > now));
        self.expiry_due = self.known.values().filter_map(|known| known.expires).min();
        if self.known.len() < before {
            self.compute_soon(now);
        }
    }

    fn compute_soon(&mut self, now: Moment) {
        let nodes = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let pause = self.config.routes_pause + ROUTES_PAUSE_PER_NODE.saturating_mul(nodes);
        let due = self.computed.map_or(now, |last| last + pause).max(now);
        self.routes_due = Some(self.routes_due.map_or(due, |earlier| earlier.min(due)));
    }

    fn compute_routes(&mut self, now: Moment) {
        self.counters.routes += 1;
        self.routes_due = None;
        self.computed = Some(now);
        let links = self.neighbours.iter().map(|(peer, neighbour)| neighbour.link(*peer));
        let adverts = self.known.iter().map(|(id, known)| (*id, &known.advert));
        let routes = Arc::new(Routes::compute(self.id, links, adverts));
        let before = std::mem::replace(&mut self.routes, routes.clone());
        self.actions.push_back(Action::Routes(routes.clone()));
        self.tell_who_left_and_joined(&before, &routes);
    }

    fn tell_who_left_and_joined(&mut self, before: &Routes, now: &Routes) {
        for member in before.others().filter(|member| !now.reaches_life_of(member)) {
            self.actions.push_back(Action::Left(member.advert.name.clone()));
        }
        for member in now.others().filter(|member| !before.reaches_life_of(member)) {
            let generation = member.advert.edition.generation;
            self.actions.push_back(Action::Joined(member.advert.name.clone(), generation));
        }
    }
}
