//! Frames: a 24-byte header, then the payload, padded to 8 bytes.

use alloc::vec::Vec;
use core::fmt;

/// How many bytes a frame's header has.
pub const HEADER_BYTES: usize = 24;
/// Every frame begins at a multiple of this.
pub const FRAME_ALIGN: usize = 8;

/// The bits of [`Header::flags`].
pub mod flags {
    /// On `MESSAGE`: the sender waits for a `REPLY` or `FAIL` with the same id.
    pub const WANTS_REPLY: u16 = 1;
    /// On `START`: the body is the state that was saved.
    pub const HAS_STATE: u16 = 1 << 1;
    /// On any frame: who does not know the kind skips it.
    pub const OPTIONAL: u16 = 1 << 15;
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal;)+) => {
        /// What a frame means. Numbers below 128 go into the guest, the others out of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Kind {
            /// All kinds of this version.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)+];

            /// The kind with a number, if this version has it.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Kind::$name),)+ _ => None }
            }

            /// Its number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// Whether it goes out of the guest.
            pub const fn is_outward(self) -> bool {
                self.number() >= 128
            }
        }
    };
}

kinds! {
    /// In: a message to handle. `id` is the host's, `aux` the length of the [`MessageHead`](crate::MessageHead).
    Message = 1;
    /// In: the answer to a `REQUEST`, `SELECT` or `STATE_GET`. `id` is the guest's token, `aux` the length of the
    /// [`ReplyHead`](crate::ReplyHead).
    Reply = 2;
    /// In: there will be no answer to the guest's token `id`; the payload is an [`ErrorHead`](crate::ErrorHead).
    Error = 3;
    /// In: the timer with the guest's token `id` is due.
    Timer = 4;
    /// In: nobody waits for the answer to message `id` any more.
    Cancel = 5;
    /// In: the mechtron begins. `aux` is the length of the [`StartHead`](crate::StartHead), the body its state.
    Start = 6;
    /// In: the mechtron is about to be put to sleep or to end.
    Stop = 7;
    /// In: `id` is the wall time in milliseconds since 1970. Comes first in a run.
    Clock = 8;
    /// In: a change that a watch of the contract tells. `id` is the host's, as a message's; `aux` the length of the
    /// [`ChangeHead`](crate::ChangeHead), the body the resource as JSON.
    Change = 9;

    /// Out: a message without answer. `aux` is the length of the [`CallHead`](crate::CallHead).
    Send = 129;
    /// Out: a message with an answer under the guest's token `id`. `aux` is the length of the
    /// [`CallHead`](crate::CallHead).
    Request = 130;
    /// Out: the answer to message `id`. `aux` is the length of the [`ReplyHead`](crate::ReplyHead).
    Answer = 131;
    /// Out: message `id` was handled and failed; the payload is an [`ErrorHead`](crate::ErrorHead).
    Fail = 132;
    /// Out: sets the timer `id` to the payload, a delay in milliseconds (u64, little-endian); replaces it when set.
    SetTimer = 133;
    /// Out: asks for the saved state; answered by `REPLY`, or by `ERROR` when there is none.
    StateGet = 134;
    /// Out: the payload is the state from now on, committed when the run ends well.
    StatePut = 135;
    /// Out: the payload is a selector; answered by `REPLY` with a JSON array of resources.
    Select = 136;
    /// Out: reserved for watches; answered by `ERROR` unless the host has the feature.
    Watch = 137;
    /// Out: a line for the log; `aux` is the level, from 1 (error) to 5 (trace).
    Log = 138;
    /// Out: the guest gives up its token `id`: a request's answer is not wanted any more, a timer is unset.
    GiveUp = 139;
}

/// The fixed part of a frame, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of its [`Kind`], known or not.
    pub kind: u16,
    /// See [`flags`].
    pub flags: u16,
    /// How many bytes the payload has, without padding.
    pub length: u32,
    /// Depends on the kind.
    pub id: u64,
    /// Which of several mechtrons in one instance; 0 when it holds one.
    pub actor: u32,
    /// Depends on the kind; for payloads with head and body, how long the head is.
    pub aux: u32,
}

impl Header {
    /// A header without flags, payload and aux for the instance's one mechtron.
    pub const fn new(kind: Kind, id: u64) -> Self {
        Self { kind: kind.number(), flags: 0, length: 0, id, actor: 0, aux: 0 }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.actor.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.aux.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            kind: u16_at(0),
            flags: u16_at(2),
            length: u32_at(4),
            id: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            actor: u32_at(16),
            aux: u32_at(20),
        }
    }
}

/// A frame in somebody's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its fixed part.
    pub header: Header,
    /// Exactly `header.length` bytes.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The kind, when this version knows it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.header.kind)
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.header.flags & flag != 0
    }

    /// Splits the payload into head and body at `aux`.
    ///
    /// # Errors
    /// When `aux` is beyond the payload.
    pub fn split(&self) -> Result<(&'a [u8], &'a [u8]), FrameError> {
        self.payload.split_at_checked(self.header.aux as usize).ok_or(FrameError::Head)
    }
}

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header are left.
    Header,
    /// The payload goes beyond the bytes there are.
    Payload,
    /// The head goes beyond its payload.
    Head,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrameError::Header => "a frame's header is cut off",
            FrameError::Payload => "a frame's payload is cut off",
            FrameError::Head => "a frame's head is longer than its payload",
        })
    }
}

impl core::error::Error for FrameError {}

/// Reads the frames in some bytes, one after the other. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The frames in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let all = core::mem::take(&mut self.rest);
        let Some((header, rest)) = all.split_first_chunk::<HEADER_BYTES>() else {
            return Some(Err(FrameError::Header));
        };
        let header = Header::from_bytes(header);
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else {
            return Some(Err(FrameError::Payload));
        };
        // The padding of the last frame may be left out.
        self.rest = rest.get(padding(payload.len())..).unwrap_or_default();
        Some(Ok(Frame { header, payload }))
    }
}

const fn padding(length: usize) -> usize {
    length.wrapping_neg() % FRAME_ALIGN
}

/// Writes frames one after the other into a buffer that is used again and again.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what was written and keeps the room for it.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes a frame whose payload is `payload`; `header.length` is set.
    pub fn frame(&mut self, header: Header, payload: &[u8]) {
        self.frame_with(header, |writer| writer.extend_from_slice(payload));
    }

    /// Writes a frame with a head and a body; `header.length` and `header.aux` are set.
    pub fn frame_with_head<T: serde::Serialize>(&mut self, mut header: Header, head: &T, body: &[u8]) {
        let start = self.begin();
        self.bytes = encode(head, core::mem::take(&mut self.bytes));
        header.aux = (self.bytes.len() - start - HEADER_BYTES) as u32;
        self.bytes.extend_from_slice(body);
        self.end(start, header);
    }

    fn frame_with(&mut self, header: Header, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.begin();
        payload(&mut self.bytes);
        self.end(start, header);
    }

    fn begin(&mut self) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        start
    }

    fn end(&mut self, start: usize, mut header: Header) {
        let length = self.bytes.len() - start - HEADER_BYTES;
        header.length = length as u32;
        self.bytes[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes());
        self.bytes.resize(self.bytes.len() + padding(length), 0);
    }
}

/// Appends the head to the bytes. Heads are plain structs of known length, which postcard always encodes.
fn encode<T: serde::Serialize>(head: &T, into: Vec<u8>) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "a head of this crate has no part that postcard refuses")]
    postcard::to_extend(head, into).expect("heads are encodable")
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn frames_read_as_they_were_written() {
        let mut writer = Writer::new();
        let lengths = [0, 1, 7, 8, 9, 100];
        for (id, length) in (0..).zip(lengths) {
            writer.frame(Header::new(Kind::Log, id), &vec![7; length]);
            assert_eq!(writer.bytes().len() % FRAME_ALIGN, 0);
        }
        let frames: Vec<_> = Frames::new(writer.bytes()).map(Result::unwrap).collect();
        assert_eq!(frames.iter().map(|f| f.payload.len()).collect::<Vec<_>>(), lengths);
        assert_eq!(frames.iter().map(|f| f.header.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn cut_frames_are_errors_and_never_panic() {
        let mut writer = Writer::new();
        writer.frame(Header::new(Kind::Log, u64::MAX), &[1, 2, 3]);
        let bytes = writer.bytes();
        for end in 1..HEADER_BYTES {
            assert_eq!(Frames::new(&bytes[..end]).next(), Some(Err(FrameError::Header)));
        }
        for end in HEADER_BYTES..HEADER_BYTES + 3 {
            assert_eq!(Frames::new(&bytes[..end]).next(), Some(Err(FrameError::Payload)));
        }
        let mut huge = bytes.to_vec();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut frames = Frames::new(&huge);
        assert_eq!(frames.next(), Some(Err(FrameError::Payload)));
        assert_eq!(frames.next(), None);
    }

    #[test]
    fn the_wire_is_as_documented() {
        let mut writer = Writer::new();
        let mut header = Header::new(Kind::Message, 0x0807_0605_0403_0201);
        header.flags = flags::WANTS_REPLY;
        header.actor = 5;
        header.aux = 2;
        writer.frame(header, b"abc");
        assert_eq!(
            writer.bytes(),
            [
                1, 0, 1, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', b'c', 0,
                0, 0, 0, 0
            ]
        );
    }
}
