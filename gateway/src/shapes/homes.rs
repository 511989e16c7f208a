//! Where a point lives: the way to it, the reasons for it, and its moves.

use serde::{Deserialize, Serialize};
use starlane_core::{Epoch, NodeName, Point};
use utoipa::ToSchema;

use crate::schema;

/// The way of a message to a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// To where.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// The nodes on the way, the one that answers first; with `reached` the last is where the point lives.
    pub hops: Vec<Hop>,
    /// Whether the way leads there.
    pub reached: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A node on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Which.
    #[schema(value_type = schema::NodeName)]
    pub node: NodeName,
    /// How long the way from the first node to this one and back took, in microseconds; absent when it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// Where a point lives and why, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Which point.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// How it is.
    pub state: WhyState,
    /// Where it is placed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NodeName>)]
    pub node: Option<NodeName>,
    /// Under which epoch its node acts for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub epoch: Option<Epoch>,
    /// Why it is so, in a sentence without its end mark.
    pub reason: String,
    /// Where it says that it may live: its `place`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "[tier = \"edge\"]")]
    pub place: Option<String>,
    /// Each node, and why it is or is not the one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// How a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhyState {
    /// It is in the memory of its node.
    Running,
    /// It is on its node and out of memory; the next message wakes it.
    Sleeping,
    /// It is assigned to a node, which did not say more.
    Placed,
    /// No node may have it yet.
    Waiting,
    /// It was started and does not run.
    Failed,
    /// It has neither code nor a bind nor content, so nothing answers.
    NoCode,
    /// It has no code, and each node answers for it: with its content, or by its bind.
    Everywhere,
    /// Nothing is there.
    Missing,
}

/// A node that a point was or was not placed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Which.
    #[schema(value_type = schema::NodeName)]
    pub node: NodeName,
    /// Whether the point lives there.
    pub chosen: bool,
    /// Why.
    pub reason: String,
}

/// A move to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// To which node.
    #[schema(value_type = schema::NodeName)]
    pub to: NodeName,
}

/// A move that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moved {
    /// What moved.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// Where it lives now.
    #[schema(value_type = schema::NodeName)]
    pub node: NodeName,
    /// Where it lived; absent when it lived nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NodeName>)]
    pub from: Option<NodeName>,
    /// Under which epoch its node acts for it.
    #[schema(value_type = u64)]
    pub epoch: Epoch,
}
