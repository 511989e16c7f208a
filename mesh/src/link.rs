//! One link: the connection between two nodes, its lanes, and what of it is on its way.

mod arrivals;
mod lane;
mod streams;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use quinn::{Connection, VarInt};
use starlane_core::NodeId;
use starlane_core::frame::{BODY_BYTES_MAX, Close, INLINE_BYTES_MAX, Kind, LANES, Life, Place, Taken};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

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
/// How long a neighbour that leaves has until its link is ended from here.
const LEAVE_MAX: Duration = Duration::from_secs(5);

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
    /// Whether the other end hears on when it is told that this node leaves; an older one closes the connection at once.
    ends_in_order: bool,
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
    farewell: watch::Sender<Farewell>,
    /// Whether this node leaves, for those who pass here often.
    leaves: AtomicBool,
    /// Something came to its end that the end of the link may wait for.
    moved: Notify,
    /// Requests that came over it and are not answered.
    owed: AtomicUsize,
    tickets: AtomicU64,
    /// Large bodies that the other end does not have yet.
    bodies_out: AtomicUsize,
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

/// Which of the two nodes leave.
#[derive(Debug, Clone, Copy, Default)]
struct Farewell {
    mine: bool,
    theirs: bool,
}

/// A part of a link that came to its end.
enum Ended {
    /// The other end said all that it had to say on a lane.
    Heard,
    /// The other end has all that was said on a lane.
    Said,
    Other,
}

/// A request that came over a link, until it is answered.
pub(crate) struct Owed(Arc<Link>);

/// What a link is made from.
pub(crate) struct Begin {
    pub(crate) serial: u64,
    pub(crate) tag: u64,
    pub(crate) peer: Peer,
    pub(crate) life: Life,
    pub(crate) version: u8,
    pub(crate) ends_in_order: bool,
    pub(crate) dialled: bool,
    pub(crate) connection: Connection,
    pub(crate) now: Duration,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.owed.fetch_sub(1, Ordering::SeqCst);
        self.0.went_on();
    }
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
            ends_in_order: begin.ends_in_order,
            dialled: begin.dialled,
            running: Arc::default(),
            begun: begin.now,
            connection: begin.connection,
            transport,
            lanes,
            arrivals: Arrivals::new(config.held_frames_max, config.large_bytes_max),
            packets,
            farewell: watch::Sender::default(),
            leaves: AtomicBool::new(false),
            moved: Notify::new(),
            owed: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            bodies_out: AtomicUsize::new(0),
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
        self.bodies_out.fetch_add(1, Ordering::Relaxed);
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

    /// Ends the link in order, since this node stops: the other end hears of it and says what it had begun to say; then it is
    /// answered, and when it has every answer the connection is closed.
    pub(crate) fn leave(&self) {
        self.leaves.store(true, Ordering::SeqCst);
        self.farewell.send_modify(|farewell| farewell.mine = true);
    }

    /// Something that the end of the link may wait for came to its end.
    fn went_on(&self) {
        if self.leaves.load(Ordering::SeqCst) {
            self.moved.notify_one();
        }
    }

    /// The other node stops: it is sent what waits, and nothing new.
    pub(crate) fn let_go(&self) {
        self.lanes.iter().for_each(Lane::close);
        self.farewell.send_modify(|farewell| farewell.theirs = true);
    }

    /// Whether the other node stops.
    pub(crate) fn is_let_go(&self) -> bool {
        self.farewell.borrow().theirs
    }

    /// The round trip, as measured.
    pub(crate) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// How many signals were taken from it.
    pub(crate) fn taken(&self) -> Taken {
        Taken { link: self.tag, lanes: read(&self.signals_taken) }
    }

    /// A request came over it, which the end of the link waits for.
    pub(crate) fn owe(self: &Arc<Self>) -> Owed {
        self.owed.fetch_add(1, Ordering::SeqCst);
        Owed(self.clone())
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
            let (write, read) = (
                streams::write_lane(node.clone(), self.clone(), lane, send),
                streams::read_lane(node.clone(), self.clone(), lane, receive),
            );
            tasks.spawn(write.map(|()| Ended::Said));
            tasks.spawn(read.map(|()| Ended::Heard));
        }
        let ControlStream { send, receive, slicer } = streams.control;
        let write = streams::write_control(self.clone(), send, packets, events.clone());
        let read = streams::read_control(node.clone(), self.clone(), receive, slicer, events.clone());
        tasks.spawn(write.map(|()| Ended::Other));
        tasks.spawn(read.map(|()| Ended::Other));
        tasks.spawn(streams::read_bodies(node.clone(), self.clone()).map(|()| Ended::Other));
        let (mut unheard, mut unsaid) = (LANES, LANES);
        let mut farewell = self.farewell.subscribe();
        let mut waits = pin!(self.wait_for_their_end());
        let reason = loop {
            if farewell.borrow_and_update().mine {
                self.take_leave(unheard, unsaid);
            }
            tokio::select! {
                biased;
                reason = self.connection.closed() => break reason,
                Ok(()) = farewell.changed() => {}
                () = self.moved.notified() => {}
                // From then on the connection is closed, so that this is not asked again.
                () = &mut waits => self.close(Close::Stopped),
                Some(ended) = tasks.join_next() => match ended {
                    Ok(Ended::Heard) => unheard -= 1,
                    Ok(Ended::Said) => unsaid -= 1,
                    Ok(Ended::Other) => {}
                    Err(error) => {
                        // A link without it would only look well.
                        tracing::error!(peer = %self.peer.name, %error, "a task of a link broke");
                        self.close(Close::Broken);
                    }
                },
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

    /// Goes on to leave: the last answers are said when all was heard, and the connection is closed when they arrived.
    fn take_leave(&self, unheard: usize, unsaid: usize) {
        if unheard > 0 || !self.arrivals.is_empty() || self.owed.load(Ordering::SeqCst) > 0 {
            return;
        }
        self.lanes.iter().for_each(Lane::close);
        if unsaid == 0 && self.bodies_out.load(Ordering::SeqCst) == 0 {
            self.close(Close::Stopped);
        }
    }

    /// Waits until a neighbour that said it leaves had long enough to do so.
    async fn wait_for_their_end(&self) {
        // It fails when the link is gone, and is part of it.
        let _ = self.farewell.subscribe().wait_for(|farewell| farewell.theirs).await;
        sleep(LEAVE_MAX).await;
    }
}

/// Closes a connection, saying why.
pub(crate) fn close(connection: &Connection, reason: Close) {
    connection.close(VarInt::from_u32(reason.code()), reason.as_str().as_bytes());
}

fn read(counts: &[AtomicU64; LANES]) -> [u64; LANES] {
    std::array::from_fn(|lane| counts[lane].load(Ordering::Relaxed))
}
