//! Link state as the routing of links: [`starlane_core::routing`] holds the rules, this carries its packets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::frame::{pack, unpack};
use starlane_core::routing::{
    Action as Rule, Config, Cost, Identity as Own, LinkState, PACKET_BYTES_MAX, Packet, Routes, Sign, Verify,
};
use starlane_core::{Moment, NodeId};
use tokio::sync::watch;

use crate::routing::{Action, Malformed, NextHop, Routing};
use crate::{Credentials, Identity, Peer};

/// The version of packets. Nodes of another one close the link; a field more at the end needs no other version.
const VERSION: u8 = 1;

/// What a node says of itself beside its links.
pub use starlane_core::routing::Own as About;

/// What is known of the mesh, for all who ask. Clones are the same view.
#[derive(Clone)]
pub struct Map {
    routes: watch::Receiver<Arc<Routes>>,
    about: Arc<watch::Sender<About>>,
    replaced: watch::Receiver<bool>,
}

impl Map {
    /// The routes of this moment, with all members that are known.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.borrow().clone()
    }

    /// Tells of each new table.
    pub fn watch(&self) -> watch::Receiver<Arc<Routes>> {
        self.routes.clone()
    }

    /// Says something else of this node from now on, as soon as the links look: [`crate::Handle::poke_routing`].
    pub fn set_about(&self, change: impl FnOnce(&mut About)) {
        self.about.send_modify(change);
    }

    /// Becomes true when a later life of this very node is part of the mesh: this one should stop.
    pub fn replaced(&self) -> watch::Receiver<bool> {
        self.replaced.clone()
    }
}

/// Link state of one node.
pub struct LinkStateRouting {
    state: LinkState,
    routes: watch::Sender<Arc<Routes>>,
    /// A table that links were given last; told when they go by it.
    untold: Option<Arc<Routes>>,
    about: watch::Receiver<About>,
    replaced: watch::Sender<bool>,
}

impl LinkStateRouting {
    /// The routing of a member, and what others see of it. `first_sequence` is greater than any in this generation:
    /// milliseconds of the wall clock.
    ///
    /// # Errors
    /// When what it says of itself is beyond the bounds of labels.
    pub fn new(
        identity: &Identity,
        about: About,
        first_sequence: u64,
    ) -> Result<(Self, Map), starlane_core::routing::Malformed> {
        let me = identity.me();
        let own = Own { name: me.name, generation: me.generation, role: me.role };
        let config = Config { first_sequence, ..Config::default() };
        let signs: Arc<dyn Sign> = Arc::new(identity.clone());
        let verifies: Arc<dyn Verify> = Arc::new(identity.clone());
        let state = LinkState::new(config, own, about.clone(), signs, verifies, Moment(0))?;
        let (routes, seen) = watch::channel(state.routes().clone());
        let (about, told) = watch::channel(about);
        let (replaced, is_replaced) = watch::channel(false);
        let map = Map { routes: seen, about: Arc::new(about), replaced: is_replaced };
        Ok((Self { state, routes, untold: None, about: told, replaced }, map))
    }

    /// Takes over what the node says of itself by now.
    fn hear_about(&mut self, now: Moment) {
        if self.about.has_changed().unwrap_or(false) {
            let about = self.about.borrow_and_update().clone();
            if self.state.set_own(about, now).is_err() {
                tracing::warn!("the labels of this node are more than can be told");
            }
        }
    }
}

impl NextHop for Routes {
    fn next_hop(&self, to: NodeId) -> Option<NodeId> {
        Routes::next_hop(self, to)
    }
}

fn moment(now: Duration) -> Moment {
    Moment(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

impl Routing for LinkStateRouting {
    fn handle_link_up(&mut self, peer: &Peer, rtt: Duration, now: Duration) {
        // The links have a lower bound on how many there are.
        let _ = self.state.handle_link_up(peer.name.id(), Cost::from_rtt(rtt), moment(now));
    }

    fn handle_link_down(&mut self, peer: NodeId, now: Duration) {
        self.state.handle_link_down(peer, moment(now));
    }

    fn handle_rtt(&mut self, peer: NodeId, rtt: Duration, now: Duration) {
        self.state.handle_link_cost(peer, Cost::from_rtt(rtt), moment(now));
    }

    fn handle_sent(&mut self, peer: NodeId, now: Duration) {
        self.state.handle_sent(peer, moment(now));
    }

    fn handle_packet(&mut self, from: NodeId, packet: Bytes, now: Duration) -> Result<(), Malformed> {
        let packet: Packet = unpack(VERSION, &packet, PACKET_BYTES_MAX).map_err(|_| Malformed)?;
        self.state.handle_packet(from, packet, moment(now)).map_err(|_| Malformed)
    }

    fn handle_timeout(&mut self, now: Duration) {
        self.hear_about(moment(now));
        self.state.handle_timeout(moment(now));
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.state.poll_timeout().map(|at| Duration::from_millis(at.0))
    }

    fn poll_action(&mut self) -> Option<Action> {
        // The action before this one is done.
        if let Some(routes) = self.untold.take() {
            self.routes.send_replace(routes);
        }
        loop {
            match self.state.poll_action()? {
                Rule::Send { to, packet } => {
                    return Some(Action::Send { to, packet: pack(VERSION, &packet).into() });
                }
                Rule::Routes(routes) => {
                    self.untold = Some(routes.clone());
                    return Some(Action::Routes(routes));
                }
                Rule::Replaced => {
                    self.replaced.send_replace(true);
                }
                // Whoever wants to know compares tables.
                Rule::Joined(..) | Rule::Left(_) => {}
            }
        }
    }
}
