//! Where mechtrons live, as this node knows it, and which of them it let go of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use resource_registry::Registry;
use starlane_core::placement::{HEARTBEAT, Lives, epoch_of};
use starlane_core::{Body, Code, Epoch, Message, NodeId, NodeName, Payload, Point, Refusal, Resource, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::hosting::MECHTRONS;

/// How many messages may wait for mechtrons that are on their way or wait to be placed; one more is refused as busy.
const PARKED_MAX: usize = 10_000;
/// How many bytes they may have together; a message that would be beyond that is refused as busy.
const PARKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long the leader believes that a node is alive after it said so.
const LEASE: Duration = HEARTBEAT.saturating_mul(4);
/// How many resources are remembered with what they say, and how far apart two of them are in memory.
const SAID_MAX: usize = 1_024;
const SAID_ALIGN: usize = 64;
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
    /// The first node of the registry, where everything lives that says nothing else.
    home: NodeName,
    /// Until when nobody else acts for what lives here; `None` on the only node of a registry, where that is never in doubt.
    lease: watch::Sender<Option<Instant>>,
    state: Mutex<State>,
    /// What some resources say, which are kept so that none takes the place of another.
    said: Box<[Mutex<Option<Remembered>>]>,
}

/// A resource, and what it says.
type Remembered = (Arc<Resource>, Said);

/// What a resource says of where it lives.
#[derive(Debug, Clone)]
struct Said {
    home: Home,
    epoch: Epoch,
    in_the_mesh: bool,
}

#[derive(Default)]
struct State {
    held: HashMap<Point, Held>,
    parked: HashMap<Point, watch::Sender<()>>,
    waiting: Waiting,
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Waiting {
    messages: usize,
    bytes: u64,
}

/// Whether a mechtron keeps its state in the mesh.
fn in_the_mesh(resource: &Resource) -> bool {
    resource.property("durability").and_then(Value::as_text) == Some("mesh")
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
    /// `led_here`: this node leads for as long as it runs.
    pub(super) fn new(me: NodeName, home: NodeName, led_here: bool) -> Self {
        let lease = watch::Sender::new((!led_here).then(|| Instant::now() + LEASE));
        let said = std::iter::repeat_with(Mutex::default).take(SAID_MAX).collect();
        Self(Arc::new(Inner { me, home, lease, state: Mutex::default(), said }))
    }

    /// The first node of the registry, where everything lives that says nothing else.
    pub(super) fn home(&self) -> &NodeName {
        &self.0.home
    }

    /// This node.
    pub(super) fn me(&self) -> &NodeName {
        &self.0.me
    }

    /// Where the mechtron of a resource lives; one of several homes is this node if it can be, else the same for each
    /// sender.
    pub(super) fn of(&self, resource: &Arc<Resource>) -> Home {
        let Said { home, epoch, in_the_mesh } = self.said(resource);
        // The state of one that is kept in the mesh is that of whoever acts for it: it must not live twice, and the leader
        // may not have heard this node for too long.
        let is_in_doubt = || in_the_mesh && self.lease_is_over();
        if home == Home::Here && (self.is_held(&resource.point, epoch) || is_in_doubt()) {
            return Home::Nowhere;
        }
        home
    }

    /// What a resource says of where it lives. It is read once for each version, since every message asks for it.
    fn said(&self, resource: &Arc<Resource>) -> Said {
        let mut last = self.0.said[Arc::as_ptr(resource).addr() / SAID_ALIGN % SAID_MAX].lock();
        if let Some((of, said)) = &*last
            && Arc::ptr_eq(of, resource)
        {
            return said.clone();
        }
        let said = Said {
            home: self.assigned(resource),
            epoch: epoch_of(resource),
            in_the_mesh: in_the_mesh(resource),
        };
        *last = Some((resource.clone(), said.clone()));
        said
    }

    fn lease_is_over(&self) -> bool {
        self.0.lease.borrow().is_some_and(|ends| ends <= Instant::now())
    }

    /// The leader heard what this node said at a time.
    pub(super) fn renew_lease(&self, said: Instant) {
        if self.0.lease.borrow().is_none() {
            return;
        }
        let was_over = self.lease_is_over();
        self.0.lease.send_replace(Some(said + LEASE));
        if was_over {
            // What waited for it goes on.
            self.0.state.lock().parked.values().for_each(|parked| parked.send_replace(()));
        }
    }

    /// Until when nobody else acts for what lives here; `None` when that is never in doubt.
    pub(super) fn lease(&self) -> watch::Receiver<Option<Instant>> {
        self.0.lease.subscribe()
    }

    /// The mechtrons that are assigned to this node and keep their state in the mesh.
    pub(super) fn kept_in_the_mesh(&self, registry: &Registry) -> Vec<Point> {
        let Ok(mechtrons) = MECHTRONS.parse() else { return Vec::new() };
        let Ok(mechtrons) = registry.select(&mechtrons, usize::MAX, None) else { return Vec::new() };
        let here = |resource: &&Arc<Resource>| in_the_mesh(resource) && self.assigned(resource) == Home::Here;
        mechtrons.resources.iter().filter(here).map(|resource| resource.point.clone()).collect()
    }

    /// Where a resource says that it lives, whether or not this node let go of it.
    pub(super) fn assigned(&self, resource: &Resource) -> Home {
        let one = |name: &NodeName| if *name == self.0.me { Home::Here } else { Home::There(name.clone()) };
        match Lives::of(resource) {
            Lives::AtHome => one(&self.0.home),
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

    /// Waits until something changes about where the receiver of a message lives, from when this is called.
    ///
    /// # Errors
    /// `E-NOT-READY` when that does not happen in time, `E-BUSY` when too much waits already. It surely did not run.
    pub(super) fn wait(&self, message: &Message) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let remaining = message.header.remaining;
        let until = Instant::now() + remaining.saturating_sub(ANSWER.min(remaining / 2));
        let (homes, point) = (self.clone(), message.header.to.clone());
        let parked = self.park(message).map(|room| {
            let mut all = self.0.state.lock();
            let told = all.parked.entry(point.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
            Parked { room, point: point.clone(), told }
        });
        async move {
            let mut parked = parked?;
            let late = || {
                let detail = match homes.lease_is_over() {
                    true => {
                        format!("`{point}` may live elsewhere by now: this node is cut off from the registry")
                    }
                    false => format!(
                        "`{point}` waits to be placed on a node: `starlane why {point}` says what for"
                    ),
                };
                Refusal::new(Code::NotReady, detail)
            };
            match timeout_at(until, parked.told.changed()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(late()),
            }
        }
    }

    /// Room for a message that has to wait, until that is dropped.
    ///
    /// # Errors
    /// `E-BUSY` when too much waits already.
    pub(super) fn park(&self, message: &Message) -> Result<Room, Refusal> {
        let bytes = bytes_of(message);
        let mut all = self.0.state.lock();
        let Waiting { messages, bytes: waiting } = all.waiting;
        if messages >= PARKED_MAX || messages > 0 && waiting + bytes > PARKED_BYTES_MAX {
            let mut refusal = Refusal::new(
                Code::Busy,
                format!(
                    "{messages} messages with {waiting} bytes wait here for mechtrons to be placed, and no more fits"
                ),
            );
            refusal.retry_after = Some(Duration::from_millis(500));
            return Err(refusal);
        }
        all.waiting = Waiting { messages: messages + 1, bytes: waiting + bytes };
        Ok(Room { homes: self.clone(), bytes })
    }
}

/// About how many bytes a message keeps in memory.
fn bytes_of(message: &Message) -> u64 {
    let (Payload::Request(request) | Payload::Signal(request)) = &message.payload else { return 0 };
    let body = match &request.body {
        Body::Bytes(bytes) => bytes.len(),
        Body::Blob(_) => 0,
    };
    let headers = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    (body + request.path.len() + headers) as u64
}

/// Room that a message takes while it waits.
pub(super) struct Room {
    homes: Homes,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let waiting = &mut self.homes.0.state.lock().waiting;
        waiting.messages -= 1;
        waiting.bytes -= self.bytes;
    }
}

/// A message that waits to hear of its receiver.
struct Parked {
    room: Room,
    point: Point,
    told: watch::Receiver<()>,
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut all = self.room.homes.0.state.lock();
        // This one is still counted.
        if all.parked.get(&self.point).is_some_and(|parked| parked.receiver_count() <= 1) {
            all.parked.remove(&self.point);
        }
    }
}

/// One of several nodes: always the same from one node, and others from others (rendezvous hashing).
pub(super) fn nearest<'a>(from: &NodeName, nodes: &'a [NodeName]) -> Option<&'a NodeName> {
    nodes.iter().max_by_key(|name| weight(from, name))
}

/// How much one node prefers another: the same each time, and others prefer others.
pub(super) fn weight(from: &NodeName, to: &NodeName) -> u64 {
    let (NodeId(from), NodeId(to)) = (from.id(), to.id());
    (from ^ to).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use starlane_core::{Assignment, Properties, Property, PropertyChange, Revision, Status};

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn homes() -> Homes {
        Homes::new(name("edge"), name("cloud"), false)
    }

    fn mechtron(nodes: &[&str], epoch: u64, place: bool) -> Arc<Resource> {
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
        Arc::new(Resource {
            point: "shop:cart".parse().unwrap(),
            kind: "Mechtron".parse().unwrap(),
            properties,
            status: Status::ready(),
            created: Revision(3),
            modified: Revision(epoch),
            version: 1,
        })
    }

    fn message(bytes: usize) -> Message {
        let (from, to): (Point, Point) = ("shop:web".parse().unwrap(), "shop:cart".parse().unwrap());
        let agent = starlane_core::Agent(from.clone());
        let header =
            starlane_core::Header::new(starlane_core::MessageId(1), from, to, agent, Duration::from_secs(1));
        let request = starlane_core::Request {
            method: starlane_core::Method::ext("Add").unwrap(),
            path: "/".into(),
            headers: starlane_core::Headers::default(),
            body: starlane_core::Body::Bytes(vec![0; bytes].into()),
        };
        Message { header, payload: starlane_core::Payload::Request(request) }
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

    #[tokio::test(start_paused = true)]
    async fn what_keeps_its_state_in_the_mesh_stops_when_the_lease_ends() {
        let kept = |durability: &str| {
            let mut resource = Resource::clone(&mechtron(&["edge"], 5, true));
            let value = Value::text(durability);
            resource.properties.insert("durability".parse().unwrap(), Property { value, locked: false });
            Arc::new(resource)
        };
        let (homes, message) = (homes(), message(0));
        homes.renew_lease(Instant::now());
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        assert_eq!(homes.of(&kept("mesh")), Home::Here);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(homes.of(&kept("mesh")), Home::Nowhere);
        for other in ["node", "memory"] {
            assert_eq!(homes.of(&kept(other)), Home::Here);
        }
        let refused = homes.wait(&message).await.unwrap_err();
        assert!(refused.code == Code::NotReady && refused.detail.contains("cut off from the registry"));
        // Heard again: who waits goes on.
        let waits = homes.wait(&message);
        homes.renew_lease(Instant::now());
        assert_eq!((waits.await, homes.of(&kept("mesh"))), (Ok(()), Home::Here));
        // On the only node of a registry nobody can be in doubt, but on the first of several.
        for (led_here, lives) in [(true, Home::Here), (false, Home::Nowhere)] {
            let first = Homes::new(name("edge"), name("edge"), led_here);
            first.renew_lease(Instant::now());
            tokio::time::advance(LEASE * 2).await;
            assert_eq!(first.of(&kept("mesh")), lives);
        }
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
        let message = message(9);
        let waits = homes.wait(&message);
        homes.changed(&message.header.to, None);
        assert_eq!(waits.await, Ok(()));
        let late = homes.wait(&message).await.unwrap_err();
        assert_eq!(late.code, Code::NotReady);
        assert!(homes.0.state.lock().parked.is_empty());
        assert_eq!(homes.0.state.lock().waiting, Waiting::default());
    }

    #[test]
    fn no_more_waits_than_there_is_room_for_by_count_and_by_bytes() {
        let homes = homes();
        let small: Vec<_> =
            (0..PARKED_MAX).map(|_| homes.park(&message(0)).unwrap_or_else(|_| panic!())).collect();
        let is_busy = |bytes| homes.park(&message(bytes)).is_err_and(|refusal| refusal.code == Code::Busy);
        assert!(is_busy(0));
        drop(small);
        // Few, but large.
        let large: Vec<_> = (0..16).map(|_| homes.park(&message(4 * 1024 * 1024 - 64))).collect();
        assert!(large.iter().all(Result::is_ok) && is_busy(4 * 1024 * 1024));
        assert!(homes.park(&message(9)).is_ok());
        drop(large);
        assert_eq!(homes.0.state.lock().waiting, Waiting::default());
        assert!(!is_busy(4 * 1024 * 1024));
    }
}
