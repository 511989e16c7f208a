//! Where mechtrons live, as this node knows it, and which of them it let go of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use starlane_core::placement::{Lives, epoch_of};
use starlane_core::{Code, Epoch, NodeId, NodeName, Point, Refusal, Resource};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How many messages may wait for mechtrons that are on their way or wait to be placed; one more is refused as busy.
const PARKED_MAX: usize = 10_000;
/// So much of a message's time is kept for the answer that it did not run.
const ANSWER: Duration = Duration::from_millis(50);

/// Where a mechtron lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// On this node.
    Here,
    /// On another.
    There(NodeName),
    /// On none yet, or this node let go of it and nobody else was assigned so far.
    Nowhere,
}

/// What this node knows of homes. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Homes(Arc<Inner>);

struct Inner {
    me: NodeName,
    /// The registry's node, where everything lives that says nothing else.
    registry: NodeName,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<Point, Held>,
    parked: HashMap<Point, watch::Sender<()>>,
    waiting: usize,
}

/// A mechtron that this node let go of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    /// Nothing is done for it until its resource names a later one.
    pub(super) epoch: Epoch,
    /// Its state, when it is kept nowhere else.
    pub(super) state: Option<Bytes>,
}

impl Homes {
    pub(super) fn new(me: NodeName, registry: NodeName) -> Self {
        Self(Arc::new(Inner { me, registry, state: Mutex::default() }))
    }

    /// This node.
    pub(super) fn me(&self) -> &NodeName {
        &self.0.me
    }

    /// Where the mechtron of a resource lives; one of several homes is this node if it can be, else the same for each
    /// sender.
    pub(super) fn of(&self, resource: &Resource) -> Home {
        let home = self.assigned(resource);
        if home == Home::Here && self.is_held(&resource.point, epoch_of(resource)) {
            return Home::Nowhere;
        }
        home
    }

    /// Where a resource says that it lives, whether or not this node let go of it.
    pub(super) fn assigned(&self, resource: &Resource) -> Home {
        let one = |name: &NodeName| if *name == self.0.me { Home::Here } else { Home::There(name.clone()) };
        match Lives::of(resource) {
            Lives::AtHome => one(&self.0.registry),
            Lives::Nowhere => Home::Nowhere,
            Lives::On(nodes) if nodes.contains(&self.0.me) => Home::Here,
            Lives::On(nodes) => {
                nearest(&self.0.me, &nodes).map_or(Home::Nowhere, |name| Home::There(name.clone()))
            }
        }
    }

    /// Nothing is done here for a mechtron until its resource names an epoch after this one.
    pub(super) fn let_go(&self, point: &Point, epoch: Epoch, state: Option<Bytes>) {
        let mut all = self.0.state.lock();
        let held = all.held.entry(point.clone()).or_insert(Held { epoch, state: None });
        if epoch >= held.epoch {
            held.epoch = epoch;
            held.state = state.or(held.state.take());
        }
    }

    /// What this node let go of under this epoch or a later one.
    pub(super) fn held(&self, point: &Point, epoch: Epoch) -> Option<Held> {
        self.0.state.lock().held.get(point).filter(|held| held.epoch >= epoch).cloned()
    }

    fn is_held(&self, point: &Point, epoch: Epoch) -> bool {
        self.0.state.lock().held.get(point).is_some_and(|held| held.epoch >= epoch)
    }

    /// All that this node let go of.
    pub(super) fn all_held(&self) -> Vec<(Point, Epoch)> {
        self.0.state.lock().held.iter().map(|(point, held)| (point.clone(), held.epoch)).collect()
    }

    /// A resource is as it is by now, or gone: what waited for that goes on.
    pub(super) fn changed(&self, point: &Point, resource: Option<&Resource>) {
        let mut all = self.0.state.lock();
        let is_over = |held: &Held| resource.is_none_or(|resource| epoch_of(resource) > held.epoch);
        if all.held.get(point).is_some_and(is_over) {
            all.held.remove(point);
        }
        if let Some(parked) = all.parked.get(point) {
            parked.send_replace(());
        }
    }

    /// Waits until something changes about where a mechtron lives, from when this is called.
    ///
    /// # Errors
    /// `E-NOT-READY` when that does not happen in time, `E-BUSY` when too much waits already. It surely did not run.
    pub(super) fn wait(
        &self,
        point: &Point,
        remaining: Duration,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let until = Instant::now() + remaining.saturating_sub(ANSWER.min(remaining / 2));
        let parked = self.park(point);
        let point = point.clone();
        async move {
            let mut parked = parked?;
            let late = || {
                Refusal::new(
                    Code::NotReady,
                    format!("`{point}` waits to be placed on a node: `starlane why {point}` says what for"),
                )
            };
            match timeout_at(until, parked.told.changed()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(late()),
            }
        }
    }

    fn park(&self, point: &Point) -> Result<Parked, Refusal> {
        let mut all = self.0.state.lock();
        if all.waiting >= PARKED_MAX {
            let mut refusal = Refusal::new(Code::Busy, "too many messages wait for mechtrons to be placed");
            refusal.retry_after = Some(Duration::from_millis(500));
            return Err(refusal);
        }
        all.waiting += 1;
        let told = all.parked.entry(point.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Ok(Parked { homes: self.clone(), point: point.clone(), told })
    }
}

/// A message that waits.
struct Parked {
    homes: Homes,
    point: Point,
    told: watch::Receiver<()>,
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut all = self.homes.0.state.lock();
        all.waiting -= 1;
        // This one is still counted.
        if all.parked.get(&self.point).is_some_and(|parked| parked.receiver_count() <= 1) {
            all.parked.remove(&self.point);
        }
    }
}

/// One of several nodes: always the same from one node, and others from others (rendezvous hashing).
fn nearest<'a>(from: &NodeName, nodes: &'a [NodeName]) -> Option<&'a NodeName> {
    nodes.iter().max_by_key(|name| weight(from, name))
}

/// How much one node prefers another: the same each time, and others prefer others.
pub(super) fn weight(from: &NodeName, to: &NodeName) -> u64 {
    let (NodeId(from), NodeId(to)) = (from.id(), to.id());
    (from ^ to).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use starlane_core::{Assignment, Properties, Property, PropertyChange, Revision, Status, Value};

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn homes() -> Homes {
        Homes::new(name("edge"), name("cloud"))
    }

    fn mechtron(nodes: &[&str], epoch: u64, place: bool) -> Resource {
        let mut properties = Properties::new();
        let mut changes = Vec::new();
        if !nodes.is_empty() {
            let nodes: Vec<_> = nodes.iter().map(|node| name(node)).collect();
            changes = Assignment { nodes, epoch: Epoch(epoch) }.changes();
        }
        if place {
            let place = "place".parse().unwrap();
            changes.push(PropertyChange::Set { key: place, value: Value::text("[a = \"b\"]"), lock: false });
        }
        for change in changes {
            if let PropertyChange::Set { key, value, .. } = change {
                properties.insert(key, Property { value, locked: false });
            }
        }
        Resource {
            point: "shop:cart".parse().unwrap(),
            kind: "Mechtron".parse().unwrap(),
            properties,
            status: Status::ready(),
            created: Revision(3),
            modified: Revision(epoch),
            version: 1,
        }
    }

    #[test]
    fn a_mechtron_lives_where_its_resource_says() {
        let homes = homes();
        assert_eq!(homes.of(&mechtron(&[], 0, false)), Home::There(name("cloud")));
        assert_eq!(homes.of(&mechtron(&[], 0, true)), Home::Nowhere);
        assert_eq!(homes.of(&mechtron(&["edge"], 5, true)), Home::Here);
        assert_eq!(homes.of(&mechtron(&["a", "edge", "b"], 5, true)), Home::Here);
        let others = homes.of(&mechtron(&["a", "b", "c"], 5, true));
        assert!(matches!(&others, Home::There(node) if ["a", "b", "c"].contains(&node.as_str())));
        assert_eq!(homes.of(&mechtron(&["a", "b", "c"], 5, true)), others);
    }

    #[test]
    fn what_was_let_go_lives_nowhere_until_a_later_epoch() {
        let homes = homes();
        let point = "shop:cart".parse().unwrap();
        homes.let_go(&point, Epoch(5), Some("state".into()));
        homes.let_go(&point, Epoch(5), None);
        assert_eq!(homes.of(&mechtron(&["edge"], 5, true)), Home::Nowhere);
        homes.changed(&point, Some(&mechtron(&["edge"], 5, true)));
        let held = homes.held(&point, Epoch(5)).unwrap();
        assert_eq!(held, Held { epoch: Epoch(5), state: Some("state".into()) });
        assert_eq!(homes.all_held(), [(point.clone(), Epoch(5))]);
        homes.changed(&point, Some(&mechtron(&["edge"], 6, true)));
        assert_eq!(homes.of(&mechtron(&["edge"], 6, true)), Home::Here);
        assert!(homes.held(&point, Epoch(5)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_of_a_change_or_that_none_came() {
        let homes = homes();
        let point: Point = "shop:cart".parse().unwrap();
        let waits = homes.wait(&point, Duration::from_secs(1));
        homes.changed(&point, None);
        assert_eq!(waits.await, Ok(()));
        let late = homes.wait(&point, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(late.code, Code::NotReady);
        assert!(homes.0.state.lock().parked.is_empty());
        assert_eq!(homes.0.state.lock().waiting, 0);
    }
}
