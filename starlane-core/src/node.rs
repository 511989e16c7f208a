//! Nodes: what they are called, and which of their lives is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Point;

/// The name of a node: the last segment of its point `mesh:nodes:NAME`. At most 63 bytes of lowercase letters,
/// digits and `-`, and a letter first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// A text that cannot be the name of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be a node's name: 1 to 63 lowercase letters, digits and `-`, a letter first")]
pub struct NodeNameError(String);

/// A node in tables and on the wire: a hash of its name, which a mesh keeps unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Which life of a node is meant: the next one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What a node does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It can be dialled, and carries others' traffic.
    Relay,
    /// It only dials out, and carries nobody's traffic but its own.
    Leaf,
    /// It is a relay, and serves the registry beside the first node of the mesh: it knows the mesh's authority.
    Registry,
}

impl Role {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Relay => "relay",
            Role::Leaf => "leaf",
            Role::Registry => "registry",
        }
    }

    /// Whether it can be dialled, and carries others' traffic.
    pub fn relays(self) -> bool {
        matches!(self, Role::Relay | Role::Registry)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role of nodes: `relay`, `leaf` or `registry`")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "relay" => Ok(Role::Relay),
            "leaf" => Ok(Role::Leaf),
            "registry" => Ok(Role::Registry),
            _ => Err(RoleError(crate::cursor::shorten(text))),
        }
    }
}

impl NodeName {
    /// The longest name, in bytes: that of a label of a domain name.
    pub const BYTES_MAX: usize = 63;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The node in tables and on the wire.
    pub fn id(&self) -> NodeId {
        // FNV-1a (RFC draft eastlake-fnv): the same everywhere, and a mesh refuses a name whose hash is taken.
        NodeId(self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    /// The point of the node's resource, `mesh:nodes:NAME`; `None` never happens for a name that was read.
    pub fn point(&self) -> Option<Point> {
        format!("mesh:nodes:{self}").parse().ok()
    }

    /// The node whose resource stands at a point; `None` when it is no node's point.
    pub fn of_point(point: &Point) -> Option<Self> {
        point.as_str().strip_prefix("mesh:nodes:")?.parse().ok()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let fits = (1..=Self::BYTES_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(NodeNameError(crate::cursor::shorten(text))) }
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: String) -> Result<Self, NodeNameError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_of_a_domain_name() {
        for right in ["a", "edge-1", "node-1"] {
            let name: NodeName = right.parse().unwrap();
            assert_eq!(NodeName::of_point(&name.point().unwrap()), Some(name));
        }
        for wrong in ["", "Edge", "1a", "a.b", "a:b", "a b", &"a".repeat(64)] {
            assert!(wrong.parse::<NodeName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_the_same_on_every_node() {
        let [cloud, edge] = ["cloud", "edge-1"].map(|text| text.parse::<NodeName>().unwrap().id());
        assert_eq!(cloud, NodeId(0x9ebb_5c95_13ba_c4fe), "{cloud}");
        assert_ne!(cloud, edge);
    }
}
