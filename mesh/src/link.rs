//! One link: the connection between two nodes, its lanes, and what of it is on its way.

mod arrivals;
mod lane;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, VarInt};
use starlane_core::NodeId;
use starlane_core::frame::{BODY_BYTES_MAX, Close, INLINE_BYTES_MAX, Kind, LANES, Life, Place, Taken};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

pub(crate) use arrivals::Held;
pub(crate) use lane::{Content, Front, NotTaken, SHARED_BYTES_MIN};
pub(crate) use streams::{ControlStream, Streams};

use crate::config::Config;
use crate::control::Event;
use crate::counters::Counter;
use crate::node::Node;
use crate::{LinkStatus, Peer};
use arrivals::Arrivals;
use lane::Lane;

/// Packets of the routing that may wait on a link. A neighbour that takes none for so long is none.
const PACKETS_MAX: usize = 256;
/// Bytes that a permit for large bodies stands for.
const PERMIT_BYTES: usize = 1024;

/// The connection between two nodes.
pub(crate) struct Link {
    /// Which of this node's links it is.
    pub(crate) serial: u64,
    /// How both ends call it.
    pub(crate) tag: u64,
    /// Who is at the other end.
    pub(crate) peer: Peer,
    /// Which life of it.
    pub(crate) life: Life,
    /// The version of frames that both ends speak.
    version: u8,
    /// Who it is, as frames name it.
    pub(crate) id: NodeId,
    /// Whether this node dialled.
    pub(crate) dialled: bool,
    /// How much runs here that came over it.
    pub(crate) running: Arc<AtomicUsize>,
    begun: Duration,
    connection: Connection,
    transport: Handle,
    lanes: Box<[Lane]>,
    arrivals: Arrivals,
    packets: mpsc::Sender<Bytes>,
    tickets: AtomicU64,
    large_out: AtomicUsize,
    large_out_max: usize,
    large_in: Arc<Semaphore>,
    signals_sent: [AtomicU64; LANES],
    signals_taken: [AtomicU64; LANES],
    frames_in: Counter,
    frames_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// What a link is made from.
pub(crate) struct Begin {
    pub(crate) serial: u64,
    pub(crate) tag: u64,
    pub(crate) peer: Peer,
    pub(crate) life: Life,
    pub(crate) version: u8,
    pub(crate) dialled: bool,
    pub(crate) connection: Connection,
    pub(crate) now: Duration,
}

impl Link {
    /// The link, and what its routing is told over it.
    pub(crate) fn new(
        begin: Begin,
        config: &Config,
        transport: Handle,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (packets, to_send) = mpsc::channel(PACKETS_MAX);
        let lane = || Lane::new(begin.version, config.lane_frames_max, config.lane_bytes_max);
        let lanes = (0..LANES).map(|_| lane()).collect();
        // One body always fits.
        let large_in = config.large_bytes_max.max(BODY_BYTES_MAX).div_ceil(PERMIT_BYTES) + 1;
        let link = Self {
            serial: begin.serial,
            tag: begin.tag,
            id: begin.peer.name.id(),
            peer: begin.peer,
            life: begin.life,
            version: begin.version,
            dialled: begin.dialled,
            running: Arc::default(),
            begun: begin.now,
            connection: begin.connection,
            transport,
            lanes,
            arrivals: Arrivals::new(config.held_frames_max, config.large_bytes_max),
            packets,
            tickets: AtomicU64::new(0),
            large_out: AtomicUsize::new(0),
            large_out_max: config.large_bytes_max,
            large_in: Arc::new(Semaphore::new(large_in)),
            signals_sent: Default::default(),
            signals_taken: Default::default(),
            frames_in: Counter::default(),
            frames_out: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
        };
        (Arc::new(link), to_send)
    }

    /// Puts a frame into a lane.
    pub(crate) fn push(
        self: &Arc<Self>,
        lane: usize,
        now_ms: u64,
        kind: Kind,
        front: Front<'_>,
        body: Content<'_>,
    ) -> Result<(), NotTaken> {
        let bytes = body.len();
        let lane = &self.lanes[lane];
        let body = match body {
            Content::Shared(body) if bytes > INLINE_BYTES_MAX => body,
            inline => return lane.push(now_ms, kind, front, Place::Inline(bytes), inline),
        };
        let under_way = self.large_out.fetch_add(bytes, Ordering::Relaxed);
        let free = || self.large_out.fetch_sub(bytes, Ordering::Relaxed);
        if under_way > 0 && under_way + bytes > self.large_out_max {
            free();
            return Err(NotTaken::Full);
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let place = Place::Detached { bytes: bytes as u64, ticket };
        lane.push(now_ms, kind, front, place, Content::Copied(&[])).inspect_err(|_| {
            free();
        })?;
        self.transport.spawn(streams::send_body(self.clone(), ticket, body));
        Ok(())
    }

    /// Hands a packet of the routing on. A neighbour that takes none is cut off, and begins anew.
    pub(crate) fn send_packet(&self, packet: Bytes) {
        if self.packets.try_send(packet).is_err() {
            self.close(Close::Replaced);
        }
    }

    /// Ends the link. What was not sent yet is not sent any more.
    pub(crate) fn close(&self, reason: Close) {
        close(&self.connection, reason);
    }

    /// The round trip, as measured.
    pub(crate) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// How many signals were taken from it.
    pub(crate) fn taken(&self) -> Taken {
        Taken { link: self.tag, lanes: read(&self.signals_taken) }
    }

    /// How many signals were sent over it, by lane.
    pub(crate) fn sent(&self) -> [u64; LANES] {
        read(&self.signals_sent)
    }

    /// A signal was taken from it.
    pub(crate) fn take_signal(&self, lane: usize) {
        self.signals_taken[lane].fetch_add(1, Ordering::Relaxed);
    }

    /// What people see of it.
    pub(crate) fn status(&self, now: Duration) -> LinkStatus {
        LinkStatus {
            peer: self.peer.clone(),
            address: self.address(),
            dialled: self.dialled,
            version: self.version,
            rtt: self.rtt(),
            age: now.saturating_sub(self.begun),
            frames_in: self.frames_in.get(),
            frames_out: self.frames_out.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            waiting: self.lanes.iter().map(Lane::waiting).sum(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Runs the link until its connection ends, and gives back what was not sent.
    pub(crate) async fn run(
        self: Arc<Self>,
        node: Arc<Node>,
        streams: Streams,
        packets: mpsc::Receiver<Bytes>,
        events: mpsc::Sender<Event>,
    ) {
        let mut tasks = JoinSet::new();
        for (lane, (send, receive)) in streams.lanes.into_iter().enumerate() {
            tasks.spawn(streams::write_lane(node.clone(), self.clone(), lane, send));
            tasks.spawn(streams::read_lane(node.clone(), self.clone(), lane, receive));
        }
        let ControlStream { send, receive, slicer } = streams.control;
        tasks.spawn(streams::write_control(self.clone(), send, packets, events.clone()));
        tasks.spawn(streams::read_control(node.clone(), self.clone(), receive, slicer, events.clone()));
        tasks.spawn(streams::read_bodies(node.clone(), self.clone()));
        let reason = loop {
            tokio::select! {
                biased;
                reason = self.connection.closed() => break reason,
                Some(ended) = tasks.join_next() => {
                    // A link without it would only look well.
                    if let Err(error) = ended {
                        tracing::error!(peer = %self.peer.name, %error, "a task of a link broke");
                        self.close(Close::Broken);
                    }
                }
            }
        };
        self.lanes.iter().for_each(Lane::close);
        // Whatever came before the end is still read.
        while tasks.join_next().await.is_some() {}
        self.arrivals.finish(|lane, held| node.go_on(&self, lane, &held));
        let lost = node.requests.lose_link(self.serial);
        node.counters.unknown.add(lost as u64);
        tracing::debug!(peer = %self.peer.name, %reason, lost, "a link ended");
        // The control plane is gone only when the node stops.
        let _ = events.send(Event::Ended { peer: self.id, serial: self.serial }).await;
    }
}

/// Closes a connection, saying why.
pub(crate) fn close(connection: &Connection, reason: Close) {
    connection.close(VarInt::from_u32(reason.code()), reason.as_str().as_bytes());
}

fn read(counts: &[AtomicU64; LANES]) -> [u64; LANES] {
    std::array::from_fn(|lane| counts[lane].load(Ordering::Relaxed))
}
