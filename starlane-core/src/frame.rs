//! The wire: what nodes say to each other over a link, byte for byte. This is the only file that knows it.
//!
//! All numbers are little-endian. A link is one QUIC connection with 17 bidirectional streams that the node that dialled
//! opens, and a unidirectional stream for each large body:
//!
//! * stream 0 carries [control packets](Control), beginning with a [`Hello`] from each side;
//! * streams 1 to 16 are *lanes*. The node that dialled begins each with one byte, the lane's number from 0; then both
//!   sides send *frames*;
//! * a unidirectional stream carries one body: 8 bytes, its ticket, and then the body to the end of the stream.
//!
//! # Frames
//! ```text
//!  0  u32  length     of all that follows
//!  4  u8   version    the one that the two ends of the link agreed on
//!  5  u8   kind       see `Kind`
//!  6  u8   hops left  how many more relays it may cross
//!  7  u8   flags      bits 0-1 priority (0 low, 1 normal, 2 high), bit 2 sampled, bit 3 body on its own stream;
//!                     the others are 0, ignored and passed on
//!  8  u64  to         a node
//! 16  u64  from       a node
//! 24  u128 id         of a message or a call; an answer, a refusal or a cancel carries that of its request
//! 40  u32  remaining  milliseconds until nobody waits any more
//! 44  u32  head       its length
//! 48  head, then the body to the end
//! ```
//! A body on its own stream leaves 16 bytes in its place: `u64` its length and `u64` its ticket, which counts from 0 in
//! each direction of a connection. A relay reads and changes the fixed header (and the ticket) alone.
//!
//! Heads are in postcard's format (<https://postcard.jamesmunns.com/wire-format>), one field after the other:
//!
//! | kind | head | body |
//! |---|---|---|
//! | `REQUEST`, `SIGNAL` | from, to: text; agent: option of text (none: as from); trace: option of 16 bytes and `u64` (none: the root of the id); family: `u8`; method, path: text; chain: texts, nearest first; headers: pairs of texts; blob: option of 32 bytes and `u64` | the content, unless it is a blob |
//! | `REPLY` | status: `u16`; headers; blob | the content |
//! | `REFUSAL`, `LOST` | ending: `u8` (0 rejected, 1 failed, 2 unknown); code, detail: text; retry after: option of `u64` ms | none |
//! | `CANCEL` | none | none |
//! | `CALL` | service: `u16` | the service's |
//! | `ANSWER` | none | the service's |
//! | `TRACE`, `TRACED` | none | a [`Hop`] of 12 bytes for each node that it came to: `u64` node, `u32` microseconds |
//!
//! `TRACE` is the one frame that a relay makes longer: it appends itself. The node that it is for sends it back as
//! `TRACED`.
//!
//! # Control packets
//! `u32` length of all that follows, `u8` version 1, `u8` kind (1 `HELLO`, 2 `ROUTING`), then the content: a [`Hello`] in
//! postcard's format, or a packet of the routing that is opaque here.
//!
//! # Changing it
//! Both sides of a link say in `HELLO` which versions of frames they speak, and use the newest that both know; without a
//! common one the link is closed with [`Close::Version`]. `HELLO` itself never changes but by more fields at its end.
//!
//! A version is one of a link, not of a frame's whole way: a relay writes what it passes on in the version of the next
//! link. So a new version may change what [`pass_on`] can put into the words of the one before.
//!
//! * What an older node may ignore needs no new version: another kind of frame or of packet (skipped where it is not
//!   known and counted; relays pass it on), another flag, more fields at the end of a head.
//! * A new kind that asks for something has a number from 128 on: whoever does not know it refuses it at once with
//!   `E-UNSUPPORTED`. More often a question is a `CALL` of a new service, or a new question to one, which are refused
//!   with that code too where they are not known.
//! * Anything else is a new version, and a build speaks at least the one before too: a mesh is upgraded node by node.
//!   The frames of each version stay in `tests/golden` for ever.
//!
//! A frame of a version that is not known is [`Error::Version`]; what claims to be longer than its bound is refused before
//! anything is allocated for it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kind::Name;
use crate::message::Header as MessageHeader;
use crate::{
    Agent, Blob, Body, CallChain, Code, Digest, Generation, Headers, Message, MessageId, Method,
    MethodFamily, NodeId, Outcome, Payload, Point, Priority, Refusal, Reply, Request, Trace,
};

/// The versions of frames that this build speaks.
pub const VERSIONS: RangeInclusive<u8> = 1..=1;
/// How many lanes a link has.
pub const LANES: usize = 16;
/// The length of the fixed header.
pub const HEADER_BYTES: usize = 48;
/// The longest head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest body that stands in its frame; a longer one goes on a stream of its own.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;
/// The longest body.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest frame.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + HEAD_BYTES_MAX + INLINE_BYTES_MAX;
/// The longest control packet.
pub const CONTROL_BYTES_MAX: usize = 1024 * 1024;
/// What stands before a body on its own stream: its ticket.
pub const TICKET_BYTES: usize = 8;

/// How many connections a hello tells of.
pub const LAST_MAX: usize = 3;

const LENGTH_BYTES: usize = 4;
/// What stands in the place of a body on its own stream.
const PLACE_BYTES: usize = 16;
const HOP_BYTES: usize = 12;
/// Bodies below this are copied out of what was received, so that they do not keep it in memory.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// The most headers of a message.
const HEADERS_MAX: u32 = 1_024;
/// The longest detail of a refusal; what is longer is cut.
const DETAIL_BYTES_MAX: usize = 4 * 1024;

/// Why bytes are no frame, or why something cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is of a version that this build does not speak.
    #[error("version {0} of the wire is not known here")]
    Version(u8),
    /// A length is impossible, or above its bound.
    #[error("a length of {0} bytes is out of bounds")]
    Length(u64),
    /// The head is not what its kind wants.
    #[error("the head of a frame holds no {0}")]
    Head(&'static str),
    /// The head would be longer than [`HEAD_BYTES_MAX`].
    #[error("the head of a message would have {0} bytes; at most {HEAD_BYTES_MAX} can be sent")]
    HeadTooLarge(usize),
    /// The body is longer than [`BODY_BYTES_MAX`].
    #[error("a body of {0} bytes is too large; at most {BODY_BYTES_MAX} can be sent")]
    BodyTooLarge(u64),
}

/// Why a link was closed: the code of the connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The node stops.
    Stopped,
    /// There is a link between the two nodes already.
    Duplicate,
    /// The certificate is not that of a member.
    NoMember,
    /// The member was thrown out.
    Revoked,
    /// The two nodes have no version in common.
    Version,
    /// What came is not the wire.
    Malformed,
    /// A newer connection between the same two nodes takes its place.
    Replaced,
    /// Whoever dialled reached itself.
    Itself,
    /// Nothing of this protocol is answered here.
    Protocol,
    /// The node has as many links as it may.
    Full,
    /// Something of the node broke.
    Broken,
}

impl Close {
    /// The code.
    pub const fn code(self) -> u32 {
        match self {
            Close::Stopped => 0,
            Close::Duplicate => 1,
            Close::NoMember => 2,
            Close::Revoked => 3,
            Close::Version => 4,
            Close::Malformed => 5,
            Close::Replaced => 6,
            Close::Itself => 7,
            Close::Protocol => 8,
            Close::Full => 9,
            Close::Broken => 10,
        }
    }

    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Close::Stopped => "the node stops",
            Close::Duplicate => "there is a link already",
            Close::NoMember => "no member of this mesh",
            Close::Revoked => "revoked",
            Close::Version => "no version in common",
            Close::Malformed => "malformed",
            Close::Replaced => "a newer connection takes its place",
            Close::Itself => "a node does not link to itself",
            Close::Protocol => "this protocol is not answered here",
            Close::Broken => "something of the node broke",
            Close::Full => "the node has as many links as it may",
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message that wants an answer.
    Request,
    /// A message that wants none.
    Signal,
    /// The answer to a request.
    Reply,
    /// How a request or a call ended without an answer.
    Refusal,
    /// Whoever asked does not wait any more.
    Cancel,
    /// A question from node to node.
    Call,
    /// Its answer.
    Answer,
    /// Asks which way it goes.
    Trace,
    /// Tells which way it went.
    Traced,
    /// Tells that a signal did not arrive, with a refusal's head.
    Lost,
    /// Something newer than this build; from 128 on it wants an answer.
    Other(u8),
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Request => 1,
            Kind::Signal => 2,
            Kind::Reply => 3,
            Kind::Refusal => 4,
            Kind::Cancel => 5,
            Kind::Call => 6,
            Kind::Answer => 7,
            Kind::Trace => 8,
            Kind::Traced => 9,
            Kind::Lost => 10,
            Kind::Other(byte) => byte,
        }
    }

    const fn of(byte: u8) -> Self {
        match byte {
            1 => Kind::Request,
            2 => Kind::Signal,
            3 => Kind::Reply,
            4 => Kind::Refusal,
            5 => Kind::Cancel,
            6 => Kind::Call,
            7 => Kind::Answer,
            8 => Kind::Trace,
            9 => Kind::Traced,
            10 => Kind::Lost,
            other => Kind::Other(other),
        }
    }

    /// Whether it goes back to whoever asked.
    pub const fn is_back(self) -> bool {
        matches!(self, Kind::Reply | Kind::Refusal | Kind::Answer | Kind::Traced | Kind::Lost)
    }

    /// Whether somebody waits for something to come back.
    pub const fn is_asking(self) -> bool {
        matches!(self, Kind::Request | Kind::Call | Kind::Trace | Kind::Other(128..))
    }
}

/// The fixed header of a frame, without its lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// How many more relays it may cross.
    pub hops_left: u8,
    /// What goes first when not everything can.
    pub priority: Priority,
    /// Whether somebody records the trace that it belongs to.
    pub sampled: bool,
    /// The node that it is for.
    pub to: NodeId,
    /// The node that it comes from.
    pub from: NodeId,
    /// Names the message or the call.
    pub id: MessageId,
    /// How many milliseconds are left until nobody waits any more.
    pub remaining_ms: u32,
}

impl Header {
    /// The header of a frame that carries nothing unusual.
    pub const fn new(kind: Kind, from: NodeId, to: NodeId, id: MessageId, remaining_ms: u32) -> Self {
        let hops_left = MessageHeader::HOPS_MAX;
        Self { kind, hops_left, priority: Priority::Normal, sampled: false, to, from, id, remaining_ms }
    }

    /// The header of a request or a signal.
    pub fn of_message(header: &MessageHeader, kind: Kind, from: NodeId, to: NodeId) -> Self {
        Self {
            kind,
            hops_left: header.hops_left.min(MessageHeader::HOPS_MAX),
            priority: header.priority,
            sampled: header.trace.sampled,
            to,
            from,
            id: header.id,
            remaining_ms: to_ms(header.remaining),
        }
    }

    /// The header of what goes back to whoever sent this one.
    pub const fn back(&self, kind: Kind) -> Self {
        Self { priority: self.priority, ..Self::new(kind, self.to, self.from, self.id, self.remaining_ms) }
    }

    fn flags(&self, detached: bool) -> u8 {
        let priority = match self.priority {
            Priority::Low => 0,
            Priority::Normal => 1,
            Priority::High => 2,
        };
        priority | u8::from(self.sampled) << 2 | u8::from(detached) << 3
    }
}

/// A time as it stands in a header: rounded up, so that what has time left never seems to have none.
pub fn to_ms(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// Names a service that nodes offer each other. Whoever puts a node together gives the numbers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service(pub u16);

/// One stop of a frame that asked for its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The node that it came to.
    pub node: NodeId,
    /// The round trip of the link that it came over, as that node measures it.
    pub rtt: Duration,
}

impl Hop {
    /// Appends it to the body of a trace.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.0.to_le_bytes());
        let micros = u32::try_from(self.rtt.as_micros()).unwrap_or(u32::MAX);
        out.extend_from_slice(&micros.to_le_bytes());
    }

    /// Reads the body of a trace.
    ///
    /// # Errors
    /// When it is no whole number of hops, or has more than a frame may cross.
    pub fn read_all(body: &[u8]) -> Result<Vec<Hop>, Error> {
        let hops = body.chunks_exact(HOP_BYTES);
        if !hops.remainder().is_empty() || hops.len() > usize::from(MessageHeader::HOPS_MAX) + 1 {
            return Err(Error::Length(body.len() as u64));
        }
        let hop = |mut bytes: &[u8]| Hop {
            node: NodeId(bytes.get_u64_le()),
            rtt: Duration::from_micros(bytes.get_u32_le().into()),
        };
        Ok(hops.map(hop).collect())
    }
}

/// How something ended that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It surely did not run.
    Rejected,
    /// It ran and failed.
    Failed,
    /// It may have run.
    Unknown,
}

/// What stands between the fixed header and the body.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    /// Of a request or a signal.
    Message(&'a MessageHeader, &'a Request),
    /// Of a reply.
    Reply(&'a Reply),
    /// Of a refusal, or of a signal that was lost.
    Refusal(Ending, &'a Refusal),
    /// Of a call.
    Call(Service),
    /// Of everything else.
    None,
}

/// Where the body of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Of so many bytes, right after the head.
    Inline(usize),
    /// On a stream of its own.
    Detached {
        /// How long it is.
        bytes: u64,
        /// Which of the bodies of this direction it is.
        ticket: u64,
    },
}

/// Appends a frame without its body, in the version of the link that it goes over: a body that is inline has to follow.
///
/// # Errors
/// When head or body are too large; `out` is then as it was.
pub fn begin(
    out: &mut Vec<u8>,
    version: u8,
    header: &Header,
    head: Head<'_>,
    place: Place,
) -> Result<(), Error> {
    let start = out.len();
    let (detached, body_bytes) = match place {
        Place::Inline(bytes) => (false, bytes as u64),
        Place::Detached { bytes, .. } => (true, bytes),
    };
    let bytes_max = if detached { BODY_BYTES_MAX } else { INLINE_BYTES_MAX };
    if body_bytes > bytes_max as u64 {
        return Err(Error::BodyTooLarge(body_bytes));
    }
    let mut fixed = [0; HEADER_BYTES];
    fixed[4] = version;
    fixed[5] = header.kind.byte();
    fixed[6] = header.hops_left;
    fixed[7] = header.flags(detached);
    fixed[8..16].copy_from_slice(&header.to.0.to_le_bytes());
    fixed[16..24].copy_from_slice(&header.from.0.to_le_bytes());
    fixed[24..40].copy_from_slice(&header.id.0.to_le_bytes());
    fixed[40..44].copy_from_slice(&header.remaining_ms.to_le_bytes());
    out.extend_from_slice(&fixed);
    match head {
        Head::Message(header, request) => put_message(out, header, request),
        Head::Reply(reply) => put_reply(out, reply),
        Head::Refusal(ending, refusal) => put_refusal(out, ending, refusal),
        Head::Call(service) => put(out, &service.0),
        Head::None => {}
    }
    let head_bytes = out.len() - start - HEADER_BYTES;
    if head_bytes > HEAD_BYTES_MAX {
        out.truncate(start);
        return Err(Error::HeadTooLarge(head_bytes));
    }
    let tail_bytes = match place {
        Place::Inline(bytes) => bytes,
        Place::Detached { bytes, ticket } => {
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(&ticket.to_le_bytes());
            PLACE_BYTES
        }
    };
    // Both are far below 2^32, as checked above.
    let length = (HEADER_BYTES - LENGTH_BYTES + head_bytes + tail_bytes) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 44..start + HEADER_BYTES].copy_from_slice(&(head_bytes as u32).to_le_bytes());
    Ok(())
}

/// The content of a body that travels with its message; that of a blob stays where it is.
pub fn body_of(body: &Body) -> Bytes {
    match body {
        Body::Bytes(bytes) => bytes.clone(),
        Body::Blob(_) => Bytes::new(),
    }
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Append<'_> {
        type Output = ();
        fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(data);
            Ok(())
        }
        fn try_push(&mut self, data: u8) -> postcard::Result<()> {
            self.0.push(data);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    // Appending cannot fail, and nothing that is written here refuses to be.
    let _ = postcard::serialize_with_flavor(value, Append(out));
}

fn put_message(out: &mut Vec<u8>, header: &MessageHeader, request: &Request) {
    put(out, header.from.as_str());
    put(out, header.to.as_str());
    put(out, &(header.agent.0 != header.from).then(|| header.agent.0.as_str()));
    let mut root = Trace::root(header.id);
    root.sampled = header.trace.sampled;
    let trace = (header.trace != root).then(|| (header.trace.trace_id.to_le_bytes(), header.trace.span_id));
    put(out, &trace);
    put(
        out,
        &match request.method.family {
            MethodFamily::Http => 0u8,
            MethodFamily::Ext => 1,
            MethodFamily::Cmd => 2,
        },
    );
    put(out, request.method.name.as_str());
    put(out, &*request.path);
    let waiting = header.chain.iter().count() as u32;
    put(out, &waiting);
    header.chain.iter().for_each(|point| put(out, point.as_str()));
    put_headers(out, &request.headers);
    put_blob(out, &request.body);
}

fn put_reply(out: &mut Vec<u8>, reply: &Reply) {
    put(out, &reply.status);
    put_headers(out, &reply.headers);
    put_blob(out, &reply.body);
}

fn put_refusal(out: &mut Vec<u8>, ending: Ending, refusal: &Refusal) {
    put(
        out,
        &match ending {
            Ending::Rejected => 0u8,
            Ending::Failed => 1,
            Ending::Unknown => 2,
        },
    );
    put(out, refusal.code.as_str());
    let mut end = refusal.detail.len().min(DETAIL_BYTES_MAX);
    while !refusal.detail.is_char_boundary(end) {
        end -= 1;
    }
    put(out, &refusal.detail[..end]);
    put(out, &refusal.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
}

fn put_headers(out: &mut Vec<u8>, headers: &Headers) {
    put(out, &(headers.iter().count() as u32));
    headers.iter().for_each(|pair| put(out, &pair));
}

fn put_blob(out: &mut Vec<u8>, body: &Body) {
    let blob = match body {
        Body::Bytes(_) => None,
        Body::Blob(blob) => Some((blob.digest.0, blob.bytes)),
    };
    put(out, &blob);
}

/// Cuts what a stream brings into what it carries: each preceded by its length, and none longer than a bound.
#[derive(Debug)]
pub struct Slicer {
    bytes_max: usize,
    chunk: Bytes,
    at: usize,
    /// The beginning of something whose end is still to come.
    begun: Vec<u8>,
    /// What was put together from several chunks.
    joined: Joined,
}

#[derive(Debug, Default)]
enum Joined {
    #[default]
    Nothing,
    Small(Vec<u8>),
    Large(Bytes),
}

/// What stood behind a length, with that length.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    bytes: &'a [u8],
    /// What the bytes are part of, when parts of it can be shared.
    whole: Option<&'a Bytes>,
}

impl Slicer {
    /// For a lane.
    pub fn frames() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }

    /// For a control stream.
    pub fn controls() -> Self {
        Self::new(CONTROL_BYTES_MAX)
    }

    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, chunk: Bytes::new(), at: 0, begun: Vec::new(), joined: Joined::Nothing }
    }

    /// Takes what comes next. Whatever the chunk before held must have been read: [`Slicer::next`] said `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.at == self.chunk.len());
        self.chunk = chunk;
        self.at = 0;
    }

    /// What is whole; `None` when more has to come first.
    ///
    /// # Errors
    /// When a length is out of bounds. Nothing after that can be read.
    #[expect(clippy::should_implement_trait, reason = "what it lends is taken back by the next call")]
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, Error> {
        if self.begun.is_empty() {
            let rest = &self.chunk[self.at..];
            let Some(total) = self.total(rest)? else {
                self.keep(rest.len(), LENGTH_BYTES);
                return Ok(None);
            };
            if rest.len() < total {
                self.keep(rest.len(), total);
                return Ok(None);
            }
            let start = self.at;
            self.at += total;
            return Ok(Some(Piece { bytes: &self.chunk[start..self.at], whole: Some(&self.chunk) }));
        }
        let total = match self.total(&self.begun)? {
            Some(total) => total,
            None => {
                let missing = LENGTH_BYTES - self.begun.len();
                self.keep(missing, LENGTH_BYTES);
                match self.total(&self.begun)? {
                    Some(total) => total,
                    None => return Ok(None),
                }
            }
        };
        self.keep(total - self.begun.len(), total);
        if self.begun.len() < total {
            return Ok(None);
        }
        if total < COPIED_BYTES_MAX {
            let spare = match std::mem::take(&mut self.joined) {
                Joined::Small(mut spare) => {
                    spare.clear();
                    spare
                }
                _ => Vec::new(),
            };
            self.joined = Joined::Small(std::mem::replace(&mut self.begun, spare));
        } else {
            self.joined = Joined::Large(Bytes::from(std::mem::take(&mut self.begun)));
        }
        Ok(match &self.joined {
            Joined::Small(bytes) => Some(Piece { bytes, whole: None }),
            Joined::Large(bytes) => Some(Piece { bytes, whole: Some(bytes) }),
            Joined::Nothing => None,
        })
    }

    /// The length of what begins here, with its own four bytes; `None` before these are there.
    fn total(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length);
        // Two bytes are the least that says what it is.
        if length < 2 || length as usize > self.bytes_max - LENGTH_BYTES {
            return Err(Error::Length(length.into()));
        }
        Ok(Some(LENGTH_BYTES + length as usize))
    }

    /// Moves what is there, and not more than so much of it, to what is begun.
    fn keep(&mut self, bytes: usize, total: usize) {
        let end = self.chunk.len().min(self.at + bytes);
        if end > self.at {
            self.begun.reserve_exact(total - self.begun.len());
            self.begun.extend_from_slice(&self.chunk[self.at..end]);
            self.at = end;
        }
    }
}

impl<'a> Piece<'a> {
    /// The bytes, with the length before them.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// A part of the bytes: shared when that is worth it, else a copy, so that little things do not keep large ones in
    /// memory.
    fn share(&self, part: &[u8]) -> Bytes {
        match self.whole {
            Some(whole) if part.len() >= COPIED_BYTES_MAX => whole.slice_ref(part),
            _ => Bytes::copy_from_slice(part),
        }
    }
}

/// A frame as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its fixed header.
    pub header: Header,
    piece: Piece<'a>,
    head_bytes: usize,
    detached: Option<(u64, u64)>,
}

impl<'a> Frame<'a> {
    /// Reads the fixed header.
    ///
    /// # Errors
    /// When the version is not known, or a length is out of bounds.
    pub fn read(piece: Piece<'a>) -> Result<Self, Error> {
        let bytes = piece.bytes;
        let version = bytes[LENGTH_BYTES];
        if !VERSIONS.contains(&version) {
            return Err(Error::Version(version));
        }
        let Some(mut fixed) = bytes.get(LENGTH_BYTES + 1..HEADER_BYTES) else {
            return Err(Error::Length(bytes.len() as u64));
        };
        let kind = Kind::of(fixed.get_u8());
        let hops_left = fixed.get_u8();
        let flags = fixed.get_u8();
        let header = Header {
            kind,
            hops_left,
            priority: match flags & 0b11 {
                0 => Priority::Low,
                2 => Priority::High,
                _ => Priority::Normal,
            },
            sampled: flags & 0b100 != 0,
            to: NodeId(fixed.get_u64_le()),
            from: NodeId(fixed.get_u64_le()),
            id: MessageId(fixed.get_u128_le()),
            remaining_ms: fixed.get_u32_le(),
        };
        let head_bytes = fixed.get_u32_le();
        let Some(tail) = (bytes.len() - HEADER_BYTES).checked_sub(head_bytes as usize) else {
            return Err(Error::Length(head_bytes.into()));
        };
        let head_bytes = head_bytes as usize;
        if head_bytes > HEAD_BYTES_MAX || tail > INLINE_BYTES_MAX {
            return Err(Error::Length(bytes.len() as u64));
        }
        let mut detached = None;
        if flags & 0b1000 != 0 {
            if tail != PLACE_BYTES {
                return Err(Error::Length(tail as u64));
            }
            let mut place = &bytes[HEADER_BYTES + head_bytes..];
            let (length, ticket) = (place.get_u64_le(), place.get_u64_le());
            if length > BODY_BYTES_MAX as u64 {
                return Err(Error::Length(length));
            }
            detached = Some((length, ticket));
        }
        Ok(Self { header, piece, head_bytes, detached })
    }

    /// The whole frame.
    pub fn bytes(&self) -> &'a [u8] {
        self.piece.bytes
    }

    /// All of it but the body: what a relay copies when it sends the body on by itself.
    pub fn front(&self) -> &'a [u8] {
        &self.piece.bytes[..HEADER_BYTES + self.head_bytes]
    }

    /// The head.
    pub fn head(&self) -> &'a [u8] {
        &self.piece.bytes[HEADER_BYTES..HEADER_BYTES + self.head_bytes]
    }

    /// How long the body is, here or on its own stream.
    pub fn body_bytes(&self) -> u64 {
        match self.detached {
            Some((bytes, _)) => bytes,
            None => self.inline().len() as u64,
        }
    }

    /// The body that stands in the frame.
    pub fn body(&self) -> Bytes {
        if self.detached.is_some() { Bytes::new() } else { self.piece.share(self.inline()) }
    }

    /// Length and ticket of a body on its own stream.
    pub fn detached(&self) -> Option<(u64, u64)> {
        self.detached
    }

    /// What stands behind the head: the body, unless it is on its own stream.
    pub fn inline(&self) -> &'a [u8] {
        &self.piece.bytes[HEADER_BYTES + self.head_bytes..]
    }
}

/// Reads the fixed header of a frame that this build wrote, where it begins.
///
/// # Errors
/// When there is none.
pub fn peek(bytes: &[u8]) -> Result<Header, Error> {
    let fixed = bytes.get(..HEADER_BYTES).ok_or(Error::Length(bytes.len() as u64))?;
    let mut alone = [0; HEADER_BYTES];
    alone.copy_from_slice(fixed);
    // As if there were no head and no body.
    alone[7] &= 0b111;
    alone[44..].fill(0);
    Frame::read(Piece { bytes: &alone, whole: None }).map(|frame| frame.header)
}

/// Takes the time that a frame waited from the time that it has left. Whether none is left now, and the frame is one that
/// is then not sent any more: whose body is on its way already is sent all the same.
pub fn age(frame: &mut [u8], waited_ms: u32) -> bool {
    let Some(fixed) = frame.first_chunk_mut::<HEADER_BYTES>() else { return false };
    let kind = Kind::of(fixed[5]);
    if !kind.is_asking() && kind != Kind::Signal {
        return false;
    }
    let left = u32::from_le_bytes([fixed[40], fixed[41], fixed[42], fixed[43]]).saturating_sub(waited_ms);
    fixed[40..44].copy_from_slice(&left.to_le_bytes());
    left == 0 && fixed[7] & 0b1000 == 0
}

/// Appends a frame again in the version of the next link, with one hop less, another time left, and its body in another
/// place: what a relay does. A body that is inline has to follow.
///
/// # Errors
/// When the body is too large for its place; `out` is then as it was.
pub fn pass_on(
    out: &mut Vec<u8>,
    version: u8,
    front: &[u8],
    hops_left: u8,
    remaining_ms: u32,
    place: Place,
) -> Result<(), Error> {
    let start = out.len();
    if front.len() < HEADER_BYTES {
        return Err(Error::Length(front.len() as u64));
    }
    let tail = match place {
        Place::Inline(bytes) if bytes > INLINE_BYTES_MAX => return Err(Error::BodyTooLarge(bytes as u64)),
        Place::Detached { bytes, .. } if bytes > BODY_BYTES_MAX as u64 => {
            return Err(Error::BodyTooLarge(bytes));
        }
        Place::Inline(bytes) => bytes,
        Place::Detached { .. } => PLACE_BYTES,
    };
    out.extend_from_slice(front);
    let length = (front.len() - LENGTH_BYTES + tail) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4] = version;
    out[start + 6] = hops_left;
    out[start + 40..start + 44].copy_from_slice(&remaining_ms.to_le_bytes());
    match place {
        Place::Inline(_) => out[start + 7] &= !0b1000,
        Place::Detached { bytes, ticket } => {
            out[start + 7] |= 0b1000;
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(&ticket.to_le_bytes());
        }
    }
    Ok(())
}

/// What stands before the body with this ticket on its own stream.
pub const fn write_ticket(ticket: u64) -> [u8; TICKET_BYTES] {
    ticket.to_le_bytes()
}

/// The ticket of the body that follows.
pub const fn read_ticket(bytes: [u8; TICKET_BYTES]) -> u64 {
    u64::from_le_bytes(bytes)
}

/// Reads heads. It remembers some of the texts that it read, so that what comes again and again is neither checked nor
/// allocated again.
#[derive(Debug)]
pub struct Heads {
    points: Known<Point>,
    names: Known<Name>,
    texts: Known<Arc<str>>,
}

impl Default for Heads {
    fn default() -> Self {
        Self { points: Known::new(), names: Known::new(), texts: Known::new() }
    }
}

impl Heads {
    /// The message that a frame of the kind `REQUEST` or `SIGNAL` brings.
    ///
    /// # Errors
    /// When the head is not one.
    pub fn message(&mut self, header: &Header, head: &[u8], body: Bytes) -> Result<Message, Error> {
        let mut rest = Rest(head);
        let from = self.point(rest.take("sender")?)?;
        let to = self.point(rest.take("receiver")?)?;
        let agent = match rest.take::<Option<&str>>("agent")? {
            None => from.clone(),
            Some(agent) => self.point(agent)?,
        };
        let trace = match rest.take::<Option<([u8; 16], u64)>>("trace")? {
            None => Trace { sampled: header.sampled, ..Trace::root(header.id) },
            Some((trace_id, span_id)) => {
                Trace { trace_id: u128::from_le_bytes(trace_id), span_id, sampled: header.sampled }
            }
        };
        let family = match rest.take("method")? {
            0u8 => MethodFamily::Http,
            1 => MethodFamily::Ext,
            2 => MethodFamily::Cmd,
            _ => return Err(Error::Head("method")),
        };
        let name = self.names.get(rest.take("method")?).ok_or(Error::Head("method"))?;
        let path: &str = rest.take("path")?;
        if !path.starts_with('/') {
            return Err(Error::Head("path"));
        }
        let path = self.texts.get(path).ok_or(Error::Head("path"))?;
        let chain = self.chain(&mut rest)?;
        let headers = self.headers(&mut rest)?;
        let body = rest.body(body)?;
        let request = Request { method: Method { family, name }, path, headers, body };
        Ok(Message {
            header: MessageHeader {
                id: header.id,
                from,
                to,
                agent: Agent(agent),
                remaining: Duration::from_millis(header.remaining_ms.into()),
                hops_left: header.hops_left,
                chain,
                trace,
                priority: header.priority,
            },
            payload: match header.kind {
                Kind::Signal => Payload::Signal(request),
                _ => Payload::Request(request),
            },
        })
    }

    /// How a request ended, by a frame of the kind `REPLY` or `REFUSAL`.
    ///
    /// # Errors
    /// When the head is not one.
    pub fn outcome(&mut self, header: &Header, head: &[u8], body: Bytes) -> Result<Outcome, Error> {
        if header.kind == Kind::Refusal {
            let (ending, refusal) = read_refusal(head)?;
            return Ok(match ending {
                Ending::Rejected => Outcome::Rejected(refusal),
                Ending::Failed => Outcome::Failed(refusal),
                Ending::Unknown => Outcome::Unknown(refusal),
            });
        }
        let mut rest = Rest(head);
        let status = rest.take("status")?;
        if !(100..=599).contains(&status) {
            return Err(Error::Head("status"));
        }
        let headers = self.headers(&mut rest)?;
        let body = rest.body(body)?;
        Ok(Outcome::Ok(Reply { status, headers, body }))
    }

    fn point(&mut self, text: &str) -> Result<Point, Error> {
        self.points.get(text).ok_or(Error::Head("point"))
    }

    fn chain(&mut self, rest: &mut Rest<'_>) -> Result<CallChain, Error> {
        let waiting: u32 = rest.take("chain")?;
        let mut points = Vec::new();
        for _ in 0..waiting {
            points.push(self.point(rest.take("chain")?)?);
        }
        Ok(points.into_iter().rev().fold(CallChain::default(), |chain, point| chain.with(point)))
    }

    fn headers(&mut self, rest: &mut Rest<'_>) -> Result<Headers, Error> {
        let count: u32 = rest.take("headers")?;
        if count > HEADERS_MAX {
            return Err(Error::Head("headers"));
        }
        let mut list = Vec::new();
        for _ in 0..count {
            let (name, value): (&str, &str) = rest.take("headers")?;
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(Error::Head("headers"));
            }
            let text = |texts: &mut Known<Arc<str>>, text| texts.get(text).ok_or(Error::Head("headers"));
            list.push((text(&mut self.texts, name)?, text(&mut self.texts, value)?));
        }
        Ok(Headers::from_list(list))
    }
}

/// The refusal that a frame of the kind `REFUSAL` or `LOST` brings.
///
/// # Errors
/// When the head is not one.
pub fn read_refusal(head: &[u8]) -> Result<(Ending, Refusal), Error> {
    let mut rest = Rest(head);
    let ending = match rest.take("ending")? {
        0u8 => Ending::Rejected,
        1 => Ending::Failed,
        2 => Ending::Unknown,
        _ => return Err(Error::Head("ending")),
    };
    let code: Code = rest.take("code")?;
    let mut refusal = Refusal::new(code, rest.take::<&str>("detail")?);
    refusal.retry_after = rest.take::<Option<u64>>("time")?.map(Duration::from_millis);
    Ok((ending, refusal))
}

/// The service that a frame of the kind `CALL` is for.
///
/// # Errors
/// When the head is not one.
pub fn read_call(head: &[u8]) -> Result<Service, Error> {
    Rest(head).take("service").map(Service)
}

/// What of a head is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<T: Deserialize<'a>>(&mut self, what: &'static str) -> Result<T, Error> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(|_| Error::Head(what))?;
        self.0 = rest;
        Ok(value)
    }

    fn body(&mut self, body: Bytes) -> Result<Body, Error> {
        Ok(match self.take::<Option<([u8; 32], u64)>>("blob")? {
            None => Body::Bytes(body),
            Some((digest, bytes)) => Body::Blob(Blob { digest: Digest(digest), bytes }),
        })
    }
}

/// Texts that were read before, by their hash; a newer one takes the place of an older one.
#[derive(Debug)]
struct Known<T> {
    slots: Box<[Option<T>]>,
}

trait Text: Clone {
    fn text(&self) -> &str;
    fn read(text: &str) -> Option<Self>;
}

impl Text for Point {
    fn text(&self) -> &str {
        self.as_str()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Text for Name {
    fn text(&self) -> &str {
        self.as_str()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Text for Arc<str> {
    fn text(&self) -> &str {
        self
    }
    fn read(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl<T: Text> Known<T> {
    const SLOTS: usize = 128;
    /// Longer texts are not remembered, so that what is kept stays small.
    const BYTES_MAX: usize = 128;

    fn new() -> Self {
        Self { slots: vec![None; Self::SLOTS].into() }
    }

    fn get(&mut self, text: &str) -> Option<T> {
        if text.len() > Self::BYTES_MAX {
            return T::read(text);
        }
        let at = hash(text.as_bytes()) as usize % Self::SLOTS;
        let slot = &mut self.slots[at];
        if let Some(known) = slot
            && known.text() == text
        {
            return Some(known.clone());
        }
        let read = T::read(text)?;
        *slot = Some(read.clone());
        Some(read)
    }
}

/// The lane of messages from one point to another, so that they stay in order.
pub fn lane(from: &Point, to: &Point) -> usize {
    let both = hash(from.as_str().as_bytes()).rotate_left(32) ^ hash(to.as_str().as_bytes());
    spread(both) as usize % LANES
}

/// The lane of what needs no order.
pub fn lane_of_id(id: MessageId) -> usize {
    spread(id.0 as u64 ^ (id.0 >> 64) as u64) as usize % LANES
}

/// Good enough for slots and lanes: who sends what collides loses speed and nothing else.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut add = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    words.for_each(|mut word| add(word.get_u64_le()));
    add(u64::from_le_bytes(last));
    hash ^ hash >> 32
}

fn spread(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

/// What the two sides of a link say first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest and the newest version of frames that it speaks.
    pub versions: (u8, u8),
    /// What the node can do beyond what every node of the version can, as [`Hello::ENDS_IN_ORDER`]; unknown bits mean nothing.
    pub features: u64,
    /// Names the connection; the node that dialled draws it, the other one repeats it.
    pub link: u64,
    /// Which life of the node speaks.
    pub life: Life,
    /// What it took from the last connections between the two, newest first, so that the other one knows what was lost.
    /// More than one, since a connection may end before both know that it began.
    pub last: [Option<Taken>; LAST_MAX],
}

/// One life of a node, from its start to its end. It is told over a connection that the node has proven to be its own, so
/// that nobody else can claim it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// How often the node was started; it may grow while the node runs, when others know of a later one.
    pub generation: Generation,
    /// Drawn at each start, so that two lives are told apart whatever they were counted as.
    pub process: u128,
}

impl Life {
    /// Whether it is the same run of the same node.
    pub fn is_same(&self, other: &Life) -> bool {
        self.process == other.process
    }

    /// Whether it is another run, and surely one before.
    pub fn is_before(&self, other: &Life) -> bool {
        !self.is_same(other) && self.generation < other.generation
    }
}

/// How many signals a node took from each lane of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Which connection.
    pub link: u64,
    /// How many, by lane.
    pub lanes: [u64; LANES],
}

impl Hello {
    /// A bit of `features`: when the other end says that it leaves, the node still sends what waits and hears what is under way.
    pub const ENDS_IN_ORDER: u64 = 1;

    /// What the other side took from a connection, when it knows.
    pub fn taken(&self, link: u64) -> Option<&Taken> {
        self.last.iter().flatten().find(|taken| taken.link == link)
    }

    /// Whether the other side remembers any connection.
    pub fn remembers(&self) -> bool {
        self.last.iter().any(Option::is_some)
    }

    /// The newest version that whoever says this and a node that speaks `own` both speak.
    ///
    /// # Errors
    /// The newest version of whoever says this, when there is none.
    pub fn common_version(&self, own: RangeInclusive<u8>) -> Result<u8, Error> {
        let (oldest, newest) = self.versions;
        let common = newest.min(*own.end());
        if oldest.max(*own.start()) <= common { Ok(common) } else { Err(Error::Version(newest)) }
    }
}

/// What the control stream of a link carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// The first word of each side.
    Hello(Box<Hello>),
    /// A packet of the routing; it is opaque here.
    Routing(Bytes),
    /// Something newer than this build.
    Other(u8),
}

const CONTROL_VERSION: u8 = 1;

impl Control {
    /// Appends it.
    ///
    /// # Errors
    /// When it would be longer than [`CONTROL_BYTES_MAX`]; `out` is then as it was.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, CONTROL_VERSION]);
        match self {
            Control::Hello(hello) => {
                out.push(1);
                put(out, hello);
            }
            Control::Routing(packet) => {
                out.push(2);
                out.extend_from_slice(packet);
            }
            Control::Other(kind) => out.push(*kind),
        }
        let bytes = out.len() - start;
        if bytes > CONTROL_BYTES_MAX {
            out.truncate(start);
            return Err(Error::Length(bytes as u64));
        }
        out[start..start + LENGTH_BYTES].copy_from_slice(&((bytes - LENGTH_BYTES) as u32).to_le_bytes());
        Ok(())
    }

    /// Reads one.
    ///
    /// # Errors
    /// When the version is not known, or it is not what its kind wants.
    pub fn read(piece: Piece<'_>) -> Result<Self, Error> {
        let (version, kind) = (piece.bytes[LENGTH_BYTES], piece.bytes[LENGTH_BYTES + 1]);
        if version != CONTROL_VERSION {
            return Err(Error::Version(version));
        }
        let content = &piece.bytes[LENGTH_BYTES + 2..];
        Ok(match kind {
            1 => Control::Hello(Rest(content).take("hello")?),
            2 => Control::Routing(piece.share(content)),
            other => Control::Other(other),
        })
    }
}

/// Writes a struct that nodes exchange outside of frames (what joining says, an advertisement): in postcard's format,
/// behind a version byte.
pub fn pack<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut out = vec![version];
    put(&mut out, value);
    out
}

/// Reads what [`pack`] wrote. More fields at the end, as a newer node writes them, are ignored.
///
/// # Errors
/// When it is longer than `bytes_max`, of another version, or no such struct.
pub fn unpack<T: DeserializeOwned>(version: u8, bytes: &[u8], bytes_max: usize) -> Result<T, Error> {
    if bytes.len() > bytes_max {
        return Err(Error::Length(bytes.len() as u64));
    }
    match bytes.split_first() {
        Some((found, content)) if *found == version => Rest(content).take("value"),
        Some((found, _)) => Err(Error::Version(*found)),
        None => Err(Error::Length(0)),
    }
}
