//! Which nodes a mechtron may live on, and on which of them it will.

use super::nodes::Node;
use super::{Lives, Mechtron, Place, Placement, Replicas};
use crate::{NodeName, Resource};

/// Among which nodes is chosen.
#[derive(Debug, PartialEq)]
pub(super) enum Scope {
    /// It says nothing: it lives at home, or wherever it was moved to.
    Home,
    /// All nodes.
    All,
    /// Those that match.
    Matching(Place),
    /// None, because what it says cannot be read.
    Wrong(String),
}

/// What a resource says of where it may live, and on how many nodes.
pub(super) fn scope(resource: &Resource) -> (Scope, usize) {
    let replicas = resource.property("replicas").map(Replicas::of_value).transpose();
    let place = resource.property("place").map(Place::of_value).transpose();
    let (replicas, place) = match (replicas, place) {
        (Ok(replicas), Ok(place)) => (replicas, place),
        (Err(problem), _) | (_, Err(problem)) => return (Scope::Wrong(problem.detail), 1),
    };
    let scope = match place {
        Some(place) => Scope::Matching(place),
        None if replicas.is_some() => Scope::All,
        None => Scope::Home,
    };
    (scope, replicas.unwrap_or(Replicas::ONE).count())
}

impl Placement {
    /// Where a mechtron should live: where it is or goes to already, as far as it may, then where the fewest are. Empty
    /// when there is nothing better than where it is.
    pub(super) fn choose(&self, mechtron: &Mechtron) -> Vec<NodeName> {
        let home = self.nodes.home();
        let says_nothing = mechtron.scope == Scope::Home && mechtron.lives == Lives::AtHome;
        if says_nothing && mechtron.asked.is_none() && !self.leaves_home(mechtron) {
            return vec![home.clone()];
        }
        if let Some(asked) = &mechtron.asked {
            return vec![asked.clone()];
        }
        let assigned = mechtron.assigned(home);
        let going = mechtron.change.iter().flat_map(|change| &change.nodes);
        let mut chosen: Vec<NodeName> = Vec::new();
        for name in going.chain(assigned) {
            let stays = self.nodes.get(name).is_some_and(|node| self.fits(name, node, mechtron, true));
            if chosen.len() < mechtron.want && stays && !chosen.contains(name) {
                chosen.push(name.clone());
            }
        }
        while self.gathers.is_none() && chosen.len() < mechtron.want {
            let free = self.nodes.iter().filter(|(name, _)| !chosen.contains(name));
            let fit = free.filter(|(name, node)| self.fits(name, node, mechtron, false));
            let rank =
                |(name, node): &(&NodeName, &Node)| (self.assigned(name), node.load.queue, node.load.live);
            // Of those that rank the same the first by name is taken.
            let Some((name, _)) = fit.min_by_key(rank) else { break };
            chosen.push(name.clone());
        }
        // Where it lives already comes first, in the order that it was.
        chosen.sort_by_key(|name| assigned.iter().position(|known| known == name).unwrap_or(usize::MAX));
        chosen
    }

    /// Whether what says nothing of where it lives goes elsewhere: home is lost, its state is not, and another node serves the
    /// registry as home did.
    fn leaves_home(&self, mechtron: &Mechtron) -> bool {
        let is_lost = self.nodes.get(self.nodes.home()).is_some_and(|home| !home.answers());
        is_lost
            && mechtron.durability == "mesh"
            && self.nodes.iter().any(|(_, node)| node.serves_the_registry())
    }

    /// Whether a mechtron may stay on a node, or come to it.
    pub(super) fn fits(&self, name: &NodeName, node: &Node, mechtron: &Mechtron, stays: bool) -> bool {
        let able = if stays { node.keeps() } else { node.takes(self.assigned(name)) };
        let excluded = mechtron.change.as_ref().is_some_and(|change| change.excluded.contains(name));
        able && !excluded && self.is_in_scope(name, node, mechtron, stays)
    }

    /// Whether a mechtron is to be on a node by what it says itself.
    pub(super) fn is_in_scope(&self, name: &NodeName, node: &Node, mechtron: &Mechtron, stays: bool) -> bool {
        match &mechtron.scope {
            Scope::Home => {
                let stands_in = || self.leaves_home(mechtron) && node.serves_the_registry();
                stays || name == self.nodes.home() || mechtron.asked.as_ref() == Some(name) || stands_in()
            }
            Scope::All => true,
            Scope::Matching(place) => place.matches(&node.seen),
            Scope::Wrong(_) => false,
        }
    }
}
