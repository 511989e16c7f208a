//! Where the states of this node's mechtrons are kept: in memory, on this node, or with the registry.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mechtron_host::Durability;
use parking_lot::Mutex;
use resource_registry::{Error, MeshStates, StateStore, store};
use starlane_core::{Epoch, Point, Resource, Revision};

/// Keeps states. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Keeping(Arc<Inner>);

struct Inner {
    /// Those that survive a crash of this node.
    node: StateStore,
    /// Those that survive the loss of this node.
    mesh: MeshStates,
    /// Those that another node handed over, as they were then; the host has what became of them.
    handed: Mutex<HashMap<Point, (Epoch, Bytes)>>,
}

impl Keeping {
    pub(super) fn new(node: StateStore, mesh: MeshStates) -> Self {
        Self(Arc::new(Inner { node, mesh, handed: Mutex::default() }))
    }

    /// The state that a mechtron begins an epoch with. `created` is what made its resource: what stood there before left
    /// nothing to it.
    ///
    /// # Errors
    /// When a later epoch began elsewhere, or the registry's node is out of reach. When this node itself was given a state
    /// for a later one, whoever asks finds out whether that one was assigned: else [`Keeping::go_back`] takes it for this.
    pub(super) async fn load(
        &self,
        resource: &Resource,
        epoch: Epoch,
        durability: Durability,
    ) -> Result<Option<Bytes>, Error> {
        let point = &resource.point;
        let lives = |of: Epoch| (resource.created.0..=epoch.0).contains(&of.0);
        Ok(match durability {
            Durability::Memory => {
                let handed = self.0.handed.lock().get(point).cloned();
                handed.filter(|(of, _)| lives(*of)).map(|(_, state)| state)
            }
            Durability::Node => {
                if let Some(later) = self.0.node.begun(point)?.filter(|begun| *begun > epoch) {
                    let scope = point.as_str().into();
                    return Err(store::Error::FenceStale { scope, epoch: later }.into());
                }
                self.0.node.get(point)?.filter(|(of, _)| lives(*of)).map(|(_, state)| state)
            }
            Durability::Mesh => match self.0.mesh.get(point).await? {
                Some((of, _)) if of.0 < resource.created.0 => {
                    self.0.mesh.delete(point).await?;
                    self.0.mesh.claim(point, epoch).await?
                }
                _ => self.0.mesh.claim(point, epoch).await?,
            },
        })
    }

    /// Takes what this node was given for a later assignment, which was never written, for the one that holds: it is the
    /// last state there is, since nobody acted in between.
    ///
    /// # Errors
    /// Only the file's.
    pub(super) async fn go_back(&self, point: &Point, epoch: Epoch) -> Result<(), Error> {
        self.0.node.go_back(point, epoch).await
    }

    /// Keeps a state; it is durable when this answers.
    ///
    /// # Errors
    /// When a later epoch wrote, it is too large, or the registry's node is out of reach.
    pub(super) async fn save(
        &self,
        point: &Point,
        epoch: Epoch,
        durability: Durability,
        state: Bytes,
    ) -> Result<(), Error> {
        match durability {
            Durability::Memory => Ok(()),
            Durability::Node => self.0.node.commit(point, epoch, state).await,
            Durability::Mesh => self.0.mesh.commit(point, epoch, state).await,
        }
    }

    /// The state that this node kept of a mechtron which it let go of, under whatever epoch: it may have been given it for
    /// an assignment that was never written. `None` for what others can reach without it.
    ///
    /// # Errors
    /// Only the file's.
    pub(super) fn give(&self, resource: &Resource, durability: Durability) -> Result<Option<Bytes>, Error> {
        let kept = match durability {
            Durability::Memory => self.0.handed.lock().get(&resource.point).cloned(),
            Durability::Node => self.0.node.get(&resource.point)?,
            Durability::Mesh => None,
        };
        Ok(kept.filter(|(of, _)| of.0 >= resource.created.0).map(|(_, state)| state))
    }

    /// Takes the state of a mechtron over that will live here, in place of any that is here.
    ///
    /// # Errors
    /// When a later epoch wrote, or it cannot be kept.
    pub(super) async fn adopt(
        &self,
        point: &Point,
        epoch: Epoch,
        durability: Durability,
        state: Option<Bytes>,
    ) -> Result<(), Error> {
        match (durability, state) {
            (Durability::Memory, state) => {
                let mut handed = self.0.handed.lock();
                match state {
                    Some(state) => drop(handed.insert(point.clone(), (epoch, state))),
                    None => drop(handed.remove(point)),
                }
                Ok(())
            }
            (Durability::Node, Some(state)) => self.0.node.commit(point, epoch, state).await,
            (Durability::Node, None) => {
                self.0.node.delete(point).await?;
                self.0.node.claim(point, epoch).await.map(drop)
            }
            (Durability::Mesh, _) => Ok(()),
        }
    }

    /// Forgets the states of a mechtron whose resource is gone; `last` is what changed that last, if it is known.
    ///
    /// # Errors
    /// When a file or the registry's etcd cannot be reached.
    pub(super) async fn forget(&self, point: &Point, last: Option<Revision>) -> Result<(), Error> {
        // Every node of the registry does so, some later than another: by then there may be that of another resource.
        if let (MeshStates::Etcd(states), Some(last)) = (&self.0.mesh, last) {
            states.delete_until(point, Epoch(last.0)).await?;
        }
        self.0.handed.lock().remove(point);
        if self.0.node.get(point)?.is_some() {
            self.0.node.delete(point).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::{Properties, Status};

    use super::*;

    fn cart(created: u64) -> Resource {
        Resource {
            point: "shop:cart".parse().unwrap(),
            kind: "Mechtron".parse().unwrap(),
            properties: Properties::new(),
            status: Status::ready(),
            created: Revision(created),
            modified: Revision(created),
            version: 1,
        }
    }

    fn keeping(folder: &std::path::Path) -> Keeping {
        let store = StateStore::open(folder.join("state.redb")).unwrap();
        Keeping::new(store.clone(), MeshStates::Here(store))
    }

    #[tokio::test]
    async fn a_state_is_handed_over_and_an_older_one_is_not_taken_for_it() {
        for durability in [Durability::Memory, Durability::Node] {
            let folder = tempfile::tempdir().unwrap();
            let keeping = keeping(folder.path());
            let point = cart(3).point;
            keeping.adopt(&point, Epoch(5), durability, Some("five".into())).await.unwrap();
            let five = keeping.load(&cart(3), Epoch(5), durability).await.unwrap();
            assert_eq!(five, Some("five".into()), "{durability:?}");
            keeping.adopt(&point, Epoch(6), durability, Some("six".into())).await.unwrap();
            keeping.adopt(&point, Epoch(7), durability, None).await.unwrap();
            assert_eq!(keeping.load(&cart(3), Epoch(7), durability).await.unwrap(), None, "{durability:?}");
            keeping.adopt(&point, Epoch(8), durability, Some("eight".into())).await.unwrap();
            let given = keeping.give(&cart(3), durability).unwrap();
            assert_eq!(given, Some("eight".into()), "it never ran here: {durability:?}");
            let other = keeping.load(&cart(9), Epoch(9), durability).await.unwrap();
            assert_eq!(other, None, "another resource stands there: {durability:?}");
        }
    }

    /// The leader hands a state back to the node that it came from, and that node dies before the assignment is written.
    #[tokio::test]
    async fn a_state_that_was_given_for_nothing_is_gone_on_with() {
        for state in [Some("eight".into()), None] {
            let folder = tempfile::tempdir().unwrap();
            let point = cart(3).point;
            {
                let keeping = keeping(folder.path());
                keeping.save(&point, Epoch(5), Durability::Node, "five".into()).await.unwrap();
                keeping.adopt(&point, Epoch(8), Durability::Node, state.clone()).await.unwrap();
            }
            let keeping = keeping(folder.path());
            let ahead = keeping.load(&cart(3), Epoch(5), Durability::Node).await.unwrap_err();
            assert!(
                matches!(ahead, Error::Store(store::Error::FenceStale { epoch: Epoch(8), .. })),
                "{ahead}"
            );
            keeping.go_back(&point, Epoch(5)).await.unwrap();
            assert_eq!(keeping.load(&cart(3), Epoch(5), Durability::Node).await.unwrap(), state);
            keeping.save(&point, Epoch(5), Durability::Node, "six".into()).await.unwrap();
            // And when it is assigned after all, with what became of it.
            assert_eq!(keeping.load(&cart(3), Epoch(8), Durability::Node).await.unwrap(), Some("six".into()));
        }
    }

    #[tokio::test]
    async fn a_state_of_the_mesh_is_not_the_next_resources() {
        let folder = tempfile::tempdir().unwrap();
        let keeping = keeping(folder.path());
        assert_eq!(keeping.load(&cart(3), Epoch(3), Durability::Mesh).await.unwrap(), None);
        keeping.save(&cart(3).point, Epoch(3), Durability::Mesh, "old".into()).await.unwrap();
        assert_eq!(keeping.load(&cart(3), Epoch(4), Durability::Mesh).await.unwrap(), Some("old".into()));
        assert_eq!(keeping.load(&cart(9), Epoch(9), Durability::Mesh).await.unwrap(), None);
    }
}
