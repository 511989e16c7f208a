//! Large bodies on their way in, and the frames that wait for one so that each pair of nodes stays in order on its lane.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use starlane_core::NodeId;
use starlane_core::frame::{Frame, Header, LANES};
use tokio::sync::oneshot;

/// What arrives on one link out of its turn.
pub(crate) struct Arrivals {
    frames_max: usize,
    bytes_max: usize,
    /// How many frames are held, by lane: nobody has to look closer where there are none.
    holding: [AtomicUsize; LANES],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bodies whose frame came.
    bodies: HashMap<u64, Awaited>,
    /// Bodies whose frame is still to come; each stream waits to hear how long it is.
    early: HashMap<u64, oneshot::Sender<u64>>,
    /// Frames that keep their order.
    lines: HashMap<Line, VecDeque<Held>>,
    frames: usize,
    /// Of all that is kept.
    bytes: usize,
}

/// Frames between the same two nodes on the same lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Line {
    lane: usize,
    from: NodeId,
    to: NodeId,
}

struct Awaited {
    bytes: u64,
    /// `None` for what waits for nobody: it goes back to whoever asked.
    line: Option<Line>,
    /// What goes back, and its lane.
    alone: Option<(usize, Held)>,
}

/// A frame that was kept.
pub(crate) struct Held {
    pub(crate) header: Header,
    pub(crate) front: Vec<u8>,
    pub(crate) body: Bytes,
    pub(crate) since_ms: u64,
    /// The body that it waits for.
    ticket: Option<u64>,
    /// Whether its body was thrown away since too much waited: it is refused in its turn.
    pub(crate) refused: bool,
}

/// Where a body's stream stands when it begins.
pub(crate) enum Claim {
    /// Its frame says how long it is.
    Known(u64),
    /// Its frame is still to come, and will say.
    Early(oneshot::Receiver<u64>),
}

/// What a neighbour may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The same ticket twice.
    Ticket,
    /// More bodies announced than anybody may have on their way.
    TooMuch,
}

/// Whether a frame has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is its turn.
    Now,
    /// It was kept until what is before it has arrived.
    Later,
    /// It would have to wait, and too much waits.
    Full,
}

impl Arrivals {
    pub(crate) fn new(frames_max: usize, bytes_max: usize) -> Self {
        Self { frames_max, bytes_max, holding: Default::default(), state: Mutex::default() }
    }

    /// Keeps a frame until its body is here.
    pub(crate) fn expect(
        &self,
        lane: usize,
        frame: &Frame<'_>,
        (bytes, ticket): (u64, u64),
        now_ms: u64,
    ) -> Result<(), Violation> {
        let header = frame.header;
        let held = Held {
            header,
            front: frame.front().to_vec(),
            body: Bytes::new(),
            since_ms: now_ms,
            ticket: Some(ticket),
            refused: false,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        let front_bytes = held.front.len();
        if state.bodies.len() >= self.frames_max || state.bytes + front_bytes > self.bytes_max {
            return Err(Violation::TooMuch);
        }
        let Entry::Vacant(entry) = state.bodies.entry(ticket) else { return Err(Violation::Ticket) };
        state.bytes += front_bytes;
        if header.kind.is_back() {
            entry.insert(Awaited { bytes, line: None, alone: Some((lane, held)) });
        } else {
            let line = Line { lane, from: header.from, to: header.to };
            entry.insert(Awaited { bytes, line: Some(line), alone: None });
            state.lines.entry(line).or_default().push_back(held);
            state.frames += 1;
            self.holding[lane].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(stream) = state.early.remove(&ticket) {
            // A stream that is gone by now ended in an error, and with it the link.
            let _ = stream.send(bytes);
        }
        Ok(())
    }

    /// Keeps a frame when one before it waits for its body.
    pub(crate) fn turn(&self, lane: usize, frame: &Frame<'_>, now_ms: impl FnOnce() -> u64) -> Turn {
        if self.holding[lane].load(Ordering::Relaxed) == 0 || frame.header.kind.is_back() {
            return Turn::Now;
        }
        let header = frame.header;
        let mut state = self.state.lock();
        let state = &mut *state;
        let line = Line { lane, from: header.from, to: header.to };
        let Some(waiting) = state.lines.get_mut(&line) else { return Turn::Now };
        let bytes = frame.front().len() + frame.inline().len();
        if state.frames >= self.frames_max || state.bytes + bytes > self.bytes_max {
            return Turn::Full;
        }
        state.frames += 1;
        state.bytes += bytes;
        self.holding[lane].fetch_add(1, Ordering::Relaxed);
        let (front, body) = (frame.front().to_vec(), frame.body());
        waiting.push_back(Held { header, front, body, since_ms: now_ms(), ticket: None, refused: false });
        Turn::Later
    }

    /// Whether nothing waits for a body.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().bodies.is_empty()
    }

    /// A body's stream began.
    pub(crate) fn claim(&self, ticket: u64) -> Result<Claim, Violation> {
        let mut state = self.state.lock();
        if let Some(awaited) = state.bodies.get(&ticket) {
            return Ok(Claim::Known(awaited.bytes));
        }
        let Entry::Vacant(entry) = state.early.entry(ticket) else { return Err(Violation::Ticket) };
        let (sender, receiver) = oneshot::channel();
        entry.insert(sender);
        Ok(Claim::Early(receiver))
    }

    /// A body is here: what is now in its turn goes on, in order, by `go`. A body that has to wait for one before it is kept
    /// while there is room, and refused in its turn otherwise.
    pub(crate) fn arrived(&self, ticket: u64, body: Bytes, mut go: impl FnMut(usize, Held)) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(awaited) = state.bodies.remove(&ticket) else { return };
        if let Some((lane, held)) = awaited.alone {
            state.bytes -= held.front.len();
            return go(lane, Held { body, ..held });
        }
        let Some(line) = awaited.line else { return };
        let Some(waiting) = state.lines.get_mut(&line) else { return };
        if let Some(at) = waiting.iter().position(|held| held.ticket == Some(ticket)) {
            let held = &mut waiting[at];
            held.ticket = None;
            if at == 0 || state.bytes + body.len() <= self.bytes_max {
                state.bytes += body.len();
                held.body = body;
            } else {
                held.refused = true;
            }
        }
        while waiting.front().is_some_and(|held| held.ticket.is_none()) {
            let Some(held) = waiting.pop_front() else { break };
            state.frames -= 1;
            state.bytes -= held.front.len() + held.body.len();
            self.holding[line.lane].fetch_sub(1, Ordering::Relaxed);
            // Under the lock, so that nothing overtakes it.
            go(line.lane, held);
        }
        if waiting.is_empty() {
            state.lines.remove(&line);
        }
    }

    /// Nothing more will come: what is whole goes on, in order, by `go`; what is not, is lost.
    pub(crate) fn finish(&self, mut go: impl FnMut(usize, Held)) {
        let mut state = self.state.lock();
        state.bodies.clear();
        state.early.clear();
        (state.frames, state.bytes) = (0, 0);
        self.holding.iter().for_each(|holding| holding.store(0, Ordering::Relaxed));
        for (line, waiting) in state.lines.drain() {
            for held in waiting.into_iter().filter(|held| held.ticket.is_none()) {
                go(line.lane, held);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use starlane_core::MessageId;
    use starlane_core::frame::{self, Head, Kind, Place, Slicer, VERSIONS};

    use super::*;

    fn arrivals() -> Arrivals {
        Arrivals::new(4, 10_000)
    }

    /// A frame between two nodes, with its body in it or on its own stream.
    fn with_frame<T>(kind: Kind, id: u128, to: u64, place: Place, then: impl FnOnce(&Frame<'_>) -> T) -> T {
        let header = Header::new(kind, NodeId(1), NodeId(to), MessageId(id), 50);
        let mut out = Vec::new();
        frame::begin(&mut out, *VERSIONS.end(), &header, Head::None, place).unwrap();
        let mut slicer = Slicer::frames();
        slicer.push(out.into());
        then(&Frame::read(slicer.next().unwrap().unwrap()).unwrap())
    }

    fn expect(arrivals: &Arrivals, kind: Kind, id: u128, to: u64, ticket: u64) -> Result<(), Violation> {
        let place = Place::Detached { bytes: 300_000, ticket };
        with_frame(kind, id, to, place, |frame| arrivals.expect(3, frame, frame.detached().unwrap(), 0))
    }

    fn turn(arrivals: &Arrivals, lane: usize, kind: Kind, id: u128, to: u64) -> Turn {
        with_frame(kind, id, to, Place::Inline(0), |frame| arrivals.turn(lane, frame, || 0))
    }

    fn arrived(arrivals: &Arrivals, ticket: u64) -> Vec<u128> {
        let mut went = Vec::new();
        arrivals.arrived(ticket, Bytes::from_static(b"body"), |lane, held| {
            assert_eq!(lane, 3);
            went.push(held.header.id.0);
        });
        went
    }

    #[test]
    fn no_more_waits_behind_a_body_than_may_and_the_rest_is_refused_in_its_turn() {
        let arrivals = arrivals();
        for ticket in 0..3 {
            expect(&arrivals, Kind::Request, ticket.into(), 2, ticket).unwrap();
        }
        let mut went = Vec::new();
        let mut arrived = |ticket, bytes| {
            let body = Bytes::from(vec![1; bytes]);
            let mut note = |held: Held| went.push((held.header.id.0, held.body.len(), held.refused));
            arrivals.arrived(ticket, body, |_, held| note(held));
        };
        arrived(1, 9_000);
        arrived(2, 9_000);
        // What is in its turn needs no room.
        arrived(0, 300_000);
        assert_eq!(went, [(0, 300_000, false), (1, 9_000, false), (2, 0, true)]);
        let state = arrivals.state.lock();
        assert_eq!((state.frames, state.bytes, state.lines.len()), (0, 0, 0));
    }

    #[test]
    fn a_large_body_keeps_its_place_and_others_pass() {
        let arrivals = arrivals();
        expect(&arrivals, Kind::Request, 1, 2, 0).unwrap();
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 2, 2), Turn::Later);
        expect(&arrivals, Kind::Signal, 3, 2, 1).unwrap();
        assert_eq!(turn(&arrivals, 3, Kind::Cancel, 1, 2), Turn::Later);
        // Another receiver, another lane, and what goes back.
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 4, 9), Turn::Now);
        assert_eq!(turn(&arrivals, 4, Kind::Signal, 5, 2), Turn::Now);
        assert_eq!(turn(&arrivals, 3, Kind::Reply, 6, 2), Turn::Now);
        // The second body is here first, and waits for the first.
        assert_eq!(arrived(&arrivals, 1), []);
        assert_eq!(arrived(&arrivals, 0), [1, 2, 3, 1]);
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 7, 2), Turn::Now);
        assert_eq!(arrived(&arrivals, 0), []);
    }

    #[test]
    fn what_goes_back_waits_for_nobody_but_its_own_body() {
        let arrivals = arrivals();
        expect(&arrivals, Kind::Request, 1, 2, 0).unwrap();
        expect(&arrivals, Kind::Reply, 2, 2, 1).unwrap();
        assert_eq!(arrived(&arrivals, 1), [2]);
        assert_eq!(arrived(&arrivals, 0), [1]);
    }

    #[test]
    fn too_much_that_waits_is_refused_and_a_ticket_is_good_once() {
        let arrivals = arrivals();
        expect(&arrivals, Kind::Request, 1, 2, 0).unwrap();
        for id in 2..5 {
            assert_eq!(turn(&arrivals, 3, Kind::Signal, id, 2), Turn::Later);
        }
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 5, 2), Turn::Full);
        assert_eq!(expect(&arrivals, Kind::Request, 6, 2, 0), Err(Violation::Ticket));
        for ticket in 1..4 {
            expect(&arrivals, Kind::Request, 6, 2, ticket).unwrap();
        }
        assert_eq!(expect(&arrivals, Kind::Request, 6, 2, 9), Err(Violation::TooMuch));
        assert_eq!(arrived(&arrivals, 0), [1, 2, 3, 4]);
        assert!((1..4).all(|ticket| arrived(&arrivals, ticket) == [6]));
        expect(&arrivals, Kind::Request, 8, 2, 0).unwrap();
        assert!(matches!(arrivals.claim(0), Ok(Claim::Known(300_000))));
        let Ok(Claim::Early(mut early)) = arrivals.claim(7) else { panic!("it was not announced") };
        assert!(matches!(arrivals.claim(7), Err(Violation::Ticket)));
        expect(&arrivals, Kind::Reply, 7, 2, 7).unwrap();
        assert_eq!(early.try_recv(), Ok(300_000));
    }

    #[test]
    fn a_link_that_ends_gives_out_what_is_whole() {
        let arrivals = arrivals();
        expect(&arrivals, Kind::Request, 1, 2, 0).unwrap();
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 2, 2), Turn::Later);
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 3, 2), Turn::Later);
        let mut went = Vec::new();
        arrivals.finish(|_, held| went.push(held.header.id.0));
        assert_eq!(went, [2, 3]);
        assert_eq!(turn(&arrivals, 3, Kind::Signal, 4, 2), Turn::Now);
    }
}
