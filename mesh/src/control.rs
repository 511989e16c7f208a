//! The control plane: all that can happen to the links of a node, in one enum, one loop and one match. Messages never
//! pass here.

mod dials;
mod handshake;
mod neighbour;
mod random;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming, TransportConfig, VarInt};
use starlane_core::NodeId;
use starlane_core::frame::{Close, Hello, Life, VERSIONS};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

pub(crate) use random::Random;

use crate::link::{Begin, ControlStream, Link, Streams, close};
use crate::node::{Node, Table};
use crate::room::Room;
use crate::routing::{Action, NextHop, Routing};
use crate::transport;
use crate::{Credentials, Peer};
use dials::{Address, Dials};
use handshake::{Acceptor, Dialler, Failure};
use neighbour::{Decision, Greeting, Neighbour};

/// Events that may wait for the loop; whoever has one more waits itself.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// Nodes without a link whose last one is remembered, to say what was lost with it.
const REMEMBERED_MAX: usize = 4_096;
/// How often the routing hears of round trips.
const MEASURE: Duration = Duration::from_secs(5);
/// How long the other ends have for what they and this node still have to say when it stops.
const LEAVE: Duration = Duration::from_secs(2);
/// How long to wait until they know that it is gone.
const GOODBYE: Duration = Duration::from_secs(1);

/// Takes connections of nodes that are no members yet. It is called on the thread of the links and only hands them on.
pub type OnJoin = Arc<dyn Fn(Connection) + Send + Sync>;

/// Everything that can happen to the links of a node.
pub(crate) enum Event {
    /// Somebody dials.
    Incoming(Box<Incoming>),
    /// Somebody who dialled is a member and said hello.
    Accepted(Box<Proposed>),
    /// Somebody who was dialled is a member.
    Reached { address: Address, connection: Connection, peer: Peer },
    /// Both sides said hello.
    Greeted(Box<Greeted>),
    /// A connection did not become a link; `of` says whose, when it was known.
    Failed { address: Option<Address>, of: Option<(NodeId, usize)>, failure: Failure },
    /// The node at the other end of a link stops.
    Leaving { peer: NodeId, serial: u64 },
    /// A link ended, with all of its tasks.
    Ended { peer: NodeId, serial: u64 },
    /// A packet of the routing came.
    Packet { peer: NodeId, serial: u64, packet: Bytes },
    /// A packet of the routing was written.
    Written { peer: NodeId, serial: u64 },
    /// Other addresses are known from now on.
    Addresses,
    /// Certificates, authorities or revocations changed.
    Credentials,
    /// Something is due, or the routing was changed from outside.
    Wake,
    /// The node stops.
    Stop,
}

/// A connection of somebody who dialled, after its hello.
pub(crate) struct Proposed {
    connection: Connection,
    peer: Peer,
    hello: Hello,
    control: ControlStream,
}

/// A connection that can become a link.
pub(crate) struct Greeted {
    connection: Connection,
    peer: Peer,
    /// What the other side said.
    hello: Hello,
    tag: u64,
    streams: Streams,
    /// Where it was dialled, by this node.
    address: Option<Address>,
}

/// The control plane of one node.
pub(crate) struct Plane {
    pub(crate) node: Arc<Node>,
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) routing: Box<dyn Routing>,
    pub(crate) on_join: Option<OnJoin>,
    pub(crate) addresses: watch::Receiver<Vec<String>>,
    pub(crate) poke: Arc<Notify>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) random: Random,
    /// Tells this run of the node from all others.
    pub(crate) process: u128,
}

struct State {
    plane: Plane,
    changes: watch::Receiver<u64>,
    routes: Arc<dyn NextHop>,
    dials: Dials,
    neighbours: HashMap<NodeId, Neighbour>,
    links: JoinSet<()>,
    serial: u64,
    handshakes: Arc<AtomicUsize>,
    measured: Duration,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Plane {
    /// Runs until the node stops.
    pub(crate) async fn run(mut self) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let config = &self.node.config;
        let seed = Random::new(self.random.next());
        let mut dials = Dials::new(config.redial_min, config.redial_max, seed);
        dials.set_known(&self.addresses.borrow_and_update());
        let watched = self.node.clone();
        let deadlines = tokio::spawn(async move {
            let ended = |passed| watched.counters.unknown.add(passed as u64);
            watched.requests.watch_deadlines(watched.clock, ended).await;
        });
        let state = State {
            changes: self.credentials.changes(),
            routes: Arc::new(HashMap::new()),
            dials,
            neighbours: HashMap::new(),
            links: JoinSet::new(),
            serial: 0,
            handshakes: Arc::default(),
            measured: Duration::ZERO,
            sender,
            events,
            plane: self,
        };
        state.run().await;
        deadlines.abort();
    }
}

impl State {
    async fn run(mut self) {
        loop {
            self.perform();
            match self.next_event().await {
                Event::Incoming(incoming) => self.handle_incoming(*incoming),
                Event::Accepted(proposed) => self.handle_accepted(*proposed),
                Event::Reached { address, connection, peer } => {
                    self.handle_reached(address, connection, peer)
                }
                Event::Greeted(greeted) => self.handle_greeted(*greeted),
                Event::Failed { address, of, failure } => self.handle_failed(address, of, &failure),
                Event::Leaving { peer, serial } => {
                    if self.link(peer).is_some_and(|link| link.serial == serial) {
                        self.publish();
                    }
                }
                Event::Ended { peer, serial } => self.handle_ended(peer, serial),
                Event::Packet { peer, serial, packet } => self.handle_packet(peer, serial, packet),
                Event::Written { peer, serial } => {
                    if self.link(peer).is_some_and(|link| link.serial == serial) {
                        self.plane.routing.handle_sent(peer, self.now());
                    }
                }
                Event::Addresses => {
                    let addresses = self.plane.addresses.borrow_and_update().clone();
                    self.dials.set_known(&addresses);
                }
                Event::Credentials => self.handle_credentials(),
                Event::Wake => self.handle_wake(),
                Event::Stop => break,
            }
        }
        self.say_goodbye().await;
    }

    async fn next_event(&mut self) -> Event {
        let wake =
            [self.dials.poll_timeout(), self.plane.routing.poll_timeout(), Some(self.measured + MEASURE)];
        let wake = wake.into_iter().flatten().min().unwrap_or(MEASURE);
        let plane = &mut self.plane;
        tokio::select! {
            biased;
            _ = plane.stop.wait_for(|stop| *stop) => Event::Stop,
            Ok(()) = self.changes.changed() => Event::Credentials,
            event = self.events.recv() => event.unwrap_or(Event::Stop),
            Ok(()) = plane.addresses.changed() => Event::Addresses,
            Some(incoming) = plane.endpoint.accept() => Event::Incoming(Box::new(incoming)),
            () = plane.poke.notified() => Event::Wake,
            () = sleep_until(plane.node.clock.instant(wake)) => Event::Wake,
        }
    }

    /// Does what the machines ask for.
    fn perform(&mut self) {
        while let Some(address) = self.dials.poll_dial() {
            let dialler = Dialler {
                endpoint: self.plane.endpoint.clone(),
                credentials: self.plane.credentials.clone(),
                transport: self.plane.transport.clone(),
                handshake: self.plane.node.config.handshake,
            };
            tokio::spawn(handshake::dial(dialler, address, self.sender.clone()));
        }
        while let Some(action) = self.plane.routing.poll_action() {
            match action {
                Action::Send { to, packet } => {
                    if let Some(link) = self.link(to) {
                        link.send_packet(packet);
                    }
                }
                Action::Routes(routes) => {
                    self.routes = routes;
                    self.publish();
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.plane.node.clock.now()
    }

    fn link(&self, peer: NodeId) -> Option<&Arc<Link>> {
        self.neighbours.get(&peer)?.link.as_ref()
    }

    /// Tells the data plane where frames go.
    fn publish(&self) {
        let links = self.neighbours.iter();
        let links = links.filter_map(|(id, neighbour)| Some((*id, neighbour.link.clone()?)));
        let links = links.filter(|(_, link)| !link.is_let_go()).collect();
        self.plane.node.set_table(Table { routes: self.routes.clone(), links, asks: true });
    }

    fn handle_incoming(&mut self, incoming: Incoming) {
        let node = &self.plane.node;
        let under_way = self.handshakes.load(Ordering::Relaxed);
        let max = node.config.handshakes_max;
        if under_way >= max / 2 && !incoming.remote_address_validated() {
            // Costs nothing here, and whoever gives a false address never comes back.
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return;
        }
        let Some(room) = Room::take(&self.handshakes, max) else {
            node.counters.handshakes_refused.one();
            return incoming.ignore();
        };
        let acceptor = Acceptor {
            credentials: self.plane.credentials.clone(),
            on_join: self.plane.on_join.clone(),
            handshake: node.config.handshake,
            room,
        };
        match incoming.accept() {
            Ok(connecting) => {
                tokio::spawn(handshake::accept(acceptor, connecting, self.sender.clone()));
            }
            Err(error) => self.handle_failed(None, None, &error.into()),
        }
    }

    fn handle_accepted(&mut self, proposed: Proposed) {
        let id = proposed.peer.name.id();
        if let Err(reason) = self.may_link(&proposed.peer).and(version(&proposed.hello)) {
            return close(&proposed.connection, reason);
        }
        let me = &self.plane.node.me;
        let neighbour = self.neighbours.entry(id).or_default();
        match neighbour.accept(me, &proposed.peer, &proposed.hello) {
            Decision::Refuse(reason) => close(&proposed.connection, reason),
            Decision::Take => self.welcome(proposed),
            Decision::TakeAfter(old) => {
                // In its place as soon as nothing of the old one is left.
                if let Some(earlier) = neighbour.next.replace(Box::new(proposed)) {
                    close(&earlier.connection, Close::Replaced);
                }
                old.close(Close::Replaced);
            }
        }
    }

    fn welcome(&mut self, proposed: Proposed) {
        let Proposed { connection, peer, hello, control } = proposed;
        let id = peer.name.id();
        let neighbour = self.neighbours.entry(id).or_default();
        neighbour.begin(Greeting { connection: connection.clone(), dialled: false });
        let mine = self.hello(id, hello.link);
        let (sender, patience) = (self.sender.clone(), self.plane.node.config.handshake);
        tokio::spawn(async move {
            let welcomed = timeout(patience, handshake::welcome(&connection, control, &mine)).await;
            let of = Some((id, connection.stable_id()));
            let event = match welcomed.map_err(Failure::from).flatten() {
                Ok(streams) => {
                    let tag = hello.link;
                    Event::Greeted(Box::new(Greeted { connection, peer, hello, tag, streams, address: None }))
                }
                Err(failure) => {
                    close(&connection, Close::Malformed);
                    Event::Failed { address: None, of, failure }
                }
            };
            // The control plane is gone only when the node stops.
            let _ = sender.send(event).await;
        });
    }

    fn handle_reached(&mut self, address: Address, connection: Connection, peer: Peer) {
        let id = peer.name.id();
        self.dials.handle_reached(&address, id);
        let refused = if id == self.plane.node.id {
            Err(Close::Itself)
        } else {
            self.may_link(&peer).and_then(|()| {
                let neighbour = self.neighbours.entry(id).or_default();
                if neighbour.is_busy() { Err(Close::Duplicate) } else { Ok(()) }
            })
        };
        if let Err(reason) = refused {
            close(&connection, reason);
            return self.handle_failed(Some(address), None, &Failure::Refused(reason));
        }
        let tag = self.plane.random.next();
        let mine = self.hello(id, tag);
        let neighbour = self.neighbours.entry(id).or_default();
        neighbour.begin(Greeting { connection: connection.clone(), dialled: true });
        let (sender, patience) = (self.sender.clone(), self.plane.node.config.handshake);
        tokio::spawn(async move {
            let greeted = timeout(patience, handshake::greet(&connection, &mine)).await;
            let of = Some((id, connection.stable_id()));
            let event = match greeted.map_err(Failure::from).flatten() {
                Ok((hello, streams)) => {
                    let address = Some(address);
                    Event::Greeted(Box::new(Greeted { connection, peer, hello, tag, streams, address }))
                }
                Err(failure) => {
                    close(&connection, Close::Malformed);
                    Event::Failed { address: Some(address), of, failure }
                }
            };
            // The control plane is gone only when the node stops.
            let _ = sender.send(event).await;
        });
    }

    /// What this node says first.
    fn hello(&self, to: NodeId, tag: u64) -> Hello {
        let neighbour = self.neighbours.get(&to);
        Hello {
            versions: (*VERSIONS.start(), *VERSIONS.end()),
            features: Hello::ENDS_IN_ORDER,
            link: tag,
            life: Life { generation: self.plane.credentials.me().generation, process: self.plane.process },
            last: neighbour.map(Neighbour::taken).unwrap_or_default(),
        }
    }

    /// Whether there may be a link to a node, as far as this node is concerned.
    fn may_link(&self, peer: &Peer) -> Result<(), Close> {
        let linked = self.neighbours.values().filter(|neighbour| neighbour.link.is_some()).count();
        let has_link = self.link(peer.name.id()).is_some();
        if self.plane.credentials.is_revoked(peer) {
            Err(Close::Revoked)
        } else if peer.name.id() == self.plane.node.id {
            Err(Close::Itself)
        } else if linked >= self.plane.node.config.links_max && !has_link {
            Err(Close::Full)
        } else {
            Ok(())
        }
    }

    fn handle_greeted(&mut self, greeted: Greeted) {
        let Greeted { connection, peer, hello, tag, streams, address } = greeted;
        let id = peer.name.id();
        let expected = self.neighbours.get(&id).is_some_and(|neighbour| {
            neighbour.greeting.as_ref().is_some_and(|greeting| greeting.is(connection.stable_id()))
        });
        let agreed = if expected { self.may_link(&peer) } else { Err(Close::Duplicate) };
        let version = match agreed.and(version(&hello)) {
            Ok(version) => version,
            Err(reason) => {
                close(&connection, reason);
                let of = Some((id, connection.stable_id()));
                return self.handle_failed(address, of, &Failure::Refused(reason));
            }
        };
        let now = self.now();
        let node = self.plane.node.clone();
        let neighbour = self.neighbours.entry(id).or_default();
        neighbour.greeting = None;
        let losses = neighbour.settle(&hello);
        node.counters.reconnects.add(losses.any.into());
        node.counters.signals_lost.add(losses.signals);
        node.counters.signals_unsure.add(losses.unsure);
        self.serial += 1;
        let dialled = address.is_some();
        let begin = Begin {
            serial: self.serial,
            tag,
            peer: peer.clone(),
            life: hello.life,
            version,
            ends_in_order: hello.features & Hello::ENDS_IN_ORDER != 0,
            dialled,
            connection,
            now,
        };
        let (link, packets) = Link::new(begin, &node.config, node.transport().clone());
        neighbour.link = Some(link.clone());
        node.counters.links_begun.one();
        tracing::info!(peer = %peer.name, generation = %peer.generation, dialled, "a link began");
        let rtt = link.rtt();
        self.links.spawn(link.run(node, streams, packets, self.sender.clone()));
        while self.links.try_join_next().is_some() {}
        self.publish();
        self.plane.routing.handle_link_up(&peer, rtt, now);
        match &address {
            Some(address) => self.dials.handle_linked(address, id),
            None => self.dials.handle_link_up(id),
        }
    }

    fn handle_failed(&mut self, address: Option<Address>, of: Option<(NodeId, usize)>, failure: &Failure) {
        let node = self.plane.node.clone();
        if failure.is_stranger() {
            node.counters.strangers.one();
        }
        if let Some((peer, connection)) = of
            && let Some(neighbour) = self.neighbours.get_mut(&peer)
            && neighbour.greeting.as_ref().is_some_and(|greeting| greeting.is(connection))
        {
            neighbour.greeting = None;
        }
        self.forget();
        let Some(address) = address else {
            return tracing::debug!(%failure, "a connection did not become a link");
        };
        node.counters.dials_failed.one();
        if failure.is_version() {
            tracing::warn!(%address, "the node there speaks no version that this one speaks: upgrade the older one");
        }
        tracing::debug!(%address, %failure, "dialling led to no link");
        let now = self.now();
        let linked = |peer| self.neighbours.get(&peer).is_some_and(|neighbour| neighbour.link.is_some());
        self.dials.handle_failed(&address, linked, now);
    }

    fn handle_ended(&mut self, peer: NodeId, serial: u64) {
        let now = self.now();
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        let Some(link) = neighbour.link.take_if(|link| link.serial == serial) else { return };
        self.plane.node.counters.links_lost.one();
        tracing::info!(peer = %link.peer.name, "a link ended");
        neighbour.remember(&link);
        let next = neighbour.next.take();
        self.publish();
        self.plane.routing.handle_link_down(peer, now);
        self.dials.handle_link_down(peer, now);
        self.forget();
        if let Some(next) = next {
            self.handle_accepted(*next);
        }
    }

    /// Forgets nodes without a link when there are too many.
    fn forget(&mut self) {
        self.neighbours.retain(|_, neighbour| !neighbour.is_blank());
        let idle = |neighbour: &Neighbour| neighbour.link.is_none() && !neighbour.is_busy();
        let mut over = self.neighbours.values().filter(|neighbour| idle(neighbour)).count();
        over = over.saturating_sub(REMEMBERED_MAX);
        if over > 0 {
            let unsure = &self.plane.node.counters.signals_unsure;
            self.neighbours.retain(|_, neighbour| {
                let forgotten = over > 0 && idle(neighbour);
                if forgotten {
                    over -= 1;
                    unsure.one();
                }
                !forgotten
            });
        }
    }

    fn handle_packet(&mut self, peer: NodeId, serial: u64, packet: Bytes) {
        let now = self.now();
        let Some(link) = self.link(peer).filter(|link| link.serial == serial).cloned() else { return };
        if self.plane.routing.handle_packet(peer, packet, now).is_err() {
            self.plane.node.counters.malformed.one();
            link.close(Close::Malformed);
        }
    }

    /// Those who were thrown out lose their links at once; handshakes from now on go by what is known now.
    fn handle_credentials(&mut self) {
        self.changes.mark_unchanged();
        for neighbour in self.neighbours.values_mut() {
            if let Some(link) = &neighbour.link
                && self.plane.credentials.is_revoked(&link.peer)
            {
                link.close(Close::Revoked);
            }
        }
        match transport::server(&*self.plane.credentials, self.plane.transport.clone()) {
            Ok(config) => self.plane.endpoint.set_server_config(Some(config)),
            Err(error) => tracing::error!(%error, "the new certificate cannot be used"),
        }
    }

    fn handle_wake(&mut self) {
        let now = self.now();
        self.dials.handle_timeout(now);
        self.plane.routing.handle_timeout(now);
        if now >= self.measured + MEASURE {
            self.measured = now;
            let measured: Vec<_> =
                self.neighbours.values().filter_map(|neighbour| neighbour.link.clone()).collect();
            for link in measured {
                self.plane.routing.handle_rtt(link.id, link.rtt(), now);
            }
        }
    }

    async fn say_goodbye(mut self) {
        // Nobody new comes in, nothing new is asked, and answers still find their way.
        self.plane.endpoint.set_server_config(None);
        let known = self.plane.node.table();
        let (routes, links) = (known.routes.clone(), known.links.clone());
        self.plane.node.set_table(Table { routes, links, asks: false });
        // Nobody hears what links still have to say.
        self.events.close();
        drop(self.events);
        self.neighbours
            .values()
            .filter_map(|neighbour| neighbour.link.as_ref())
            .for_each(|link| link.leave());
        let all = async { while self.links.join_next().await.is_some() {} };
        // Whoever does not answer in time loses what was on its way.
        let _ = timeout(LEAVE, all).await;
        let nowhere = Table { routes: Arc::new(HashMap::new()), links: HashMap::new(), asks: false };
        self.plane.node.set_table(nowhere);
        let reason = Close::Stopped;
        self.plane.endpoint.close(VarInt::from_u32(reason.code()), reason.as_str().as_bytes());
        while self.links.join_next().await.is_some() {}
        // Whoever does not say goodbye finds out by itself.
        let _ = timeout(GOODBYE, self.plane.endpoint.wait_idle()).await;
    }
}

/// The version of frames that both ends speak.
fn version(hello: &Hello) -> Result<u8, Close> {
    hello.common_version(VERSIONS).map_err(|_| Close::Version)
}
