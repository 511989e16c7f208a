//! Who is alive and where mechtrons live: a pure state machine, run by the leader of the registry.
//!
//! It is told what the registry says of nodes and mechtrons, which nodes are heard, and how what it asked for ended; it
//! answers with actions. After each `handle_…`, and each request, [`Placement::poll_action`] is drained. It owns no
//! truth: that is in the registry, so that a new leader goes on from there.
//!
//! **Life.** Every node tells the leader every [`HEARTBEAT`] that it is alive. One that is not heard for
//! [`Config::ttl`] is dead. A leader that begins, or that stood still itself, first gives everybody that time, and one
//! that begins assigns nothing for [`Config::gather`], unless all nodes are heard before: else the first to be heard would
//! get everything. The node whose lead ended has that time alone: the registry waited for it already.
//!
//! **Place.** A mechtron with neither `place` nor `replicas` lives on the first node of the registry, home, and is not assigned:
//! unless home is lost, its state is kept in the mesh, and other nodes serve the registry too; then it goes to one of those.
//! Any other is assigned to the living nodes that match, fewest mechtrons first, and stays there while it can. When none
//! matches it stays assigned where it was, and waits.
//!
//! **Epochs.** Each assignment has an epoch, one more than the revision of the resource that it was decided on. It is
//! greater than any before, since every assignment is a commit that expects a revision. Who acts for a mechtron under an
//! older one is refused by what keeps the state.
//!
//! **Moves.** Whoever acts for a mechtron and can still be asked lets go of it first ([`Action::Release`]), whoever is to act
//! is given its state ([`Action::Adopt`]), then the assignment is written ([`Action::Assign`]). Who let go does nothing
//! for the mechtron until its resource names a newer epoch, whoever that names: so no change of its state can come between.
//! When the leader is lost before it wrote, the node says so to the next one ([`Placement::handle_held`]).

mod change;
mod choose;
mod nodes;
mod place;
mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Epoch, Generation, NodeName, Phase, Point, Resource, Revision, Status, Value};

use self::change::{Change, Next};
use self::choose::Scope;
use self::nodes::{Node, Nodes};

pub use nodes::{Life, Load};
pub use place::{Lives, Mismatch, Place, Replicas, check, epoch_of};
pub use why::{Candidate, Reason, Verdict, Why};

/// How often a node tells the leader that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// How placement is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a node lives without being heard.
    pub ttl: Duration,
    /// How long a leader that begins waits for nodes before it assigns anything.
    pub gather: Duration,
    /// After how long something that failed is tried again.
    pub retry: Duration,
    /// How often the leader looks at the time at least. One that did not for twice as long stood still itself, and does not
    /// trust what it did not hear.
    pub look: Duration,
    /// How long the handlers of a mechtron may go on when it is to let go.
    pub release: Duration,
    /// How many mechtrons may be on their way at once; the others wait for their turn. So no more actions wait than these
    /// times the nodes that each leaves, and one for each node.
    pub changes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(8),
            gather: HEARTBEAT + Duration::from_secs(1),
            retry: Duration::from_secs(1),
            look: Duration::from_secs(1),
            release: Duration::from_secs(5),
            changes_max: 1_024,
        }
    }
}

/// The state of a mechtron on its way from one node to another, by the number that the leader's shell gave it. The shell keeps
/// it until the mechtron's resource has a newer epoch or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// Names something that was asked for, so that its answer is known from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug, Default)]
struct Tickets(u64);

impl Tickets {
    fn next(&mut self) -> Ticket {
        self.0 += 1;
        Ticket(self.0)
    }
}

/// What the leader's shell must do. What has a ticket is answered exactly once, within a time that the shell bounds.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the status of a node's resource; when that fails, [`Placement::handle_node_not_written`].
    SetNodeStatus {
        /// Which node.
        node: NodeName,
        /// Its status.
        status: Status,
    },
    /// Ask a node to stop acting for a mechtron, within a time that its handlers may still take, and to hand over its
    /// state. The messages that wait there stay there, and go on when the resource names the next. Asked again, a node
    /// gives the same again. Answered by [`Placement::handle_released`].
    Release {
        /// For the answer.
        ticket: Ticket,
        /// The mechtron.
        point: Point,
        /// The node.
        from: NodeName,
        /// Under which the node acts for it.
        epoch: Epoch,
        /// How long its handlers may go on.
        within: Duration,
    },
    /// Give a node the state of a mechtron that it will act for, to keep it under this epoch, instead of any that it has.
    /// Answered by [`Placement::handle_adopted`].
    Adopt {
        /// For the answer.
        ticket: Ticket,
        /// The mechtron.
        point: Point,
        /// Who let go of it; may be the same node.
        from: NodeName,
        /// The node.
        to: NodeName,
        /// Under which the node will act for it.
        epoch: Epoch,
        /// The state; `None` when there is none.
        handle: Option<Handle>,
    },
    /// Write where a mechtron lives ([`crate::Assignment`]), if its resource is still at a revision. Answered by
    /// [`Placement::handle_written`].
    Assign {
        /// For the answer.
        ticket: Ticket,
        /// The mechtron.
        point: Point,
        /// Where it lives; at least one.
        nodes: Vec<NodeName>,
        /// Under which they act for it.
        epoch: Epoch,
        /// The revision.
        expect: Revision,
        /// The status to write with it.
        status: Option<Status>,
    },
    /// Write the status of a mechtron, if its resource is still at a revision. Answered by
    /// [`Placement::handle_written`].
    SetStatus {
        /// For the answer.
        ticket: Ticket,
        /// The mechtron.
        point: Point,
        /// Its status.
        status: Status,
        /// The revision.
        expect: Revision,
    },
    /// A move that was asked for came to its end.
    MoveDone {
        /// The mechtron.
        point: Point,
        /// Where it was to live.
        to: NodeName,
        /// Whether it does, or why not.
        result: Result<(), MoveError>,
    },
    /// Nothing is assigned to a draining node any more, nor on its way to or from it.
    DrainDone(NodeName),
}

/// Why a mechtron does not move.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MoveError {
    /// Nothing that can be placed is at the point.
    #[error("no mechtron is there")]
    NoMechtron,
    /// It lives on several nodes, which are not moved one by one.
    #[error("it lives on several nodes; drain the node that it should leave")]
    Replicated,
    /// The mesh has no such node.
    #[error("there is no node of this name")]
    NoNode,
    /// The node cannot take it.
    #[error("the node cannot take it: {0}")]
    Refused(Reason),
}

/// Decides who is alive and where mechtrons live.
#[derive(Debug)]
pub struct Placement {
    config: Config,
    nodes: Nodes,
    mechtrons: BTreeMap<Point, Mechtron>,
    /// Which mechtrons a node has to do with: they live there, or are on their way to or from it.
    touches: BTreeMap<NodeName, BTreeSet<Point>>,
    /// How many mechtrons live on a node, or will.
    counts: BTreeMap<NodeName, usize>,
    /// Those that would rather live elsewhere, or on more nodes.
    wanting: BTreeSet<Point>,
    /// Those that must be decided about.
    due: BTreeSet<Point>,
    /// Those that would change if not too many did.
    queued: BTreeSet<Point>,
    /// When something is tried again.
    retries: BTreeSet<(Instant, Retry)>,
    /// Those on their way, and those that a commit is under way for.
    busy: BTreeSet<Point>,
    tickets: Tickets,
    /// When this looked at the time last.
    looked: Instant,
    /// Whether everything in the registry was told.
    listed: bool,
    /// Until when nodes are waited for.
    gathers: Option<Instant>,
    actions: VecDeque<Action>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Retry {
    /// To go on with a mechtron.
    Mechtron(Point),
    /// To write the status of a node.
    Node(NodeName),
}

/// What is known of a mechtron.
#[derive(Debug)]
struct Mechtron {
    scope: Scope,
    /// On how many nodes it lives.
    want: usize,
    lives: Lives,
    epoch: Epoch,
    /// Whether any node but home can have a state of it.
    was_assigned: bool,
    status: Status,
    durability: String,
    created: Revision,
    modified: Revision,
    change: Option<Change>,
    /// A commit is under way.
    writing: Option<Ticket>,
    /// Where somebody wants it to live.
    asked: Option<NodeName>,
    /// Nodes that let go of it and were not assigned anew.
    held: BTreeSet<NodeName>,
    retry_at: Option<Instant>,
    /// As it is counted in the index.
    touching: Vec<NodeName>,
    counted: Vec<NodeName>,
}

impl Mechtron {
    /// Who may act for it now.
    fn actors<'a>(&'a self, home: &'a NodeName) -> &'a [NodeName] {
        match &self.lives {
            Lives::On(nodes) => nodes,
            Lives::AtHome | Lives::Nowhere => std::slice::from_ref(home),
        }
    }

    /// Where it lives by its resource.
    fn assigned<'a>(&'a self, home: &'a NodeName) -> &'a [NodeName] {
        match &self.lives {
            Lives::Nowhere => &[],
            _ => self.actors(home),
        }
    }

    fn is_busy(&self) -> bool {
        self.change.is_some() || self.writing.is_some()
    }
}

impl Placement {
    /// Begins as the leader on the node `home`, which is the first of the registry.
    pub fn new(config: Config, home: NodeName, now: Instant) -> Self {
        Self {
            nodes: Nodes::new(home, config.ttl),
            config,
            mechtrons: BTreeMap::new(),
            touches: BTreeMap::new(),
            counts: BTreeMap::new(),
            wanting: BTreeSet::new(),
            due: BTreeSet::new(),
            queued: BTreeSet::new(),
            retries: BTreeSet::new(),
            busy: BTreeSet::new(),
            tickets: Tickets::default(),
            looked: now,
            listed: false,
            gathers: None,
            actions: VecDeque::new(),
        }
    }

    /// The leader is on another node than home: a later node of a registry that several serve. Who led before it was not
    /// heard by the registry for long already, so it is waited for no longer than [`Config::gather`].
    #[must_use]
    pub fn led_by(mut self, leader: NodeName, former: Option<NodeName>) -> Self {
        self.nodes.set_leader(leader, former, self.config.gather);
        self
    }

    /// Returns the next side effect, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Placement::handle_timeout`] is due; `None` when only an event can change anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let dies = self.nodes.deadline().map(|deadline| deadline.min(self.looked + self.config.look));
        dies.into_iter().chain(retry).chain(self.gathers).min()
    }

    /// Everything that the registry knows was told: nothing is decided before.
    pub fn handle_listed(&mut self, now: Instant) {
        self.nodes.give_time(now);
        self.listed = true;
        self.gathers = Some(now + self.config.gather);
        self.settle(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look(now);
        for name in self.nodes.expire(now) {
            self.node_changed(&name);
        }
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            match self.retries.pop_first() {
                Some((_, Retry::Mechtron(point))) => {
                    if let Some(mechtron) = self.mechtrons.get_mut(&point) {
                        mechtron.retry_at = None;
                        self.due.insert(point);
                    }
                }
                Some((_, Retry::Node(name))) => {
                    self.nodes.not_told(&name);
                    self.tell_status(&name);
                }
                None => break,
            }
        }
        self.settle(now);
    }

    /// A node tells that it is alive. Tells whether it was believed: not when the mesh has no such node, when it was
    /// revoked, and when a later life of it was heard.
    pub fn handle_heard(
        &mut self,
        name: &NodeName,
        generation: Generation,
        load: Load,
        now: Instant,
    ) -> bool {
        self.look(now);
        let Some(news) = self.nodes.heard(name, generation, load, now) else { return false };
        if news.restarted {
            for point in self.touches.get(name).cloned().unwrap_or_default() {
                let change = self.mechtrons.get_mut(&point).and_then(|mechtron| mechtron.change.as_mut());
                if change.is_some_and(|change| change.restarted(name)) {
                    self.due.insert(point);
                }
            }
        }
        if news.better {
            self.node_changed(name);
        }
        self.settle(now);
        true
    }

    /// A node tells that it let go of a mechtron and was not assigned anew: the leader that asked for it is gone.
    pub fn handle_held(&mut self, name: &NodeName, point: &Point, now: Instant) {
        let home = self.nodes.home().clone();
        let Some(mechtron) = self.mechtrons.get_mut(point) else { return };
        if !mechtron.is_busy() && mechtron.actors(&home).contains(name) && mechtron.held.insert(name.clone())
        {
            self.due.insert(point.clone());
        }
        self.settle(now);
    }

    /// Routing finds no way to a node. That is no death: but nothing new comes there until it is heard again.
    pub fn handle_unreachable(&mut self, name: &NodeName, now: Instant) {
        self.nodes.unreachable(name, now);
        self.settle(now);
    }

    /// What the registry says of a node. Its labels are its properties. With `draining = true` everything leaves it, until
    /// [`Action::DrainDone`]; whoever starts the node again unsets it. One with `revoked = true` is no node any more.
    pub fn handle_node(&mut self, resource: &Arc<Resource>, now: Instant) {
        let Some(name) = NodeName::of_point(&resource.point) else { return };
        if self.nodes.put(&name, resource, now) {
            self.node_changed(&name);
        } else {
            self.tell_status(&name);
        }
        self.settle(now);
    }

    /// A node is no longer in the registry.
    pub fn handle_node_removed(&mut self, name: &NodeName, now: Instant) {
        if self.nodes.remove(name).is_some() {
            self.node_changed(name);
        }
        self.settle(now);
    }

    /// The status of a node could not be written.
    pub fn handle_node_not_written(&mut self, name: &NodeName, now: Instant) {
        self.retries.insert((now + self.config.retry, Retry::Node(name.clone())));
    }

    /// What the registry says of a resource that may be a mechtron.
    pub fn handle_mechtron(&mut self, resource: &Resource, now: Instant) {
        self.take(resource);
        self.settle(now);
    }

    /// A mechtron is no longer in the registry.
    pub fn handle_removed(&mut self, point: &Point, now: Instant) {
        self.forget(point, &MoveError::NoMechtron);
        self.settle(now);
    }

    /// A node let go of a mechtron and gave its state, or did not.
    pub fn handle_released(
        &mut self,
        point: &Point,
        ticket: Ticket,
        result: Result<Option<Handle>, String>,
        now: Instant,
    ) {
        self.answered(point, now, |change| change.released(ticket, result));
    }

    /// A node took a mechtron's state, or did not. What it took is durable, unless the mechtron wants it in memory.
    pub fn handle_adopted(
        &mut self,
        point: &Point,
        ticket: Ticket,
        result: Result<(), String>,
        now: Instant,
    ) {
        self.answered(point, now, |change| change.adopted(ticket, result));
    }

    fn answered(&mut self, point: &Point, now: Instant, take: impl FnOnce(&mut Change) -> Option<bool>) {
        let change = self.mechtrons.get_mut(point).and_then(|mechtron| mechtron.change.as_mut());
        match change.and_then(take) {
            Some(true) => {
                self.due.insert(point.clone());
            }
            Some(false) => self.retry(point, now),
            None => {}
        }
        self.settle(now);
    }

    /// A commit of a mechtron's resource succeeded, and this is the resource; or it did not, or nobody knows.
    pub fn handle_written(
        &mut self,
        point: &Point,
        ticket: Ticket,
        resource: Option<&Resource>,
        now: Instant,
    ) {
        if let Some(mechtron) = self.mechtrons.get_mut(point)
            && mechtron.writing == Some(ticket)
        {
            mechtron.writing = None;
            match resource {
                Some(resource) => {
                    self.take(resource);
                    self.due.insert(point.clone());
                }
                None => self.retry(point, now),
            }
            self.reindex(point);
        }
        self.settle(now);
    }

    /// Moves a mechtron to a node; [`Action::MoveDone`] tells how it ended. It stays there while it can.
    ///
    /// # Errors
    /// Why it surely does not move.
    pub fn move_to(&mut self, point: &Point, node: &NodeName, now: Instant) -> Result<(), MoveError> {
        let mechtron = self.mechtrons.get(point).ok_or(MoveError::NoMechtron)?;
        if mechtron.want > 1 {
            return Err(MoveError::Replicated);
        }
        let known = self.nodes.get(node).ok_or(MoveError::NoNode)?;
        let stays = mechtron.counted.contains(node);
        let mut refused = self.reasons(node, known, mechtron, stays, now).into_iter();
        // That it says nothing of where it may live is no reason against what somebody says for it.
        if let Some(reason) = refused.find(|reason| *reason != Reason::NoPlace) {
            return Err(MoveError::Refused(reason));
        }
        if let Some(mechtron) = self.mechtrons.get_mut(point)
            && let Some(other) = mechtron.asked.replace(node.clone())
            && other != *node
        {
            let overtaken = Err(MoveError::Refused(Reason::Overtaken));
            self.actions.push_back(Action::MoveDone { point: point.clone(), to: other, result: overtaken });
        }
        self.due.insert(point.clone());
        self.settle(now);
        Ok(())
    }

    /// How many mechtrons live on a node, or will.
    pub fn assigned(&self, name: &NodeName) -> usize {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Whether a node lives; `None` when there is no such node.
    pub fn life(&self, name: &NodeName) -> Option<Life> {
        self.nodes.get(name).map(|node| node.life)
    }

    // ---- what is known ----

    fn node_changed(&mut self, name: &NodeName) {
        self.tell_status(name);
        self.due.extend(self.touches.get(name).into_iter().flatten().cloned());
        if name == self.nodes.home() && name != self.nodes.leader() {
            let at_home = self.mechtrons.iter().filter(|(_, mechtron)| mechtron.lives == Lives::AtHome);
            self.due.extend(at_home.map(|(point, _)| point.clone()));
        }
        self.due.extend(self.wanting.iter().cloned());
    }

    fn tell_status(&mut self, name: &NodeName) {
        if let Some(status) = self.nodes.status(name) {
            self.actions.push_back(Action::SetNodeStatus { node: name.clone(), status });
        }
    }

    fn take(&mut self, resource: &Resource) {
        let point = &resource.point;
        // Anything with code is one, and what is being set up is not one yet.
        if resource.property("wasm.src").is_none() || resource.status.phase == Phase::Init {
            return self.forget(point, &MoveError::NoMechtron);
        }
        let known = self.mechtrons.get(point);
        if known.is_some_and(|known| known.modified >= resource.modified) {
            return;
        }
        if known.is_some_and(|known| known.created != resource.created) {
            self.forget(point, &MoveError::NoMechtron);
        }
        let (scope, want) = choose::scope(resource);
        let (lives, epoch) = (Lives::of(resource), epoch_of(resource));
        let mechtron = self.mechtrons.entry(point.clone()).or_insert_with(|| Mechtron {
            scope: Scope::Home,
            want: 1,
            lives: Lives::AtHome,
            epoch: Epoch::default(),
            was_assigned: false,
            status: Status::ready(),
            durability: String::new(),
            created: resource.created,
            modified: Revision::default(),
            change: None,
            writing: None,
            asked: None,
            held: BTreeSet::new(),
            retry_at: None,
            touching: Vec::new(),
            counted: Vec::new(),
        });
        if mechtron.epoch != epoch {
            // Whatever was on its way is there, or was overtaken by another leader.
            mechtron.change = None;
            mechtron.held.clear();
        }
        mechtron.scope = scope;
        mechtron.want = want;
        mechtron.was_assigned = matches!(lives, Lives::On(_));
        mechtron.lives = lives;
        mechtron.epoch = epoch;
        mechtron.status = resource.status.clone();
        mechtron.durability =
            resource.property("durability").map_or_else(|| "node".to_owned(), Value::to_string);
        mechtron.modified = resource.modified;
        // What failed may have, because this was not known.
        if let Some(at) = mechtron.retry_at.take() {
            self.retries.remove(&(at, Retry::Mechtron(point.clone())));
        }
        self.due.insert(point.clone());
        self.reindex(point);
    }

    fn forget(&mut self, point: &Point, why: &MoveError) {
        if let Some(mechtron) = self.mechtrons.get_mut(point) {
            mechtron.change = None;
            mechtron.writing = None;
            mechtron.lives = Lives::Nowhere;
            if let Some(to) = mechtron.asked.take() {
                let result = Err(why.clone());
                self.actions.push_back(Action::MoveDone { point: point.clone(), to, result });
            }
            if let Some(at) = mechtron.retry_at {
                self.retries.remove(&(at, Retry::Mechtron(point.clone())));
            }
            self.reindex(point);
            self.mechtrons.remove(point);
        }
        self.due.remove(point);
        self.wanting.remove(point);
        self.queued.remove(point);
    }

    /// Brings the index up to date with a mechtron.
    fn reindex(&mut self, point: &Point) {
        let Some(mechtron) = self.mechtrons.get_mut(point) else { return };
        let home = self.nodes.home();
        let mut touching: Vec<NodeName> = match &mechtron.lives {
            Lives::On(nodes) => nodes.clone(),
            Lives::AtHome | Lives::Nowhere => Vec::new(),
        };
        let counted = match &mechtron.change {
            Some(change) => change.nodes.clone(),
            None => mechtron.assigned(home).to_vec(),
        };
        if let Some(change) = &mechtron.change {
            touching.extend(change.nodes.iter().chain(change.legs.iter().map(|leg| &leg.from)).cloned());
        }
        let touched = std::mem::replace(&mut mechtron.touching, touching);
        let count = std::mem::replace(&mut mechtron.counted, counted);
        for name in touched {
            if let Some(points) = self.touches.get_mut(&name) {
                points.remove(point);
            }
        }
        for name in &mechtron.touching {
            self.touches.entry(name.clone()).or_default().insert(point.clone());
        }
        let mut freed = false;
        for name in count {
            if let Some(count) = self.counts.get_mut(&name) {
                freed |= self.nodes.get(&name).is_some_and(|node| node.load.mechtrons_max <= *count as u64);
                *count -= 1;
            }
        }
        let is_busy = mechtron.is_busy();
        for name in &mechtron.counted {
            *self.counts.entry(name.clone()).or_default() += 1;
        }
        if freed {
            self.due.extend(self.wanting.iter().cloned());
        }
        if is_busy {
            self.busy.insert(point.clone());
        } else {
            self.busy.remove(point);
        }
    }

    fn retry(&mut self, point: &Point, now: Instant) {
        let Some(mechtron) = self.mechtrons.get_mut(point) else { return };
        if mechtron.retry_at.is_none() {
            let at = now + self.config.retry;
            mechtron.retry_at = Some(at);
            self.retries.insert((at, Retry::Mechtron(point.clone())));
        }
    }

    // ---- what is done about it ----

    /// Looks at the time.
    fn look(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) > 2 * self.config.look {
            self.nodes.give_time(now);
        }
        self.looked = self.looked.max(now);
    }

    /// Decides about everything that is due.
    fn settle(&mut self, now: Instant) {
        if !self.listed {
            return;
        }
        let all_heard = || self.nodes.iter().all(|(_, node)| node.life != Life::Doubt);
        if self.gathers.is_some_and(|until| until <= now || all_heard()) {
            self.gathers = None;
            self.due.extend(self.wanting.iter().cloned());
        }
        loop {
            let free = self.busy.len() < self.config.changes_max;
            let queued = || if free { self.queued.pop_first() } else { None };
            let Some(point) = self.due.pop_first().or_else(queued) else { break };
            self.decide(&point, now);
            self.reindex(&point);
        }
        self.finish_drains();
    }

    fn decide(&mut self, point: &Point, now: Instant) {
        self.check_move(point, now);
        let Some(mechtron) = self.mechtrons.get(point) else { return };
        if mechtron.writing.is_some() || mechtron.retry_at.is_some() {
            return;
        }
        let mut chosen = self.choose(mechtron);
        let content = chosen.len() >= mechtron.want;
        let assigned = mechtron.assigned(self.nodes.home());
        let answers = |name: &NodeName| self.nodes.get(name).is_some_and(Node::answers);
        if let Some(change) = &mechtron.change
            && chosen.is_empty()
        {
            // Whoever let go and could take nothing back is not asked to.
            let back = change.legs.iter().map(|leg| &leg.from).filter(|from| answers(from));
            chosen = back.cloned().collect();
        }
        let same = chosen.iter().all(|name| assigned.contains(name)) && chosen.len() == assigned.len();
        let settled = match &mechtron.change {
            None => (same || chosen.is_empty()) && mechtron.held.is_empty(),
            Some(change) => chosen.is_empty() || same && change.legs.is_empty(),
        };
        if content {
            self.wanting.remove(point);
        } else {
            self.wanting.insert(point.clone());
        }
        if settled {
            if let Some(mechtron) = self.mechtrons.get_mut(point) {
                mechtron.change = None;
            }
            return self.check_status(point);
        }
        if chosen.is_empty() {
            // It is held by a node, and there is none that is better.
            chosen = assigned.to_vec();
        }
        if !mechtron.is_busy() && self.busy.len() >= self.config.changes_max {
            self.queued.insert(point.clone());
            return;
        }
        self.go_on(point, chosen);
    }

    /// Goes on with a change of where a mechtron lives, or begins it.
    fn go_on(&mut self, point: &Point, chosen: Vec<NodeName>) {
        let Some(mechtron) = self.mechtrons.get_mut(point) else { return };
        let home = self.nodes.home().clone();
        let actors = mechtron.actors(&home).to_vec();
        let epoch = Epoch(mechtron.modified.0 + 1);
        let change = mechtron.change.get_or_insert_with(|| Change::new(epoch));
        let answers = |name: &NodeName| self.nodes.get(name).is_some_and(Node::answers);
        change.aim(chosen, &actors, &mechtron.held, answers);
        mechtron.held.clear();
        match change.next(mechtron.was_assigned, &mut self.tickets) {
            Next::Wait => {}
            Next::Release(asked) => {
                for (ticket, from) in asked {
                    self.actions.push_back(Action::Release {
                        ticket,
                        point: point.clone(),
                        from,
                        epoch: mechtron.epoch,
                        within: self.config.release,
                    });
                }
            }
            Next::Adopt(given) => {
                let epoch = change.epoch;
                for (ticket, from, to, handle) in given {
                    let point = point.clone();
                    self.actions.push_back(Action::Adopt { ticket, point, from, to, epoch, handle });
                }
            }
            Next::Assign => {
                let ticket = self.tickets.next();
                mechtron.writing = Some(ticket);
                self.actions.push_back(Action::Assign {
                    ticket,
                    point: point.clone(),
                    nodes: change.nodes.clone(),
                    epoch: change.epoch,
                    expect: mechtron.modified,
                    status: (mechtron.status.phase == Phase::Pending).then(Status::ready),
                });
            }
        }
    }

    /// Ends a move that is done, or cannot be.
    fn check_move(&mut self, point: &Point, now: Instant) {
        let Some(mechtron) = self.mechtrons.get(point) else { return };
        let Some(to) = &mechtron.asked else { return };
        let lives = mechtron.assigned(self.nodes.home());
        let result = if lives == std::slice::from_ref(to) && !mechtron.is_busy() && mechtron.held.is_empty() {
            Ok(())
        } else if mechtron.want > 1 {
            Err(MoveError::Replicated)
        } else {
            match self.nodes.get(to) {
                None => Err(MoveError::NoNode),
                Some(node) => {
                    let stays = mechtron.counted.contains(to);
                    match self.reasons(to, node, mechtron, stays, now).into_iter().next() {
                        Some(reason) => Err(MoveError::Refused(reason)),
                        None => return,
                    }
                }
            }
        };
        self.actions.push_back(Action::MoveDone { point: point.clone(), to: to.clone(), result });
        if let Some(mechtron) = self.mechtrons.get_mut(point) {
            mechtron.asked = None;
        }
    }

    /// Says of a mechtron that does not change whether it waits.
    fn check_status(&mut self, point: &Point) {
        let Some(mechtron) = self.mechtrons.get(point) else { return };
        let lives = mechtron.assigned(self.nodes.home());
        let life = |name: &NodeName| self.nodes.get(name).filter(|node| node.answers()).map(|node| node.life);
        let at_home =
            mechtron.lives == Lives::AtHome && self.nodes.get(self.nodes.home()).is_none_or(Node::answers);
        let acts = at_home || lives.iter().any(|name| life(name) == Some(Life::Alive));
        let in_doubt = lives.iter().any(|name| life(name) == Some(Life::Doubt))
            || self.nodes.iter().any(|(_, node)| node.life == Life::Doubt);
        let status = match mechtron.status.phase {
            Phase::Pending if acts => Status::ready(),
            Phase::Pending | Phase::Ready | Phase::Unknown | Phase::Panic if !acts && !in_doubt => {
                Status::because(Phase::Pending, self.waiting(mechtron))
            }
            _ => return,
        };
        if status == mechtron.status {
            return;
        }
        if self.busy.len() >= self.config.changes_max {
            self.queued.insert(point.clone());
            return;
        }
        let ticket = self.tickets.next();
        if let Some(mechtron) = self.mechtrons.get_mut(point) {
            mechtron.writing = Some(ticket);
            let expect = mechtron.modified;
            self.actions.push_back(Action::SetStatus { ticket, point: point.clone(), status, expect });
        }
    }

    fn finish_drains(&mut self) {
        let empty = |name: &NodeName| self.touches.get(name).is_none_or(BTreeSet::is_empty);
        let done = self.nodes.iter().filter(|(name, node)| node.draining && !node.drain_done && empty(name));
        let done: Vec<NodeName> = done.map(|(name, _)| name.clone()).collect();
        for name in done {
            if let Some(node) = self.nodes.get_mut(&name) {
                node.drain_done = true;
            }
            self.actions.push_back(Action::DrainDone(name));
        }
    }
}
