//! What may be chosen about links, with every bound.

use std::time::Duration;

/// What may be chosen about links.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where other nodes can be reached, each as `host:port`. The node dials them until it has a link to whoever is there,
    /// and again whenever it has none. More can be told later.
    pub addresses: Vec<String>,
    /// Frames that may wait in one lane of a link; the next is refused as `Busy`. What goes back to whoever asked may
    /// fill twice that.
    pub lane_frames_max: usize,
    /// Bytes that may wait in one lane of a link, likewise.
    pub lane_bytes_max: usize,
    /// Bytes of large bodies that may be on their way on a link, in each direction; the next is refused as `Busy`.
    pub large_bytes_max: usize,
    /// Frames that may wait on a link for a large body before them; the next is refused as `Busy`.
    pub held_frames_max: usize,
    /// Requests and calls of this node that may wait for an answer; the next is refused as `Busy`.
    pub requests_max: usize,
    /// Requests and calls that may run here for others, for each link that they come over; the next is refused as `Busy`.
    pub running_max: usize,
    /// Links that the node may have; the next is closed.
    pub links_max: usize,
    /// Handshakes that may be under way with nodes that dial; the next is ignored, and from half of it on an address has to
    /// prove itself first.
    pub handshakes_max: usize,
    /// How long a handshake may take, with the first word of both sides.
    pub handshake: Duration,
    /// How often a silent link is kept alive.
    pub keep_alive: Duration,
    /// After which silence a link is lost.
    pub idle: Duration,
    /// How long to wait before an address is dialled again after the first failure. Each failure doubles it.
    pub redial_min: Duration,
    /// The longest wait before an address is dialled again.
    pub redial_max: Duration,
    /// The largest packet, in bytes, that is tried on a path. 1,452 is what any network carries; 6,500 halves the cost of
    /// messages of 1 KiB and more where the network has it.
    pub mtu_max: u16,
    /// What decides how fast a link may send.
    pub congestion: Congestion,
    /// Bytes that may wait in the socket, in each direction, before the node takes them; the next are lost and sent again.
    /// The system may allow less.
    pub socket_bytes: usize,
    /// Bytes that a link may have on their way, in each direction.
    pub window_bytes: u32,
}

/// What decides how fast a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Loss says that the path is full. For most networks.
    #[default]
    Cubic,
    /// Delay and rate say it. For wide-area networks that lose packets without being full.
    Bbr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            lane_frames_max: 8_192,
            lane_bytes_max: 8 * 1024 * 1024,
            large_bytes_max: 128 * 1024 * 1024,
            held_frames_max: 4_096,
            requests_max: 65_536,
            running_max: 16_384,
            links_max: 1_024,
            handshakes_max: 256,
            handshake: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            idle: Duration::from_secs(6),
            redial_min: Duration::from_millis(200),
            redial_max: Duration::from_secs(30),
            mtu_max: 6_500,
            congestion: Congestion::Cubic,
            socket_bytes: 4 * 1024 * 1024,
            window_bytes: 16 * 1024 * 1024,
        }
    }
}
