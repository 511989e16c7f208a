//! The frames that cross between a mechtron and its host: guest ABI version 1.
//!
//! `docs/guest-abi.md` is the specification; this crate is its only implementation in Rust and is used on both
//! sides. It never allocates from a length that it has not checked, and it knows nothing of Wasm engines,
//! of the mesh or of the SDK's types.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod frame;
mod head;

pub use frame::{FRAME_ALIGN, Frame, FrameError, Frames, HEADER_BYTES, Header, Kind, Writer, flags};
pub use head::{
    CallHead, ChangeHead, ChangeKind, ErrorHead, HeadError, InitHead, MessageHead, OutcomeKind, ReplyHead,
    StartHead,
};

/// The major version: host and guest must agree on it.
pub const MAJOR: u16 = 1;
/// The minor version: grows when frames are added that the other side may skip.
pub const MINOR: u16 = 1;
/// What `mechtron_abi()` returns.
pub const VERSION: i32 = ((MAJOR as i32) << 16) | MINOR as i32;

/// The custom section with the module's contract: one JSON record a line.
pub const CONTRACT_SECTION: &str = "mechtron.contract";

/// The bits that a host sets in [`InitHead::features`].
pub mod features {
    /// The host keeps state: `STATE_PUT` and `STATE_GET` work.
    pub const STATE: u64 = 1;
    /// The host answers `SELECT`.
    pub const SELECT: u64 = 1 << 1;
    /// The host tells the changes of the watches in the contract.
    pub const WATCH: u64 = 1 << 2;
}

/// Packs what `mechtron_run` and `mechtron_init` return on success.
pub const fn pack(pointer: u32, length: u32) -> i64 {
    (((pointer as u64) << 32) | length as u64) as i64
}

/// Unpacks what `mechtron_run` returned into pointer and length; `None` when it says that it failed.
pub const fn unpack(returned: i64) -> Option<(u32, u32)> {
    if returned < 0 { None } else { Some((((returned as u64) >> 32) as u32, returned as u32)) }
}
