//! Keeps writers of one node out of each other's way, so that commits seldom meet and are never tried for nothing.
//!
//! Correctness does not hang on it: the expectations of each commit do that. A writer takes all it needs at once or
//! waits, so writers cannot block each other in a circle.

use std::collections::HashMap;

use parking_lot::Mutex;
use starlane_core::Point;
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Locks {
    table: Mutex<HashMap<Point, Entry>>,
    released: Notify,
}

#[derive(Default)]
struct Entry {
    /// Writers at work somewhere below.
    below: u32,
    /// A writer changes the resource itself.
    here: bool,
    /// A writer takes the resource and all below it away.
    tree: bool,
    /// Writers that wait to do so; nobody starts below meanwhile.
    tree_wanted: u32,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.below == 0 && !self.here && !self.tree && self.tree_wanted == 0
    }
}

/// What a writer needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim {
    /// Resources that it makes or changes.
    pub(crate) here: Vec<Point>,
    /// Resources that it takes away with all below them.
    pub(crate) trees: Vec<Point>,
    /// Resources below which it makes new ones that nobody else makes.
    pub(crate) under: Vec<Point>,
}

impl Claim {
    pub(crate) fn tree(point: &Point) -> Self {
        Self { trees: vec![point.clone()], ..Self::default() }
    }

    /// Leaves out what a tree of the same claim covers, and doubles.
    fn reduced(mut self) -> Self {
        self.trees.sort_unstable();
        self.trees.dedup();
        self.here.sort_unstable();
        self.here.dedup();
        let trees = self.trees.clone();
        self.trees.retain(|point| !trees.iter().any(|tree| tree != point && tree.contains(point)));
        self.here.retain(|point| !self.trees.iter().any(|tree| tree.contains(point)));
        self.under.retain(|point| !self.trees.iter().any(|tree| tree == point || tree.contains(point)));
        self
    }

    /// What others must not take away as a tree meanwhile.
    fn above(&self) -> impl Iterator<Item = Point> {
        let above = self.here.iter().chain(&self.trees).flat_map(Point::ancestors);
        above.chain(
            self.under.iter().flat_map(|point| std::iter::once(point.clone()).chain(point.ancestors())),
        )
    }
}

/// What a writer holds until it drops it.
pub(crate) struct Held<'a> {
    locks: &'a Locks,
    claim: Claim,
}

impl Locks {
    pub(crate) async fn take(&self, claim: Claim) -> Held<'_> {
        let claim = claim.reduced();
        let mut wanted = Wanted { locks: self, trees: Vec::new() };
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            if self.try_take(&claim, &mut wanted) {
                return Held { locks: self, claim };
            }
            released.await;
        }
    }

    fn try_take(&self, claim: &Claim, wanted: &mut Wanted<'_>) -> bool {
        let mut table = self.table.lock();
        let own = wanted.trees.len() as u32;
        let entry_free = |point: &Point, free: &dyn Fn(&Entry) -> bool| table.get(point).is_none_or(free);
        let free_above = |point: &Point| {
            point
                .ancestors()
                .all(|above| entry_free(&above, &|entry| !entry.tree && (entry.tree_wanted == 0 || own > 0)))
        };
        let here = claim.here.iter().all(|point| {
            free_above(point)
                && entry_free(point, &|entry| !entry.here && !entry.tree && entry.tree_wanted == 0)
        });
        let under = claim.under.iter().all(|point| {
            free_above(point)
                && entry_free(point, &|entry| !entry.tree && (entry.tree_wanted == 0 || own > 0))
        });
        let free = here
            && under
            && claim.trees.iter().all(|point| {
                free_above(point)
                    && entry_free(point, &|entry| entry.below == 0 && !entry.here && !entry.tree)
            });
        if !free {
            if wanted.trees.is_empty() && !claim.trees.is_empty() {
                for point in &claim.trees {
                    table.entry(point.clone()).or_default().tree_wanted += 1;
                }
                wanted.trees.clone_from(&claim.trees);
            }
            return false;
        }
        for point in &claim.here {
            table.entry(point.clone()).or_default().here = true;
        }
        for point in &claim.trees {
            table.entry(point.clone()).or_default().tree = true;
        }
        for above in claim.above() {
            table.entry(above).or_default().below += 1;
        }
        true
    }

    fn change(&self, points: impl Iterator<Item = Point>, change: impl Fn(&mut Entry)) {
        let mut table = self.table.lock();
        for point in points {
            if let Some(entry) = table.get_mut(&point) {
                change(entry);
                if entry.is_idle() {
                    table.remove(&point);
                }
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.change(self.claim.here.iter().cloned(), |entry| entry.here = false);
        self.locks.change(self.claim.trees.iter().cloned(), |entry| entry.tree = false);
        self.locks.change(self.claim.above(), |entry| entry.below -= 1);
        self.locks.released.notify_waiters();
    }
}

/// What a waiting writer announced.
struct Wanted<'a> {
    locks: &'a Locks,
    trees: Vec<Point>,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if !self.trees.is_empty() {
            self.locks.change(self.trees.drain(..), |entry| entry.tree_wanted -= 1);
            self.locks.released.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn point(text: &str) -> Point {
        text.parse().unwrap()
    }

    fn here(text: &str) -> Claim {
        Claim { here: vec![point(text)], ..Claim::default() }
    }

    #[test]
    fn writers_meet_only_where_they_change_the_same() {
        let locks = Locks::default();
        let take = |claim| locks.take(claim).now_or_never();
        let child = take(here("shop:a"));
        assert!(child.is_some());
        assert!(take(here("shop:a")).is_none(), "the same resource twice");
        let parent = take(here("shop"));
        assert!(parent.is_some(), "a parent changes beside its child");
        assert!(take(Claim::tree(&point("shop"))).is_none(), "a tree with writers in it");
        drop((child, parent));
        let tree = take(Claim::tree(&point("shop")));
        assert!(tree.is_some());
        assert!(take(here("shop:a:b")).is_none(), "a writer below a tree that goes");
        assert!(take(here("shop-two")).is_some());
        drop(tree);
        assert!(locks.table.lock().is_empty(), "nothing is left behind");
    }

    #[test]
    fn who_makes_new_ones_below_waits_only_for_trees() {
        let locks = Locks::default();
        let under = |text: &str| Claim { under: vec![point(text)], ..Claim::default() };
        let take = |claim| locks.take(claim).now_or_never();
        let held = (take(under("shop")), take(under("shop")), take(here("shop")), take(here("shop:a")));
        assert!(held.0.is_some() && held.1.is_some() && held.2.is_some() && held.3.is_some());
        assert!(take(Claim::tree(&point("shop"))).is_none());
        drop(held);
        let tree = take(Claim::tree(&point("shop")));
        assert!(tree.is_some());
        assert!(take(under("shop")).is_none() && take(under("shop:a")).is_none());
        drop(tree);
        assert!(locks.table.lock().is_empty());
    }

    #[test]
    fn a_waiting_tree_is_not_overtaken_for_ever() {
        let locks = Locks::default();
        let first = locks.take(here("shop:a")).now_or_never().unwrap();
        let mut tree = Box::pin(locks.take(Claim::tree(&point("shop"))));
        assert!(tree.as_mut().now_or_never().is_none());
        assert!(locks.take(here("shop:b")).now_or_never().is_none(), "nobody new below");
        drop(first);
        drop(tree.now_or_never().unwrap());
        assert!(locks.take(here("shop:b")).now_or_never().is_some());
        assert!(locks.table.lock().is_empty());
    }
}
