//! What the rest of the node does with its links.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use starlane_core::frame::{Hop, Service};
use starlane_core::{Code, Message, NodeId, Outcome, Refusal};
use tokio::sync::{Notify, watch};

use crate::counters::Counted;
use crate::node::{Node, Request, answer};
use crate::{LinkStatus, Peer};

/// The links of a node, for all who send over them. Clones are the same links; they run until [`Handle::stop`].
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    address: SocketAddr,
    shell: Arc<Shell>,
}

struct Shell {
    addresses: watch::Sender<Vec<String>>,
    poke: Arc<Notify>,
    stop: watch::Sender<bool>,
    done: watch::Sender<bool>,
}

impl Handle {
    pub(crate) fn new(
        node: Arc<Node>,
        address: SocketAddr,
        addresses: watch::Sender<Vec<String>>,
        poke: Arc<Notify>,
        stop: watch::Sender<bool>,
    ) -> Self {
        let shell = Shell { addresses, poke, stop, done: watch::Sender::new(false) };
        Self { node, address, shell: Arc::new(shell) }
    }

    pub(crate) fn done(&self) -> watch::Sender<bool> {
        self.shell.done.clone()
    }

    /// Who the node is.
    pub fn me(&self) -> &Peer {
        &self.node.me
    }

    /// Where the links are bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request to the node that its receiver lives on, at once. Exactly one outcome comes, by the message's
    /// deadline (and 100 ms): `Rejected` when it surely did not run (`Unreachable`: no way, or the link was lost before it
    /// was sent; `Busy`: something is full here, on the way or there; `Expired`; `TooLarge`; `MessageInvalid`), `Unknown`
    /// with the code `Timeout` when it may have. Requests between the same two points arrive in the order in which this
    /// was called. Dropping what it returns ends the work there too. Ids of messages under way differ.
    ///
    /// A request to this node itself opens no socket.
    pub fn request(&self, to: NodeId, message: Message) -> Request {
        self.node.request(to, message)
    }

    /// Sends a signal to the node that its receiver lives on. It arrives at most once and in order; what is lost on the way
    /// is counted: [`Counted::signals_lost`].
    ///
    /// # Errors
    /// When it surely does not arrive: `Unreachable`, `Busy`, `TooLarge`.
    pub fn send(&self, to: NodeId, message: Message) -> Result<(), Refusal> {
        self.node.send(to, message)
    }

    /// Asks a service of another node, at once. It is at most once, as a request is, and so is its outcome.
    pub fn call_outcome(&self, to: NodeId, service: Service, body: Bytes, timeout: Duration) -> Request {
        self.node.call(to, service, body, timeout)
    }

    /// Asks a service of another node, at once.
    ///
    /// # Errors
    /// What the service refuses; `Unreachable`, `Busy`, `Expired` or `TooLarge` when it surely did not run; `Timeout` when
    /// it may have.
    pub fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<Bytes, Refusal>> + Send + use<> {
        let request = self.node.call(to, service, body, timeout);
        async move { answer(request.await) }
    }

    /// Asks which way frames go to a node: every node on the way and the node itself, each with the round trip of the link
    /// that it was reached over.
    ///
    /// # Errors
    /// Where the way ends: `Unreachable` with the node that knows no further, or `Timeout`.
    pub fn trace(
        &self,
        to: NodeId,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Hop>, Refusal>> + Send + use<> {
        let request: Request = self.node.trace(to, timeout);
        async move {
            let body = answer(request.await)?;
            Hop::read_all(&body).map_err(|error| Refusal::new(Code::Internal, error.to_string()))
        }
    }

    /// Where other nodes can be reached, as far as was told.
    pub fn addresses(&self) -> Vec<String> {
        self.shell.addresses.borrow().clone()
    }

    /// Other nodes can be reached at these addresses, each as `host:port`, and at no others that are known.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.shell.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    /// Another node can be reached at an address too.
    pub fn add_address(&self, address: String) {
        self.shell.addresses.send_if_modified(|known| {
            let new = !known.contains(&address);
            if new {
                known.push(address);
            }
            new
        });
    }

    /// The routing was changed from outside: its timeout is handled and its actions are performed now.
    pub fn poke_routing(&self) {
        self.shell.poke.notify_one();
    }

    /// The links of this moment, by the name of the neighbour.
    pub fn links(&self) -> Vec<LinkStatus> {
        let now = self.node.clock.now();
        let mut links: Vec<_> = self.node.table().links.values().map(|link| link.status(now)).collect();
        links.sort_by(|one, other| one.peer.name.cmp(&other.peer.name));
        links
    }

    /// What was counted since the start.
    pub fn counted(&self) -> Counted {
        self.node.counters.read()
    }

    /// Requests and calls of this node that wait, and those of others that run here.
    pub fn under_way(&self) -> (usize, usize) {
        (self.node.requests.waiting(), self.node.running())
    }

    /// Ends all links, and waits until nothing of them is left. Neighbours hear of it and send nothing new; what they sent before
    /// comes to the local side, and what that answers within two seconds arrives before the link ends. What waits here for an
    /// answer ends as `Unknown`, and so do calls of others that still run here.
    pub async fn stop(&self) {
        self.shell.stop.send_replace(true);
        let mut done = self.shell.done.subscribe();
        // It fails when the thread is gone, and then it is done too.
        let _ = done.wait_for(|done| *done).await;
    }
}

/// A request that is dropped is taken back; see [`Handle::request`].
const _: fn() = || {
    fn is_send<T: Send + Future<Output = Outcome>>() {}
    is_send::<Request>();
};
