//! The queue of one lane: frames are written into the very buffer that goes to the connection, so that many of them leave
//! in one write.

use std::collections::VecDeque;
use std::mem;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use starlane_core::frame::{self, Head, Header, Kind, Place};

/// A buffer that is so full goes as it is.
const PIECE_BYTES: usize = 56 * 1024;
/// A write takes no more buffers once it has so much.
const BATCH_BYTES: usize = 64 * 1024;
/// The least that is allocated for a buffer.
const CAPACITY_MIN: usize = 512;
/// Bodies from here on are not copied into the buffer.
pub(crate) const SHARED_BYTES_MIN: usize = 4 * 1024;

/// Frames that wait for their turn to be written.
pub(crate) struct Lane {
    /// The version that both ends of the link speak.
    version: u8,
    frames_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

struct State {
    open: bool,
    full: VecDeque<Piece>,
    last: Piece,
    frames: usize,
    bytes: usize,
    /// What the next buffer is given: about what the one before needed.
    capacity: usize,
    /// Whoever writes, when it waits.
    writer: Option<Waker>,
}

/// Some frames in a row.
#[derive(Default)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) marks: Vec<Mark>,
    /// The body of the last frame, when it is not in the buffer.
    pub(crate) body: Bytes,
}

/// Where a frame begins, and when it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: u32,
    pub(crate) kind: Kind,
    since_ms: u32,
}

/// A frame without its body.
#[derive(Clone, Copy)]
pub(crate) enum Front<'a> {
    /// One of this node.
    New { header: &'a Header, head: Head<'a> },
    /// One of another node, passed on.
    Passed { front: &'a [u8], hops_left: u8, remaining_ms: u32 },
}

/// The body of a frame.
#[derive(Clone)]
pub(crate) enum Content<'a> {
    Copied(&'a [u8]),
    Shared(Bytes),
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// The link is gone.
    Closed,
    /// Too much waits.
    Full,
    /// It is larger than it may be.
    TooLarge(frame::Error),
}

impl Front<'_> {
    fn write(&self, out: &mut Vec<u8>, version: u8, place: Place) -> Result<(), frame::Error> {
        match *self {
            Front::New { header, head } => frame::begin(out, version, header, head, place),
            Front::Passed { front, hops_left, remaining_ms } => {
                frame::pass_on(out, version, front, hops_left, remaining_ms, place)
            }
        }
    }
}

impl Content<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Content::Copied(bytes) => bytes.len(),
            Content::Shared(bytes) => bytes.len(),
        }
    }
}

impl Lane {
    pub(crate) fn new(version: u8, frames_max: usize, bytes_max: usize) -> Self {
        let state = State {
            open: true,
            full: VecDeque::new(),
            last: Piece::default(),
            frames: 0,
            bytes: 0,
            capacity: CAPACITY_MIN,
            writer: None,
        };
        Self { version, frames_max, bytes_max, state: Mutex::new(state) }
    }

    /// Takes a frame, with the body that stands in it. What goes back to whoever asked may fill twice as much, since
    /// those who wait for it are bounded themselves. An empty lane takes any frame.
    pub(crate) fn push(
        &self,
        now_ms: u64,
        kind: Kind,
        front: Front<'_>,
        place: Place,
        body: Content<'_>,
    ) -> Result<(), NotTaken> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if !state.open {
            return Err(NotTaken::Closed);
        }
        let times = if kind.is_back() { 2 } else { 1 };
        let full = state.frames >= self.frames_max * times
            || state.bytes + body.len() > self.bytes_max * times && state.frames > 0;
        if full {
            return Err(NotTaken::Full);
        }
        let last = &mut state.last;
        if last.bytes.capacity() == 0 {
            last.bytes.reserve(state.capacity);
        }
        let at = last.bytes.len();
        front.write(&mut last.bytes, self.version, place).map_err(NotTaken::TooLarge)?;
        // A buffer is far shorter than 4 GiB, and only differences of the time count.
        last.marks.push(Mark { at: at as u32, kind, since_ms: now_ms as u32 });
        match body {
            Content::Shared(body) if body.len() >= SHARED_BYTES_MIN => last.body = body,
            Content::Shared(body) => last.bytes.extend_from_slice(&body),
            Content::Copied(body) => last.bytes.extend_from_slice(body),
        }
        state.frames += 1;
        state.bytes += last.bytes.len() - at + last.body.len();
        if last.bytes.len() >= PIECE_BYTES || !last.body.is_empty() {
            state.full.push_back(mem::take(last));
        }
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        Ok(())
    }

    /// Moves what waits, in order and up to a good size for one write, to `batch`. `None` when nothing waits and nothing
    /// will any more.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut Vec<Piece>) -> Poll<Option<()>> {
        let mut state = self.state.lock();
        if state.frames == 0 {
            if !state.open {
                return Poll::Ready(None);
            }
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let piece = match state.full.pop_front() {
                Some(piece) => piece,
                None if state.last.marks.is_empty() => break,
                None => {
                    state.capacity = state.last.bytes.len().next_power_of_two().max(CAPACITY_MIN);
                    mem::take(&mut state.last)
                }
            };
            let taken = piece.bytes.len() + piece.body.len();
            bytes += taken;
            state.bytes -= taken;
            state.frames -= piece.marks.len();
            batch.push(piece);
        }
        Poll::Ready(Some(()))
    }

    /// Takes nothing any more. What waits can still be taken out.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    /// How many frames wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().frames
    }
}

impl Piece {
    /// Takes the time that frames waited from the time that they have left, and takes those out that have none left:
    /// `expired` is given the beginning of each.
    pub(crate) fn age(&mut self, now_ms: u64, mut expired: impl FnMut(&[u8])) {
        let mut over = Vec::new();
        for (nth, mark) in self.marks.iter().enumerate() {
            let waited_ms = (now_ms as u32).wrapping_sub(mark.since_ms);
            if waited_ms == 0 || mark.kind.is_back() {
                continue;
            }
            let Some(frame) = self.bytes.get_mut(mark.at as usize..) else { continue };
            let has_body = nth + 1 == self.marks.len() && !self.body.is_empty();
            if frame::age(frame, waited_ms) && !has_body {
                expired(frame);
                over.push(nth);
            }
        }
        if !over.is_empty() {
            self.remove(&over);
        }
    }

    fn remove(&mut self, over: &[usize]) {
        let mut kept = Piece { body: mem::take(&mut self.body), ..Piece::default() };
        for nth in (0..self.marks.len()).filter(|nth| !over.contains(nth)) {
            let range = self.range(nth);
            let at = kept.bytes.len() as u32;
            kept.marks.push(Mark { at, ..self.marks[nth] });
            kept.bytes.extend_from_slice(&self.bytes[range]);
        }
        *self = kept;
    }

    /// Where the nth frame stands in the buffer.
    pub(crate) fn range(&self, nth: usize) -> std::ops::Range<usize> {
        let end = self.marks.get(nth + 1).map_or(self.bytes.len(), |next| next.at as usize);
        self.marks[nth].at as usize..end
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use starlane_core::frame::{Frame, Kind, Slicer, VERSIONS};
    use starlane_core::{MessageId, NodeId};

    use super::*;

    fn lane() -> Lane {
        Lane::new(*VERSIONS.end(), 8, 10_000)
    }

    fn header(kind: Kind, id: u128, remaining_ms: u32) -> Header {
        Header::new(kind, NodeId(1), NodeId(2), MessageId(id), remaining_ms)
    }

    fn push(lane: &Lane, now_ms: u64, header: &Header, body: &[u8]) -> Result<(), NotTaken> {
        let front = Front::New { header, head: Head::None };
        let body = Content::Shared(Bytes::copy_from_slice(body));
        lane.push(now_ms, header.kind, front, Place::Inline(body.len()), body)
    }

    fn take(lane: &Lane) -> Option<Vec<Piece>> {
        let mut batch = Vec::new();
        match lane.poll_take(&mut Context::from_waker(Waker::noop()), &mut batch) {
            Poll::Ready(more) => more.map(|()| batch),
            Poll::Pending => Some(batch),
        }
    }

    fn frames(batch: &[Piece]) -> Vec<(u128, u32, usize)> {
        let mut slicer = Slicer::frames();
        let mut found = Vec::new();
        for chunk in batch.iter().flat_map(|piece| [Bytes::copy_from_slice(&piece.bytes), piece.body.clone()])
        {
            slicer.push(chunk);
            while let Some(piece) = slicer.next().unwrap() {
                let frame = Frame::read(piece).unwrap();
                found.push((frame.header.id.0, frame.header.remaining_ms, frame.inline().len()));
            }
        }
        found
    }

    #[test]
    fn frames_leave_in_order_in_one_buffer_and_large_bodies_are_not_copied() {
        let lane = lane();
        let large = vec![7; SHARED_BYTES_MIN];
        for (id, body) in [(1, &b"a"[..]), (2, &large), (3, b"c")] {
            push(&lane, 0, &header(Kind::Signal, id, 50), body).unwrap();
        }
        let batch = take(&lane).unwrap();
        assert_eq!(batch.len(), 2);
        assert_eq!(frames(&batch), [(1, 50, 1), (2, 50, SHARED_BYTES_MIN), (3, 50, 1)]);
        assert_eq!(lane.waiting(), 0);
        assert!(take(&lane).unwrap().is_empty());
    }

    #[test]
    fn what_is_written_is_of_the_version_that_both_ends_speak() {
        let lane = Lane::new(7, 8, 10_000);
        let header = header(Kind::Call, 1, 50);
        push(&lane, 0, &header, b"own").unwrap();
        let mut front = Vec::new();
        frame::begin(&mut front, 6, &header, Head::None, Place::Inline(0)).unwrap();
        let passed = Front::Passed { front: &front, hops_left: 3, remaining_ms: 40 };
        lane.push(0, Kind::Call, passed, Place::Inline(0), Content::Copied(&[])).unwrap();
        let batch = take(&lane).unwrap();
        let versions: Vec<u8> =
            batch[0].marks.iter().map(|mark| batch[0].bytes[mark.at as usize + 4]).collect();
        assert_eq!(versions, [7, 7]);
    }

    #[test]
    fn a_full_lane_says_so_and_keeps_room_for_what_goes_back() {
        let lane = lane();
        let (signal, reply) = (header(Kind::Signal, 1, 50), header(Kind::Reply, 1, 0));
        for _ in 0..8 {
            push(&lane, 0, &signal, b"").unwrap();
        }
        assert_eq!(push(&lane, 0, &signal, b""), Err(NotTaken::Full));
        for _ in 0..8 {
            push(&lane, 0, &reply, b"").unwrap();
        }
        assert_eq!(push(&lane, 0, &reply, b""), Err(NotTaken::Full));
        take(&lane).unwrap();
        push(&lane, 0, &signal, &[0; 9_000]).unwrap();
        assert_eq!(push(&lane, 0, &signal, &[0; 2_000]), Err(NotTaken::Full));
        // One alone may be as large as it will.
        take(&lane).unwrap();
        push(&lane, 0, &signal, &[0; 200_000]).unwrap();
        lane.close();
        assert_eq!(push(&lane, 0, &signal, b""), Err(NotTaken::Closed));
        assert_eq!(frames(&take(&lane).unwrap()), [(1, 50, 200_000)]);
        assert!(take(&lane).is_none());
    }

    #[test]
    fn waiting_takes_time_and_what_has_none_left_is_taken_out() {
        let lane = lane();
        let large = vec![7; SHARED_BYTES_MIN];
        for (now_ms, kind, id, remaining_ms, body) in [
            (0, Kind::Request, 1, 10, &b"one"[..]),
            (5, Kind::Request, 2, 10, b"two"),
            (0, Kind::Reply, 3, 0, b"three"),
            (9, Kind::Signal, 4, 2, b""),
            (0, Kind::Call, 5, 3, &large),
        ] {
            push(&lane, now_ms, &header(kind, id, remaining_ms), body).unwrap();
        }
        let mut batch = take(&lane).unwrap();
        let mut expired = Vec::new();
        for piece in &mut batch {
            piece.age(10, |front| expired.push(frame::peek(front).unwrap().id.0));
        }
        assert_eq!(expired, [1]);
        assert_eq!(frames(&batch), [(2, 5, 3), (3, 0, 5), (4, 1, 0), (5, 0, SHARED_BYTES_MIN)]);
    }
}
