//! The streams of a link: one task reads and one writes each.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadExactError, RecvStream, SendStream};
use starlane_core::Code;
use starlane_core::frame::{
    Close, Control, Frame, Heads, Kind, Slicer, TICKET_BYTES, read_ticket, write_ticket,
};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::arrivals::{Claim, Turn};
use super::lane::Piece;
use super::{Link, PERMIT_BYTES};
use crate::control::Event;
use crate::node::Node;

/// Chunks that are read at once.
const CHUNKS: usize = 32;
/// After so many bytes in a row a task lets others go on.
const TURN_BYTES: usize = 256 * 1024;
/// What is allocated at once for a body whose bytes are still to come.
const BODY_BYTES_AHEAD: usize = 1024 * 1024;
/// Bodies on streams of their own give way to frames.
const BODY_PRIORITY: i32 = -1;
/// To a neighbour that goes at once when it hears that this node leaves, that is said behind all that was said before.
const LAST_PRIORITY: i32 = -2;
/// How long such a neighbour is still answered before it is told.
const BEFORE_LAST: Duration = Duration::from_millis(50);

/// The streams that a link begins with.
pub(crate) struct Streams {
    pub(crate) control: ControlStream,
    pub(crate) lanes: Vec<(SendStream, RecvStream)>,
}

/// The control stream, after the first words.
pub(crate) struct ControlStream {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    pub(crate) slicer: Slicer,
}

/// What was handed to the connection, until it took all of it.
#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    chunks: Vec<Bytes>,
    /// The buffers again, to see what they held when only a part was taken.
    kept: Vec<(Bytes, Piece)>,
}

/// Writes what waits in a lane, many frames at once, until the lane is closed and the other end has all of it.
pub(super) async fn write_lane(node: Arc<Node>, link: Arc<Link>, lane: usize, mut send: SendStream) {
    let mut batch = Batch::default();
    let mut in_a_row = 0;
    while std::future::poll_fn(|cx| link.lanes[lane].poll_take(cx, &mut batch.pieces)).await.is_some() {
        let now_ms = node.clock.now_ms();
        for mut piece in batch.pieces.drain(..) {
            piece.age(now_ms, |front| node.give_back(front, Code::Expired, "no time was left to send it"));
            let bytes = Bytes::from(mem::take(&mut piece.bytes));
            batch.chunks.push(bytes.clone());
            if !piece.body.is_empty() {
                batch.chunks.push(piece.body.clone());
            }
            batch.kept.push((bytes, piece));
        }
        let mut written = 0;
        let mut rest = batch.chunks.as_mut_slice();
        while !rest.is_empty() {
            match send.write_chunks(rest).await {
                Ok(more) => {
                    written += more.bytes;
                    rest = &mut rest[more.chunks..];
                }
                // The connection is lost. What waits is taken out all the same, and given back.
                Err(_) => break,
            }
        }
        let whole = rest.is_empty();
        batch.chunks.clear();
        settle(&node, &link, lane, &mut batch.kept, written);
        if !whole {
            link.lanes[lane].close();
        }
        in_a_row += written;
        if in_a_row >= TURN_BYTES {
            in_a_row = 0;
            yield_now().await;
        }
    }
    // A connection that is lost has taken what it took.
    if send.finish().is_ok() {
        let _ = send.stopped().await;
    }
}

/// Counts what was sent, and gives back what was not: a frame that was not written to its end cannot have arrived.
fn settle(node: &Node, link: &Link, lane: usize, kept: &mut Vec<(Bytes, Piece)>, written: usize) {
    let (mut start, mut frames, mut signals) = (0, 0, 0);
    for (bytes, piece) in kept.drain(..) {
        let end = start + bytes.len() + piece.body.len();
        if end <= written {
            frames += piece.marks.len();
            signals += piece.marks.iter().filter(|mark| mark.kind == Kind::Signal).count();
        } else {
            for (nth, mark) in piece.marks.iter().enumerate() {
                let frame_end = piece.marks.get(nth + 1).map_or(end, |next| start + next.at as usize);
                if frame_end <= written {
                    frames += 1;
                    signals += usize::from(mark.kind == Kind::Signal);
                } else {
                    let front = &bytes[mark.at as usize..];
                    node.give_back(front, Code::Unreachable, "the link was lost before it was sent");
                }
            }
        }
        start = end;
    }
    link.signals_sent[lane].fetch_add(signals as u64, Ordering::Relaxed);
    link.frames_out.add(frames as u64);
    link.bytes_out.add(written as u64);
    node.counters.frames_out.add(frames as u64);
    node.counters.bytes_out.add(written as u64);
}

/// Reads what comes over a lane, until the other end has said all or the connection ends.
pub(super) async fn read_lane(node: Arc<Node>, link: Arc<Link>, lane: usize, mut receive: RecvStream) {
    let mut slicer = Slicer::frames();
    let mut heads = Heads::default();
    let mut chunks: [Bytes; CHUNKS] = Default::default();
    let mut in_a_row = 0;
    while let Ok(Some(count)) = receive.read_chunks(&mut chunks).await {
        let (mut bytes, mut frames) = (0, 0);
        for chunk in &mut chunks[..count] {
            bytes += chunk.len();
            slicer.push(mem::take(chunk));
            if let Err(reason) = read_frames(&node, &link, lane, &mut slicer, &mut heads, &mut frames) {
                node.counters.malformed.one();
                tracing::warn!(peer = %link.peer.name, "what came over a link is not the wire");
                return link.close(reason);
            }
        }
        link.frames_in.add(frames);
        link.bytes_in.add(bytes as u64);
        node.counters.frames_in.add(frames);
        node.counters.bytes_in.add(bytes as u64);
        in_a_row += bytes;
        if in_a_row >= TURN_BYTES {
            in_a_row = 0;
            yield_now().await;
        }
    }
}

fn read_frames(
    node: &Arc<Node>,
    link: &Arc<Link>,
    lane: usize,
    slicer: &mut Slicer,
    heads: &mut Heads,
    frames: &mut u64,
) -> Result<(), Close> {
    while let Some(piece) = slicer.next().map_err(|_| Close::Malformed)? {
        let frame = Frame::read(piece).map_err(|error| match error {
            starlane_core::frame::Error::Version(_) => Close::Version,
            _ => Close::Malformed,
        })?;
        *frames += 1;
        if !node.may_send(link, lane, &frame)? {
            continue;
        }
        let now_ms = || node.clock.now_ms();
        if let Some(place) = frame.detached() {
            link.arrivals.expect(lane, &frame, place, now_ms()).map_err(|_| Close::Malformed)?;
            continue;
        }
        match link.arrivals.turn(lane, &frame, now_ms) {
            Turn::Now => node.take(link, lane, &frame, heads),
            Turn::Later => {}
            Turn::Full => node.refuse_held(link, lane, &frame.header),
        }
    }
    Ok(())
}

/// Sends a body on a stream of its own.
pub(super) async fn send_body(link: Arc<Link>, ticket: u64, body: Bytes) {
    let bytes = body.len();
    // An error means that the connection is lost, and with it the frame.
    let mut sent = None;
    if let Ok(mut send) = link.connection.open_uni().await {
        let _ = send.set_priority(BODY_PRIORITY);
        let mut chunks = [Bytes::copy_from_slice(&write_ticket(ticket)), body];
        if send.write_all_chunks(&mut chunks).await.is_ok() && send.finish().is_ok() {
            sent = Some(send);
        }
    }
    link.large_out.fetch_sub(bytes, Ordering::Relaxed);
    if let Some(sent) = sent {
        let _ = sent.stopped().await;
    }
    link.bodies_out.fetch_sub(1, Ordering::SeqCst);
    link.went_on();
}

/// Reads bodies on streams of their own, until the connection ends.
pub(super) async fn read_bodies(node: Arc<Node>, link: Arc<Link>) {
    let mut bodies = JoinSet::new();
    while let Ok(receive) = link.connection.accept_uni().await {
        bodies.spawn(read_body(node.clone(), link.clone(), receive));
        while bodies.try_join_next().is_some() {}
    }
    while bodies.join_next().await.is_some() {}
}

async fn read_body(node: Arc<Node>, link: Arc<Link>, mut receive: RecvStream) {
    let mut ticket = [0; TICKET_BYTES];
    match receive.read_exact(&mut ticket).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(_)) => return malformed(&node, &link),
        Err(ReadExactError::ReadError(_)) => return,
    }
    let ticket = read_ticket(ticket);
    let bytes = match link.arrivals.claim(ticket) {
        Ok(Claim::Known(bytes)) => bytes,
        Ok(Claim::Early(frame)) => {
            let announced = tokio::select! {
                announced = frame => announced.ok(),
                _ = link.connection.closed() => None,
            };
            let Some(bytes) = announced else { return };
            bytes
        }
        Err(_) => return malformed(&node, &link),
    };
    // Both are far below 2^32: the frame was refused otherwise.
    let bytes = bytes as usize;
    let permits = (bytes.div_ceil(PERMIT_BYTES)) as u32;
    let Ok(_room) = link.large_in.acquire_many(permits).await else { return };
    let mut body = BytesMut::with_capacity(bytes.min(BODY_BYTES_AHEAD));
    loop {
        match receive.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) if body.len() + chunk.bytes.len() <= bytes => {
                body.extend_from_slice(&chunk.bytes)
            }
            Ok(None) if body.len() == bytes => break,
            Ok(_) => return malformed(&node, &link),
            // The connection is lost, or the other end gave up, which it only does then.
            Err(_) => return,
        }
    }
    node.counters.bodies_in.one();
    link.arrivals.arrived(ticket, body.freeze(), |lane, held| node.go_on(&link, lane, &held));
    link.went_on();
}

/// Writes the packets of the routing, until this node leaves: that the stream ends says so.
pub(super) async fn write_control(
    link: Arc<Link>,
    mut send: SendStream,
    mut packets: mpsc::Receiver<Bytes>,
    events: mpsc::Sender<Event>,
) {
    let mut farewell = link.farewell.subscribe();
    loop {
        let packet = tokio::select! {
            packet = packets.recv() => packet,
            _ = link.connection.closed() => None,
            _ = farewell.wait_for(|farewell| farewell.mine) => None,
        };
        let Some(packet) = packet else {
            if !link.ends_in_order {
                let _ = timeout(BEFORE_LAST, link.connection.closed()).await;
                let _ = send.set_priority(LAST_PRIORITY);
            }
            // A connection that is lost says it by itself.
            let _ = send.finish();
            return;
        };
        let mut out = Vec::new();
        if let Err(error) = Control::Routing(packet).write(&mut out) {
            tracing::warn!(peer = %link.peer.name, %error, "a packet of the routing cannot be sent");
        }
        if send.write_chunk(out.into()).await.is_err() {
            return;
        }
        // The control plane is gone only when this node leaves, which is said next.
        let _ = events.send(Event::Written { peer: link.id, serial: link.serial }).await;
    }
}

/// Reads the packets of the routing.
pub(super) async fn read_control(
    node: Arc<Node>,
    link: Arc<Link>,
    mut receive: RecvStream,
    mut slicer: Slicer,
    events: mpsc::Sender<Event>,
) {
    loop {
        loop {
            let control = match slicer.next() {
                Ok(None) => break,
                Ok(Some(piece)) => Control::read(piece),
                Err(error) => Err(error),
            };
            match control {
                Ok(Control::Routing(packet)) => {
                    let event = Event::Packet { peer: link.id, serial: link.serial, packet };
                    // The control plane is gone only when this node leaves; that the other one does as well is still heard.
                    let _ = events.send(event).await;
                }
                Ok(Control::Other(_)) => node.counters.kinds_unknown.one(),
                // Nobody says hello twice.
                Ok(Control::Hello(_)) | Err(_) => return malformed(&node, &link),
            }
        }
        match receive.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => slicer.push(chunk.bytes),
            // A node that has no more to say about itself leaves.
            Ok(None) => {
                link.let_go();
                // The control plane is gone only when this node leaves as well.
                let _ = events.send(Event::Leaving { peer: link.id, serial: link.serial }).await;
                return;
            }
            Err(_) => return,
        }
    }
}

fn malformed(node: &Node, link: &Link) {
    node.counters.malformed.one();
    link.close(Close::Malformed);
}
