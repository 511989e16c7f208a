//! The nodes as the leader sees them: what their resources say, and whether they are heard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Generation, NodeName, Phase, Resource, Status, Value};

/// What a node says of itself when it tells that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Mechtrons that have an instance.
    pub live: u64,
    /// Messages that wait or are being handled.
    pub queue: u64,
    /// How many mechtrons it can have assigned.
    pub mechtrons_max: u64,
}

impl Default for Load {
    /// Nothing to do, and room for all.
    fn default() -> Self {
        Self { live: 0, queue: 0, mechtrons_max: u64::MAX }
    }
}

/// Whether a node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It was not heard yet, and there was not time enough for it: what lives there stays, nothing new comes.
    Doubt,
    /// It is heard.
    Alive,
    /// It was not heard for too long.
    Dead {
        /// Since when it is taken for dead.
        since: Instant,
    },
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    /// Its resource, with the status that the leader believes in: what a place is compared with.
    pub(super) seen: Resource,
    /// The status in the registry.
    registered: Status,
    pub(super) life: Life,
    /// When it is dead unless it is heard; `None` for the leader's own node.
    deadline: Option<Instant>,
    pub(super) generation: Generation,
    pub(super) load: Load,
    /// Since when routing finds no way to it.
    pub(super) unreachable: Option<Instant>,
    /// Whether everything is to leave it.
    pub(super) draining: bool,
    /// Whether it was told that nothing lives there any more.
    pub(super) drain_done: bool,
    pub(super) revoked: bool,
    /// The status that was written last, and not refused since.
    told: Option<Status>,
}

impl Node {
    /// Whether what lives there may stay, as far as the node itself goes.
    pub(super) fn keeps(&self) -> bool {
        !matches!(self.life, Life::Dead { .. }) && !self.draining && !self.revoked
    }

    /// Whether something may come, as far as the node itself goes; `count` is how many it has.
    pub(super) fn takes(&self, count: usize) -> bool {
        self.life == Life::Alive
            && self.unreachable.is_none()
            && !self.draining
            && !self.revoked
            && (count as u64) < self.load.mechtrons_max
    }

    /// Whether it serves the registry, as the first node does.
    pub(super) fn serves_the_registry(&self) -> bool {
        self.seen.property("node.role").and_then(Value::as_text) == Some("registry")
    }

    /// Whether it can still be asked to give something up.
    pub(super) fn answers(&self) -> bool {
        !matches!(self.life, Life::Dead { .. }) && !self.revoked
    }

    /// The status that the leader believes in; `None` while it does not know.
    fn believed(&self, ttl: Duration) -> Option<Status> {
        if self.revoked {
            return Some(Status::because(Phase::Fatal, "it was revoked"));
        }
        match self.life {
            Life::Doubt => None,
            Life::Dead { .. } => {
                Some(Status::because(Phase::Unknown, format!("it was not heard for {} s", ttl.as_secs())))
            }
            Life::Alive if self.draining => Some(Status::because(Phase::Paused, "it is draining")),
            Life::Alive => Some(Status::ready()),
        }
    }
}

/// All nodes that have a resource.
#[derive(Debug)]
pub(super) struct Nodes {
    /// Where everything lives that says nothing else.
    home: NodeName,
    /// The leader's own, which never has to be heard.
    leader: NodeName,
    ttl: Duration,
    /// Who led before, and how long it is given at the beginning.
    former: Option<(NodeName, Duration)>,
    all: BTreeMap<NodeName, Node>,
}

impl Nodes {
    pub(super) fn new(home: NodeName, ttl: Duration) -> Self {
        Self { leader: home.clone(), home, ttl, former: None, all: BTreeMap::new() }
    }

    /// The leader is on another node than everything that says nothing. The one that led before is given a time of its own
    /// until it is heard.
    pub(super) fn set_leader(&mut self, leader: NodeName, former: Option<NodeName>, time: Duration) {
        self.former = former.filter(|former| *former != leader).map(|former| (former, time));
        self.leader = leader;
    }

    /// How long a node is waited for that was not heard yet.
    fn patience(&self, name: &NodeName) -> Duration {
        let former = self.former.as_ref().filter(|(former, _)| former == name);
        former.map_or(self.ttl, |(_, time)| *time)
    }

    pub(super) fn home(&self) -> &NodeName {
        &self.home
    }

    pub(super) fn leader(&self) -> &NodeName {
        &self.leader
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<&Node> {
        self.all.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &NodeName) -> Option<&mut Node> {
        self.all.get_mut(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.all.iter()
    }

    /// Takes what the registry says of a node. Tells whether anything changed that placing looks at.
    pub(super) fn put(&mut self, name: &NodeName, resource: &Arc<Resource>, now: Instant) -> bool {
        let flag = |key: &str| {
            resource.property(key).is_some_and(|value| match value {
                Value::Bool(set) => *set,
                other => other.as_text() == Some("true"),
            })
        };
        let (draining, revoked) = (flag("draining"), flag("revoked"));
        let leader = *name == self.leader;
        let patience = self.patience(name);
        // A node that was deleted and enrolled again is another one.
        self.all.retain(|known, node| known != name || node.seen.created == resource.created);
        let Some(node) = self.all.get_mut(name) else {
            let node = Node {
                seen: (**resource).clone(),
                registered: resource.status.clone(),
                life: if leader { Life::Alive } else { Life::Doubt },
                deadline: (!leader).then(|| now + patience),
                generation: Generation::default(),
                load: Load::default(),
                unreachable: None,
                draining,
                drain_done: false,
                revoked,
                told: None,
            };
            self.all.insert(name.clone(), node);
            return true;
        };
        if node.seen.modified > resource.modified {
            return false;
        }
        let changed = node.seen.properties != resource.properties;
        node.drain_done &= draining == node.draining;
        (node.draining, node.revoked) = (draining, revoked);
        node.registered = resource.status.clone();
        // What was told is there by now, or was overwritten.
        if resource.modified > node.seen.modified {
            node.told = None;
        }
        let status = node.seen.status.clone();
        node.seen = Resource { status, ..(**resource).clone() };
        changed
    }

    pub(super) fn remove(&mut self, name: &NodeName) -> Option<Node> {
        self.all.remove(name)
    }

    /// Takes that a node tells that it is alive. `None` when nobody may believe it, else what became of it.
    pub(super) fn heard(
        &mut self,
        name: &NodeName,
        generation: Generation,
        load: Load,
        now: Instant,
    ) -> Option<News> {
        let (leader, ttl) = (*name == self.leader, self.ttl);
        let node = self.all.get_mut(name)?;
        if generation < node.generation || node.revoked {
            return None;
        }
        let restarted = generation > node.generation && node.generation != Generation::default();
        if restarted {
            node.drain_done = false;
        }
        let better = node.life != Life::Alive
            || node.unreachable.is_some()
            || node.load.mechtrons_max < load.mechtrons_max
            || restarted;
        node.generation = generation;
        node.load = load;
        node.life = Life::Alive;
        node.unreachable = None;
        node.deadline = (!leader).then(|| now + ttl);
        Some(News { better, restarted })
    }

    /// Takes that routing finds no way to a node.
    pub(super) fn unreachable(&mut self, name: &NodeName, now: Instant) {
        if let Some(node) = self.all.get_mut(name)
            && *name != self.leader
        {
            node.unreachable.get_or_insert(now);
        }
    }

    /// The earliest moment at which a node is dead unless it is heard.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let lives = |node: &&Node| !matches!(node.life, Life::Dead { .. });
        self.all.values().filter(lives).filter_map(|node| node.deadline).min()
    }

    /// Gives every node that lives the time to be heard.
    pub(super) fn give_time(&mut self, now: Instant) {
        let (ttl, former) = (self.ttl, self.former.take());
        for (name, node) in &mut self.all {
            let former = former.as_ref().filter(|(former, _)| former == name);
            let patience = former.map_or(ttl, |(_, time)| *time);
            node.deadline = node.deadline.map(|deadline| deadline.max(now + patience));
        }
    }

    /// Takes the nodes for dead whose time is over, and says which.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<NodeName> {
        let mut dead = Vec::new();
        for (name, node) in &mut self.all {
            let lives = !matches!(node.life, Life::Dead { .. });
            if lives && node.deadline.is_some_and(|deadline| deadline <= now) {
                node.life = Life::Dead { since: now };
                dead.push(name.clone());
            }
        }
        dead
    }

    /// Brings the status of a node up to date; the one to write, unless the registry has it.
    pub(super) fn status(&mut self, name: &NodeName) -> Option<Status> {
        let ttl = self.ttl;
        let node = self.all.get_mut(name)?;
        let believed = node.believed(ttl)?;
        node.seen.status = believed.clone();
        if node.told.as_ref().unwrap_or(&node.registered) == &believed {
            return None;
        }
        node.told = Some(believed.clone());
        Some(believed)
    }

    /// The status could not be written.
    pub(super) fn not_told(&mut self, name: &NodeName) {
        if let Some(node) = self.all.get_mut(name) {
            node.told = None;
        }
    }
}

/// What it means that a node was heard.
pub(super) struct News {
    /// It can take what it could not before.
    pub(super) better: bool,
    /// It is another life of the node: what it held in memory is gone.
    pub(super) restarted: bool,
}
