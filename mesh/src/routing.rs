//! What links need from the routing: where frames go next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::NodeId;

use crate::Peer;

/// Where frames go next. A table is never changed, but replaced as a whole.
pub trait NextHop: Send + Sync {
    /// The neighbour that is next on the way to a node; `None` when no way is known. A neighbour that is not named for
    /// itself is reached over its link.
    fn next_hop(&self, to: NodeId) -> Option<NodeId>;
}

impl NextHop for HashMap<NodeId, NodeId> {
    fn next_hop(&self, to: NodeId) -> Option<NodeId> {
        self.get(&to).copied()
    }
}

/// Decides where frames go next: a state machine that the control plane tells what happens to links, and whose actions it
/// performs. Times are since the start of the links, on a clock that never goes back.
pub trait Routing: Send + 'static {
    /// There is a link to a neighbour. It is told before any of its packets.
    fn handle_link_up(&mut self, peer: &Peer, rtt: Duration, now: Duration);
    /// The link is gone.
    fn handle_link_down(&mut self, peer: NodeId, now: Duration);
    /// The round trip of a link was measured; told every few seconds.
    fn handle_rtt(&mut self, peer: NodeId, rtt: Duration, now: Duration);
    /// A packet that an action asked for was written to its link.
    fn handle_sent(&mut self, peer: NodeId, now: Duration);
    /// A packet came from a neighbour.
    ///
    /// # Errors
    /// When no node of this mesh would have sent it: the link is closed.
    fn handle_packet(&mut self, from: NodeId, packet: Bytes, now: Duration) -> Result<(), Malformed>;
    /// Does what is due.
    fn handle_timeout(&mut self, now: Duration);
    /// When [`Routing::handle_timeout`] is to be called.
    fn poll_timeout(&self) -> Option<Duration>;
    /// The next thing to do, until `None`.
    fn poll_action(&mut self) -> Option<Action>;
}

/// A packet that no node of this mesh would have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What the control plane does for the routing.
pub enum Action {
    /// Writes a packet to a link's control stream. A link that takes none for too long is closed.
    Send {
        /// The neighbour.
        to: NodeId,
        /// What it is told; opaque to links.
        packet: Bytes,
    },
    /// From now on frames go by this table.
    Routes(Arc<dyn NextHop>),
}

/// A table that never changes: for meshes of neighbours alone, and for tests.
#[derive(Debug, Clone, Default)]
pub struct Fixed(Option<HashMap<NodeId, NodeId>>);

impl Fixed {
    /// Each node with the neighbour that is next on the way to it.
    pub fn new(next: impl IntoIterator<Item = (NodeId, NodeId)>) -> Self {
        Self(Some(next.into_iter().collect()))
    }
}

impl Routing for Fixed {
    fn handle_link_up(&mut self, _peer: &Peer, _rtt: Duration, _now: Duration) {}
    fn handle_link_down(&mut self, _peer: NodeId, _now: Duration) {}
    fn handle_rtt(&mut self, _peer: NodeId, _rtt: Duration, _now: Duration) {}
    fn handle_sent(&mut self, _peer: NodeId, _now: Duration) {}
    fn handle_packet(&mut self, _from: NodeId, _packet: Bytes, _now: Duration) -> Result<(), Malformed> {
        Ok(())
    }
    fn handle_timeout(&mut self, _now: Duration) {}
    fn poll_timeout(&self) -> Option<Duration> {
        None
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.0.take().map(|next| Action::Routes(Arc::new(next)))
    }
}
