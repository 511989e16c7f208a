//! WebSockets of the users' web: the point of each, and what is said between it and whoever accepted it.
//!
//! A socket is an address of the mesh for as long as its client is connected. It is no resource: nothing of it is in the
//! registry, and its point says by itself which node has it.

use serde::{Deserialize, Serialize};

use crate::{NodeName, Point};

/// The header of a request for a WebSocket that has the point of it. Nobody but a door sets it.
pub const HEADER: &str = "starlane-socket";
/// The method of a message, in either direction: `Ext<SocketMessage>`.
pub const MESSAGE: &str = "SocketMessage";
/// The method by which a socket is asked to close: `Ext<SocketClose>`, with a [`Close`].
pub const CLOSE: &str = "SocketClose";
/// The method of the signal that a socket was closed: `Ext<SocketClosed>`, with a [`Close`].
pub const CLOSED: &str = "SocketClosed";

const NODES: &str = "mesh:nodes:";
const BRANCH: &str = ":sockets:";

/// How a connection ended, or shall end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The code, as RFC 6455 has it: 1000 when all is well, 1005 when the client said none, 1006 when it was lost.
    #[serde(default = "normal")]
    pub code: u16,
    /// In words.
    #[serde(default)]
    pub reason: String,
}

fn normal() -> u16 {
    1000
}

impl Default for Close {
    fn default() -> Self {
        Self { code: normal(), reason: String::new() }
    }
}

impl Close {
    /// The longest reason that a frame can carry, in bytes.
    pub const REASON_BYTES_MAX: usize = 123;

    /// One with a reason that fits into a frame: a longer one is cut.
    pub fn new(code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(Self::REASON_BYTES_MAX);
        Self { code, reason: reason[..end].to_owned() }
    }

    /// Whether an application may close with it: the other codes are only said of what happened.
    pub fn may_be_sent(&self) -> bool {
        let code = matches!(self.code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        code && self.reason.len() <= Self::REASON_BYTES_MAX
    }
}

/// The point of a socket; `None` never happens for a name that was read. The id is random, so that nobody guesses the point.
pub fn point(node: &NodeName, id: u128) -> Option<Point> {
    format!("{NODES}{node}{BRANCH}{id:032x}").parse().ok()
}

/// The node that has the socket at a point; `None` when it is no socket's point.
pub fn node_of(point: &Point) -> Option<NodeName> {
    let (node, id) = point.as_str().strip_prefix(NODES)?.split_once(BRANCH)?;
    if id.contains(':') { None } else { node.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_of_a_socket_names_its_node() {
        let node: NodeName = "edge-1".parse().unwrap();
        for id in [0, 7, u128::MAX] {
            assert_eq!(node_of(&point(&node, id).unwrap()).unwrap(), node);
        }
        for other in ["mesh:nodes:edge-1", "mesh:nodes:edge-1:sockets:a:b", "shop:nodes:edge-1:sockets:a"] {
            assert_eq!(node_of(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_reason_fits_and_a_code_can_be_sent() {
        let long = Close::new(1011, &"é".repeat(100));
        assert_eq!((long.reason.len(), long.may_be_sent()), (122, true));
        for (code, may) in
            [(999, false), (1000, true), (1005, false), (1006, false), (1015, false), (4000, true)]
        {
            assert_eq!(Close::new(code, "").may_be_sent(), may, "{code}");
        }
        assert_eq!(serde_json::from_str::<Close>("{}").unwrap(), Close::default());
    }
}
