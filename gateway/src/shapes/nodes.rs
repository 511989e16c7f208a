//! Nodes: what they are, how they are linked, and the tokens with which they join.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use starlane_core::{Generation, Key, NodeName, Phase, Point, Role, Status, Timestamp};
use utoipa::ToSchema;

use crate::schema;

/// A node of the mesh, as the one that answers sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// What it is called.
    #[schema(value_type = schema::NodeName)]
    pub name: NodeName,
    /// Its resource.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// Whether it does its work.
    pub ready: bool,
    /// Where it is in its life, and why.
    #[serde(default = "unknown")]
    #[schema(value_type = schema::Status, required = false)]
    pub status: Status,
    /// What it does for others.
    #[serde(default = "relay")]
    #[schema(value_type = schema::Role, required = false)]
    pub role: Role,
    /// Which of its lives this is: it grows with each start.
    #[serde(default)]
    #[schema(value_type = u64, required = false)]
    pub generation: Generation,
    /// The version that it runs; empty when that is not known.
    pub version: String,
    /// How many mechtrons are assigned to it.
    pub mechtrons: u64,
    /// How many of them are in memory.
    pub live: u64,
    /// How many links are between it and the node that answers; absent when it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// Whether its mechtrons move away and it gets no new ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Whether it keeps the registry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registry: bool,
    /// Where its links are accepted, the best first; none when it only dials out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// How many milliseconds ago it was last heard of; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_ms: Option<u64>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn unknown() -> Status {
    Status::because(Phase::Unknown, "the node that answers does not say")
}

fn relay() -> Role {
    Role::Relay
}

/// The nodes of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// All that are known.
    pub nodes: Vec<NodeInfo>,
}

/// Changes to a node, all or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePatch {
    /// Labels to set; those that are null are taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    pub labels: BTreeMap<Key, Option<String>>,
    /// Whether its mechtrons shall move away and it shall get no new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
}

/// How the nodes are linked, as the one that answers knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Graph {
    /// Who answers.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// All nodes that are known.
    pub nodes: Vec<GraphNode>,
    /// All links that are up, each once.
    pub links: Vec<GraphLink>,
}

/// A node in the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphNode {
    /// What it is called.
    #[schema(value_type = schema::NodeName)]
    pub name: NodeName,
    /// What it does for others.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// How many links are between it and the node that answers; absent when it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
    /// How many milliseconds ago it was last heard of; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_ms: Option<u64>,
}

/// A link between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphLink {
    /// One end.
    #[schema(value_type = schema::NodeName)]
    pub a: NodeName,
    /// The other end.
    #[schema(value_type = schema::NodeName)]
    pub b: NodeName,
    /// How long the way there and back takes, in microseconds; absent before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// A token to be made. It lets one node join, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What the node will do for others.
    #[serde(default = "leaf")]
    #[schema(value_type = schema::Role, required = false)]
    pub role: Role,
    /// For how long it can be used: `90s`, `10m`, or seconds; ten minutes without it, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10m")]
    pub ttl: Option<String>,
    /// What will be said of the node, for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: BTreeMap<Key, String>,
    /// What the node will be called; it chooses when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NodeName>)]
    pub name: Option<NodeName>,
}

fn leaf() -> Role {
    Role::Leaf
}

/// A token that was made. Its secret is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// The token, secret and all.
    pub token: String,
    /// Where to join with it; absent when the node that answers accepts no links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What is known of it.
    #[serde(flatten)]
    pub info: TokenInfo,
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What is known of a token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// What it is called.
    #[schema(example = "k3v9q2")]
    pub id: String,
    /// What the node will do for others.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// Until when it can be used, in milliseconds since 1970.
    #[schema(value_type = u64)]
    pub expires: Timestamp,
    /// What will be said of the node, for selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: BTreeMap<Key, String>,
    /// What the node will be called; absent when it chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NodeName>)]
    pub name: Option<NodeName>,
}

/// The tokens that can still be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// All of them.
    pub tokens: Vec<TokenInfo>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_an_older_version_is_read() {
        let old = r#"{"name":"cloud","point":"mesh:nodes:cloud","ready":true,"version":"0.1.0","mechtrons":3,"live":1}"#;
        let node: NodeInfo = serde_json::from_str(old).unwrap();
        assert_eq!(
            (node.role, node.generation, node.hops, node.draining),
            (Role::Relay, Generation(0), None, false)
        );
        assert_eq!(node.status.phase, Phase::Unknown);
    }

    #[test]
    fn the_secret_of_a_token_is_in_its_json_alone() {
        let json = r#"{"token":"sl1.pin.t1.secret","id":"t1","role":"leaf","expires":5}"#;
        let token: Token = serde_json::from_str(json).unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        assert!(format!("{token:?}").contains("t1"));
        assert_eq!(serde_json::to_string(&token).unwrap(), json);
    }
}
