//! What routes must be, computed in the slowest and plainest way from the links that are really there.

use starlane_core::Role;

/// The true mesh: who carries, who is about to leave, and which links are up, with their cost in microseconds.
pub struct Model {
    pub roles: Vec<Role>,
    pub draining: Vec<bool>,
    pub links: Vec<(usize, usize, u64)>,
}

/// The best way: draining nodes on it, microseconds, links. Less is better, in this order.
pub type Distance = (u32, u64, u32);

impl Model {
    /// The best way from a node to each other one: every link is tried until nothing gets better.
    pub fn distances(&self, from: usize) -> Vec<Option<Distance>> {
        let mut best = vec![None; self.roles.len()];
        best[from] = Some((0, 0, 0));
        let mut better = true;
        while std::mem::take(&mut better) {
            for &(one, two, cost) in &self.links {
                for (at, to) in [(one, two), (two, one)] {
                    let Some((draining, micros, hops)) = best[at] else { continue };
                    if at != from && self.roles[at] == Role::Leaf {
                        continue;
                    }
                    let through = u32::from(at != from && self.draining[at]);
                    let way = (draining + through, micros + cost, hops + 1);
                    if best[to].is_none_or(|known| way < known) {
                        best[to] = Some(way);
                        better = true;
                    }
                }
            }
        }
        best
    }
}
