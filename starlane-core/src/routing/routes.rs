//! Where frames go next: shortest paths over the links that both ends advertise.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::advert::{Advert, Link};
use crate::NodeId;

/// What a path costs more for each draining node it leads through: more than any path without one.
const DRAINING_COST: u64 = 1 << 48;

/// The way from this node to all others, as it is known at one moment. Never changed: a newer one takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    own: NodeId,
    index: HashMap<NodeId, Entry, BuildHasherDefault<IdHasher>>,
    /// By rising id.
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// The neighbour to send to; `None` for this node itself and for what cannot be reached.
    next: Option<NodeId>,
    member: usize,
}

/// A node that is known, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node in tables.
    pub id: NodeId,
    /// What it says of itself: name, generation, role, labels, links.
    pub advert: Arc<Advert>,
    /// `None` when it cannot be reached from here.
    pub route: Option<Route>,
}

/// The way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The neighbour that the way leads through first; this node itself when it leads nowhere else.
    pub next: NodeId,
    /// The last node before the end; this node itself for neighbours.
    pub previous: NodeId,
    /// The round trips of its links together, in microseconds.
    pub cost: u64,
    /// How many links it has.
    pub hops: u32,
}

impl Routes {
    /// The neighbour to send a frame for a node to; `None` when it cannot be reached, and for this node itself. O(1).
    pub fn next_hop(&self, to: NodeId) -> Option<NodeId> {
        self.index.get(&to)?.next
    }

    /// A node that is known, reachable or not.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(self.index.get(&node)?.member)
    }

    /// All nodes that are known, this one among them, by rising id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes on the way to a node, this one first and that one last; `None` when it cannot be reached. Where several
    /// ways are equally good, nodes on the way may choose another of them.
    pub fn path(&self, to: NodeId) -> Option<Vec<NodeId>> {
        let mut path = vec![to];
        let mut at = to;
        while at != self.own {
            at = self.member(at)?.route?.previous;
            path.push(at);
        }
        path.reverse();
        Some(path)
    }

    /// The nodes that can be reached, without this one.
    pub(super) fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.id != self.own && member.is_reachable())
    }

    /// Whether a node can be reached in the same of its lives.
    pub(super) fn reaches_life_of(&self, member: &Member) -> bool {
        let generation = |member: &Member| member.advert.edition.generation;
        let here = self.member(member.id).filter(|member| member.is_reachable());
        here.is_some_and(|here| generation(here) == generation(member))
    }

    /// The shortest paths from a node to all others. `adverts` come by rising id, the node's own among them; `links` are
    /// its own, which it knows better than its last advert says. Only relays carry what is not theirs. Of equal
    /// paths the one with fewer links is taken, then the one over the lesser ids.
    pub(super) fn compute<'a>(
        own: NodeId,
        links: impl Iterator<Item = Link>,
        adverts: impl Iterator<Item = (NodeId, &'a Arc<Advert>)>,
    ) -> Self {
        let mut members: Vec<_> =
            adverts.map(|(id, advert)| Member { id, advert: advert.clone(), route: None }).collect();
        let mut index: HashMap<_, _, BuildHasherDefault<IdHasher>> = HashMap::default();
        index.extend(
            members.iter().enumerate().map(|(at, member)| (member.id, Entry { next: None, member: at })),
        );

        let mut best: Vec<Option<Step>> = vec![None; members.len()];
        let mut heap = BinaryHeap::new();
        if let Some(entry) = index.get(&own) {
            let start = Step { cost: 0, hops: 0, previous: own, next: own };
            heap.push(Reverse((start, entry.member)));
            best[entry.member] = Some(start);
        }
        let links: Vec<Link> = links.collect();
        while let Some(Reverse((step, at))) = heap.pop() {
            if best[at] != Some(step) {
                continue;
            }
            let Member { id, advert, .. } = &members[at];
            let id = *id;
            let (outgoing, base) = if id == own {
                (&links, 0)
            } else if advert.draining {
                (&advert.links, step.cost.saturating_add(DRAINING_COST))
            } else {
                (&advert.links, step.cost)
            };
            for link in outgoing {
                let Some(&Entry { member: there, .. }) = index.get(&link.to) else { continue };
                let Some(back) = members[there].advert.cost_to(id) else { continue };
                let reached = Step {
                    cost: base.saturating_add(link.cost.max(back).micros().into()),
                    hops: step.hops + 1,
                    previous: id,
                    next: if id == own { link.to } else { step.next },
                };
                if best[there].is_none_or(|known| reached < known) {
                    best[there] = Some(reached);
                    // Nothing leads on from a leaf.
                    if members[there].advert.role.relays() {
                        heap.push(Reverse((reached, there)));
                    }
                }
            }
        }

        for (member, step) in members.iter_mut().zip(best) {
            let Some(Step { cost, hops, previous, next }) = step else { continue };
            member.route = Some(Route { next, previous, cost: cost % DRAINING_COST, hops });
            if let Some(entry) = index.get_mut(&member.id).filter(|_| member.id != own) {
                entry.next = Some(next);
            }
        }
        Self { own, index, members }
    }
}

impl Member {
    /// Whether a frame can be sent to it.
    pub fn is_reachable(&self) -> bool {
        self.route.is_some()
    }
}

/// The best way to a node that is known so far; the lesser one is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    cost: u64,
    hops: u32,
    previous: NodeId,
    next: NodeId,
}

/// Ids are hashes already; one multiplication spreads their low bits over the high ones.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::routing::{Cost, Edition};
    use crate::{Generation, NodeName, Role};

    fn cost(ms: u64) -> Cost {
        Cost::from_rtt(Duration::from_millis(ms))
    }

    fn id(name: &str) -> NodeId {
        name.parse::<NodeName>().unwrap().id()
    }

    /// Names of leaves begin with `leaf`, those of draining nodes with `old`; a link is `from to ms`, one way.
    fn adverts(links: &[(&str, &str, u64)]) -> BTreeMap<NodeId, Arc<Advert>> {
        let mut adverts = BTreeMap::new();
        for name in links.iter().flat_map(|(from, to, _)| [*from, *to]) {
            let mut links: Vec<_> = links
                .iter()
                .filter(|(from, ..)| *from == name)
                .map(|(_, to, ms)| Link { to: id(to), cost: cost(*ms) })
                .collect();
            links.sort_by_key(|link| link.to);
            let advert = Advert {
                name: name.parse().unwrap(),
                edition: Edition { generation: Generation(1), sequence: 1 },
                role: if name.starts_with("leaf") { Role::Leaf } else { Role::Relay },
                registry: false,
                draining: name.starts_with("old"),
                labels: BTreeMap::new(),
                links,
                more: Bytes::new(),
                chain: Bytes::new(),
                signature: Bytes::new(),
            };
            adverts.insert(advert.id(), Arc::new(advert));
        }
        adverts
    }

    fn both<'a>(links: &[(&'a str, &'a str, u64)]) -> Vec<(&'a str, &'a str, u64)> {
        links.iter().flat_map(|&(one, two, ms)| [(one, two, ms), (two, one, ms)]).collect()
    }

    fn routes(own: &str, links: &[(&str, &str, u64)]) -> Routes {
        let adverts = adverts(links);
        let own_links = adverts[&id(own)].links.clone();
        Routes::compute(id(own), own_links.into_iter(), adverts.iter().map(|(id, advert)| (*id, advert)))
    }

    /// The path as names, and its cost in milliseconds.
    fn path(own: &str, to: &str, links: &[(&str, &str, u64)]) -> String {
        let routes = routes(own, links);
        let Some(path) = routes.path(id(to)) else { return "none".into() };
        let name = |node: &NodeId| routes.member(*node).unwrap().advert.name.to_string();
        let route = routes.member(id(to)).unwrap().route.unwrap();
        assert_eq!(route.hops as usize, path.len() - 1);
        assert_eq!(routes.next_hop(id(to)), path.get(1).copied());
        format!("{} {}", path.iter().map(name).collect::<Vec<_>>().join(" "), route.cost / 1_000)
    }

    #[test]
    fn the_cheapest_path_wins_and_then_the_shortest() {
        let dear = both(&[("a", "b", 50), ("a", "c", 10), ("c", "b", 20)]);
        assert_eq!(path("a", "b", &dear), "a c b 30");
        let equal = both(&[("a", "b", 30), ("a", "c", 10), ("c", "b", 20)]);
        assert_eq!(path("a", "b", &equal), "a b 30");
    }

    #[test]
    fn the_way_to_oneself_has_no_next_hop() {
        let links = both(&[("a", "b", 1)]);
        assert_eq!(path("a", "a", &links), "a 0");
        assert_eq!(routes("a", &links).next_hop(id("nobody")), None);
    }

    #[test]
    fn a_link_counts_when_both_ends_advertise_it() {
        assert_eq!(path("a", "b", &[("a", "b", 1)]), "none");
        assert_eq!(path("b", "a", &[("a", "b", 1)]), "none");
        let detour = [both(&[("a", "c", 9), ("c", "b", 9)]), vec![("a", "b", 1)]].concat();
        assert_eq!(path("a", "b", &detour), "a c b 18");
    }

    #[test]
    fn both_directions_of_a_link_cost_what_the_dearer_one_does() {
        let links = [("a", "b", 10), ("b", "a", 30)];
        assert_eq!(path("a", "b", &links), "a b 30");
        assert_eq!(path("b", "a", &links), "b a 30");
    }

    #[test]
    fn leaves_carry_nothing_for_others() {
        let links = both(&[("a", "leaf", 1), ("leaf", "b", 1), ("a", "c", 100), ("c", "b", 100)]);
        assert_eq!(path("a", "b", &links), "a c b 200");
        assert_eq!(path("leaf", "b", &links), "leaf b 1");
        assert_eq!(path("a", "leaf", &links), "a leaf 1");
        assert_eq!(path("a", "b", &both(&[("a", "leaf", 1), ("leaf", "b", 1)])), "none");
    }

    #[test]
    fn paths_avoid_a_draining_node_where_there_is_another() {
        let links = both(&[("a", "old", 1), ("old", "b", 1), ("a", "c", 100), ("c", "b", 100)]);
        assert_eq!(path("a", "b", &links), "a c b 200");
        assert_eq!(path("a", "old", &links), "a old 1");
        assert_eq!(path("old", "b", &links), "old b 1");
        assert_eq!(path("a", "b", &both(&[("a", "old", 1), ("old", "b", 1)])), "a old b 2");
    }

    #[test]
    fn what_is_behind_a_dead_node_is_known_and_out_of_reach() {
        // `b` is gone: its own advert still says it has links, but `a` no longer agrees.
        let links = [both(&[("b", "c", 1)]), vec![("b", "a", 1)], both(&[("a", "d", 1)])].concat();
        let routes = routes("a", &links);
        let reachable: Vec<_> = routes
            .members()
            .iter()
            .filter(|member| member.is_reachable())
            .map(|member| member.advert.name.as_str())
            .collect();
        assert_eq!(routes.members().len(), 4);
        assert_eq!(reachable.len(), 2, "{reachable:?}");
        assert!(reachable.contains(&"a") && reachable.contains(&"d"), "{reachable:?}");
    }
}
