//! Why a mechtron lives where it does, or nowhere.

use std::fmt;
use std::time::{Duration, Instant};

use super::choose::Scope;
use super::nodes::{Life, Node};
use super::{Lives, Mechtron, Mismatch, Placement};
use crate::{Epoch, NodeName, Point};

/// Why a mechtron lives where it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// The mechtron.
    pub point: Point,
    /// Where it may live, as it says: `[tier = "edge"]`; `None` when it says nothing.
    pub place: Option<String>,
    /// On how many nodes it should live.
    pub replicas: usize,
    /// Where its state is kept: `memory`, `node` or `mesh`.
    pub durability: String,
    /// Where it lives, as its resource says.
    pub lives: Lives,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Where it goes, and what it waits for on its way; `None` when it does not move.
    pub moving: Option<(Vec<NodeName>, Option<String>)>,
    /// What keeps it from living as it says, in words; empty when nothing does.
    pub waiting: String,
    /// Each node of the mesh, by name.
    pub candidates: Vec<Candidate>,
}

/// What is to be said of one node for one mechtron.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// Whether it is heard.
    pub life: Life,
    /// How many mechtrons live there, or will.
    pub assigned: usize,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The mechtron lives there, or goes there.
    Chosen,
    /// It lives there although it should not, since nothing better is to be had, and for these reasons.
    Stays(Vec<Reason>),
    /// It could live there; it lives elsewhere.
    Fits,
    /// It cannot live there, for these reasons.
    Refused(Vec<Reason>),
}

/// Why a mechtron cannot live on a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// The node does not match the mechtron's `place`.
    Mismatch(Mismatch),
    /// The mechtron says neither `place` nor `replicas`, and the node is not the registry's.
    NoPlace,
    /// The mechtron's `place` or `replicas` cannot be read.
    Wrong(String),
    /// The node is draining.
    Draining,
    /// The node was revoked.
    Revoked,
    /// The node is dead for this long.
    Dead(Duration),
    /// The node was not heard since this leader began.
    Unheard,
    /// Routing finds no way to the node for this long.
    NoRoute(Duration),
    /// The node has as many mechtrons as it can.
    Full {
        /// How many it has.
        assigned: usize,
        /// How many it can have.
        max: u64,
    },
    /// The node failed to take it over.
    Failed,
    /// Somebody wants it elsewhere by now.
    Overtaken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Mismatch(mismatch) => mismatch.fmt(f),
            Reason::NoPlace => f.write_str("no `place` is set, so it lives on the registry's node"),
            Reason::Wrong(detail) => f.write_str(detail),
            Reason::Draining => f.write_str("it is draining"),
            Reason::Revoked => f.write_str("it was revoked"),
            Reason::Dead(since) => write!(f, "it is dead for {} s", since.as_secs()),
            Reason::Unheard => f.write_str("it was not heard yet"),
            Reason::NoRoute(since) => write!(f, "there is no way to it for {} s", since.as_secs()),
            Reason::Full { assigned, max } => {
                write!(f, "it is full: it has {assigned} mechtrons and can have {max}")
            }
            Reason::Failed => f.write_str("it failed to take it over"),
            Reason::Overtaken => f.write_str("it was moved elsewhere meanwhile"),
        }
    }
}

impl Placement {
    /// Why a mechtron lives where it does, node by node; `None` when nothing that can be placed is at the point.
    pub fn why(&self, point: &Point, now: Instant) -> Option<Why> {
        let mechtron = self.mechtrons.get(point)?;
        let going = mechtron.change.as_ref().map(|change| (change.nodes.clone(), change.trouble.clone()));
        let candidate = |(name, node): (&NodeName, &Node)| {
            let chosen = mechtron.counted.contains(name);
            let reasons = self.reasons(name, node, mechtron, chosen, now);
            let verdict = match (chosen, reasons.is_empty()) {
                (true, true) => Verdict::Chosen,
                (true, false) => Verdict::Stays(reasons),
                (false, true) => Verdict::Fits,
                (false, false) => Verdict::Refused(reasons),
            };
            Candidate { node: name.clone(), life: node.life, assigned: self.assigned(name), verdict }
        };
        Some(Why {
            point: point.clone(),
            place: match &mechtron.scope {
                Scope::Matching(place) => Some(place.to_string()),
                _ => None,
            },
            replicas: mechtron.want,
            durability: mechtron.durability.clone(),
            lives: mechtron.lives.clone(),
            epoch: mechtron.epoch,
            waiting: self.waiting(mechtron),
            candidates: self.nodes.iter().map(candidate).collect(),
            moving: going,
        })
    }

    /// Everything that keeps a mechtron from staying on a node, or coming to it; nothing when it may.
    pub(super) fn reasons(
        &self,
        name: &NodeName,
        node: &Node,
        mechtron: &Mechtron,
        stays: bool,
        now: Instant,
    ) -> Vec<Reason> {
        let assigned = self.assigned(name);
        let excluded = mechtron.change.as_ref().is_some_and(|change| change.excluded.contains(name));
        let in_scope = self.is_in_scope(name, node, mechtron, stays);
        let not_in_scope = match &mechtron.scope {
            _ if in_scope => None,
            Scope::Matching(place) => place.mismatch(&node.seen).map(Reason::Mismatch),
            Scope::Wrong(detail) => Some(Reason::Wrong(detail.clone())),
            Scope::Home | Scope::All => Some(Reason::NoPlace),
        };
        let not_alive = match node.life {
            Life::Alive => None,
            Life::Doubt => (!stays).then_some(Reason::Unheard),
            Life::Dead { since } => Some(Reason::Dead(now.saturating_duration_since(since))),
        };
        let no_route = node.unreachable.filter(|_| !stays && node.life == Life::Alive);
        let full = !stays && assigned as u64 >= node.load.mechtrons_max;
        [
            node.revoked.then_some(Reason::Revoked),
            not_in_scope,
            not_alive,
            no_route.map(|since| Reason::NoRoute(now.saturating_duration_since(since))),
            node.draining.then_some(Reason::Draining),
            full.then_some(Reason::Full { assigned, max: node.load.mechtrons_max }),
            excluded.then_some(Reason::Failed),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What keeps a mechtron from living as it says; the words hold for as long as the reason does.
    pub(super) fn waiting(&self, mechtron: &Mechtron) -> String {
        let lives = mechtron.assigned(self.nodes.home());
        let on =
            |name: &&NodeName| self.nodes.get(name).is_some_and(|node| self.fits(name, node, mechtron, true));
        let at_home = mechtron.scope == Scope::Home && mechtron.lives == Lives::AtHome;
        let home = self.nodes.home();
        if at_home && self.nodes.get(home).is_some_and(|node| !node.answers()) {
            return match mechtron.durability.as_str() {
                "mesh" => {
                    format!("`{home}` is lost; no other node that serves the registry is alive and free")
                }
                _ => format!("`{home}` is lost, and has its state"),
            };
        }
        if at_home || lives.iter().filter(on).count() >= mechtron.want {
            return String::new();
        }
        if self.gathers.is_some() {
            return "the leader began, and waits for nodes to be heard".to_owned();
        }
        let lost: Vec<_> = lives
            .iter()
            .filter(|name| self.nodes.get(name).is_none_or(|node| !node.answers()))
            .map(|name| format!("`{name}`"))
            .collect();
        let lost = if lost.is_empty() { String::new() } else { format!("{} is lost; ", lost.join(" and ")) };
        let matching = self.nodes.iter().filter(|(name, node)| self.is_in_scope(name, node, mechtron, false));
        let wanted = match &mechtron.scope {
            Scope::Wrong(detail) => return format!("{lost}{detail}"),
            Scope::Matching(place) => format!("matches `{place}`"),
            Scope::Home | Scope::All => "could take it".to_owned(),
        };
        match matching.count() {
            0 => format!("{lost}no node {wanted}"),
            _ if mechtron.want > 1 => format!("{lost}too few nodes that {wanted} are alive and free"),
            _ => format!("{lost}no node that {wanted} is alive and free"),
        }
    }
}
