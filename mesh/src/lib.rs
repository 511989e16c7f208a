//! Links between nodes over QUIC: who a node is, how it joins, frames on the wire, and requests that have exactly one
//! outcome across any number of hops.
//!
//! The crate knows nothing of Wasm, of resources or of HTTP: what arrives for this node is handed to its
//! [`Local`] side, who may be whom is said by [`Credentials`], and where frames go by [`Routing`].
//!
//! A link is one connection between two nodes, used in both directions whoever dialled. Its control stream belongs to the
//! control plane (one loop); frames go over 16 lanes, by the points that they are between, past that loop: a look-up of the
//! next hop, and into a lane's buffer. Everything that waits is bounded, and says `Busy` when it is full.

mod answer;
mod config;
mod control;
mod counters;
mod credentials;
mod handle;
pub mod identity;
pub mod join;
mod link;
mod link_state;
mod local;
mod node;
mod panics;
pub mod proof;
mod resets;
mod room;
mod routing;
mod time;
pub mod token;
mod transport;

use std::net::SocketAddr;
use std::time::Duration;

pub use answer::Answer;
pub use config::{Config, Congestion};
pub use control::OnJoin;
pub use counters::Counted;
pub use credentials::{Credentials, Peer};
pub use handle::Handle;
pub use identity::{ALPN_JOIN, ALPN_LINK, Identity};
pub use link_state::{About, LinkStateRouting, Map};
pub use local::{Call, Local};
pub use node::Request;
pub use routing::{Action, Fixed, Malformed, NextHop, Routing};
pub use starlane_core::frame::{Hop, Service};
pub use transport::{Parts, Place, Socket, start};

/// A link, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Who is at the other end.
    pub peer: Peer,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether this node dialled.
    pub dialled: bool,
    /// The version of frames that both ends agreed on.
    pub version: u8,
    /// The round trip, as measured.
    pub rtt: Duration,
    /// How long there has been the link.
    pub age: Duration,
    /// Frames that came.
    pub frames_in: u64,
    /// Frames that were sent.
    pub frames_out: u64,
    /// Bytes that came, without those of large bodies.
    pub bytes_in: u64,
    /// Bytes that were sent, without those of large bodies.
    pub bytes_out: u64,
    /// Frames that wait to be sent.
    pub waiting: usize,
}
